"""Circuits only: encodings, QAOA, kernels. Never submits anything."""
