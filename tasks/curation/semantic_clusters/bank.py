"""The instance bank of `semantic_clusters`: groups of real texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import Instance, Material, in_turns
from tasks.curation.semantic_clusters.problem import Clustering
from tasks.text.embeddings import embed
from tasks.text.samples import sample_passages

# The instances of the bank are posed as a run of the default profile poses its own.
THRESHOLD, CLUSTERS, ITERATIONS = 0.93, 4, 4


PIECE = 2000  # characters


GROUPS = (256, 128)  # documents


def bank(material: Material, rng: np.random.Generator) -> Iterator[Instance[Clustering]]:
    """Yield disjoint groups of documents of each source, clustered and compared as a run does by default.

    A group is consecutive in its source, so that texts of one manual, library or family of licences meet; long texts
    are cut to the head that a run embeds, and what follows is a document of its own. Half the groups have the size
    of the demo profile's bucket, half that of the smoke profile's.
    """
    yield from in_turns([_groups(name, texts, rng) for name, texts in sorted(material.texts.items())])


def _groups(source: str, texts: Sequence[str], rng: np.random.Generator) -> list[Instance[Clustering]]:
    pieces = [
        text[start : start + PIECE] for text in texts for start in range(0, max(1, len(text) - PIECE // 2), PIECE)
    ]
    step = sum(GROUPS)
    instances = []
    for begin in (int(rng.permutation(step)[0]) + step * k for k in rng.permutation(len(pieces) // step - 1)):
        for size, at in zip(GROUPS, (begin, begin + GROUPS[0]), strict=True):
            pose = partial(_clustering, tuple(pieces[at : at + size]), int(rng.integers(2**31)))
            instances.append(Instance(source, f"pieces {at} to {at + size - 1}", size, pose))
    return instances


def _clustering(texts: Sequence[str], start: int) -> Clustering:
    weights = np.sqrt([len(text.split()) for text in texts])
    return Clustering(embed(texts), THRESHOLD, CLUSTERS, ITERATIONS, start, weights)


def project(vectors: NDArray[np.floating[Any]], dimensions: int) -> NDArray[np.float32]:
    """Project on the leading right singular vectors, without centring: cosines are kept as well as can be."""
    rows = np.asarray(vectors, np.float64)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:dimensions]
    return np.asarray(rows @ axes.T, np.float32)


def example(rng: np.random.Generator) -> Clustering:
    """40 passages of licences, up to four of one licence, in 15 dimensions and a constant (4 qubits)."""
    passages = sample_passages("second", per_label=4)
    labels = sorted({label for label, _ in passages})
    chosen = set(rng.permutation(labels)[:60])
    texts = [text for label, text in passages if label in chosen][:40]
    return Clustering(project(embed(texts), 15), start=int(rng.integers(2**31)))
