"""The seven stage flows; all have the same parameters."""
