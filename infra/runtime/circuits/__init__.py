"""Circuits, observables and results as bytes."""
