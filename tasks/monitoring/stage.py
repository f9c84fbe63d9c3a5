"""Monitoring: replay held-out prompts against the served model, read the request log, watch for drift."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from infra import events
from infra.errors import BadInput, StageFailed
from infra.lake import Ref
from tasks.monitoring.anomaly.arms import ANOMALY, Scores
from tasks.monitoring.anomaly.bank import Anomaly
from tasks.monitoring.drift.arms import DRIFT, Verdicts, measured_power
from tasks.monitoring.drift.problem import Drift
from tasks.monitoring.harm import MARGIN, Harm, compare_quality, decide_event
from tasks.monitoring.replay import Replay, cut_prompts, plan_replay
from tasks.monitoring.states import Rules, Watch, follow, step
from tasks.serving.client import complete, read_requests, running_server
from tasks.stage import Context, State
from tasks.text.embeddings import DIMENSION, embed

log = logging.getLogger("ketcycle.monitoring")

SUBTASKS = (DRIFT, ANOMALY)

BATCH = 10  # prompts in one request: most of a single one's time is the connection
BACKGROUND, ALIEN = "background", "alien"  # embedded only, never sent
REFERENCE = "reference"
SMALLEST = 8  # requests of the reference from which single ones are scored
WINDOWS = pa.schema(
    [
        ("window", pa.string()),
        ("position", pa.int32()),
        ("drifted", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("mean_logprob", pa.float64()),
        ("text", pa.string()),
        ("embedding", pa.list_(pa.float32(), DIMENSION)),
    ]
)
ANOMALIES = pa.schema([("window", pa.string()), ("position", pa.int32()), ("score", pa.float64())])
VERDICTS = pa.schema(
    [
        ("window", pa.string()),
        ("requests", pa.int32()),
        ("drifted", pa.bool_()),
        ("p_value", pa.float64()),
        ("statistic", pa.float64()),
        ("alert", pa.bool_()),
        ("state", pa.string()),
        ("announced", pa.string()),
        ("mean_logprob", pa.float64()),
        ("quality", pa.string()),
        ("quality_difference", pa.float64()),
    ]
)


class Options(BaseModel):
    """Settings of the stage; the defaults are the demo profile.

    Attributes:
        words: of a prompt.
        reference: requests of the reference window.
        window: requests of each later window.
        drifted: windows mixed with the second domain.
        mixture: share of the second domain in them.
        background: held-out passages of the base domain that fix centre and bandwidth of the kernels, and as many of
            the second domain for planting mixtures at most.
        max_tokens: tokens to be completed for each prompt.
        level: false-alarm probability at which the arms are compared.
        alarm_level: p-value at which a window counts as drifted for the state; stricter than `level`, because windows
            follow one another and each is a chance of a false alarm.
        permutations: of each test.
        shots: for each circuit.
        minimum: requests below which a window says nothing.
        debounce: drifted windows in a row until an alert.
        recovery: quiet windows in a row until it is over.
        cool_down: windows after an announced alert without another one.
        margin: loss of mean log-likelihood, in nats per token, that counts as no harm.
        power_trials: plantings by which the power at these sizes is measured; 0 = not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: int = Field(48, ge=5)
    reference: int = Field(40, ge=2)
    window: int = Field(40, ge=2)
    drifted: int = Field(2, ge=0)
    mixture: float = Field(0.5, gt=0, le=1)
    background: int = Field(200, ge=0)
    max_tokens: int = Field(1, ge=1)
    level: float = Field(0.05, gt=0, lt=1)
    alarm_level: float = Field(0.01, gt=0, lt=1)
    permutations: int = Field(499, ge=19)
    shots: int = Field(128, ge=1)
    minimum: int = Field(20, ge=1)
    debounce: int = Field(2, ge=1)
    recovery: int = Field(2, ge=1)
    cool_down: int = Field(3, ge=0)
    margin: float = Field(MARGIN, ge=0)
    power_trials: int = Field(20, ge=0)


