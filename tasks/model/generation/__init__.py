"""Text from a causal language model: sampling, decoding, and a compiled Llama with a key-value cache."""
