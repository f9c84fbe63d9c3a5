import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from infra.errors import BadInput, NoDocuments
from tasks.bench import make_bench
from tasks.corpus.sample import sample_path
from tasks.curation import stage
from tasks.curation.index.shingles import sketch
from tasks.curation.outcome import as_given
from tasks.curation.representatives.subtask import REPRESENTATIVES
from tasks.curation.semantic_clusters.subtask import SEMANTIC_CLUSTERS
from tasks.stage import Context, State, decisions
from tasks.steps import posed

torch.set_num_threads(1)
pytestmark = pytest.mark.slow

WORDS = ("the", "of", "and", "to", "with", "that", "have", "be", "parser", "token", "stream", "reads", "writes", "key")


def context(home: Path, **options: Any) -> Context:
    return Context("run", "curation", home, 0, options)


def run(given: Context, arms: dict[str, str] | None = None, prepared: State | None = None) -> State:
    state = prepared or stage.prepare(given, State())
    for subtask in decisions("curation"):
        problem = posed(subtask, given, state)
        if problem is not None:
            arm = subtask.arm((arms or {}).get(subtask.name, subtask.incumbent.name))
            state = subtask.apply(given, state, problem, arm.solve(problem, make_bench(scratch=given.scratch)))
    return stage.publish(given, state)


def sentence(rng: np.random.Generator, length: int = 80) -> list[str]:
    return [
        f"{rng.choice(WORDS)}{rng.integers(300)}" if rng.random() < 0.7 else str(rng.choice(WORDS))
        for _ in range(length)
    ]


def chain(rng: np.random.Generator, links: int = 5) -> list[str]:
    """Texts of which each one resembles the next and none resembles the next but one."""
    words = sentence(rng, 100)
    texts = []
    for _ in range(links):
        texts.append(" ".join(words))
        words = words[14:] + sentence(rng, 14)
    return texts


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    base, second = tmp_path / "in/base", tmp_path / "in/second"
    base.mkdir(parents=True)
    second.mkdir()
    for k in range(8):
        (base / f"{k}.txt").write_text(" ".join(sentence(rng)))
    (base / "copy.txt").write_text((base / "3.txt").read_text().replace(" ", " \n "))
    (base / "short.txt").write_text("too short")
    texts = [text for _ in range(6) for text in chain(rng)]
    one = sentence(rng, 120)
    texts += [" ".join(one), " ".join([*one[:-1], "end"])]
    (second / "chains.jsonl").write_text(
        "".join(json.dumps({"id": f"c{k}", "text": t}) + "\n" for k, t in enumerate(texts))
    )
    (second / "broken.parquet").write_bytes(b"no")
    return base, second


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, State]:
    """The shipped corpus through the stage, once."""
    given = context(tmp_path_factory.mktemp("home"))
    return given, run(given)


def test_the_shipped_corpus_is_curated_to_its_exact_truth(demo: tuple[Context, State]) -> None:
    facts = demo[1].facts
    assert facts["truth"] == {"pairs": facts["truth"]["pairs"], "precision": 1.0, "recall": 1.0}
    assert facts["truth"]["pairs"] > 3500
    assert facts["components"]["posed"] > 90
    assert facts["representatives"]["kept_weight_share"] > 2 * facts["representatives"]["keep_one_weight_share"]
    assert facts["representatives"]["added_to_be_maximal"] == 0
    assert facts["semantic_clusters"]["removed"] > 10


def test_every_document_is_accounted_for(demo: tuple[Context, State]) -> None:
    given, state = demo
    kept = given.lake.read(state.refs["curation/kept"])
    dropped = given.lake.read(state.refs["curation/dropped"])
    names = kept["doc_id"].to_pylist() + dropped["doc_id"].to_pylist()
    assert len(names) == len(set(names)) == sum(state.facts["documents_read"].values())
    assert set(kept["domain"].to_pylist()) == {"base", "second"}
    assert [len(t.encode()) for t in kept["text"].to_pylist()] == kept["n_bytes"].to_pylist()
    assert sum(state.facts["removed"].values()) + sum(state.facts["dropped_by_rule"].values()) == dropped.num_rows


def similarity(a: set[int], b: set[int]) -> float:
    """Jaccard; texts with the same shingles that are not equal differ in one each, exact copies are 1."""
    return len(a & b) / (len(a | b) + 2 * (a == b))


