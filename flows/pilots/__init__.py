"""Published industry cases: a study of each, and its page."""
