"""Figures of the queue: metrics, calibration, summaries."""
