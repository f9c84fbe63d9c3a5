"""Unattended operation: schedules, arrivals, drift watch, retraining, greenest start, dispatch."""
