"""Whether a circuit may take the place of a layer of the transformer, and whether it helps."""
