"""The parent flow and the walk through a stage."""
