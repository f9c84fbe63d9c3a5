"""Training of a causal language model: loop, optimisers, loss, precision, checkpoints, several processes."""
