"""The seven stage flows, alike."""
