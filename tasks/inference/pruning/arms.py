"""Which units of a model go, at a fixed number of units of about equal size.

Units are heads and feed-forward groups of a small model, or whole blocks of a pretrained one.

The surrogate is the loss expanded to pairs of units, `1 + n + n(n-1)/2` evaluations (block removal as constrained
binary optimisation: Jansen et al. 2026, arXiv 2602.00161). Arms that use it pay for it in full. The opponent
evaluates the true loss again after every removal and needs about `k n` evaluations.

Quality is minus the bits per byte on text that no arm saw, before any recovery. All arms remove exactly k units, so
they compare at equal sparsity. Only `nothing` does not; an unpruned model is always better on text, so it is charged
what its missing saving is worth: `allowance` bits per byte. It therefore beats an arm exactly where that arm's
removal costs more than the allowance.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.qubo import Qubo
from tasks.combinatorial.repair import best, marginal_bits, repair_cardinality, uniform_subsets
from tasks.contract import Arm, Bench, Kind, Subtask, content_key
from tasks.inference.pruning.bank import bank
from tasks.inference.pruning.problem import Pruning, Removal, children, lowest, pairwise_qubo, removal
from tasks.inference.pruning.units import Layout, make_units
from tasks.inference.pruning.walk import activation_norms, bits_per_byte_without, gate_gradients, weight_norms
from tasks.model.causal import save_model
from tasks.model.train import Recipe, train
from tasks.model.windows import Windows
from tasks.quantum.qaoa import sample_dicke_qaoa

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Bits

SHOTS = 256
LAYERS = 3
ANNEALING_LAYERS = 6
READS, SWEEPS = 32, 100
QUBITS = 24  # beyond, a simulated state takes gigabytes and hours
TOLERANCE = 0.02

_SCORED: dict[tuple[str, Removal], float] = {}


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

    Of whole blocks it is the block influence of ShortGPT.
    """
    return lowest(activation_norms(problem.model, problem.units, problem.calibration, problem.threads), problem.k)


def remove_smallest_gradients(problem: Pruning, _bench: Bench) -> Removal:
    """Remove the units whose gate has the smallest loss gradient: first-order Taylor."""
    return lowest(gate_gradients(problem.model, problem.units, problem.calibration, problem.threads), problem.k)


def remove_one_by_one(problem: Pruning, bench: Bench) -> Removal:
    """Remove the unit that costs least, evaluate the true loss of all that are left again, k times."""
    removed: Removal = ()
    while len(removed) < problem.k:
        left = [i for i in range(len(problem.units)) if i not in removed]
        losses = children(problem, removed, left, bench.map) if removed else singles(problem, bench)
        removed = (*removed, left[int(losses[1:].argmin())])
    return tuple(sorted(removed))


def remove_cheapest_singles(problem: Pruning, bench: Bench) -> Removal:
    """Remove the units that cost least alone: the surrogate without its interactions."""
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


def repair_uniform(problem: Pruning, bench: Bench) -> Removal:
    """Draw as many uniform k-subsets as QAOA has shots, repair them the same way, take the best."""
    return _repaired(problem, bench, uniform_subsets(len(problem.units), problem.k, SHOTS, bench.rng))


def repair_marginals(problem: Pruning, bench: Bench) -> Removal:
    """Draw each bit by its frequency in the QAOA samples, repair, take the best: QAOA without its correlations."""
    return _repaired(problem, bench, marginal_bits(_qaoa_samples(problem, bench), SHOTS, bench.rng))


def repair_nothing(problem: Pruning, bench: Bench) -> Removal:
    """Repair the empty set: forward greedy on the surrogate, then swaps."""
    return _repaired(problem, bench, np.zeros((1, len(problem.units)), np.uint8))


def quality(problem: Pruning, removed: Removal) -> tuple[float, ...]:
    """Return minus the bits per byte on the selection text; an unpruned model is charged the allowance."""
    charge = 0.0 if removed else problem.allowance
    return (-(_selection_loss(problem, removed) + charge),)


def oracle(problem: Pruning) -> tuple[float, ...]:
    """Return the quality of the proven optimum, or of leaving the model alone; nothing where there is no proof."""
    if problem.optimum is None:
        return ()
    return (max(-problem.optimum, *quality(problem, ())),)


