import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from infra import events
from infra.errors import BadInput, StageFailed
from infra.lake import Ref
from tasks.architecture.config import Shape, build_model
from tasks.bench import make_bench
from tasks.model.causal import save_model
from tasks.monitoring import stage
from tasks.monitoring.anomaly.subtask import ANOMALY
from tasks.monitoring.drift.subtask import DRIFT
from tasks.monitoring.replay import Replay
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.serving.client import read_requests
from tasks.serving.request_log import SCHEMA
from tasks.stage import Context, State
from tasks.steps import posed
from tasks.text.embeddings import embed
from tasks.text.samples import sample_documents

SMALL = {"reference": 24, "window": 24, "background": 80, "drift": {"permutations": 199, "power_trials": 4}}


def logged(replay: Replay, *, rounds: int = 1) -> pa.Table:
    """A request log as the server writes it, with all that differs from run to run; `rounds` as after reruns."""
    rows: list[dict[str, Any]] = []
    for _ in range(rounds):
        for stream in replay.streams:
            for prompt, vector in zip(stream.prompts, embed(stream.prompts), strict=True):
                digest = hashlib.sha256(prompt.encode()).hexdigest()
                row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
                row |= {
                    "request_id": f"{np.random.default_rng().integers(2**60):x}",
                    "run_id": "run",
                    "time": datetime.now(UTC),
                    "label": stream.label,
                    "mean_logprob": -3.0 - stream.drifted - int(digest[:6], 16) / 16**6,
                    "prompt_tokens": len(prompt.split()),
                    "prompt_sha256": digest,
                    "embedding": vector.tolist(),
                }
                rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def context(home: Path, texts: dict[str, list[str]] | None = None, **options: Any) -> Context:
    drawn = texts or {d: [text for _, text in sample_documents(d)[::7]] for d in ("base", "second")}
    rows = [
        {"doc_id": f"{d}{i}", "domain": d, "split": "test", "text": t}
        for d, ts in drawn.items()
        for i, t in enumerate(ts)
    ]
    empty = Context("run", "monitoring", home, seed=3)
    inputs = {
        "preprocessing/holdout": empty.lake.write("preprocessing/holdout", pa.Table.from_pylist(rows)),
        "inference/model": Ref("inference/model", "0123456789abcdef"),
    }
    return Context("run", "monitoring", home, seed=3, options={**SMALL, **options}, inputs=inputs)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    sent: list[tuple[str, str, dict[str, Any]]] = []

    def emit(name: str, payload: dict[str, Any], *, once: str) -> None:
        assert once
        sent.append((name, events.resource_of(events.checked(name, payload)), payload))

    monkeypatch.setattr(events, "emit", emit)
    return sent


