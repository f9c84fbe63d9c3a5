"""The methods of `largest`."""

from __future__ import annotations

import numpy as np
from qiskit import QuantumCircuit

from tasks.contract import Arm, Bench, Kind
from tasks.curation.largest.problem import Lengths


def compare(problem: Lengths, _: Bench) -> int:
    """Compare all of them."""
    return int(np.argmax(problem.values))


def coins(problem: Lengths, bench: Bench) -> int:
    """Throw four quantum coins 32 times and take the longest document that they name."""
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    circuit.measure_all()
    counts = bench.sampler.run([circuit], shots=32).result()[0].data.meas.get_int_counts()
    return max((number % len(problem.values) for number in counts), key=lambda i: problem.values[i])


def coins_exact(problem: Lengths, bench: Bench) -> int:
    """Draw from the coins' exact distribution."""
    return max((int(i) for i in bench.rng.integers(0, 16, 32) % len(problem.values)), key=lambda i: problem.values[i])


def chance(problem: Lengths, bench: Bench) -> int:
    """Take one at random."""
    return int(bench.rng.integers(len(problem.values)))


INCUMBENT: Arm[Lengths, int] = Arm("compare", Kind.CLASSICAL, compare)
CHALLENGER: Arm[Lengths, int] = Arm("coins", Kind.QUANTUM, coins)
OTHERS: tuple[Arm[Lengths, int], ...] = (
    Arm("coins-exact", Kind.TWIN, coins_exact),
    Arm("chance", Kind.CONTROL, chance),
)
