"""Where circuits run: Aer, noisy Aer, IBM devices."""
