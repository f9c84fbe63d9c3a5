"""Which part of the training text the model reads."""
