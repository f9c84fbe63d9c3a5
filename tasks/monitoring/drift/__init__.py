"""Whether requests have drifted from the reference."""
