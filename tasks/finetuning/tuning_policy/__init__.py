"""Which settings a fine-tuning gets next: share of base text, rank, learning rate; bandits, policies, a circuit."""
