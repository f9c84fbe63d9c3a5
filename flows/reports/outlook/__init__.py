"""The outlook: break-even sizes, costs, benefits and risks of every decision, from stored evidence and assumptions."""
