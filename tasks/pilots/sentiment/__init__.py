"""Classifiers on frozen sentence embeddings, one of them a circuit, on few labelled sentences."""
