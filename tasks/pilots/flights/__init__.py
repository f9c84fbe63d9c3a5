"""Search for the hyperparameters of a flight delay model with a Fourier circuit as surrogate."""
