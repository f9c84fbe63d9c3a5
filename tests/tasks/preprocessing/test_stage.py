import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from infra.errors import BadInput
from infra.lake import Lake, Ref
from tasks.bench import make_bench
from tasks.model.causal import load_tokenizer
from tasks.model.windows import read_windows
from tasks.preprocessing import stage
from tasks.preprocessing.split import split_of
from tasks.preprocessing.state_loading.subtask import STATE_LOADING
from tasks.stage import Context, State
from tasks.steps import posed

OPTIONS = {"vocab_size": 400, "context": 16}


def sentences(seed: int, count: int = 12) -> str:
    rng = np.random.default_rng(seed)
    names = [f"{a}{b}" for a in ("ka", "lo", "mi", "ru", "te") for b in ("n", "sha", "vor", "pel")]
    return ". ".join(" ".join(rng.choice(names, 9)) for _ in range(count)) + ".\n"


def documents(domain: str, count: int) -> list[dict[str, Any]]:
    offset = 0 if domain == "base" else 10_000
    return [{"doc_id": f"{domain}-{i}", "domain": domain, "text": sentences(offset + i)} for i in range(count)]


def kept(lake: Lake, rows: list[dict[str, Any]]) -> Ref:
    rows = [row | {"source": "test", "n_bytes": len(row["text"].encode())} for row in rows]
    return lake.write("curation/kept", pa.Table.from_pylist(rows))


def run(home: Path, rows: list[dict[str, Any]], options: Mapping[str, Any] = OPTIONS) -> tuple[Context, State]:
    context = Context("r", "preprocessing", home, 0, options, {"curation/kept": kept(Lake(home / "lake"), rows)})
    return context, stage.prepare(context, State())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, State]:
    rows = documents("base", 60) + documents("second", 40)
    held = next(row for row in rows if row["domain"] == "base" and split_of(row["doc_id"]) == "test")
    leak = {"doc_id": "leak-train", "domain": "second", "text": sentences(77, 3) + held["text"]}
    assert split_of(leak["doc_id"]) == "train"
    return run(tmp_path_factory.mktemp("home"), [*rows, leak])


def test_every_document_is_held_out_trained_on_or_dropped_with_a_reason(done: tuple[Context, State]) -> None:
    context, state = done
    holdout = context.lake.read(state.refs["preprocessing/holdout"]).to_pylist()
    assert {row["split"] for row in holdout} == {"validation", "test"}
    assert all(row["split"] == split_of(row["doc_id"]) for row in holdout)
    dropped = context.lake.read(state.refs["preprocessing/dropped"]).to_pylist()
    assert [(row["doc_id"], row["reason"]) for row in dropped] == [("leak-train", "contaminated")]
    assert "of those of base-" in dropped[0]["detail"]
    assert sum(state.facts["documents"].values()) == 101
    assert state.facts["contaminated"] == 1


def test_windows_hold_the_documents_and_count_their_bytes(done: tuple[Context, State]) -> None:
    context, state = done
    tokenizer = load_tokenizer(context.lake.folder(state.refs["preprocessing/tokenizer"]))
    windows = read_windows(context.lake, state.refs["preprocessing/shards"], "base", "test")
    assert windows.context == 16
    stream = [int(windows.tokens[0, 0]), *windows.tokens[:, 1:].ravel().tolist()]
    texts = [
        row["text"]
        for row in context.lake.read(state.refs["preprocessing/holdout"]).to_pylist()
        if (row["domain"], row["split"]) == ("base", "test")
    ]
    expected = "".join(f"<|endoftext|>{text}" for text in texts)
    assert expected.startswith(str(tokenizer.decode(stream)))
    assert windows.n_bytes.tolist() == [
        len(tokenizer.decode([t for t in row[1:] if t != tokenizer.eos_token_id]).encode()) for row in windows.tokens
    ]


def test_statistics_are_counts_of_the_text(done: tuple[Context, State]) -> None:
    context, state = done
    count = state.facts["statistics"]["base/test"]
    texts = [
        row["text"]
        for row in context.lake.read(state.refs["preprocessing/holdout"]).to_pylist()
        if (row["domain"], row["split"]) == ("base", "test")
    ]
    assert count["documents"] == len(texts)
    assert count["n_bytes"] == sum(len(text.encode()) for text in texts)
    assert count["words"] == sum(len(text.split()) for text in texts)
    assert count["bytes_per_token"] == pytest.approx(count["n_bytes"] / count["tokens"])
    assert count["windows"] * 16 + count["tokens_left"] == count["tokens"] + count["documents"]


