"""Anomaly scores of single requests."""
