"""How the weights of a circuit layer are trained."""
