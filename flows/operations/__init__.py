"""What runs by itself: schedules, arrivals, drift watch, retraining, greenest start, dispatch."""
