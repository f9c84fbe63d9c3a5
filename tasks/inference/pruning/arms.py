"""Arms of the pruning decision: they choose a fixed number of units of about equal size to remove.

Units are heads and feed-forward groups of a small model, or whole blocks of a pretrained one.

There are two surrogates. One is the loss expanded to pairs of units, `1 + n + n(n-1)/2` evaluations; the other the
second-order expansion in gates on the units from one backward pass, as costly as the Taylor score. Arms that use a
surrogate pay for it in full. The opponent evaluates the true loss again after every removal and needs about `k n`
evaluations.

Quality is minus the bits per byte on text that no arm saw, before any recovery. All arms remove exactly k units, so
they compare at equal sparsity. Only `nothing` does not; an unpruned model is always better on text, so `allowance`
bits per byte are added to its loss, the value of the saving it does not make. It therefore beats an arm exactly if
the removal of that arm costs more than the allowance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.qubo import Qubo
from tasks.combinatorial.repair import best, marginal_bits, repair_cardinality, swapped, uniform_subsets
from tasks.contract import Arm, Bench, Kind
from tasks.inference.pruning.problem import Pruning, Removal, children, gradient_qubo, lowest, pairwise_qubo, removal
from tasks.inference.pruning.walk import activation_norms, bits_per_byte_without, gate_gradients, weight_norms
from tasks.quantum.angles import tuned_ramp, tuned_temperatures
from tasks.quantum.qaoa import sample_dicke_qaoa
from tasks.quantum.statevector import dicke_qaoa_probabilities, draw

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Bits

SHOTS = 256
READS, SWEEPS = 32, 100
JUDGED = 8  # states of the surrogate whose true loss is evaluated
QUBITS = 24  # beyond, a simulated state takes gigabytes and hours
KEY = "inference/pruning"

Surrogate = Callable[[Pruning, Bench], Qubo]


def singles(problem: Pruning, bench: Bench) -> NDArray[np.float64]:
    """Return the calibration loss of the whole model and without each single unit; shared by the arms."""
    return bench.once("single losses", lambda: children(problem, (), range(len(problem.units)), bench.map))


def surrogate(problem: Pruning, bench: Bench) -> Qubo:
    """Return the pairwise-loss QUBO; shared by the arms."""
    losses = singles(problem, bench)
    return bench.once("pairwise losses", lambda: pairwise_qubo(problem, losses, bench.map))


def gradients(problem: Pruning, bench: Bench) -> NDArray[np.float64]:
    """Return the loss gradient of each unit's gate, (windows, units); shared by the arms."""
    return bench.once(
        "gate gradients",
        lambda: gate_gradients(problem.model, problem.units, problem.calibration, problem.threads),
    )


def gate_surrogate(problem: Pruning, bench: Bench) -> Qubo:
    """Return the second-order QUBO of the gates."""
    return gradient_qubo(problem, gradients(problem, bench))


def remove_nothing(_problem: Pruning, _bench: Bench) -> Removal:
    """Leave the model as it is."""
    return ()


def remove_random(problem: Pruning, bench: Bench) -> Removal:
    """Remove k units at random."""
    return removal(uniform_subsets(len(problem.units), problem.k, 1, bench.rng)[0])


def remove_smallest_weights(problem: Pruning, _bench: Bench) -> Removal:
    """Remove the units with the smallest weights."""
    return lowest(weight_norms(problem.model, problem.units), problem.k)


def remove_smallest_activations(problem: Pruning, _bench: Bench) -> Removal:
    """Remove the units that change the residual stream least: Wanda's score summed over a structure.

    For whole blocks the score is the block influence of ShortGPT.
    """
    return lowest(activation_norms(problem.model, problem.units, problem.calibration, problem.threads), problem.k)


def remove_smallest_gradients(problem: Pruning, bench: Bench) -> Removal:
    """Remove the units whose gate has the smallest loss gradient: first-order Taylor.

    The mean over windows of |dL/dg| (Michel et al. 2019, arXiv 1905.10650).
    """
    return lowest(np.abs(gradients(problem, bench)).mean(axis=0), problem.k)