def test_every_removed_document_has_a_witness_and_a_kept_survivor(demo: tuple[Context, State]) -> None:
    given, state = demo
    kept = set(given.lake.read(state.refs["curation/kept"])["doc_id"].to_pylist())
    text = {
        row["doc_id"]: row["text"]
        for row in pq.read_table(sample_path("second")).to_pylist() + pq.read_table(sample_path("base")).to_pylist()
    }
    sketches = sketch(list(text.values()))
    ends = [0, *sketches.ends.tolist()]
    sets = {name: set(sketches.shingles[a:b].tolist()) for name, (a, b) in zip(text, pairwise(ends), strict=True)}
    decisions = given.lake.read(state.refs["curation/decisions"]).to_pylist()
    assert len({row["removed"] for row in decisions}) == len(decisions) > 500
    gone_later = {row["removed"] for row in decisions if row["subtask"] == "semantic_clusters"}
    for row in decisions:
        assert row["removed"] not in kept
        assert row["kept"] in kept
        if row["subtask"] == "semantic_clusters":
            assert row["cosine"] >= 0.93
            continue
        assert (
            similarity(sets[row["removed"]], sets[row["witness"]]) == pytest.approx(row["jaccard"])
            or row["jaccard"] == 1.0
        )
        assert row["jaccard"] >= 0.7
        assert row["witness"] in kept | gone_later


def test_no_two_kept_documents_are_near_duplicates(demo: tuple[Context, State]) -> None:
    given, state = demo
    kept = set(given.lake.read(state.refs["curation/kept"])["doc_id"].to_pylist())
    truth = pq.read_table(sample_path("truth")).to_pylist()
    assert not [row for row in truth if row["jaccard"] >= 0.7 and row["a"] in kept and row["b"] in kept]
    edges = given.lake.read(state.refs["curation/edges"]).to_pylist()
    assert not [row for row in edges if row["i"] in kept and row["j"] in kept]


def test_the_same_seed_gives_the_same_lake_versions(demo: tuple[Context, State], tmp_path: Path) -> None:
    _, state = demo
    again = run(context(tmp_path))
    assert again.refs == state.refs
    assert again.facts == state.facts


