import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curation.index import near_duplicates
from tasks.curation.index.crowds import CROWD
from tasks.curation.index.near_duplicates import by_component, choose_bands, classes, component_of
from tasks.curation.index.search import Found, find_edges
from tasks.curation.index.shards import Index, Recipe, make_shard, plan_shards
from tasks.curation.index.shingles import distinct, intersection_over_union, sketch
from tasks.curation.removals import Plan

VOCABULARY = [f"w{k}" for k in range(500)]
RECIPE = Recipe(texts=False)


def exact_jaccard(a: list[str], b: list[str]) -> float:
    size = 5 if min(len(a), len(b)) >= 33 else 2
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


def serial(function, items):
    return [function(item) for item in items]


def indexed(folder: Path, files: Sequence[Sequence[list[str]]], recipe: Recipe = RECIPE) -> Index:
    """An index with a shard for each file of documents."""
    work = []
    for number, documents in enumerate(files):
        path = folder / f"in/{number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": " ".join(words)}) + "\n" for words in documents))
        work += plan_shards("base", [path], recipe, 2**20)[0]
    return Index.open([make_shard(folder / "shards", item, recipe) for item in work], recipe)


def searched(folder: Path, index: Index, threshold: float = 0.7, recipe: Recipe = RECIPE) -> Found:
    scratch = folder / f"scratch{len(index.shards)}-{threshold}"
    scratch.mkdir(exist_ok=True)
    return find_edges(folder / "searches", index, recipe, threshold, scratch, serial)


def edges(found: Found) -> dict[tuple[int, int], float]:
    table = pq.read_table(found.path)
    columns = (table[name].to_pylist() for name in ("i", "j", "jaccard"))
    rows = list(zip(*columns, strict=True))
    assert len({(i, j) for i, j, _ in rows}) == len(rows)
    return {(i, j): similarity for i, j, similarity in rows}


@pytest.mark.parametrize("threshold", [0.5, 0.7, 1.0])
def test_planted_near_duplicates_are_found_exactly(tmp_path: Path, threshold: float) -> None:
    documents = planted(np.random.default_rng(0))
    bands, rows = choose_bands(threshold, 128)
    recipe = Recipe(texts=False, bands=bands, band_rows=rows)
    index = indexed(tmp_path, [documents[::2], documents[1::2]], recipe)
    documents = documents[::2] + documents[1::2]
    texts = {tuple(words): k for k, words in reversed(list(enumerate(documents)))}
    unique = sorted(texts.values())
    truth = {
        (i, j): similarity
        for i, j in combinations(unique, 2)
        if (similarity := exact_jaccard(documents[i], documents[j])) >= threshold
    }
    if index.size == len(documents):  # no copy within a file, so that numbers are positions
        assert edges(searched(tmp_path, index, threshold, recipe)) == pytest.approx(truth)
    assert threshold == 1.0 or len(truth) > 30


def test_new_files_against_the_stored_index_give_what_all_at_once_gives(tmp_path: Path) -> None:
    documents = planted(np.random.default_rng(2))
    files = [documents[k::3] for k in range(3)]
    files[2].append(files[0][0])  # a copy over files
    whole = indexed(tmp_path / "whole", files)
    at_once = searched(tmp_path / "whole", whole)
    folder = tmp_path / "grown"
    first = searched(folder, indexed(folder, files[:1]))
    assert first.compared_before == 0
    grown = indexed(folder, files)
    # the new files stand before the old one too
    grown = Index([grown.shards[1], grown.shards[0], grown.shards[2]])
    made = [(shard.folder / "sets").stat().st_mtime_ns for shard in grown.shards]
    later = searched(folder, grown)
    assert later.compared_before == grown.shards[1].size
    place = np.concatenate([whole.starts[k] + np.arange(whole.shards[k].size) for k in (1, 0, 2)])
    moved = {tuple(sorted((int(place[i]), int(place[j])))): s for (i, j), s in edges(later).items()}
    first_of = {int(k): int(f) for k, f in enumerate(at_once.first)}
    moved = {tuple(sorted((first_of[i], first_of[j]))): s for (i, j), s in moved.items()}
    assert moved == pytest.approx(edges(at_once))
    assert later.checked == at_once.checked
    again = searched(folder, grown)
    assert again.compared_before == grown.size
    assert again.path == later.path
    assert made == [(shard.folder / "sets").stat().st_mtime_ns for shard in grown.shards]


