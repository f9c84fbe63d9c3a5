"""The near-duplicate index of a corpus."""