def prepare(context: Context) -> State:
    """Replay the prompts against the served model and cut its request log into windows."""
    options = context.parsed(Options)
    model = _input(context, "inference/model")
    replay = _plan(context, options)
    log.info("replaying %d requests", sum(len(stream.prompts) for stream in replay.streams))
    requests = _replay(context, model, replay, options)
    windows = context.lake.write("monitoring/windows", _windows(replay, requests))
    table = context.lake.read(windows)
    return State().add(
        {"monitoring/windows": windows},
        requests={stream.label: len(stream.prompts) for stream in replay.streams},
        background=len(replay.background),
        # Measured, so other from run to run; for the page.
        cpu_s_per_request=_cpu_s(requests),
        # Quality without labels: the mean log-likelihood per token, in nats.
        mean_logprob={name: _mean_logprob(_rows(table, name)) for name in (REFERENCE, *_window_names(table))},
    )


def pose(context: Context, state: State, subtask: str) -> Drift | Anomaly | None:
    """Return the windows of the request log as the problem of the decision.

    Raises:
        KeyError: there is no such subtask.
    """
    if subtask == DRIFT.name:
        return _pose_drift(context, state)
    if subtask == ANOMALY.name:
        return _pose_anomaly(context, state)
    raise KeyError(f"monitoring has no subtask {subtask!r}")


def _pose_anomaly(context: Context, state: State) -> Anomaly | None:
    """Return all requests after the reference, in the order in which they came; None where the reference is tiny."""
    table = context.lake.read(state.refs["monitoring/windows"])
    reference = _vectors(table, REFERENCE)
    requests = np.vstack([_vectors(table, name) for name in _window_names(table)])
    return Anomaly(reference, requests, shots=context.parsed(Options).shots) if len(reference) >= SMALLEST else None


def _pose_drift(context: Context, state: State) -> Drift:
    options = context.parsed(Options)
    table = context.lake.read(state.refs["monitoring/windows"])
    names = _window_names(table)
    return Drift(
        reference=_vectors(table, REFERENCE),
        windows=tuple(_vectors(table, name) for name in names),
        background=_vectors(table, BACKGROUND),
        truth=tuple(bool(_rows(table, name)["drifted"][0].as_py()) for name in names),
        level=options.level,
        permutations=options.permutations,
        shots=options.shots,
        alien=_vectors(table, ALIEN),
    )


def apply(context: Context, state: State, subtask: str, solution: Verdicts | Scores) -> State:
    """Walk the states of the watch through the windows, or keep how strange each request is."""
    if isinstance(solution, Scores):
        return _keep_scores(context, state, solution)
    return _follow(context, state, solution)


def _keep_scores(context: Context, state: State, solution: Scores) -> State:
    table = context.lake.read(state.refs["monitoring/windows"])
    names = _window_names(table)
    where = [(name, i) for name in names for i in range(_rows(table, name).num_rows)]
    rows = sorted(((*at, score) for at, score in zip(where, solution.values, strict=True)), key=lambda row: -row[2])
    columns = [list(column) for column in zip(*rows, strict=True)]
    scores = context.lake.write("monitoring/anomalies", pa.table(columns, schema=ANOMALIES))
    strangest = [f"{name} {position}" for name, position, _ in rows[:5]]
    return state.add({"monitoring/anomalies": scores}, strangest=strangest)


