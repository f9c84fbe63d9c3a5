"""Arms of the pruning decision: they choose a fixed number of units of about equal size to remove.

Units are heads and feed-forward groups of a small model, or whole blocks of a pretrained one.

The surrogate is the loss expanded to pairs of units, `1 + n + n(n-1)/2` evaluations (block removal as constrained
binary optimisation: Jansen et al. 2026, arXiv 2602.00161). Arms that use it pay for it in full. The opponent
evaluates the true loss again after every removal and needs about `k n` evaluations.

Quality is minus the bits per byte on text that no arm saw, before any recovery. All arms remove exactly k units, so
they compare at equal sparsity. Only `nothing` does not; an unpruned model is always better on text, so `allowance`
bits per byte are added to its loss, the value of the saving it does not make. It therefore beats an arm exactly if
the removal of that arm costs more than the allowance.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.qubo import Qubo
from tasks.combinatorial.repair import best, marginal_bits, repair_cardinality, uniform_subsets
from tasks.contract import Arm, Bench, Kind
from tasks.inference.pruning.problem import Pruning, Removal, children, lowest, pairwise_qubo, removal
from tasks.inference.pruning.walk import activation_norms, gate_gradients, weight_norms
from tasks.quantum.qaoa import linear_ramp, sample_dicke_qaoa
from tasks.quantum.statevector import dicke_qaoa_probabilities, draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Bits

SHOTS = 256
LAYERS = 3
ANNEALING_LAYERS = 6
READS, SWEEPS = 32, 100
QUBITS = 24  # beyond, a simulated state takes gigabytes and hours
TOLERANCE = 0.02


def singles(problem: Pruning, bench: Bench) -> NDArray[np.float64]:
    """Return the calibration loss of the whole model and without each single unit; shared by the arms."""
    return bench.once("single losses", lambda: children(problem, (), range(len(problem.units)), bench.map))


def surrogate(problem: Pruning, bench: Bench) -> Qubo:
    """Return the pairwise-loss QUBO; shared by the arms."""
    losses = singles(problem, bench)
    return bench.once("pairwise losses", lambda: pairwise_qubo(problem, losses, bench.map))


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


def remove_smallest_gradients(problem: Pruning, _bench: Bench) -> Removal:
    """Remove the units whose gate has the smallest loss gradient: first-order Taylor."""
    return lowest(gate_gradients(problem.model, problem.units, problem.calibration, problem.threads), problem.k)


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


def solve_exactly(problem: Pruning, bench: Bench) -> Removal:
    """Minimise the surrogate by enumeration."""
    return removal(minimise_cardinality(surrogate(problem, bench), problem.k))


def anneal_swaps(problem: Pruning, bench: Bench) -> Removal:
    """Minimise the surrogate by annealing that swaps units in and out."""
    qubo = surrogate(problem, bench)
    return removal(best(qubo, cardinality_annealing(qubo, problem.k, READS, SWEEPS, bench.rng)))


def sample_by_qaoa(problem: Pruning, bench: Bench) -> Removal:
    """Sample k-subsets by QAOA (Dicke start, complete-graph XY mixer, one job), repair them, take the best."""
    return _repaired(problem, bench, _qaoa_samples(problem, bench))


def sample_by_annealing(problem: Pruning, bench: Bench) -> Removal:
    """Sample k-subsets by Trotterised annealing on the circuit: the same ramp, twice as slow."""
    _require_qubits(problem)
    qubo = surrogate(problem, bench)
    return _repaired(problem, bench, sample_dicke_qaoa(qubo, problem.k, bench.sampler, SHOTS, ANNEALING_LAYERS))


def draw_exactly(layers: int, problem: Pruning, bench: Bench) -> Removal:
    """Sample from the exact distribution of the circuit with `layers` layers, computed over all k-subsets."""
    _require_qubits(problem)
    qubo = surrogate(problem, bench)
    subsets, probabilities = dicke_qaoa_probabilities(qubo, problem.k, *linear_ramp(layers))
    return _repaired(problem, bench, draw(probabilities, qubo.size, SHOTS, bench.rng, subsets))


def repair_uniform(problem: Pruning, bench: Bench) -> Removal:
    """Draw as many uniform k-subsets as QAOA has shots, repair them the same way, take the best."""
    return _repaired(problem, bench, uniform_subsets(len(problem.units), problem.k, SHOTS, bench.rng))


def repair_marginals(problem: Pruning, bench: Bench) -> Removal:
    """Draw each bit by its frequency in the QAOA samples, repair, take the best: QAOA without its correlations."""
    return _repaired(problem, bench, marginal_bits(_qaoa_samples(problem, bench), SHOTS, bench.rng))


def repair_nothing(problem: Pruning, bench: Bench) -> Removal:
    """Repair the empty set: forward greedy on the surrogate, then swaps."""
    return _repaired(problem, bench, np.zeros((1, len(problem.units)), np.uint8))


def _qaoa_samples(problem: Pruning, bench: Bench) -> Bits:
    _require_qubits(problem)
    qubo = surrogate(problem, bench)
    return bench.once("qaoa samples", lambda: sample_dicke_qaoa(qubo, problem.k, bench.sampler, SHOTS, LAYERS))


def _require_qubits(problem: Pruning) -> None:
    if len(problem.units) > QUBITS:
        raise ValueError(
            f"{len(problem.units)} units need as many qubits, this arm takes at most {QUBITS}; "
            "set inference.pruning.units lower, or use classical arms alone (--method classical)"
        )


def _repaired(problem: Pruning, bench: Bench, bits: Bits) -> Removal:
    qubo = surrogate(problem, bench)
    return removal(best(qubo, repair_cardinality(qubo, bits, problem.k)))


INCUMBENT: Arm[Pruning, Removal] = Arm("greedy", Kind.CLASSICAL, remove_one_by_one)
CHALLENGER: Arm[Pruning, Removal] = Arm("qaoa", Kind.QUANTUM, sample_by_qaoa, twin="qaoa-exact")
OTHERS: tuple[Arm[Pruning, Removal], ...] = (
    Arm("uniform-repair", Kind.CONTROL, repair_uniform),
    Arm("nothing", Kind.CONTROL, remove_nothing, does_nothing=True),
    Arm("random", Kind.CONTROL, remove_random),
    Arm("marginals-repair", Kind.CONTROL, repair_marginals),
    Arm("empty-repair", Kind.CONTROL, repair_nothing),
    Arm("magnitude", Kind.CLASSICAL, remove_smallest_weights),
    Arm("activation", Kind.CLASSICAL, remove_smallest_activations),
    Arm("taylor", Kind.CLASSICAL, remove_smallest_gradients),
    Arm("leave-one-out", Kind.CLASSICAL, remove_cheapest_singles),
    Arm("exact", Kind.CLASSICAL, solve_exactly),
    Arm("swap-annealing", Kind.CLASSICAL, anneal_swaps),
    Arm("trotterised-annealing", Kind.QUANTUM, sample_by_annealing, twin="trotterised-annealing-exact"),
    Arm("qaoa-exact", Kind.TWIN, partial(draw_exactly, LAYERS)),
    Arm("trotterised-annealing-exact", Kind.TWIN, partial(draw_exactly, ANNEALING_LAYERS)),
)
