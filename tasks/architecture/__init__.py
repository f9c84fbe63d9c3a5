"""Stage 3: a causal transformer from one dial."""