def walk(given: Context) -> State:
    state = stage.replay(given, State())
    problem = posed(DRIFT, given, State(state.refs))
    state = DRIFT.apply(given, state, problem, DRIFT.incumbent.solve(problem, make_bench(given.seed)))
    return stage.announce(given, state)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the server where the test is about what is made of its log."""
    monkeypatch.setattr(stage, "_replay", lambda context, model, replay, options: logged(replay, rounds=2))


@pytest.mark.usefixtures("served")
def test_base_traffic_stays_ok_and_the_mixture_raises_the_alert(tmp_path: Path, heard: list[Any]) -> None:
    given = context(tmp_path)
    state = walk(given)
    assert state.facts["states"] == ["ok", "warning", "alert"]
    assert state.facts["windows"] == ["base-1", "mixture-1", "mixture-2"]
    assert [name for name, _, _ in heard] == ["drift.warning", "drift.detected"]
    assert heard[1][1] == "ketcycle.demonstration.inference/model@0123456789abcdef", "its drift is planted"
    assert heard[1][2]["window"] == "mixture-2"
    assert heard[1][2]["p_value"] <= 0.01
    verdicts = given.lake.read(state.refs["monitoring/verdicts"]).to_pylist()
    assert [row["drifted"] for row in verdicts] == [False, True, True]
    assert [row["requests"] for row in verdicts] == [24, 24, 24]
    assert state.facts["mean_logprob"]["mixture-1"] < state.facts["mean_logprob"]["reference"] - 0.5
    power = state.facts["power_at_level"]
    assert power["1"] > 0.9 > power["0.15"]
    assert set(power) == {"level", "trials", "0", "0.15", "0.3", "0.5", "1"}


@pytest.mark.usefixtures("served", "heard")
def test_two_runs_of_one_seed_leave_the_same_versions(tmp_path: Path) -> None:
    first, second = walk(context(tmp_path / "a")), walk(context(tmp_path / "b"))
    assert first.refs == second.refs
    assert first.facts == second.facts


@pytest.mark.usefixtures("served", "heard")
def test_the_problem_is_posed_from_the_references_alone(tmp_path: Path) -> None:
    given = context(tmp_path)
    state = stage.replay(given, State())
    problem = posed(DRIFT, given, State(state.refs))
    assert problem.reference.shape == (24, 256)
    assert [w.shape for w in problem.windows] == [(24, 256)] * 3
    assert problem.background.shape == (80, 256)
    assert problem.truth == (False, True, True)
    assert DRIFT.quality(problem, DRIFT.incumbent.solve(problem, make_bench(0)))[1:] == (1.0, 1.0)


@pytest.mark.usefixtures("served", "heard")
def test_the_strangest_requests_are_those_of_the_other_domain(tmp_path: Path) -> None:
    given = context(tmp_path)
    state = stage.replay(given, State())
    problem = posed(ANOMALY, given, State(state.refs))
    assert (problem.reference.shape, problem.requests.shape) == ((24, 256), (72, 256))
    assert (
        ANOMALY.quality(problem, ANOMALY.incumbent.solve(problem, make_bench(0))) == ()
    )  # single truths are not known
    state = ANOMALY.apply(given, state, problem, ANOMALY.incumbent.solve(problem, make_bench(0)))
    rows = given.lake.read(state.refs["monitoring/anomalies"]).to_pylist()
    assert len(rows) == 72
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert sum(row["window"].startswith("mixture") for row in rows[:20]) >= 18


@pytest.mark.usefixtures("served")
def test_drift_that_does_no_harm_only_warns(tmp_path: Path, heard: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The log as before, but the model predicts the other domain as well as the first."""
    log = logged

    def as_good(replay: Replay) -> pa.Table:
        table = log(replay)
        level = pa.array([-3.0 + i % 3 / 10 for i in range(table.num_rows)])
        return table.set_column(table.schema.get_field_index("mean_logprob"), "mean_logprob", level)

    monkeypatch.setattr(stage, "_replay", lambda context, model, replay, options: as_good(replay))
    state = walk(context(tmp_path))
    assert state.facts["states"] == ["ok", "warning", "alert"]
    assert [name for name, _, _ in heard] == ["drift.warning", "drift.warning"]
    assert set(state.facts["quality"].values()) == {"held"}


@pytest.mark.usefixtures("served", "heard")
def test_without_a_second_domain_there_is_only_base_traffic(tmp_path: Path) -> None:
    state = walk(context(tmp_path, {"base": [text for _, text in sample_documents("base")[::7]]}))
    assert state.facts["windows"] == ["base-1"]
    assert set(state.facts["power_at_level"]) == {"level", "trials"}


def test_lost_requests_and_missing_inputs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_replay", lambda context, model, replay, options: logged(replay).slice(0, 50))
    with pytest.raises(StageFailed, match="the request log holds"):
        stage.replay(context(tmp_path), State())
    with pytest.raises(BadInput, match="run inference first"):
        stage.replay(Context("run", "monitoring", tmp_path, 0), State())
    with pytest.raises(BadInput, match="monitoring: the replay needs"):
        stage.replay(context(tmp_path, {"base": ["too short"], "second": []}), State())


@pytest.mark.slow
def test_a_real_server_answers_the_replay_and_its_log_is_judged(tmp_path: Path, heard: list[Any]) -> None:
    """A tiny untrained model: the embeddings are of the prompts, so drift is seen, and to it all text is the same."""
    torch.set_num_threads(1)
    given = context(tmp_path, reference=20, window=20, background=40, words=20, drift={"power_trials": 0})
    folder = tmp_path / "model"
    tokenizer = train_bpe(iter([text for _, text in sample_documents("base")[:60]]), 400)
    save_tokenizer(tokenizer, folder, 64)
    model = build_model(Shape(depth=1, width=32, heads=2, ffn=64, vocab_size=400, context=64), end_of_text=0, seed=0)
    save_model(model, folder)
    ref = given.lake.put_folder("inference/model", folder)
    given = replace(given, inputs={**given.inputs, "inference/model": ref})
    state = walk(given)
    assert state.facts["states"] == ["ok", "warning", "alert"]
    assert [name for name, _, _ in heard] == ["drift.warning", "drift.warning"]
    assert read_requests(given.lake, "run").num_rows == 80
    table = given.lake.read(state.refs["monitoring/windows"]).to_pylist()
    sent = [row for row in table if row["window"] not in ("background", "alien")]
    assert len(sent) == 80
    assert all(row["prompt_tokens"] > 0 and -8 < row["mean_logprob"] < -4 for row in sent)  # about ln 400
