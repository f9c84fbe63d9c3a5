"""Deterministic preparation of Dicke states: equal superpositions of all bit strings with k ones."""

from __future__ import annotations

from math import acos, sqrt

from qiskit import QuantumCircuit


def prepare_dicke(n: int, k: int) -> QuantumCircuit:
    """Prepare the Dicke state of n qubits and k ones from |0...0> with gates x, ry and cx, no ancilla.

    Bärtschi and Eidenbenz, "Deterministic preparation of Dicke states", arXiv 1904.07358: |0^(n-k) 1^k> followed by
    split-and-cyclic-shift blocks, O(nk) gates in O(n) depth. More than n/2 ones are prepared as n - k and flipped.

    Raises:
        ValueError: `k` is not between 0 and n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k ({k}) should lie between 0 and the number of qubits ({n})")
    ones = min(k, n - k)
    circuit = QuantumCircuit(n)
    if ones:
        circuit.x(range(n - ones, n))
        for last in range(n, 1, -1):
            _split_and_shift(circuit, last, min(ones, last - 1))
    if ones != k:
        circuit.x(range(n))
    return circuit


def _split_and_shift(circuit: QuantumCircuit, m: int, k: int) -> None:
    """Append SCS(m, k) on the first m qubits."""
    last = m - 1
    before = last - 1
    circuit.cx(before, last)
    _controlled_ry(circuit, 2 * acos(sqrt(1 / m)), last, before)
    circuit.cx(before, last)
    for shift in range(2, k + 1):
        target = last - shift
        circuit.cx(target, last)
        _doubly_controlled_ry(circuit, 2 * acos(sqrt(shift / m)), last, target + 1, target)
        circuit.cx(target, last)


def _controlled_ry(circuit: QuantumCircuit, angle: float, control: int, target: int) -> None:
    circuit.ry(angle / 2, target)
    circuit.cx(control, target)
    circuit.ry(-angle / 2, target)
    circuit.cx(control, target)


def _doubly_controlled_ry(circuit: QuantumCircuit, angle: float, first: int, second: int, target: int) -> None:
    """Four CX instead of the twelve of two Toffolis: a uniformly controlled rotation whose other angles are zero."""
    for sign, control in ((1, first), (-1, second), (1, first), (-1, second)):
        circuit.ry(sign * angle / 4, target)
        circuit.cx(control, target)
