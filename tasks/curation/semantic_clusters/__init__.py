"""Which documents repeat others by meaning."""