def _follow(context: Context, state: State, solution: Verdicts) -> State:
    """Walk the states of the watches on drift and on quality through the windows, in the order in which they came."""
    options = context.parsed(Options)
    table = context.lake.read(state.refs["monitoring/windows"])
    names = _window_names(table)
    counts = [_rows(table, name).num_rows for name in names]
    rules = Rules(options.alarm_level, options.minimum, options.debounce, options.recovery, options.cool_down)
    watches = follow(list(zip(counts, solution.p_values, strict=True)), rules)
    judged = _judge_quality(table, names, rules, options.margin)
    rows = [
        {
            "window": name,
            "requests": count,
            "drifted": _rows(table, name)["drifted"][0].as_py(),
            "p_value": p_value,
            "statistic": statistic,
            "alert": alert,
            "state": str(watch.level),
            "announced": decide_event(watch, *judgement),
            "mean_logprob": _mean_logprob(_rows(table, name)),
            "quality": str(judgement[0].verdict) if judgement[0] else None,
            "quality_difference": round(judgement[0].difference, 4) if judgement[0] else None,
        }
        for name, count, p_value, statistic, alert, watch, judgement in zip(
            names, counts, solution.p_values, solution.statistics, solution.alerts, watches, judged, strict=True
        )
    ]
    verdicts = context.lake.write("monitoring/verdicts", pa.Table.from_pylist(rows, schema=VERDICTS))
    for row in rows:
        log.info("%s: %s (p = %.3f, %d requests)", row["window"], row["state"], row["p_value"], row["requests"])
    return state.add(
        {"monitoring/verdicts": verdicts},
        windows=names,
        states=[row["state"] for row in rows],
        p_values=[row["p_value"] for row in rows],
        quality={row["window"]: row["quality"] for row in rows},
        alarm_level=options.alarm_level,
    )


def _judge_quality(
    table: pa.Table, names: Sequence[str], rules: Rules, margin: float
) -> list[tuple[Harm | None, Watch | None]]:
    """Return for each window its quality against the reference, and the watch on it."""
    reference, watch, found = _likelihoods(table, REFERENCE), Watch(), list[tuple[Harm | None, Watch | None]]()
    for name in names:
        values = _likelihoods(table, name)
        harm = compare_quality(reference, values, margin)
        watch = step(watch, len(values), harm.p_value, rules) if harm else watch
        found.append((harm, watch if harm else None))
    return found