def test_passages_of_evaluation_sets_are_listed_and_cut_by_the_name_of_their_set(tmp_path: Path) -> None:
    rows = documents("base", 60) + documents("second", 40)
    train = [row for row in rows if split_of(row["doc_id"]) == "train"]
    for name, row in zip(("quiz", "tests"), train, strict=False):
        question = sentences(500 + len(name), 2)
        row["text"] += f"{sentences(600)} {question} {sentences(601)}"
        lines = [{"question": question}, {"question": sentences(700 + len(name))}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sets = {"quiz": str(tmp_path / "quiz.jsonl"), "tests": f"{tmp_path / 'tests.jsonl'}::question"}
    context, state = run(tmp_path, rows, OPTIONS | {"evaluation": sets})
    assert state.facts["cut"] == 2
    assert state.facts["shared_with"] == {"quiz": 1, "tests": 1}
    spans = context.lake.read(state.refs["preprocessing/spans"]).to_pylist()
    assert [(span["doc_id"], span["set"], span["record"], span["document"]) for span in spans] == [
        (train[0]["doc_id"], "quiz", "quiz: quiz.jsonl#0000000", "cut"),
        (train[1]["doc_id"], "tests", "tests: tests.jsonl#0000000", "cut"),
    ]
    assert all(span["passage"] in row["text"][span["start"] :] for span, row in zip(spans, train, strict=False))
    with pytest.raises(BadInput, match=r"no text in .*quiz\.jsonl; name its column"):
        run(tmp_path, rows, OPTIONS | {"evaluation": {"quiz": f"{sets['quiz']}::nothing"}})
    with pytest.raises(ValidationError, match="give an absolute path, not quiz"):
        run(tmp_path, rows, OPTIONS | {"evaluation": {"quiz": "quiz.jsonl"}})


def test_held_out_text_does_not_reach_the_tokenizer(tmp_path: Path) -> None:
    rows = documents("base", 60)
    for row in rows:
        if split_of(row["doc_id"]) != "train":
            row["text"] += "xylophonexylophone " * 200
    context, state = run(tmp_path, rows)
    tokenizer = load_tokenizer(context.lake.folder(state.refs["preprocessing/tokenizer"]))
    assert len(tokenizer.encode("xylophonexylophone", add_special_tokens=False)) > 10


def test_the_same_input_gives_the_same_versions(done: tuple[Context, State], tmp_path: Path) -> None:
    context, state = done
    rows = context.lake.read(context.inputs["curation/kept"]).to_pylist()
    assert run(tmp_path, rows)[1].refs == state.refs


def test_too_little_text_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"fewer than one window; give more text"):
        run(tmp_path / "a", [{"doc_id": "a", "domain": "base", "text": "three short words"}])
    with pytest.raises(BadInput, match="domain base has 0 documents"):
        run(tmp_path / "b", documents("second", 40))


def test_a_missing_stage_before_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run curation first"):
        stage.prepare(Context("r", "preprocessing", tmp_path, 0), State())


def test_unknown_and_senseless_options_are_refused(tmp_path: Path) -> None:
    for options in ({"vocabulary": 5}, {"vocab_size": 100_000}, {"context": 0}, {"overlap": 0.0}):
        with pytest.raises(ValidationError):
            run(tmp_path, documents("base", 3), options)


def test_other_windows_and_no_second_domain_work(tmp_path: Path) -> None:
    context, state = run(tmp_path, documents("base", 60), {"vocab_size": 300, "context": 32})
    assert read_windows(context.lake, state.refs["preprocessing/shards"], "base", "train").context == 32
    assert set(state.facts["statistics"]) == {"base/train", "base/validation", "base/test"}
    with pytest.raises(ValueError, match="no windows of second"):
        read_windows(context.lake, state.refs["preprocessing/shards"], "second", "train")


def test_vectors_are_posed_and_stored_in_the_chosen_form(done: tuple[Context, State]) -> None:
    context, state = done
    context = replace(context, options=OPTIONS | {"state_loading": {"vectors": 5, "passes": 2}})
    problem = posed(STATE_LOADING, context, state)
    assert problem is not None
    assert problem.vectors.shape == (5, 256)
    assert len(problem.background) == 101 - 1 - 5  # all that is not posed or dropped
    solution = STATE_LOADING.arm("transform-coding").solve(problem, make_bench(scratch=context.scratch))
    after = STATE_LOADING.apply(context, state, problem, solution)
    rows = context.lake.read(after.refs["preprocessing/vectors"]).to_pylist()
    assert len({row["doc_id"] for row in rows}) == 5
    assert "leak-train" not in {row["doc_id"] for row in rows}
    np.testing.assert_allclose([np.linalg.norm(row["vector"]) for row in rows], 1, atol=1e-5)
    facts = after.facts["state_loading"]
    assert facts["fidelity"] == pytest.approx(np.mean([row["fidelity"] for row in rows]))
    assert (facts["bytes"], facts["float32_bytes"]) == (64, 1024)
    other = posed(STATE_LOADING, replace(context, options=OPTIONS), state)
    with pytest.raises(ValueError, match="for 5 vectors, not for the 16"):
        STATE_LOADING.apply(context, state, other, solution)


def test_too_few_documents_leave_nothing_to_decide(tmp_path: Path) -> None:
    context, state = run(tmp_path, documents("base", 40))
    assert posed(STATE_LOADING, context, state) is None
    none = replace(context, options=OPTIONS | {"state_loading": {"vectors": 0}})
    assert posed(STATE_LOADING, none, state) is None


def test_wordpiece_is_the_user_s_choice(tmp_path: Path) -> None:
    options = {"vocab_size": 600, "context": 16, "tokenizer": "wordpiece"}
    context, state = run(tmp_path, documents("base", 60), options)
    tokenizer = load_tokenizer(context.lake.folder(state.refs["preprocessing/tokenizer"]))
    assert tokenizer.decode(tokenizer.encode("kan loshavor.\n")) == "kan loshavor.\n"
    assert state.facts["tokenizer"] == "trained wordpiece"
    with pytest.raises(BadInput, match=r"at least 513 tokens, not 400; set preprocessing.vocab_size"):
        run(tmp_path / "small", documents("base", 60), options | {"vocab_size": 400})
