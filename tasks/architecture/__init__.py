"""Stage 3: a causal transformer whose depth sets its shape."""
