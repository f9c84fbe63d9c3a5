"""Stage 5: adapt to a second domain."""
