"""How a small student is trained from a larger teacher with a fixed amount of arithmetic."""