def remove_one_by_one(problem: Pruning, bench: Bench) -> Removal:
    """Remove the unit that increases the loss least, then evaluate the remaining units again, k times."""
    removed: Removal = ()
    while len(removed) < problem.k:
        left = [i for i in range(len(problem.units)) if i not in removed]
        losses = children(problem, removed, left, bench.map) if removed else singles(problem, bench)
        removed = (*removed, left[int(losses[1:].argmin())])
    return tuple(sorted(removed))


def remove_cheapest_singles(problem: Pruning, bench: Bench) -> Removal:
    """Remove the units whose single removal increases the loss least: the surrogate without its interactions."""
    return lowest(singles(problem, bench)[1:], problem.k)


def remove_cheapest_gates(problem: Pruning, bench: Bench) -> Removal:
    """Remove the units with the smallest terms of the gates' QUBO, its interactions dropped: optimal brain damage."""
    return lowest(gate_surrogate(problem, bench).linear, problem.k)


def solve_exactly(of: Surrogate, problem: Pruning, bench: Bench) -> Removal:
    """Minimise the surrogate by enumeration."""
    return removal(minimise_cardinality(of(problem, bench), problem.k))


def anneal_swaps(problem: Pruning, bench: Bench) -> Removal:
    """Minimise the surrogate by annealing that swaps units in and out."""
    qubo = surrogate(problem, bench)
    return removal(best(qubo, _annealed(qubo, problem.k, bench.rng)))


def _annealed(qubo: Qubo, k: int, rng: Generator) -> Bits:
    return cardinality_annealing(qubo, k, READS, SWEEPS, rng, tuned_temperatures(KEY, "swap-annealing"))


def judge_best(problem: Pruning, bench: Bench) -> Removal:
    """Anneal the gates' surrogate, evaluate the true loss of the best distinct states, take the best of them.

    The states are those of the reads, which are few where the reads agree, and all that differ from the best by a swap.
    """
    qubo = gate_surrogate(problem, bench)
    reads = _annealed(qubo, problem.k, bench.rng)
    states = np.unique(np.vstack([reads, swapped(best(qubo, reads))]), axis=0)
    found = [removal(states[i]) for i in np.argsort(qubo.energies(states), kind="stable")[:JUDGED]]
    text, threads = problem.calibration, problem.threads
    losses = [bits_per_byte_without(problem.model, problem.units, text, some, threads) for some in found]
    return found[int(np.argmin(losses))]


def sample_by_qaoa(of: Surrogate, problem: Pruning, bench: Bench) -> Removal:
    """Sample k-subsets by QAOA (Dicke start, complete-graph XY mixer, one job), repair them, take the best."""
    return _repaired(of, problem, bench, _qaoa_samples(of, problem, bench))


def sample_by_annealing(problem: Pruning, bench: Bench) -> Removal:
    """Sample k-subsets by Trotterised annealing on the circuit: a ramp of twice as many layers."""
    _require_qubits(problem)
    angles = tuned_ramp(KEY, "trotterised-annealing").angles()
    bits = sample_dicke_qaoa(surrogate(problem, bench), problem.k, bench.sampler, SHOTS, angles)
    return _repaired(surrogate, problem, bench, bits)


def draw_exactly(of: Surrogate, ramp: str, problem: Pruning, bench: Bench) -> Removal:
    """Sample from the exact distribution of the circuit with a ramp, computed over all k-subsets."""
    _require_qubits(problem)
    qubo = of(problem, bench)
    subsets, probabilities = dicke_qaoa_probabilities(qubo, problem.k, *tuned_ramp(KEY, ramp).angles())
    return _repaired(of, problem, bench, draw(probabilities, qubo.size, SHOTS, bench.rng, subsets))


def repair_uniform(of: Surrogate, problem: Pruning, bench: Bench) -> Removal:
    """Draw as many uniform k-subsets as QAOA has shots, repair them the same way, take the best."""
    return _repaired(of, problem, bench, uniform_subsets(len(problem.units), problem.k, SHOTS, bench.rng))


