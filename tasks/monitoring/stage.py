"""Monitoring: replay held-out prompts against the served model, read the request log, watch for drift."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import events
from infra.errors import BadInput, StageFailed
from infra.lake import Ref
from tasks.monitoring.options import Options
from tasks.monitoring.replay import Replay, cut_prompts, plan_replay
from tasks.monitoring.windows import (
    ALIEN,
    BACKGROUND,
    REFERENCE,
    WINDOWS,
    mean_logprob_of,
    rows_of,
    window_names,
)
from tasks.sections import Chart, Section, Series
from tasks.serving.client import complete, read_requests, running_server
from tasks.stage import Context, Road, State
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.monitoring")

BATCH = 10  # prompts in one request: most of a single one's time is the connection


def replay(context: Context, _: State) -> State:
    """Replay the prompts against the served model and cut its request log into windows."""
    options = context.parsed(Options)
    model = context.require("inference/model")
    planned = _plan(context, options)
    log.info("replaying %d requests", sum(len(stream.prompts) for stream in planned.streams))
    requests = _replay(context, model, planned, options)
    windows = context.lake.write("monitoring/windows", _windows(planned, requests))
    table = context.lake.read(windows)
    return State().add(
        {"monitoring/windows": windows},
        requests={stream.label: len(stream.prompts) for stream in planned.streams},
        background=len(planned.background),
        # Measured, so other from run to run; for the page.
        cpu_s_per_request=_cpu_s(requests),
        # Quality without labels: the mean log-likelihood per token, in nats.
        mean_logprob={name: mean_logprob_of(rows_of(table, name)) for name in (REFERENCE, *window_names(table))},
    )


def announce(context: Context, state: State) -> State:
    """Emit what the watch announced."""
    model = context.require("inference/model")
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
    return state


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    states = state.facts["states"]
    return f"{len(states)} windows of requests against the reference: {', '.join(map(str, states))}"


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    names = facts.get("windows", ())
    if not names:
        return ()
    unknown = (None,) * len(names)  # facts that an earlier version did not store
    lists = {name: facts.get(name, unknown) for name in ("drifted", "p_values", "states", "announced")}
    dicts = {name: facts.get(name, {}) for name in ("requests", "quality", "mean_logprob")}
    rows = tuple(
        (
            window,
            dicts["requests"].get(window),
            {True: "yes", False: "no"}.get(lists["drifted"][i]),
            lists["p_values"][i],
            lists["states"][i],
            lists["announced"][i],
            dicts["quality"].get(window),
            dicts["mean_logprob"].get(window),
        )
        for i, window in enumerate(names)
    )
    header = ("window", "requests", "mixed", "p-value", "state", "announced", "quality", "mean log-likelihood, nats per token")  # noqa: E501  # fmt: skip
    level = facts.get("alarm_level")
    points = tuple((i, p) for i, p in enumerate(lists["p_values"], 1) if p)  # a p-value of 0 has no logarithm
    levels = ((f"alarm level {level:g}", level),) if level else ()
    chart = Chart("window, in the order of the table", "p-value", (Series("p-value", points),), levels, "y") if points else None  # noqa: E501  # fmt: skip
    sentence = "Each window of requests compared with the reference; mixed: the second domain was mixed in."
    return (Section("Drift over time", sentence, header, rows, chart),)


ROAD: Road = (replay, "drift", "anomaly", announce)


def _plan(context: Context, options: Options) -> Replay:
    held = context.lake.read(context.require("preprocessing/holdout"), ["domain", "text"])
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
