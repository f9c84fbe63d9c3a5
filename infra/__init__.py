"""How the pipeline touches the world: lake, evidence, energy, quantum runtime, tracking, compute. Knows no stage."""