def repair_marginals(problem: Pruning, bench: Bench) -> Removal:
    """Draw each bit by its frequency in the QAOA samples, repair, take the best: QAOA without its correlations."""
    bits = marginal_bits(_qaoa_samples(surrogate, problem, bench), SHOTS, bench.rng)
    return _repaired(surrogate, problem, bench, bits)


def repair_nothing(problem: Pruning, bench: Bench) -> Removal:
    """Repair the empty set: forward greedy on the surrogate, then swaps."""
    return _repaired(surrogate, problem, bench, np.zeros((1, len(problem.units)), np.uint8))


def _qaoa_samples(of: Surrogate, problem: Pruning, bench: Bench) -> Bits:
    _require_qubits(problem)
    qubo, angles = of(problem, bench), tuned_ramp(KEY, "qaoa").angles()
    name = "qaoa samples" if of is surrogate else "gate qaoa samples"
    return bench.once(name, lambda: sample_dicke_qaoa(qubo, problem.k, bench.sampler, SHOTS, angles))


def _require_qubits(problem: Pruning) -> None:
    if len(problem.units) > QUBITS:
        raise ValueError(
            f"{len(problem.units)} units need as many qubits, this arm takes at most {QUBITS}; "
            "set inference.pruning.units lower, or use classical arms alone (--method classical)"
        )


def _repaired(of: Surrogate, problem: Pruning, bench: Bench, bits: Bits) -> Removal:
    qubo = of(problem, bench)
    return removal(best(qubo, repair_cardinality(qubo, bits, problem.k)))


INCUMBENT: Arm[Pruning, Removal] = Arm("greedy", Kind.CLASSICAL, remove_one_by_one)
CHALLENGER: Arm[Pruning, Removal] = Arm(
    "qaoa", Kind.QUANTUM, partial(sample_by_qaoa, surrogate), version="3", twin="qaoa-exact"
)
OTHERS: tuple[Arm[Pruning, Removal], ...] = (
    Arm("uniform-repair", Kind.CONTROL, partial(repair_uniform, surrogate)),
    Arm("nothing", Kind.CONTROL, remove_nothing, does_nothing=True),
    Arm("random", Kind.CONTROL, remove_random),
    Arm("marginals-repair", Kind.CONTROL, repair_marginals, version="3"),
    Arm("empty-repair", Kind.CONTROL, repair_nothing),
    Arm("gate-uniform-repair", Kind.CONTROL, partial(repair_uniform, gate_surrogate)),
    Arm("magnitude", Kind.CLASSICAL, remove_smallest_weights),
    Arm("activation", Kind.CLASSICAL, remove_smallest_activations),
    Arm("taylor", Kind.CLASSICAL, remove_smallest_gradients),
    Arm("brain-damage", Kind.CLASSICAL, remove_cheapest_gates),
    Arm("leave-one-out", Kind.CLASSICAL, remove_cheapest_singles),
    Arm("exact", Kind.CLASSICAL, partial(solve_exactly, surrogate)),
    Arm("gate-exact", Kind.CLASSICAL, partial(solve_exactly, gate_surrogate)),
    Arm("gate-judged", Kind.CLASSICAL, judge_best, version="2"),
    Arm("swap-annealing", Kind.CLASSICAL, anneal_swaps, version="2"),
    Arm("gate-qaoa", Kind.QUANTUM, partial(sample_by_qaoa, gate_surrogate), version="2", twin="gate-qaoa-exact"),
    Arm("trotterised-annealing", Kind.QUANTUM, sample_by_annealing, version="3", twin="trotterised-annealing-exact"),
    Arm("qaoa-exact", Kind.TWIN, partial(draw_exactly, surrogate, "qaoa"), version="3"),
    Arm("gate-qaoa-exact", Kind.TWIN, partial(draw_exactly, gate_surrogate, "qaoa"), version="2"),
    Arm(
        "trotterised-annealing-exact",
        Kind.TWIN,
        partial(draw_exactly, surrogate, "trotterised-annealing"),
        version="3",
    ),
)
