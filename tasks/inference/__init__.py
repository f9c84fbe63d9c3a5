"""Stage 6: prune, recover, register, serve."""
