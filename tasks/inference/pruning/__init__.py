"""Which heads, feed-forward groups or blocks go."""
