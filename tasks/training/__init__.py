"""Stage 4: train from scratch."""
