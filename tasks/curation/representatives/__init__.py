"""Which documents of a near-duplicate component stay."""
