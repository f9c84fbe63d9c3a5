"""Embeddings and windows of text."""
