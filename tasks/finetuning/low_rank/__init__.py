"""How a weight matrix is replaced by a product of two thin ones."""
