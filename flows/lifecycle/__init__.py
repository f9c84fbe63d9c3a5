"""The parent flow, the run of a stage, and the flows that answer events about models."""
