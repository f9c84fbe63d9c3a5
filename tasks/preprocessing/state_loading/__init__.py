"""Preparation of dense vectors as quantum states."""
