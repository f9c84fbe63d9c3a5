"""Stage 2: tokenizer, packed shards, decontamination."""
