"""QUBO, exact solvers, annealing and repair."""
