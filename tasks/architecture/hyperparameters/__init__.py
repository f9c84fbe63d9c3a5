"""Hyperparameters of training: which learning rates, batch, warm-up, weight decay and proportions a run uses."""