def _likelihoods(table: pa.Table, window: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(_rows(table, window)["mean_logprob"].to_numpy(zero_copy_only=False), np.float64)


def publish(context: Context, state: State) -> State:
    """Emit what the watch announced and note the power of the test at these sizes."""
    options = context.parsed(Options)
    model = _input(context, "inference/model")
    for row in context.lake.read(state.refs["monitoring/verdicts"]).to_pylist():
        if row["announced"]:
            place: dict[str, Any] = {"model": str(model), "run_id": context.run_id, "demonstration": True}
            streak = f"{context.run_id} {row['window']}"
            if row["announced"] == "quality.regressed":
                what = {"against": REFERENCE, "metric": "mean log-likelihood, nats per token"}
                events.emit(row["announced"], {**place, **what, "difference": row["quality_difference"]}, once=streak)
                continue
            payload = {key: row[key] for key in ("window", "requests", "p_value", "state", "mean_logprob")}
            place["data"] = str(state.refs["monitoring/windows"])
            events.emit(row["announced"], {**place, **payload, "streak": streak}, once=streak)
    rng = np.random.default_rng([context.seed, 2])
    power = measured_power(_pose_drift(context, state), rng, options.power_trials) if options.power_trials else {}
    shares = {f"{rate:g}": round(share, 3) for rate, share in power.items()}
    return state.add(power_at_level={"level": options.level, "trials": options.power_trials, **shares})


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    return "states of the windows: " + ", ".join(map(str, state.facts["states"]))


def _input(context: Context, name: str) -> Ref:
    ref = context.inputs.get(name)
    if ref is None:
        raise BadInput(f"monitoring reads {name}, which is not there; run the stage {name.split('/')[0]} before")
    return ref


def _plan(context: Context, options: Options) -> Replay:
    held = context.lake.read(_input(context, "preprocessing/holdout"), ["domain", "text"])
    by_domain = {
        domain: held.filter(pc.equal(held["domain"], domain))["text"].to_pylist() for domain in ("base", "second")
    }
    try:
        return plan_replay(
            cut_prompts(by_domain["base"], options.words),
            cut_prompts(by_domain["second"], options.words),
            np.random.default_rng([context.seed, 1]),
            reference=options.reference,
            window=options.window,
            mixture=options.mixture,
            drifted=options.drifted,
            background=options.background,
        )
    except ValueError as error:
        raise BadInput(f"monitoring: {error}") from error


def _replay(context: Context, model: Ref, replay: Replay, options: Options) -> pa.Table:
    """Send every prompt to a server of the model and return the request log of this run."""
    folder = context.lake.folder(model)
    with running_server(folder, context.home, context.run_id, version=model.version) as base_url:
        for stream in replay.streams:
            for start in range(0, len(stream.prompts), BATCH):
                prompts = stream.prompts[start : start + BATCH]
                complete(base_url, prompts, max_tokens=options.max_tokens, label=stream.label)
            log.info("%s: %d requests answered", stream.label, len(stream.prompts))
    return read_requests(context.lake, context.run_id)


def _windows(replay: Replay, requests: pa.Table) -> pa.Table:
    """Cut the log into the windows that were sent, each prompt by its latest request, so a rerun is no trouble.

    What differs from run to run (time, latency, request id) stays behind in the log.

    Raises:
        StageFailed: the log lacks requests that were sent.
    """
    columns = ["label", "prompt_sha256", "prompt_tokens", "mean_logprob", "embedding"]
    latest = {(row["label"], row["prompt_sha256"]): row for row in requests.select(columns).to_pylist()}
    parts = [_embedded(BACKGROUND, replay.background, drifted=False), _embedded(ALIEN, replay.alien, drifted=True)]
    for stream in replay.streams:
        sent = [(stream.label, hashlib.sha256(prompt.encode()).hexdigest()) for prompt in stream.prompts]
        rows = [latest[key] for key in sent if key in latest]
        if len(rows) < len(sent):
            raise StageFailed(
                f"monitoring sent {len(sent)} requests as {stream.label!r}, the request log holds {len(rows)} of them"
            )
        cut = [
            {
                "window": stream.label,
                "position": position,
                "drifted": stream.drifted,
                "prompt_tokens": row["prompt_tokens"],
                # Four digits: the last bits depend on the machine.
                "mean_logprob": None if row["mean_logprob"] is None else round(row["mean_logprob"], 4),
                "text": stream.prompts[position],
                "embedding": row["embedding"],
            }
            for position, row in enumerate(rows)
        ]
        parts.append(pa.Table.from_pylist(cut, schema=WINDOWS))
    return pa.concat_tables(parts)


def _cpu_s(requests: pa.Table) -> dict[str, float]:
    """Return the mean CPU seconds of an answer in each window."""
    means = requests.group_by("label").aggregate([("cpu_s", "mean")])
    return dict(zip(means["label"].to_pylist(), means["cpu_s_mean"].to_pylist(), strict=True))


def _embedded(name: str, texts: Sequence[str], *, drifted: bool) -> pa.Table:
    count = len(texts)
    columns = {
        "window": [name] * count,
        "position": range(count),
        "drifted": [drifted] * count,
        "prompt_tokens": [None] * count,
        "mean_logprob": [None] * count,
        "text": list(texts),
        "embedding": list(embed(texts)),
    }
    return pa.table(columns, schema=WINDOWS)


def _window_names(table: pa.Table) -> list[str]:
    """Windows to be judged, in the order in which they came."""
    names = dict.fromkeys(table["window"].to_pylist())
    return [name for name in names if name not in (BACKGROUND, ALIEN, REFERENCE)]


def _rows(table: pa.Table, window: str) -> pa.Table:
    return table.filter(pc.equal(table["window"], window))


def _vectors(table: pa.Table, window: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    column = _rows(table, window)["embedding"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, DIMENSION)


def _mean_logprob(rows: pa.Table) -> float | None:
    mean = pc.mean(rows["mean_logprob"]).as_py()
    return None if mean is None else round(mean, 6)
