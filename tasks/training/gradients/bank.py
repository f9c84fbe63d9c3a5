"""The instance bank of `gradients`: cells of a seed and a task, passages of one source to be told from the others'.

No two tasks share a passage, on either side: each is a unit of independence. Every second one is posed once more with
fewer qubits, in the same unit. The bank ends where the first source has no passages left: the texts of a study hold 360
units, a verdict needs 185 (`ketcycle study --list`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from tasks.contract import Budget, Instance, Material, in_turns
from tasks.text.embeddings import embed
from tasks.text.windows import passages
from tasks.text.works import hands, smaller
from tasks.training.gradients.problem import Texts

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

QUBITS, LAYERS = 6, 2
SMALLER = (2, 3, 4, 5)  # qubits
TRAINING, HELD_OUT = 48, 48  # texts of each kind
COUNT, WORDS = TRAINING + HELD_OUT, 40
EXECUTIONS = 20_000


def bank(material: Material, rng: Generator) -> Iterator[Instance[Texts]]:
    """Yield cells of seed x task, the sources alternating; texts are embedded when a problem is requested."""
    texts = sorted(material.texts.items())
    dealt = {source: found for source, its in texts if (found := hands(its, WORDS, 2 * COUNT))}
    rows = rng.permutation(min(map(len, dealt.values()))).tolist()
    yield from in_turns([_of_source(name, dealt, rows, rng) for name in dealt])


def _of_source(
    source: str, dealt: Mapping[str, Sequence[Sequence[str]]], rows: Sequence[int], rng: Generator
) -> Iterator[Instance[Texts]]:
    names = list(dealt)
    place = names.index(source)
    others = names[place + 1 :] + names[:place]
    for number, row in enumerate(rows):
        seed, own = int(rng.integers(2**31)), dealt[source][row][:COUNT]
        # The second half of each hand is shared out among the other sources.
        parts = [dealt[name][row][COUNT + turn :: len(others)] for turn, name in enumerate(others)]
        rest = [text for texts in zip(*parts, strict=False) for text in texts]
        name = f"task {number}: {source} against the others, seed {seed}"
        for qubits in (QUBITS, *smaller(source, number, SMALLER)):
            label = name if qubits == QUBITS else f"{name}, {qubits} qubits"
            pose = partial(_pose, own, rest, qubits, seed)
            yield Instance(source, label, qubits, pose, unit=f"{source} {row}")


def _pose(own: Sequence[str], rest: Sequence[str], qubits: int, seed: int) -> Texts:
    vectors = embed([*own, *rest]).astype(np.float64)
    return make_task(vectors[: len(own)], vectors[len(own) :], TRAINING, qubits, LAYERS, seed, EXECUTIONS)


def make_task(
    own: NDArray[np.float64],
    rest: NDArray[np.float64],
    training: int,
    qubits: int,
    layers: int,
    seed: int,
    executions: int,
) -> Texts:
    """Return the task of telling two sets of vectors apart.

    The features are the first principal components of the training vectors, standardised and cut at two standard
    deviations.

    Args:
        own: (n, d) vectors of the texts with label 1.
        rest: (n, d), as many, vectors of the texts with label -1.
        training: number of vectors of each kind that are trained on; the others are held out.
        qubits: number of features.
        layers: input blocks of the circuit.
        seed: seed of the initial weights.
        executions: budget.
    """
    first, later = (np.vstack([own[part], rest[part]]) for part in (slice(training), slice(training, None)))
    centre = first.mean(axis=0)
    axes = np.linalg.svd(first - centre, full_matrices=False)[2][:qubits]
    # The sign of an axis is arbitrary: its largest entry is made positive.
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    deviations = ((first - centre) @ axes.T).std(axis=0)
    features = [np.clip((part - centre) @ axes.T / deviations, -2, 2) for part in (first, later)]
    labels = [
        np.repeat([1, -1], [len(own[part]), len(rest[part])]) for part in (slice(training), slice(training, None))
    ]
    return Texts(
        inputs=features[0],
        labels=labels[0],
        held_out=features[1],
        held_out_labels=labels[1],
        layers=layers,
        seed=seed,
        budget=Budget(executions=executions),
    )


def example(rng: Generator) -> Texts:
    """Return the task of telling lines of two shipped licences apart, with three qubits and 3,000 executions."""
    folder = resources.files("deployments") / "sample" / "licences"
    vectors = []
    for name in ("PSF-2.0.txt", "CC-BY-4.0.txt"):
        found = passages((folder / name).read_text(encoding="utf-8"), 12)
        vectors.append(embed([found[i] for i in rng.permutation(len(found))[:24]]).astype(np.float64))
    count = min(map(len, vectors))
    return make_task(vectors[0][:count], vectors[1][:count], count * 2 // 3, 3, 1, int(rng.integers(2**31)), 3000)
