"""The quantum runtime queue: the only road to a quantum backend."""
