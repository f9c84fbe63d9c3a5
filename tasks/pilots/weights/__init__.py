"""Weights of a small neural network chosen one by one, each by Grover's search over sixteen values."""
