"""The instance bank of `semantic_clusters`: groups of real texts among which repetitions are known.

What repeats what is known without embeddings: licence texts by the labels that people gave them, all texts by exact
Jaccard similarity, and paraphrases because they are planted. A paraphrase has the sentences of a text in another order,
some words exchanged for others of the same meaning, and up to an eighth of the words left out, so that the closest are
easy to find and the farthest are hard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import Instance, Material, in_turns
from tasks.curation.index.exact_components import exact_pairs
from tasks.curation.semantic_clusters.problem import Clustering
from tasks.text.embeddings import embed
from tasks.text.samples import sample_passages
from tasks.text.works import dealt, smaller, works_of

# The instances of the bank are posed as a run of the default profile poses its own.
THRESHOLD, CLUSTERS, ITERATIONS = 0.93, 4, 4
JACCARD = 0.7  # from which texts repeat each other, whatever they are labelled


PIECE = 2000  # characters


SMALL, LARGE, EVERY = 63, 252, 20  # originals of a group; every twentieth group is a large one
SMALLER = (12, 24, 36, 48)
COPIES = 3  # one paraphrase for so many originals
LABELLED = "licences"
GENERIC = re.compile(r"proprietary-license|other-permissive|other-copyleft|unknown|exception| ")
OMITTED = (0.0, 0.12)
EXCHANGED = 0.4
SYNONYMS = dict(
    pair.split(":")
    for line in (
        "use:employ uses:employs used:employed return:give returns:gives function:routine method:routine",
        "value:quantity values:quantities example:instance create:make creates:makes created:made must:should may:can",
        "file:document files:documents software:program copy:duplicate copies:duplicates change:alter",
        "changes:alterations begin:start begins:starts end:finish number:count object:item objects:items",
        "permission:leave granted:given notice:note conditions:terms warranty:guarantee liable:responsible",
        "damages:losses default:standard specify:state specified:stated contains:holds contain:hold show:display",
        "shows:displays large:big small:little",
    )
    for pair in line.split()
)

Labelled = tuple[str, str]  # text and label of what it repeats, empty where no one knows


def bank(material: Material, rng: np.random.Generator) -> Iterator[Instance[Clustering]]:
    """Yield groups of documents of each source, clustered and compared as a run does by default.

    A group holds whole works (manual pages, modules, licences), so that texts that belong together meet, and no two
    groups share a work: each is a unit of its own; for every second one the head of it stands beside it, in the same
    unit, so that costs can be fitted against size. Long texts are cut to the head that a run embeds, and what follows
    is a document of its own; of labelled texts only the head is taken, since the label is that of the whole.
    """
    yield from in_turns([_groups(material, name, rng) for name in sorted(material.texts)])


def _groups(material: Material, source: str, rng: np.random.Generator) -> Iterator[Instance[Clustering]]:
    names, texts = material.works.get(source, ()), material.texts[source]
    labels = dict(zip(texts, names, strict=True)) if source == LABELLED and names else {}
    works = [*works_of(material, source), *works_of(material, source, tuning=True)]
    pieces = [[piece for text in work for piece in _pieces(text, labels)] for work in works]
    order = [pieces[i] for i in rng.permutation(len(pieces))]
    waiting: list[list[Labelled]] = []
    number = 0
    for hand in dealt(order, SMALL):
        waiting.append(hand)
        size = LARGE if number % EVERY == EVERY - 1 else SMALL
        if len(waiting) * SMALL < size:
            continue
        group = tuple(item for its in waiting for item in its)[:size]
        seed = int(rng.integers(2**31))
        name = f"group {number}, seed {seed}"
        for originals in (size, *smaller(source, number, SMALLER)):
            posed = partial(_clustering, group[:originals], seed)
            label = name if originals == size else f"{name}, {originals} originals"
            yield Instance(source, label, originals + originals // COPIES, posed, unit=f"{source} {name}")
        waiting, number = [], number + 1


def _pieces(text: str, labels: dict[str, str]) -> list[Labelled]:
    if labels:
        label = labels[text]
        return [(text[:PIECE], "" if GENERIC.search(label) else label)]
    return [(text[start : start + PIECE], "") for start in range(0, max(1, len(text) - PIECE // 2), PIECE)]


def _clustering(group: Sequence[Labelled], seed: int) -> Clustering:
    rng = np.random.default_rng(seed)
    copied = rng.permutation(len(group))[: len(group) // COPIES]
    originals = [text for text, _ in group]
    texts = [*originals, *(paraphrase(originals[i], rng) for i in copied)]
    groups = np.concatenate([_known(group), _known(group)[copied]])
    order = rng.permutation(len(texts))
    texts = [texts[i] for i in order]
    weights = np.sqrt([len(text.split()) for text in texts])
    truth = tuple(int(groups[i]) for i in order)
    return Clustering(embed(texts), THRESHOLD, CLUSTERS, ITERATIONS, seed, weights, truth=truth)


def _known(group: Sequence[Labelled]) -> NDArray[np.intp]:
    """Return a number for each original; those of one label, or of exact Jaccard .7 in a chain, share it."""
    number = np.arange(len(group))
    first: dict[str, int] = {}
    for row, (_, label) in enumerate(group):
        if label:
            number[row] = first.setdefault(label, row)
    for left, right in exact_pairs([text for text, _ in group], JACCARD):
        number[number == number[right]] = number[left]
    return number


def paraphrase(text: str, rng: np.random.Generator) -> str:
    """Say the same otherwise: sentences in another order, words exchanged for synonyms, some words left out."""
    omitted = rng.uniform(*OMITTED)
    sentences = re.split(r"(?<=[.!?:;])\s+", text)
    words = [word for i in rng.permutation(len(sentences)) for word in sentences[i].split()]
    kept = [SYNONYMS.get(w, w) if rng.random() < EXCHANGED else w for w in words if rng.random() >= omitted]
    return " ".join(kept or words)


def project(vectors: NDArray[np.floating[Any]], dimensions: int) -> NDArray[np.float32]:
    """Project on the leading right singular vectors, without centring: cosines are kept as well as can be."""
    rows = np.asarray(vectors, np.float64)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:dimensions]
    return np.asarray(rows @ axes.T, np.float32)


def example(rng: np.random.Generator) -> Clustering:
    """30 passages of licences and 10 paraphrases of them, in 15 dimensions and a constant (4 qubits)."""
    passages = [text for _, text in sample_passages("second")]
    texts = [passages[i] for i in rng.permutation(len(passages))[:30]]
    vectors = embed([*texts, *(paraphrase(text, rng) for text in texts[:10])])
    truth = (*range(30), *range(10))
    return Clustering(project(vectors, 15), start=int(rng.integers(2**31)), truth=truth)
