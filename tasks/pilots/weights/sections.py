"""Further tables of the page: what was counted, and what an oracle that computes the losses itself would take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

from tasks.outlook.fault_tolerant import BITS, TOFFOLI_OF_A_PRODUCT, Counts, estimate
from tasks.pilots.claim import Seen
from tasks.pilots.weights.bank import SETS, split
from tasks.pilots.weights.problem import Training
from tasks.quantum.marked import best_iterations
from tasks.sections import Section

ERROR, GATE_S, MEASUREMENT_S, BUDGET = 1e-4, 50e-9, 100e-9, 0.01  # an assumed superconducting machine
MEASURED = ("test loss", "evaluations", "oracle queries")


def arithmetic_oracle(problem: Training) -> Counts:
    """Count the search of one weight whose oracle computes the training loss, the products alone.

    A query multiplies each row by the weights of all layers, reversibly, and computes it back; the products of the
    activations and of the cross-entropy, which come on top, are left out. The count does not depend on the number of
    candidates. The qubits are one row of numbers for each layer, a product, and the loss.
    """
    products = len(problem.train) * sum(a * b for a, b in pairwise(problem.sizes))
    queries = best_iterations(problem.candidates)
    return Counts(
        qubits=problem.qubits + BITS * (sum(problem.sizes) + 3),
        toffoli=queries * 2 * products * TOFFOLI_OF_A_PRODUCT,
        flops=problem.candidates * 2 * products,
        about=f"{queries} queries, each {products:,} products of {BITS} bit, computed and uncomputed",
    )


def sections(seen: Sequence[Seen]) -> tuple[Section, ...]:
    """Return the counts of all arms by data set, and the arithmetic oracle."""
    seen = [entry for entry in seen if not entry.noisy]
    names = [name for name in SETS if any(entry.source == name for entry in seen)]
    return (_counted(seen, names), _oracle(names or list(SETS)))


def _counted(seen: Sequence[Seen], names: Sequence[str]) -> Section:
    rows = []
    for name in names:
        for arm in dict.fromkeys(entry.arm for entry in seen):
            found = [entry for entry in seen if (entry.source, entry.arm) == (name, arm)]
            if found:
                measured = (
                    mean(values) if (values := [e.measures[m] for e in found if m in e.measures]) else None
                    for m in MEASURED
                )
                rows.append((name, arm, mean(e.quality for e in found), *measured, mean(e.shots for e in found)))
    return Section(
        "Evaluations and oracle queries",
        "An evaluation is the loss of all training rows for one candidate, a gradient counts as three. The oracle of a "
        "search is tabulated: all candidates are evaluated before the circuit runs, and the lowest is then known.",
        ("set", "arm", "share of right labels", "test loss", "evaluations", "oracle queries", "shots"),
        tuple(rows),
    )


def _oracle(names: Sequence[str]) -> Section:
    rows = []
    for name in names:
        problem = split(name, 0)
        counts = arithmetic_oracle(problem)
        found = estimate(counts, ERROR, GATE_S, MEASUREMENT_S, BUDGET)
        visits = problem.weights * problem.sweeps
        rows.append(
            (name, problem.weights, counts.toffoli, found.physical_qubits, found.runtime_s, found.runtime_s * visits,
             counts.flops)
        )  # fmt: skip
    return Section(
        "An oracle that computes the losses",
        f"Without a table the oracle has to compute the loss reversibly. Counted are the products alone, in {BITS} "
        f"bit; the machine is assumed: error {ERROR:g}, gates of {GATE_S * 1e9:g} ns, measurements of "
        f"{MEASUREMENT_S * 1e9:g} ns, T factories left out.",
        ("set", "weights", "Toffoli gates a weight", "physical qubits", "s a weight", "s a training",
         "classical operations a weight"),
        tuple(rows),
    )  # fmt: skip
