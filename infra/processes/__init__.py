"""How processes start and end: imports before a fork, the end with the parent, stopping and abandoned work."""
