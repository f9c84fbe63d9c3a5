"""Load, save, score and sample from causal language models."""
