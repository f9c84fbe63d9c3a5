"""Structured pruning: which heads, feed-forward groups or blocks are removed."""
