"""Stage 7: watch the requests for drift."""
