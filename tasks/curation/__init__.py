"""Stage 1: collect, filter and deduplicate the corpus."""
