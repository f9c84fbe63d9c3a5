"""How dense vectors are prepared as quantum states."""