def example(rng: Generator) -> Pruning:
    """Return the pruning of a Llama of 25,000 weights that read a licence for a second: 8 units, of which 3 go."""
    text = (resources.files("deployments") / "sample" / "licences" / "PSF-2.0.txt").read_bytes()
    context, starts = 32, rng.permutation(len(text) // 33)[:400] * 33
    tokens = np.stack([np.frombuffer(text, np.uint8, context + 1, int(start)) for start in starts]).astype(np.int64)
    windows = Windows(tokens, np.full(len(tokens), context, np.int64))
    folder = _example_model(int(rng.integers(2**31)), windows.tokens[:320].tobytes())
    return Pruning(
        model=folder,
        units=make_units(Layout.of(LlamaConfig.from_pretrained(folder)), (0, 1), 2, 2),
        k=3,
        calibration=Windows(windows.tokens[:48], windows.n_bytes[:48]),
        selection=Windows(windows.tokens[320:], windows.n_bytes[320:]),
        allowance=0.5,
    )


PRUNING: Subtask[Pruning, Removal] = Subtask(
    stage="inference",
    name="pruning",
    incumbent=Arm("greedy", Kind.CLASSICAL, remove_one_by_one),
    challenger=Arm("qaoa", Kind.QUANTUM, sample_by_qaoa),
    others=(
        Arm("nothing", Kind.CONTROL, remove_nothing, does_nothing=True),
        Arm("random", Kind.CONTROL, remove_random),
        Arm("uniform-repair", Kind.CONTROL, repair_uniform),
        Arm("marginals-repair", Kind.CONTROL, repair_marginals),
        Arm("empty-repair", Kind.CONTROL, repair_nothing),
        Arm("magnitude", Kind.CLASSICAL, remove_smallest_weights),
        Arm("activation", Kind.CLASSICAL, remove_smallest_activations),
        Arm("taylor", Kind.CLASSICAL, remove_smallest_gradients),
        Arm("leave-one-out", Kind.CLASSICAL, remove_cheapest_singles),
        Arm("exact", Kind.CLASSICAL, solve_exactly),
        Arm("swap-annealing", Kind.CLASSICAL, anneal_swaps),
        Arm("trotterised-annealing", Kind.QUANTUM, sample_by_annealing),
    ),
    quality=quality,
    metric="minus bits per byte",
    size=lambda problem: len(problem.units),
    tolerance=TOLERANCE,
    bank=bank,
    example=example,
    oracle=oracle,
    floor=-3.75,
)


def _qaoa_samples(problem: Pruning, bench: Bench) -> Bits:
    _require_qubits(problem)
    qubo = surrogate(problem, bench)
    return bench.once("qaoa samples", lambda: sample_dicke_qaoa(qubo, problem.k, bench.sampler, SHOTS, LAYERS))


def _require_qubits(problem: Pruning) -> None:
    if len(problem.units) > QUBITS:
        raise ValueError(
            f"{len(problem.units)} units need as many qubits, this arm takes at most {QUBITS}; "
            "set inference.units lower, or use classical arms alone (--method classical)"
        )


def _repaired(problem: Pruning, bench: Bench, bits: Bits) -> Removal:
    qubo = surrogate(problem, bench)
    return removal(best(qubo, repair_cardinality(qubo, bits, problem.k)))


def _selection_loss(problem: Pruning, removed: Removal) -> float:
    """Arms often agree, so the text is read once for each distinct answer."""
    key = content_key([str(problem.model), problem.units, problem.selection]), removed
    if key not in _SCORED:
        _SCORED[key] = bits_per_byte_without(problem.model, problem.units, problem.selection, removed, problem.threads)
    return _SCORED[key]


@cache
def _example_model(seed: int, text: bytes) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ketcycle-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokens = np.frombuffer(text, np.int64).reshape(-1, 33)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    windows = Windows(tokens, np.full(len(tokens), 32, np.int64))
    train(model, windows, Recipe(tokens=60_000, batch=32, matrix_lr=0.05, seed=seed % 1000))
    save_model(model, folder)
    return folder