def test_a_search_that_spills_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = indexed(tmp_path, [planted(np.random.default_rng(3))])
    (tmp_path / "one").mkdir()
    expected = edges(searched(tmp_path / "one", index))
    monkeypatch.setattr(near_duplicates, "MEMORY", "8MB")
    monkeypatch.setattr(near_duplicates, "SORTED_AT_ONCE", 16)
    monkeypatch.setattr(near_duplicates, "DOCUMENTS_AT_ONCE", 16)
    monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", 10)
    (tmp_path / "two").mkdir()
    assert edges(searched(tmp_path / "two", index)) == expected


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), max_size=30))
@settings(deadline=None)
def test_jaccard_of_hashed_sets_equals_jaccard_of_word_tuples(a: list[str], b: list[str]) -> None:
    sketches = sketch([" ".join(a), " ".join(b)])
    values, ends = distinct(sketches.shingles, sketches.ends, np.arange(2))
    expected = exact_jaccard(a, b) if a and b else 0.0
    assert intersection_over_union(values, ends, np.array([(0, 1)]), 0.0)[0] == pytest.approx(expected)


def test_the_band_join_proposes_what_the_index_of_datasketch_proposes(tmp_path: Path) -> None:
    index = indexed(tmp_path, [planted(np.random.default_rng(1))])
    lsh = MinHashLSH(num_perm=128, params=(RECIPE.bands, RECIPE.band_rows))
    signatures = index.signatures(np.arange(index.size))
    sketches = [MinHash(num_perm=128, hashvalues=row, scheme="affine32") for row in signatures]
    for k, one in enumerate(sketches):
        lsh.insert(k, one)
    expected = {tuple(sorted((k, other))) for k, one in enumerate(sketches) for other in lsh.query(one)}
    found = searched(tmp_path, index, 0.01)  # no pair is left out for its estimate
    assert found.checked == len({pair for pair in expected if pair[0] != pair[1]})


def near(words: list[str], count: int, rng: np.random.Generator) -> list[list[str]]:
    """Copies of a text in each of which another word is replaced."""
    return [[*words[: k % len(words)], f"edit{k}", *words[k % len(words) + 1 :]] for k in rng.permutation(count)]


