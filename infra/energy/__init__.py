"""Meters, coefficients, carbon and price."""
