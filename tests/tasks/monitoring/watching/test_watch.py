import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.monitoring.tables.reading import Passing, open_passing
from tasks.monitoring.watching.standing import Standing
from tasks.monitoring.watching.states import Rules
from tasks.monitoring.watching.watch import REFERENCE, Step, Watcher, _Held, walk, watch_window
from tasks.text.samples import sample_passages

RULES = Rules(level=0.02, debounce=2, recovery=2, cool_down=0)


def texts(domain: str, n: int, seed: int) -> list[str]:
    found = [text for _, text in sample_passages(domain, per_label=4)]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n]]


@pytest.fixture(scope="module")
def base() -> list[str]:
    return texts("base", 400, 0)


@pytest.fixture(scope="module")
def second() -> list[str]:
    return texts("second", 200, 0)


def logged(prompts: list[str], likelihood: float, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng([seed, len(prompts)])
    return pa.table({"prompt": prompts, "mean_logprob": rng.normal(likelihood, 0.2, len(prompts))})


def follow(reference: pa.Table, windows: list[pa.Table]) -> list[tuple[str, str | None]]:
    standing, found = None, []
    for window in windows:
        # What is kept between two calls survives as plain JSON.
        seen = watch_window(reference, window, Standing.parse(json.loads(json.dumps(standing))), RULES)
        standing = seen.standing.asdict()
        found.append((seen.state, seen.event))
        json.dumps(seen.payload)
    return found


def test_drift_that_harms_is_detected_once(base: list[str], second: list[str]) -> None:
    reference = logged(base[:160], -3.0)
    calm, bad = logged(base[160:220], -3.0), logged(second[:60], -5.0)
    assert follow(reference, [calm, bad, bad, bad]) == [
        ("ok", None), ("warning", "drift.warning"), ("alert", "drift.detected"), ("alert", None),
    ]  # fmt: skip


def test_drift_without_harm_warns_and_does_not_ask_for_retraining(base: list[str], second: list[str]) -> None:
    other = [logged(second[k : k + 60], -3.0, seed=k) for k in (0, 60, 120)]
    events = [event for _, event in follow(logged(base[:160], -3.0), other)]
    assert events == ["drift.warning", "drift.warning", None]


def test_harm_without_drift_is_a_regression(base: list[str]) -> None:
    worse = [logged(base[k : k + 60], -4.0, seed=k) for k in (160, 220, 280)]
    assert follow(logged(base[:160], -3.0), worse) == [("ok", None), ("ok", "quality.regressed"), ("ok", None)]


def test_too_few_requests_are_not_judged(base: list[str]) -> None:
    seen = watch_window(logged(base[:160], -3.0), logged(base[160:170], -3.0), None, RULES)
    assert (seen.state, seen.event, seen.p_value) == ("insufficient", None, None)


def test_of_a_large_table_a_part_is_compared(base: list[str]) -> None:
    judged = Watcher(logged(base, -3.0), logged(base, -3.0), rows=50).judge(logged(base, -3.0))
    assert judged.rows == 400
    assert judged.p_value > 0.01
    assert set(judged.views) == {"prompt", "columns"}


def test_missing_values_are_compared_and_their_growth_is_drift() -> None:
    rng = np.random.default_rng(1)

    def rows(n: int, missing: float) -> pa.Table:
        values = rng.normal(size=n)
        return pa.table({"x": pa.array(values, mask=rng.random(n) < missing)})

    watcher = Watcher(rows(400, 0.05), rows(100, 0.05))
    assert watcher.judge(rows(100, 0.05)).p_value > 0.05
    lost = watcher.judge(rows(100, 0.5))
    assert lost.p_value < 0.01
    assert lost.moved[0]["feature"] == "x: missing"


def walked(table: pa.Table, window: int, rules: Rules, **more: Any) -> Iterator[Step]:
    return walk(open_passing(table, np.random.default_rng(0)), window, rules, **more)


def test_a_walk_finds_where_the_stream_changes_and_changes_back() -> None:
    rng = np.random.default_rng(5)
    shifts = np.repeat([0.0, 1.0, 0.0], [1000, 800, 1000])
    table = pa.table({"x": rng.normal(shifts), "y": rng.normal(size=2800)})
    steps = list(walked(table, 50, Rules(level=0.005, debounce=2)))
    assert [step.change for step in steps if step.change is not None] == [1000, 1800]
    assert steps[0].begin == 200


def test_a_walk_against_a_given_reference_judges_from_the_first_row() -> None:
    rng = np.random.default_rng(6)
    normal = pa.table({"x": rng.normal(size=400)})
    steps = list(walked(pa.table({"x": rng.normal(2, 1, size=100)}), 50, RULES, reference=normal))
    assert [(s.begin, s.change) for s in steps] == [(0, None), (50, 0)]
    with pytest.raises(ValueError, match="need at least 250"):
        next(walked(normal.slice(0, 100), 50, RULES))


def test_a_walk_reads_no_further_than_its_window() -> None:
    window, parts = 20, 12
    table = pa.table({"x": np.random.default_rng(7).normal(size=window * parts)})
    read: list[pa.Table] = []

    def batches() -> Iterator[pa.Table]:
        for part in range(parts):
            read.append(table.slice(part * window, window))
            yield read[-1]

    whole = open_passing(table, np.random.default_rng(0))
    steps = walk(Passing(whole.sample, batches()), window, Rules(level=1e-6, debounce=2))
    for at, step in enumerate(steps):
        assert step.end == len(read) * window == (REFERENCE + 1 + at) * window
    assert [s.judged.p_value for s in walked(table, window, Rules(level=1e-6))] == [
        s.judged.p_value for s in walk(Passing(whole.sample, [table]), window, Rules(level=1e-6))
    ]


def test_rows_that_no_decision_waits_for_are_forgotten() -> None:
    held = _Held(pa.table({"x": range(at, at + 10)}) for at in range(0, 100, 10))
    assert held.rows(5, 25)["x"].to_pylist() == list(range(5, 25))
    held.forget(19)
    assert held.rows(19, 42)["x"].to_pylist() == list(range(19, 42))
    assert [len(part) for part in held._parts] == [10] * 4, "rows 10 to 49"
    assert held.rows(90, 200)["x"].to_pylist() == list(range(90, 100))