def test_own_corpus_with_planted_duplicates(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    base, second = corpus
    options = {"corpus": [str(base)], "second": [str(second)], "min_words": 20, "semantic_clusters": {"documents": 0}}
    given = context(tmp_path / "home", **options)
    state = run(given, {"representatives": "exact"})
    facts = state.facts
    assert facts["documents_read"] == {"base": 10, "second": 32}
    assert facts["quarantined"] == 1
    assert facts["dropped_by_rule"] == {"length": 1}
    assert facts["exact_duplicates"] == 1
    assert facts["components"] == {"clique": 1, "posed": 6}
    assert facts["largest_component"] == 5
    assert "truth" not in facts
    # of a chain of five the first, third and fifth stay
    assert facts["representatives"]["removed"] == 6 * 2
    assert facts["removed"] == {"exact_duplicates": 1, "near_duplicates/clique": 1, "representatives": 12}
    decisions = given.lake.read(state.refs["curation/decisions"]).to_pylist()
    assert {
        "removed": "copy.txt",
        "witness": "3.txt",
        "jaccard": 1.0,
        "cosine": None,
        "subtask": "exact_duplicates",
        "kept": "3.txt",
    } in decisions
    reasons = {row["doc_id"]: row["detail"] for row in given.lake.read(state.refs["curation/dropped"]).to_pylist()}
    assert reasons["short.txt"] == "2 words, not 20 to 100000"
    (aside,) = given.lake.read(state.refs["curation/quarantined"]).to_pylist()
    assert (aside["domain"], aside["path"], aside["reason"]) == ("second", "broken.parquet", "unreadable")


def test_every_arm_leads_to_a_corpus_without_near_duplicates(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    given = context(
        tmp_path / "home",
        corpus=[str(corpus[0])],
        second=[str(corpus[1])],
        min_words=20,
        **{name: {"shots": 32} for name in ("representatives", "semantic_clusters")},
    )
    prepared = stage.prepare(given, State())
    for arm in REPRESENTATIVES.arms:
        state = run(given, {"representatives": arm.name}, prepared)
        kept = set(given.lake.read(state.refs["curation/kept"])["doc_id"].to_pylist())
        edges = given.lake.read(state.refs["curation/edges"]).to_pylist()
        assert not [row for row in edges if row["i"] in kept and row["j"] in kept]
        assert (state.facts["representatives"]["added_to_be_maximal"] > 0) is (arm.name == "keep-one")


def test_truth_of_ones_own_is_scored_with_copies(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = [(f"c{5 * k + j}", f"c{5 * k + j + 1}") for k in range(6) for j in range(4)] + [
        ("c30", "c31"),
        ("c0", "c9"),
    ]
    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "jaccard": [0.8] * len(pairs)})
    pq.write_table(table, tmp_path / "truth.parquet")
    options = {"corpus": [str(corpus[0])], "second": [str(corpus[1])], "truth": str(tmp_path / "truth.parquet")}
    state = stage.prepare(context(tmp_path / "home", min_words=20, **options), State())
    assert state.facts["truth"] == {"pairs": 26, "precision": 1.0, "recall": pytest.approx(25 / 26)}


def test_a_corpus_without_duplicates_has_nothing_to_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(" ".join(sentence(rng)))
    given = context(
        tmp_path / "home",
        corpus=[str(tmp_path / "a.txt")],
        second=[str(tmp_path / "b.txt")],
        semantic_clusters={"documents": 0},
    )
    state = stage.prepare(given, State())
    assert posed(REPRESENTATIVES, given, state) is None
    assert posed(SEMANTIC_CLUSTERS, given, state) is None
    assert stage.publish(given, state).facts["documents_kept"] == {"base": 1, "second": 1}


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_score_of_ones_own_decides_which_near_duplicate_stays(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for name, scores in {"a": (0.2, 0.9, 0.1), "b": (None, 0.01, -1.0), "c": (3.0, 2.0, 1.0)}.items():
        words = sentence(rng, 120)
        for k, score in enumerate(scores):  # the first is the longest, and all are near duplicates of each other
            rows.append({"id": f"{name}{k}", "text": " ".join([*words[: 120 - k], f"end{k}"]), "score": score})
    path, plain = tmp_path / f"x.{ending}", {"semantic_clusters": {"documents": 0}, "alone": True}
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def stays(column: str) -> list[str]:
        given = context(tmp_path / "home", corpus=[str(path)], weight_column=column, **plain)
        return sorted(given.lake.read(run(given).refs["curation/kept"], ["doc_id"])["doc_id"].to_pylist())

    assert stays("") == ["a0", "b0", "c0"]
    assert stays("score") == ["a1", "b1", "c0"]
    with pytest.raises(BadInput, match="no document has a positive number in quality; name another"):
        stays("quality")


def test_an_unusable_corpus_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("too short")
    with pytest.raises(NoDocuments, match=r"base domain \(corpus\): 1 read.*length 1.*--rules none"):
        stage.prepare(context(tmp_path / "home", corpus=[str(tmp_path / "x.txt")]), State())
    with pytest.raises(BadInput, match=r"there is no .*nowhere; give files or folders"):
        stage.prepare(context(tmp_path / "home", corpus=[str(tmp_path / "nowhere")]), State())


def test_a_solution_with_near_duplicates_is_refused(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    given = context(tmp_path / "home", corpus=[str(corpus[0])], second=[str(corpus[1])], min_words=20)
    state = stage.prepare(given, State())
    problem = posed(REPRESENTATIVES, given, state)
    with pytest.raises(ValueError, match="keeps near duplicates"):
        REPRESENTATIVES.apply(given, state, problem, tuple(tuple(range(g.size)) for g in problem.graphs))
    with pytest.raises(ValueError, match="for 0 components, the problem has"):
        REPRESENTATIVES.apply(given, state, problem, ())


def test_own_rules_languages_and_redaction(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prose = "The parser reads the next line of the file and it returns what it has found there to the caller"
    german = "Der Parser liest die Zeile und gibt zurück, was er gefunden hat, to of and the. " * 8
    for domain in ("one", "two"):
        (tmp_path / domain).mkdir()
        for k in range(4):
            text = f"{prose} {k}. {' '.join(sentence(rng, 20))}. {prose}. Ask a{k}@example.org. "
            (tmp_path / domain / f"{k}.txt").write_text(text * 2)
        (tmp_path / domain / "german.txt").write_text(f"{german} {domain}")
    corpora = {"corpus": [str(tmp_path / "one")], "second": [str(tmp_path / "two")]}
    options = {**corpora, "languages": ["en"], "redact": True, "min_words": 20}
    state = run(context(tmp_path, **options, semantic_clusters={"documents": 0}))
    assert state.facts["dropped_by_rule"] == {"language": 2}
    assert state.facts["redacted"] == {"email": 16}
    lake = context(tmp_path).lake
    assert not any("@" in text for text in lake.read(state.refs["curation/kept"])["text"].to_pylist())
    with pytest.raises(BadInput, match="no language xx"):
        run(context(tmp_path, **{**options, "languages": ["xx"]}))
    with pytest.raises(BadInput, match="write package"):
        run(context(tmp_path, **options, own_rules=["nowhere:rule"]))


@pytest.fixture(scope="module")
def licences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, State, dict[str, set[int]]]:
    """The labelled licence texts through the stage, without a second corpus, and their shingle sets."""
    path = Path(__file__).parents[4] / "shared/data/licences_neardup/licences.parquet"
    if not path.exists():
        pytest.skip("the labelled licence texts are not on this machine")
    table = pq.read_table(path, columns=["doc_id", "text", "is_full_text", "language", "n_words"])
    keep = [
        bool(f) and e == "en" and n >= 50
        for f, e, n in zip(*(table[c].to_pylist() for c in table.column_names[2:]), strict=True)
    ]
    home = tmp_path_factory.mktemp("licences")
    table = table.select(["doc_id", "text"]).filter(pa.array(keep))
    pq.write_table(table, home / "licences.parquet")
    sketches = sketch(table["text"].combine_chunks())
    ends = [0, *sketches.ends.tolist()]
    names = table["doc_id"].to_pylist()
    sets = {name: set(sketches.shingles[a:b].tolist()) for name, (a, b) in zip(names, pairwise(ends), strict=True)}
    given = context(home, corpus=[str(home / "licences.parquet")], alone=True, languages=["any"], min_alphabetic=0.0)
    return given, run(given), sets


def test_of_one_corpus_every_removed_document_names_a_kept_witness_at_the_threshold(
    licences: tuple[Context, State, dict[str, set[int]]],
) -> None:
    given, state, sets = licences
    kept = set(given.lake.read(state.refs["curation/kept"])["doc_id"].to_pylist())
    filtered = given.lake.read(state.refs["curation/filtered"], ["doc_id", "reason"]).to_pylist()
    dropped = {row["doc_id"] for row in filtered if row["reason"]}  # an exact copy is there without a reason
    decisions = given.lake.read(state.refs["curation/decisions"]).to_pylist()
    assert len(decisions) > 1500
    assert kept | {row["removed"] for row in decisions} | dropped == set(sets)
    assert len(kept) + len(decisions) + len(dropped) == len(sets)
    for row in decisions:
        a, b = sets[row["removed"]], sets[row["witness"]]
        assert row["witness"] in kept
        assert row["witness"] == row["kept"]
        exact = len(a & b) / len(a | b)
        unequal = len(a) / (len(a) + 2)  # the same words in texts that are not equal
        assert row["jaccard"] in (pytest.approx(exact), pytest.approx(unequal if exact == 1 else exact))
        assert row["jaccard"] >= 0.7
    assert "semantic_clusters" not in state.facts
    assert set(state.facts["documents_read"]) == {"base"}


CASES = Path(__file__).parents[4] / "shared/cases/curation"


def curated(home: Path, *paths: Path, **options: Any) -> tuple[Context, State]:
    given = context(home, corpus=[str(path) for path in paths], alone=True, **options)
    return given, run(given)


def exported(given: Context, state: State, name: str) -> pa.Table:
    ref = state.refs[f"curation/{name}"]
    return as_given(given.lake.read(ref), given.lake.meta(ref)["text"])


def test_the_users_columns_come_back_with_their_types_and_files_that_differ_get_nulls(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(sentence(rng)) for _ in range(4)]
    table = pa.table({"id": [1, 2], "text": texts[:2], "domain": ["law", "art"], "meta": [{"a": 1}, {"a": None}]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet")
    rows = [{"text": texts[2], "author": "x"}, {"text": texts[0], "author": "y"}, {"text": "short", "author": "z"}]
    (tmp_path / "in/b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "in/c.txt").write_text(texts[3])
    (tmp_path / "in/d.foo").write_text("not read")
    given, state = curated(tmp_path / "home", tmp_path / "in", min_words=20)
    kept, dropped = exported(given, state, "kept"), exported(given, state, "dropped")
    assert kept.column_names[:5] == ["text", "id", "domain", "meta", "author"]
    assert kept.schema.field("id").type == pa.int64()
    assert kept["domain"].to_pylist() == ["law", "art", None, None]
    assert kept["author"].to_pylist() == [None, None, "x", None]
    assert kept["ketcycle_id"].to_pylist() == ["1", "2", "b.jsonl#0000000", "c.txt"]
    assert {row["author"]: row["ketcycle_reason"] for row in dropped.to_pylist()} == {
        "y": "exact_duplicates", "z": "length"
    }  # fmt: skip
    assert dropped["text"].to_pylist().count(texts[0]) == 1
    assert stage.headline(state) == (
        "4 of 6 documents kept; 1 dropped by rules (length 1; --rules none keeps them); "
        "1 exact copies and 0 near duplicates removed; 1 files not read (.foo 1)"
    )
    aside = given.lake.read(state.refs["curation/quarantined"]).to_pylist()
    assert [(row["path"], row["reason"]) for row in aside] == [("d.foo", "unknown ending")]
    with pytest.raises(BadInput, match="no document has a value in nosuch"):
        curated(tmp_path / "home", tmp_path / "in", min_words=20, id_column="nosuch")
    with pytest.raises(BadInput, match="no file has nosuch; there are author, domain"):
        curated(tmp_path / "home", tmp_path / "in", min_words=20, columns=["nosuch"])
    with pytest.raises(BadInput, match=r"the format of d\.foo is not known"):
        curated(tmp_path / "home", tmp_path / "in/d.foo")


def test_a_crowd_of_near_duplicates_leaves_one(tmp_path: Path) -> None:
    words = sentence(np.random.default_rng(2), 150)
    rows = [{"text": " ".join([*words[:k], f"edit{k}", *words[k + 1 :]])} for k in range(150)] * 2
    rows = [{"text": f"{row['text']} end{k}"} for k, row in enumerate(rows)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given, state = curated(tmp_path / "home", tmp_path / "x.jsonl")
    assert state.facts["documents_kept"] == {"base": 1}
    assert state.facts["components"] == {"representative": 1}
    decisions_made = given.lake.read(state.refs["curation/decisions"]).to_pylist()
    assert len(decisions_made) == 299
    assert all(row["jaccard"] >= 0.7 and row["kept"] == row["witness"] for row in decisions_made)


@pytest.mark.parametrize(
    ("name", "options", "kept", "read"),
    [
        ("exact-that-is-not/s.jsonl", {"threshold": 1.0}, 9, 9),
        ("chinese-near-duplicates/z.jsonl", {"rules": "none"}, 20, 100),
        ("chinese-near-duplicates/z.jsonl", {"languages": ["any"]}, 20, 100),
        ("not-english/t.jsonl", {"languages": ["any"]}, 10, 20),
        ("not-english/r.jsonl", {"languages": ["ru"]}, 10, 20),
        ("not-english/s.jsonl", {"rules": "none"}, 60, 60),
        ("not-english/m.jsonl", {"rules": "none"}, 11, 11),
        ("json-not-lines", {"rules": "none"}, 10, 10),
        ("legacy-plain-text", {}, 3, 3),
        ("parquet-bad-utf8", {}, 6, 6),
        ("parquet-text-types", {"rules": "none"}, 7, 7),
        ("passed-over-in-silence", {"rules": "none"}, 15, 15),
        ("passed-over-in-silence/csv/reviews.csv", {"rules": "none"}, 5, 5),
        ("surrogate-id", {}, 5, 5),
        ("warc-brotli/kinds.warc.gz", {}, 26, 26),
        ("encoded-twice/kinds.warc.gz", {}, 26, 26),
        ("wet-archive/CC-MAIN-20240101000000-20240101010000-00000.warc.wet.gz", {}, 4, 4),
        ("ids", {"rules": "none"}, 17, 18),
        ("extra-columns-lost/three_files", {}, 66, 81),
        ("giant-component/g.parquet", {}, 1, 1000),
    ],
)
def test_corpora_of_other_peoples_tools(
    tmp_path: Path, name: str, options: dict[str, Any], kept: int, read: int
) -> None:
    if not CASES.exists():
        pytest.skip("the cases of other people's corpora are not on this machine")
    _, state = curated(tmp_path, CASES / name, **options)
    assert (state.facts["documents_kept"].get("base", 0), state.facts["documents_read"]["base"]) == (kept, read)