def test_a_crowd_is_thinned_out_in_linear_time_and_every_removed_text_has_a_kept_witness(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crowd = near(rng.choice(VOCABULARY, 150).tolist(), 900, rng)
    documents = [*crowd, *map(list, dict.fromkeys(map(tuple, planted(rng, 20))))]
    index = indexed(tmp_path, [documents[::2], documents[1::2]])
    found = searched(tmp_path, index)
    documents = documents[::2] + documents[1::2]
    removed = np.flatnonzero(found.witness >= 0)
    assert 800 < len(removed) < 900
    assert found.checked < 20 * len(documents)  # all pairs would be 480,000
    assert not set(found.witness[removed].tolist()) & set(removed.tolist())
    stars = pq.read_table(found.crowds).to_pylist()
    for row in stars[::50]:
        assert row["jaccard"] == pytest.approx(exact_jaccard(documents[row["i"]], documents[row["j"]]))
    assert min(row["jaccard"] for row in stars) >= 0.7
    plan = Plan(9, 99, found.witness)
    parts = [found.path, found.crowds]
    (tmp_path / "sort").mkdir()
    weights = index.gather("weights")
    for pairs, jaccard in by_component(parts, component_of(index.size, parts), tmp_path / "sort"):
        plan.decide(pairs, jaccard, weights, str)
    gone, witness, _, how = plan.removals()
    assert how.count("representative") >= len(removed)
    assert not set(witness.tolist()) & set(gone.tolist())
    posed = {p for p, h in zip(*plan.members(), strict=True) if plan.how[h] == "posed"}
    kept = sorted(set(range(index.size)) - set(gone.tolist()) - posed)
    texts = [documents[k] for k in kept if len(documents[k]) == 150]
    assert all(exact_jaccard(a, b) < 0.7 for a, b in combinations(texts, 2))


def test_a_crowd_of_texts_that_only_resemble_each_other_is_not_compared_in_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    notice = [f"n{k}" for k in range(155)]
    texts = [[*notice, *(f"w{k}" for k in rng.integers(10**6, size=45))] for _ in range(600)]
    largest, propose = [0], near_duplicates._propose

    def counted(order: Any, starts: Any, ends: Any, *rest: Any) -> int:
        largest[0] = max(largest[0], int((ends - starts).max()))
        return propose(order, starts, ends, *rest)

    monkeypatch.setattr(near_duplicates, "_propose", counted)
    index = indexed(tmp_path, [texts])
    assert not edges(searched(tmp_path, index))
    counts = [np.unique(index.shards[0].band(k), return_counts=True)[1].max() for k in range(RECIPE.bands)]
    assert max(counts) > CROWD >= largest[0]


def test_a_crowd_that_grows_file_by_file_gives_what_all_at_once_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    crowd = near(rng.choice(VOCABULARY, 150).tolist(), 300, rng)
    files = [[*crowd[:100], *planted(rng, 5)], [*crowd[100:], ["heavier"] * 20 + crowd[0]], planted(rng, 5)]
    at_once = searched(tmp_path / "whole", indexed(tmp_path / "whole", files))
    folder = tmp_path / "grown"
    for count in (1, 2, 3):
        grown = searched(folder, indexed(folder, files[:count]))
    assert grown.witness.tolist() == at_once.witness.tolist()
    assert edges(grown) == pytest.approx(edges(at_once))


def test_components_are_ordered_by_their_first_member(tmp_path: Path) -> None:
    pairs = np.array([(5, 7), (4, 6), (1, 4)])
    table = pa.table({"i": pairs[:, 0], "j": pairs[:, 1], "jaccard": [0.9, 0.8, 0.7]})
    pq.write_table(table.cast(near_duplicates.EDGES), tmp_path / "edges.parquet")
    component = component_of(8, [tmp_path / "edges.parquet"])
    assert component.tolist() == [0, 1, 2, 3, 1, 5, 1, 5]
    parts = [(p.tolist(), s.tolist()) for p, s in by_component([tmp_path / "edges.parquet"], component, tmp_path)]
    assert parts == [([[1, 4], [4, 6]], [0.7, 0.8]), ([[5, 7]], [0.9])]
    assert component_of(3, []).tolist() == [0, 1, 2]
    assert list(by_component([], np.arange(3), tmp_path)) == []


def test_the_first_of_equal_fingerprints() -> None:
    marks = np.array([(1, 2), (3, 4), (1, 2), (1, 3), (3, 4)], np.uint64)
    assert classes(marks).tolist() == [0, 1, 0, 3, 1]
    assert len(classes(marks[:0])) == 0


def test_bands_follow_the_threshold() -> None:
    assert choose_bands(0.7, 128) == (32, 4)
    for threshold in (0.2, 0.3, 0.5, 0.8, 0.9, 1.0):
        bands, rows = choose_bands(threshold, 128)
        assert bands * rows <= 128
        assert (1 - threshold**rows) ** bands <= 1e-3
    assert choose_bands(0.7, 128, 25) == (25, 5)  # three permutations are left over
    with pytest.raises(ValueError, match="200 bands cannot be cut from 128"):
        choose_bands(0.7, 128, 200)
