"""The commands of `ketcycle`, one module for each group of them."""
