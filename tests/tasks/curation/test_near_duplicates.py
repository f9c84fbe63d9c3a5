from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.near_duplicates import (
    BANDS,
    ROWS,
    ShingleSets,
    candidates,
    components,
    verified_edges,
)
from tasks.curation.shingles import PERMUTATIONS, signatures, sketch

VOCABULARY = [f"w{k}" for k in range(500)]


def exact_jaccard(a: list[str], b: list[str], size: int = 5) -> float:
    sets = [{tuple(words[k : k + size]) for k in range(max(1, len(words) - size + 1))} for words in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def planted(rng: np.random.Generator, originals: int = 40, copies: int = 3) -> list[list[str]]:
    """Word lists, each with copies in which a growing share of the words is replaced."""
    documents: list[list[str]] = []
    for _ in range(originals):
        words = rng.choice(VOCABULARY, size=int(rng.integers(60, 200))).tolist()
        documents.append(words)
        for share in rng.uniform(0, 0.1, copies):
            copy = list(words)
            for at in np.flatnonzero(rng.random(len(copy)) < share):
                copy[at] = str(rng.choice(VOCABULARY))
            documents.append(copy)
    return documents


@pytest.fixture
def sealed(tmp_path: Path) -> Callable[[list[list[str]]], tuple[ShingleSets, np.ndarray]]:
    def make(documents: list[list[str]]) -> tuple[ShingleSets, np.ndarray]:
        sets, found = ShingleSets(tmp_path / "sets"), []
        for half in (documents[::2], documents[1::2]):  # filled in two batches
            sketches = sketch([" ".join(words) for words in half])
            sets.append(sketches.shingles, sketches.ends)
            found.append(signatures(sketches.shingles, sketches.ends))
        sets.seal()
        return sets, np.concatenate(found)

    return make


def test_planted_near_duplicates_are_found_exactly(sealed) -> None:
    documents = planted(np.random.default_rng(0))
    sets, sketches = sealed(documents)
    documents = documents[::2] + documents[1::2]
    edges = verified_edges(candidates(sketches, 0.7), sets, 0.7)
    truth = {
        (i, j): similarity
        for i, j in combinations(range(len(documents)), 2)
        if (similarity := exact_jaccard(documents[i], documents[j])) >= 0.7
    }
    found = dict(zip(map(tuple, edges.pairs.tolist()), edges.jaccard.tolist(), strict=True))
    assert len(truth) > 40
    assert found == pytest.approx(truth)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
@settings(deadline=None)
def test_jaccard_of_hashed_sets_equals_jaccard_of_word_tuples(a: list[str], b: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, ShingleSets(Path(folder) / "sets") as sets:
        sketches = sketch([" ".join(a), " ".join(b)])
        sets.append(sketches.shingles, sketches.ends)
        sets.seal()
        expected = exact_jaccard(a, b) if a and b else 0.0
        assert sets.jaccards(np.array([(0, 1)]))[0] == pytest.approx(expected)


def test_the_band_join_proposes_what_the_index_of_datasketch_proposes(sealed) -> None:
    _, found = sealed(planted(np.random.default_rng(1)))
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
    sketches = [MinHash(num_perm=PERMUTATIONS, hashvalues=row, scheme="affine32") for row in found]
    for k, one in enumerate(sketches):
        index.insert(k, one)
    expected = {tuple(sorted((k, other))) for k, one in enumerate(sketches) for other in index.query(one)}
    ours = [tuple(pair) for block in candidates(found) for pair in block.tolist()]
    assert len(ours) == len(set(ours))
    assert set(ours) == {pair for pair in expected if pair[0] != pair[1]}


def test_components_are_ordered_by_their_first_member() -> None:
    parts = components(8, np.array([(5, 7), (1, 4), (4, 6)]))
    assert [part.tolist() for part in parts] == [[1, 4, 6], [5, 7]]
    assert components(3, np.zeros((0, 2), np.int64)) == []


def test_only_pairs_far_below_the_threshold_are_left_out() -> None:
    found = np.tile(np.arange(PERMUTATIONS, dtype=np.uint32), (4, 1))
    for row, changed in ((1, 30), (2, 60), (3, 70)):  # estimates .77, .53 (within five standard errors of .7), .45
        found[row, :changed] += 1000 * row
    pairs = {tuple(pair) for block in candidates(found, 0.7) for pair in block.tolist()}
    assert pairs == {(0, 1), (0, 2), (1, 2)}
    assert list(candidates(found, 1.0)) == []


def test_no_candidates_among_nothing() -> None:
    assert list(candidates(np.zeros((0, PERMUTATIONS), np.uint32))) == []


def test_a_bucket_of_many_copies_comes_in_bounded_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.curation.near_duplicates.PAIRS_AT_ONCE", 100)
    blocks = list(candidates(np.ones((60, PERMUTATIONS), np.uint32)))
    assert sum(map(len, blocks)) == 60 * 59 // 2
    assert max(map(len, blocks)) == 100
    assert len({tuple(pair) for block in blocks for pair in block.tolist()}) == 60 * 59 // 2


def test_sets_are_not_filled_after_sealing(tmp_path: Path) -> None:
    with ShingleSets(tmp_path / "sets") as sets:
        sets.seal()
        with pytest.raises(ValueError, match="sealed"):
            sets.append(np.zeros(1, np.uint64), np.ones(1, np.int64))
    assert not (tmp_path / "sets").exists()
