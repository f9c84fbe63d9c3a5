"""Grover rotations with an oracle that computes a quadratic polynomial of bits (Grover adaptive search).

The oracle adds the integer coefficients into a register of two's-complement values by phases and an inverse Fourier
transform, and turns the phase of negative values (Gilliam, Woerner, Gonciulea, Quantum 5, 428, 2021). Its number of
gates grows with the coefficients and the value bits, not with the number of bit strings: nothing is tabulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.synthesis import synth_qft_full

from tasks.combinatorial.qubo import Qubo

if TYPE_CHECKING:
    from numpy.random import Generator
    from qiskit.primitives import BaseSamplerV2

    from tasks.combinatorial.qubo import Bits

GROWTH = 8 / 7  # of the range of rotations after a failure (Boyer, Brassard, Hoyer, Tapp 1998: between 1 and 4/3)

Draw = Callable[[int, int], "Bits"]  # a measured bit string after some rotations, threshold given


@dataclass(frozen=True)
class Minimised:
    """What a minimisation came to.

    Attributes:
        samples: (circuits, n), the measured bit strings in order.
        queries: rotations, each of which calls the oracle once.
    """

    samples: Bits
    queries: int

    @property
    def circuits(self) -> int:
        """Number of circuits, each run with one shot."""
        return len(self.samples)


def with_integers(qubo: Qubo, value_bits: int) -> Qubo:
    """Return the problem scaled and rounded to integers whose differences of values fit the value register.

    Args:
        qubo: the problem.
        value_bits: bits of a value; differences of two energies lie in -2^(value_bits - 1) ... 2^(value_bits - 1) - 1.

    Raises:
        ValueError: fewer than two value bits.
    """
    if value_bits < 2:
        raise ValueError(f"a value needs a sign and at least one more bit, not {value_bits} bits")
    limit = 2 ** (value_bits - 1) - 1
    spread = _spread(qubo)
    factor = limit / spread if spread > 0 else 0.0
    while True:  # rounding may widen the range: a few per cent less fits
        found = Qubo(np.rint(factor * qubo.linear), np.rint(factor * qubo.quadratic), 0.0)
        if _spread(found) <= limit:
            return found
        factor *= 0.97


def _spread(qubo: Qubo) -> float:
    """Bound the difference of two energies without looking at any: the sum of all absolute coefficients."""
    return float(np.abs(qubo.linear).sum() + np.abs(qubo.quadratic).sum() / 2)


def value_circuit(qubo: Qubo, threshold: int, value_bits: int) -> QuantumCircuit:
    """Return the circuit that maps |x>|0> to |x>|E(x) - threshold>, modulo 2^value_bits.

    Args:
        qubo: a problem with integer coefficients and offset 0; its bits are the first qubits.
        threshold: integer.
        value_bits: qubits of the value, the sign last.
    """
    n = qubo.size
    circuit = QuantumCircuit(n + value_bits, name="value")
    values = range(n, n + value_bits)
    circuit.h(values)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if qubo.quadratic[i, j]]
    for place, qubit in enumerate(values):
        turn = 2 * pi * 2**place / 2**value_bits
        circuit.p(-turn * threshold, qubit)
        for i in np.flatnonzero(qubo.linear).tolist():
            circuit.cp(turn * float(qubo.linear[i]), i, qubit)
        for i, j in pairs:
            circuit.mcp(turn * float(qubo.quadratic[i, j]), [i, j], qubit)
    circuit.compose(synth_qft_full(value_bits, inverse=True), list(values), inplace=True)
    return circuit


def grover_circuit(qubo: Qubo, threshold: int, rotations: int, value_bits: int) -> QuantumCircuit:
    """Return the measured circuit of some rotations towards the bit strings with energy below the threshold."""
    n = qubo.size
    value = value_circuit(qubo, threshold, value_bits)
    rotation = value.copy()
    rotation.z(n + value_bits - 1)
    rotation.compose(value.inverse(), inplace=True)
    rotation.h(range(n))
    rotation.x(range(n))
    rotation.mcp(pi, list(range(n - 1)), n - 1)
    rotation.x(range(n))
    rotation.h(range(n))
    circuit = QuantumCircuit(n + value_bits)
    circuit.add_register(ClassicalRegister(n, "meas"))
    circuit.h(range(n))
    for _ in range(rotations):
        circuit.compose(rotation, inplace=True)
    circuit.measure(range(n), range(n))
    return circuit


def success(marked: int, total: int, rotations: int) -> float:
    """Return the probability of a marked bit string after some rotations, `sin^2((2 rotations + 1) theta)`.

    Args:
        marked: number of marked bit strings, `sin^2(theta) = marked / total`.
        total: number of bit strings.
        rotations: number of rotations.
    """
    return float(np.sin((2 * rotations + 1) * np.arcsin(np.sqrt(marked / total))) ** 2)


def minimise_by_rotations(qubo: Qubo, start: Bits, draw: Draw, queries: int, rng: Generator) -> Minimised:
    """Lower a threshold by measured bit strings below it until the queries are used (Durr and Hoyer, quant-ph/9607014).

    After a failure the range from which the number of rotations is drawn grows (Boyer et al. 1998).

    Args:
        qubo: a problem with integer coefficients.
        start: (n,), the bit string that gives the first threshold.
        draw: measures a circuit of a number of rotations towards the energies below a threshold.
        queries: oracle queries.
        rng: draws the numbers of rotations.
    """
    threshold, reach, used = int(qubo.energies(start)[0]), 1.0, 0
    samples = []
    while used < queries:
        rotations = min(int(rng.integers(ceil(reach))), queries - used)
        measured = draw(threshold, rotations)
        samples.append(measured)
        used += max(1, rotations)  # to check the measured string is a query too where no rotation was made
        energy = int(qubo.energies(measured)[0])
        if energy < threshold:
            threshold, reach = energy, 1.0
        else:
            reach = min(GROWTH * reach, sqrt(2**qubo.size))
    return Minimised(np.array(samples, np.uint8), used)


def measure(qubo: Qubo, value_bits: int, sampler: BaseSamplerV2) -> Draw:
    """Return the draw that runs the circuit with one shot."""

    def draw(threshold: int, rotations: int) -> Bits:
        circuit = grover_circuit(qubo, threshold, rotations, value_bits)
        found = sampler.run([circuit], shots=1).result()[0].data.meas
        return np.asarray(found.to_bool_array(order="little")[0], np.uint8)

    return draw


def draw_from_table(qubo: Qubo, bits: Bits, rng: Generator) -> Draw:
    """Return the draw with the same distribution, made from the energies of all bit strings; these are a table."""
    energies = qubo.energies(bits)

    def draw(threshold: int, rotations: int) -> Bits:
        below = energies < threshold
        hit = rng.random() < success(int(below.sum()), len(bits), rotations)
        return np.asarray(bits[rng.choice(np.flatnonzero(below == hit))], np.uint8)

    return draw
