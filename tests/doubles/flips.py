"""A circuit whose two registers differ in size and in bits, for tests of what a provider returns."""

from __future__ import annotations

from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter


def flips() -> QuantumCircuit:
    """Return a circuit on three qubits: `low` is turned by the parameter, `high` is always 10."""
    low, high = ClassicalRegister(1, "low"), ClassicalRegister(2, "high")
    circuit = QuantumCircuit(QuantumRegister(3, "q"), low, high)
    circuit.ry(Parameter("a"), 0)
    circuit.x(2)
    circuit.measure(0, low[0])
    circuit.measure([1, 2], [high[0], high[1]])
    return circuit
