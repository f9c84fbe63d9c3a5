"""Watch a stream of tables: each window is judged against one reference, then the state follows.

`watch_window` is one step for a schedule that holds nothing between two calls but a `Standing`; `walk` cuts one table
into windows and returns where it changed, with what belongs to the reference computed once (`Watcher`). Several views
of a table (text, columns) are one decision: the smallest p-value times their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.monitoring.compare import Judge, judge_by_pool
from tasks.monitoring.drift.arms import ReferencePool
from tasks.monitoring.tables.features import adjust, column_features, farthest_first
from tasks.monitoring.tables.layout import Layout, choose_columns
from tasks.monitoring.tables.reading import Passing
from tasks.monitoring.tables.views import Reader, Sizes, pose_views, split_reference
from tasks.monitoring.watching.harm import MARGIN, Harm, compare_quality
from tasks.monitoring.watching.standing import Standing
from tasks.monitoring.watching.states import Rules, Watch, step

PERMUTATIONS = 499
ROWS = 200  # of the reference and of a window that are compared at most
REFERENCE = 4  # windows at the beginning of a walk, and after each change, that are the reference
LEAST = 2  # values of a view without which it is not tested
MOVED = 3  # properties that are kept of each window
LEVEL = 0.05  # false discovery rate of the columns that are named as moved
LIKELIHOOD = "mean_logprob"


@dataclass(frozen=True)
class Judged:
    """One window against the reference.

    Attributes:
        rows: of the window.
        p_value: of no drift, corrected for the number of views.
        statistic: of the view with the smallest p-value.
        views: p-value of each view, not corrected.
        moved: how far the properties of columns that moved most did, the farthest first, see `features.Feature`.
    """

    rows: int
    p_value: float
    statistic: float
    views: Mapping[str, float]
    moved: Sequence[Mapping[str, Any]]


class Watcher:
    """Judges windows against one reference.

    Raises:
        ValueError: a reference that is too small, or columns that cannot be watched.
    """

    def __init__(
        self,
        reference: pa.Table,
        current: pa.Table,
        columns: Sequence[str] = (),
        *,
        rows: int = ROWS,
        permutations: int = PERMUTATIONS,
        seed: int = 0,
        total: int = 0,
    ) -> None:
        """Prepare for windows.

        Args:
            reference: normal rows.
            current: rows that show what the windows hold.
            columns: to be watched; empty = all that can be used.
            rows: of the reference and of a window that are compared at most.
            permutations: of each test.
            seed: of the sampling and the permutations.
            total: rows of the table from which `current` was drawn, 0 = its own.
        """
        whole = reference.num_rows, total or current.num_rows
        self.layout = choose_columns(reference, current, columns, whole=whole)
        self._rng, self._rows, self._permutations = np.random.default_rng([seed, 11]), rows, permutations
        flat = self.layout.flat(reference)
        chosen, calm = (pa.array(part) for part in split_reference(flat.num_rows, rows, self._rng))
        self.reference, background = flat.take(chosen), flat.take(calm)
        self._reader = Reader(self.layout, background)
        vectors, calm_vectors = self._reader.views(self.reference), self._reader.views(background)
        self._pools = {
            name: ReferencePool(vectors[name], calm_vectors[name])
            for name in vectors
            if min(len(vectors[name]), len(calm_vectors[name])) >= LEAST
        }

    def judge(self, window: pa.Table) -> Judged:
        """Return whether a window drifted; of more rows than are compared a random part is."""
        chosen = np.sort(self._rng.permutation(window.num_rows)[: self._rows])
        part = self.layout.flat(window.take(pa.array(chosen)))
        vectors = self._reader.views(part)
        tests = {
            name: pool.test(vectors[name], self._permutations, self._rng)
            for name, pool in self._pools.items()
            if len(vectors[name]) >= LEAST
        }
        if not tests:
            raise ValueError("no column has two values in the reference and in the window; choose others")
        least = min(tests, key=lambda name: tests[name][0])
        return Judged(
            rows=window.num_rows,
            p_value=min(1.0, len(tests) * tests[least][0]),
            statistic=tests[least][1],
            views={name: p for name, (p, _) in tests.items()},
            moved=_moved(self.layout, self.reference, part)[:MOVED],
        )


@dataclass(frozen=True)
class Watched:
    """What a window came to.

    Attributes:
        standing: to be given to the next call.
        state: `ok`, `warning`, `alert` or `insufficient`.
        event: name of the event to be emitted, at most one, or None; see `standing.Standing.after`.
        p_value: of no drift, corrected for the number of views; None where the window has too few rows.
        harm: quality against the reference, or None where no likelihood is known.
        payload: plain values for the event.
    """

    standing: Standing
    state: str
    event: str | None
    p_value: float | None
    harm: Harm | None
    payload: Mapping[str, Any]


def watch_window(
    reference: pa.Table,
    current: pa.Table,
    standing: Standing | None = None,
    rules: Rules | None = None,
    *,
    columns: Sequence[str] = (),
    quality: str = LIKELIHOOD,
    margin: float = MARGIN,
    rows: int = ROWS,
    seed: int = 0,
    judge: Judge | None = None,
) -> Watched:
    """Judge the newest window of a stream: its test, its harm, the state after it and the event that follows.

    Args:
        reference: rows of normal traffic, fixed until the model changes.
        current: the rows since the last call.
        standing: what the last call returned; None at the beginning.
        rules: level, minimum, debounce, recovery, cool-down; None = level .01, two windows in a row.
        columns: to be watched; empty = all that both tables have and that can be used, but the quality.
        quality: column with the quality proxy of each row, higher is better; not watched for drift.
        margin: loss of it that counts as no harm.
        rows: that are compared at most.
        seed: of the sampling and the permutations.
        judge: gives the p-value of each view; None = the kernel pool, run here. The hourly watch settles each view as
            the decision `drift`.

    Raises:
        ValueError: tables that cannot be compared.
    """
    rules = rules or Rules(level=0.01)
    tests: Mapping[str, float] = {}
    moved: list[dict[str, Any]] = []
    if current.num_rows >= rules.minimum:
        rng = np.random.default_rng([seed, 11])
        layout = choose_columns(reference, current, columns, ignored=(quality,))
        flat = layout.flat(reference), layout.flat(current)
        problems, _ = pose_views(layout, *flat, Sizes(rows, PERMUTATIONS), rules.level, rng)
        if not problems:
            raise ValueError("no column has two values in the reference and in the window; choose others")
        tests = (judge or judge_by_pool(rng))(problems)
        moved = _moved(layout, *flat)
    p_value = min(1.0, len(tests) * min(tests.values())) if tests else None
    known = quality in reference.schema.names and quality in current.schema.names
    harm = compare_quality(_floats(reference, quality), _floats(current, quality), margin) if known else None
    p = 1.0 if p_value is None else p_value
    after, event = (standing or Standing()).after(current.num_rows, p, harm, rules)
    payload = {
        "requests": current.num_rows,
        "p_value": p_value,
        "views": dict(tests),
        "state": str(after.drift.level),
        "quality": str(harm.verdict) if harm else "unknown",
        "quality_difference": harm.difference if harm else None,
        "moved": moved[:5],
    }
    return Watched(after, str(after.drift.level), event, p_value, harm, payload)


def _moved(layout: Layout, reference: pa.Table, current: pa.Table) -> list[dict[str, Any]]:
    """Return how far each property of a column moved, the farthest first, as plain values."""
    features = column_features(layout, reference, current)
    return [feature.asdict() for feature in farthest_first(adjust(features, LEVEL, 0.0))]


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


@dataclass(frozen=True)
class Step:
    """One window of a walk.

    Attributes:
        begin: its first row.
        end: the row after its last.
        judged: the test.
        watch: the state after it.
        change: row from which the stream is another one, where an alert was raised on this window, or None.
    """

    begin: int
    end: int
    judged: Judged
    watch: Watch
    change: int | None = None


class _Held:
    """The rows of a table that may still be needed, out of batches that come in order."""

    def __init__(self, batches: Iterable[pa.Table]) -> None:
        self._batches = iter(batches)
        self._begin, self._end = 0, 0
        self._parts: list[pa.Table] = []

    def rows(self, begin: int, end: int) -> pa.Table:
        """Return rows, fewer at the end of the table."""
        while self._end < end and (batch := next(self._batches, None)) is not None:
            self._parts.append(batch)
            self._end += batch.num_rows
        return pa.concat_tables(self._parts).slice(begin - self._begin, end - begin)

    def forget(self, before: int) -> None:
        """Let go of the batches that hold only rows before that one."""
        while self._parts and self._begin + self._parts[0].num_rows <= before:
            self._begin += self._parts.pop(0).num_rows


def walk(
    table: Passing,
    window: int,
    rules: Rules,
    *,
    reference: pa.Table | None = None,
    columns: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[Step]:
    """Walk a table in windows, and from a change on against the rows after it.

    Args:
        table: rows in the order in which they came; no more of them are held than the rules need.
        window: rows of a window.
        rules: when the state changes; the cool-down has no part, as each alert begins a new reference.
        reference: normal rows; None = the first four windows of the table.
        columns: to be watched; empty = all that can be used.
        seed: of the sampling and the permutations.

    Raises:
        ValueError: too few rows, or columns that cannot be watched.
    """
    needed = window if reference is not None else (REFERENCE + 1) * window
    total = table.sample.total
    if total < needed:
        raise ValueError(
            f"the table has {total} rows; windows of {window} need at least {needed}, "
            f"{REFERENCE} of them for the reference where none is given; choose a smaller --window"
        )
    at, normal = 0, reference
    rules, watch = replace(rules, cool_down=0), Watch()
    watcher: Watcher | None = None
    held = _Held(table.batches)
    while at + window <= total:
        if watcher is None:
            if normal is None:
                normal, at = held.rows(at, at + REFERENCE * window), at + REFERENCE * window
                continue
            watcher = Watcher(normal, table.sample.table, columns, rows=max(ROWS, window), seed=seed, total=total)
        judged = watcher.judge(held.rows(at, at + window))
        watch = step(watch, window, judged.p_value, rules)
        alert = watch.announced == "drift.detected"
        change = at - (rules.debounce - 1) * window if alert else None
        yield Step(at, at + window, judged, watch, change)
        at += window
        if change is not None:
            # What was seen since the change is the beginning of the new reference.
            at, normal, watcher, watch = change, None, None, Watch()
        held.forget(at - (rules.debounce - 1) * window)
