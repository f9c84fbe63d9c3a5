"""Days of the German grid clustered by quantum k-means: DiAdamo et al., IEEE Transactions on Quantum Engineering 3."""
