"""How unusual each request is."""
