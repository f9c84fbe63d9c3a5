"""Published industry cases, run again: one folder each, with the claim in its `decision.yaml`."""
