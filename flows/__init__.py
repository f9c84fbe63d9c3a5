"""What runs, in which order. No algorithms."""
