"""The request log: one row for each prompt, answered or failed, in one data set of the lake for each hour.

Rows wait in memory for at most `flush_s`; embedding, log-likelihood and energy are computed here, after the answer was
sent. A request is never delayed or refused because of its log: what does not fit is counted in `lost`. Each flush is
one version of `inference/requests/HOUR`; when the hour is over, its versions become one. Feedback arrives later than
the row that it belongs to, so it is stored in `inference/feedback/HOUR` and joined when the log is read.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import LakeError
from infra.lake import Lake
from infra.settings import LogText
from tasks.corpus.redact import redacted
from tasks.text.embeddings import DIMENSION, embed

log = logging.getLogger("ketcycle.serving")

REQUESTS, FEEDBACK = "inference/requests", "inference/feedback"
HOUR = "%Y%m%dt%H"
PAUSE_S = 0.05  # between two looks whether there is much to write
VERSION = 2  # of the columns; 1 had no path, status and error, which are null in its rows
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("run_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("model_version", pa.string()),
        ("label", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("finish", pa.string()),
        ("first_s", pa.float64()),
        ("latency_s", pa.float64()),
        ("cpu_s", pa.float64()),
        ("rss_gb_s", pa.float64()),
        ("energy_j", pa.float64()),
        ("energy_j_p5", pa.float64()),
        ("energy_j_p95", pa.float64()),
        ("energy_source", pa.string()),
        ("mean_logprob", pa.float64()),
        ("completion_logprob", pa.float64()),
        ("embedding", pa.list_(pa.float32(), DIMENSION)),
        ("prompt_sha256", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("rating", pa.float64()),
        ("comment", pa.string()),
        ("path", pa.string()),
        ("status", pa.int32()),
        ("error", pa.string()),
    ]
)
FEEDBACK_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("given", pa.timestamp("us", tz="UTC")),
        ("rating", pa.float64()),
        ("comment", pa.string()),
    ]
)


@dataclass(frozen=True)
class Request:
    """One prompt and its answer.

    Attributes:
        request_id: its name; prompts sent together share all but the last part.
        model_version: version of the model that answered.
        prompt: the text.
        completion: the answer.
        label: `user` of the request: known truth in demonstrations.
        prompt_tokens: tokens read, None where the engine does not report them.
        completion_tokens: tokens written, None where the engine does not report them.
        finish: why the answer ended: `stop`, `length`, `cancelled` (the client left), `failed`, or the engine's word.
        first_s: seconds from arrival to the first token, None where there was none.
        latency_s: seconds from arrival to the last token, None where another program's log does not say.
        usage: CPU time, memory and counter joules of the answer, None where they are unknown.
        received: seconds since the epoch.
        mean_logprob: computes the mean natural log-probability of the prompt's tokens under the model, of the last
            256 of a longer one; None where there are none.
        completion_logprob: the same of the tokens written.
        energy_source: where the joules come from.
        path: address that was asked.
        status: HTTP status of the answer.
        error: what failed, or None.
    """

    request_id: str
    model_version: str
    prompt: str
    completion: str
    label: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish: str
    first_s: float | None
    latency_s: float | None
    usage: Usage | None
    received: float
    mean_logprob: Callable[[], float | None]
    completion_logprob: float | None
    energy_source: str = "modelled"
    path: str | None = None
    status: int | None = None
    error: str | None = None


Deferred = Callable[[], Sequence[Request]]  # makes rows in the thread of the log, where parsing delays no answer


@dataclass(frozen=True)
class Feedback:
    """A rating of an answer.

    Attributes:
        request_id: the answer's.
        rating: from -1, bad, to 1, good.
        comment: a text, or None.
        given: seconds since the epoch.
    """

    request_id: str
    rating: float
    comment: str | None
    given: float


@dataclass(frozen=True)
class Rules:
    """What is kept of a request, and how long.

    Attributes:
        run_id: the run that the requests belong to.
        text: `hashed` keeps a digest of the prompt, `redacted` the texts without addresses and numbers of persons,
            `plain` the texts as they are.
        keep_days: older hours are deleted, 0 = never.
        flush_s: longest time that a row waits.
        flush_rows: rows that are written without waiting for that.
        capacity: rows that wait at most.
        enabled: whether anything is kept.
    """

    run_id: str
    text: LogText = "hashed"
    keep_days: float = 0.0
    flush_s: float = 2.0
    flush_rows: int = 256
    capacity: int = 512
    enabled: bool = True

    def kept(self, text: str | None) -> str | None:
        """Return what may be stored of a text."""
        match self.text:
            case "plain":
                return text
            case "redacted":
                return None if text is None else redacted(text)[0]
            case _:
                return None


class RequestLog:
    """Writes requests and feedback to the lake from a thread of its own.

    Attributes:
        written: rows in the lake.
        lost: rows that were dropped.
        cpu_s: CPU seconds of the thread.
        rss_gb: resident memory of this process at the last flush.
    """

    def __init__(self, lake: Lake, rules: Rules) -> None:
        self.written = 0
        self.lost = 0
        self.cpu_s = 0.0
        self._lake, self._rules = lake, rules
        self._meta = {"run_id": rules.run_id, "columns": VERSION}
        self._queue: queue.Queue[Request | Feedback | Deferred] = queue.Queue(rules.capacity)
        self._waiting: list[tuple[str, dict[str, Any]]] = []  # data set and row
        self._coefficients = Coefficients.load()
        self._process = psutil.Process()
        self.rss_gb = 1e-9 * self._process.memory_info().rss
        self._hour = ""
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Rows not yet in the lake."""
        return self._queue.qsize() + len(self._waiting)

    def put(self, item: Request | Feedback | Deferred) -> bool:
        """Queue a row without waiting; return False and add one to `lost` where the log is full."""
        if not self._rules.enabled:
            return False
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._lose(1)
            return False
        return True

    def energy_j(self, usage: Usage) -> float:
        """Return the median joules of quantities, as its rows have them."""
        return self._coefficients.cpu_energy_j(usage).p50

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is left and stop; what could not be written is counted in `lost`."""
        self._stop.set()
        self._thread.join(timeout_s)
        self._lose(self.pending)

    def _lose(self, rows: int) -> None:
        with self._counting:
            self.lost += rows

    def _run(self) -> None:
        rules, failing = self._rules, False
        due = time.monotonic() + rules.flush_s
        while not self._stop.is_set():
            if len(self._waiting) >= rules.capacity:
                self._stop.wait(0.2)  # the lake takes none: leave the others in the queue, so that it fills
            elif time.monotonic() >= due or (self.pending >= rules.flush_rows and not self._queue.empty()):
                while not self._queue.empty() and len(self._waiting) < rules.capacity:
                    self._take()
            else:  # rows are made together, so that answers are seldom disturbed
                self._stop.wait(max(0.0, min(due - time.monotonic(), PAUSE_S)))
                continue
            if time.monotonic() >= due or (len(self._waiting) >= rules.flush_rows and not failing):
                failing = bool(self._waiting) and not self._flush()
                self._tidy()
                due = time.monotonic() + rules.flush_s
            self.cpu_s = time.thread_time()
        while not self._queue.empty() or self._waiting:
            while not self._queue.empty() and len(self._waiting) < rules.capacity:
                self._take()
            if not self._flush():
                return

    def _take(self) -> None:
        item = self._queue.get_nowait()
        try:
            items = item() if callable(item) else (item,)
            self._waiting += [self._noted(row) if isinstance(row, Feedback) else self._row(row) for row in items]
        except Exception:  # a request that cannot be logged must not stop the log of the others
            log.exception("a request could not be logged")
            self._lose(1)

    def _noted(self, said: Feedback) -> tuple[str, dict[str, Any]]:
        given = datetime.fromtimestamp(said.given, UTC)
        comment = self._rules.kept(None if said.comment is None else _text(said.comment))
        row = {"request_id": _text(said.request_id), "given": given, "rating": said.rating, "comment": comment}
        return f"{FEEDBACK}/{given:{HOUR}}", row

    def _row(self, request: Request) -> tuple[str, dict[str, Any]]:
        row = row_of(request, self._rules, self._coefficients)
        return f"{REQUESTS}/{row['time']:{HOUR}}", row

    def _flush(self) -> bool:
        """Write the waiting rows; False where there are none or the lake did not take them."""
        self.rss_gb = 1e-9 * self._process.memory_info().rss
        if not self._waiting:
            return False
        for name in sorted({name for name, _ in self._waiting}):
            rows = [row for where, row in self._waiting if where == name]
            schema = SCHEMA if name.startswith(REQUESTS) else FEEDBACK_SCHEMA
            try:
                self._lake.write(name, pa.Table.from_pylist(rows, schema=schema), self._meta)
            except (OSError, LakeError) as error:
                log.error("request log: %s; %d rows wait for the next flush", error, len(self._waiting))
                return False
            self._waiting = [(where, row) for where, row in self._waiting if where != name]
            self.written += len(rows)
        return True

    def _tidy(self) -> None:
        """Once an hour: make one version of each hour that is over, and delete those that are too old."""
        now = datetime.now(UTC)
        if f"{now:{HOUR}}" == self._hour:
            return
        self._hour = f"{now:{HOUR}}"
        try:
            if self._rules.keep_days:
                forget_before(self._lake, now - timedelta(days=self._rules.keep_days))
            for name in (REQUESTS, FEEDBACK):
                for hour in _hours(self._lake, name, until=now - timedelta(hours=1)):
                    compact_hour(self._lake, hour)
        except (OSError, LakeError) as error:
            log.error("request log: %s; tried again in an hour", error)


def _text(value: str) -> str:
    """Return Unicode text: half of a surrogate pair, which JSON lets through, becomes a question mark."""
    return value.encode(errors="replace").decode()


def row_of(request: Request, rules: Rules, coefficients: Coefficients) -> dict[str, Any]:
    """Return the row of a request, with what the rules keep of its texts."""
    request = replace(
        request,
        request_id=_text(request.request_id),
        model_version=_text(request.model_version),
        prompt=_text(request.prompt),
        completion=_text(request.completion),
        label=request.label and _text(request.label),
        finish=_text(request.finish),
        error=request.error and _text(request.error),
    )
    received, usage = datetime.fromtimestamp(request.received, UTC), request.usage
    energy = coefficients.cpu_energy_j(usage) if usage else None
    return {
        "request_id": request.request_id,
        "run_id": rules.run_id,
        "time": received,
        "model_version": request.model_version,
        "label": request.label,
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": request.completion_tokens,
        "finish": request.finish,
        "first_s": request.first_s,
        "latency_s": request.latency_s,
        "cpu_s": usage.cpu_s if usage else None,
        "rss_gb_s": usage.rss_gb_s if usage else None,
        "energy_j": energy.p50 if energy else None,
        "energy_j_p5": energy.p5 if energy else None,
        "energy_j_p95": energy.p95 if energy else None,
        "energy_source": request.energy_source if usage else None,
        "mean_logprob": request.mean_logprob(),
        "completion_logprob": request.completion_logprob,
        "embedding": embed([request.prompt])[0].tolist(),
        "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
        "prompt": rules.kept(request.prompt),
        "completion": rules.kept(request.completion),
        "path": request.path,
        "status": request.status,
        "error": request.error,
    }


def table_of(requests: Sequence[Request], rules: Rules) -> pa.Table:
    """Return requests as the rows that the log would have, in the order of their time."""
    coefficients = Coefficients.load()
    rows = [row_of(request, rules, coefficients) for request in requests]
    return pa.Table.from_pylist(rows, schema=SCHEMA).sort_by([("time", "ascending")])


def read_requests(
    lake: Lake, run_id: str | None = None, since: datetime | None = None, until: datetime | None = None
) -> pa.Table:
    """Read requests with the latest feedback to each, the earliest first; an empty table where there are none.

    Args:
        lake: where the log is.
        run_id: the run that they belong to, None = any.
        since: received not before.
        until: received before.
    """
    table = _joined([SCHEMA.empty_table(), *_parts(lake, REQUESTS, since, until)])
    for column, value, holds in (
        ("run_id", run_id, pc.equal),
        ("time", since, pc.greater_equal),
        ("time", until, pc.less),
    ):
        if value is not None:
            table = table.filter(holds(table[column], value))
    table = _latest(table, "time")
    said = _latest(_joined([FEEDBACK_SCHEMA.empty_table(), *_parts(lake, FEEDBACK, since, None)]), "given")
    if len(said):
        found = {row["request_id"]: row for row in said.to_pylist()}
        rows = [found.get(key, {}) for key in table["request_id"].to_pylist()]
        for name in ("rating", "comment"):
            column = pa.array([row.get(name) for row in rows], SCHEMA.field(name).type)
            table = table.set_column(SCHEMA.get_field_index(name), name, column)
    return table


def compact_hour(lake: Lake, name: str) -> None:
    """Make one version of all versions of an hour; the others are deleted after it is written."""
    parts = lake.versions(name)
    if len(parts) < 2:
        return
    table = _latest(_joined([lake.read(ref) for ref in parts]), "given" if name.startswith(FEEDBACK) else "time")
    whole = lake.write(name, table, {"compacted": len(parts), "columns": VERSION})
    for ref in parts:
        if ref != whole:
            with suppress(LakeError):  # another server of this home did the same
                lake.remove(ref)


def forget_before(lake: Lake, moment: datetime) -> int:
    """Delete the hours that ended before a moment; return how many."""
    gone = 0
    for name in (REQUESTS, FEEDBACK):
        for hour in _hours(lake, name, until=moment - timedelta(hours=1)):
            for ref in lake.versions(hour):
                with suppress(LakeError):
                    lake.remove(ref)
            with suppress(OSError):  # a writer at work leaves it there
                Path(lake.root / hour).rmdir()
            gone += 1
    return gone


def _hours(lake: Lake, name: str, since: datetime | None = None, until: datetime | None = None) -> Iterator[str]:
    """Yield the data sets of the hours that hold `since` to `until`, both included."""
    first = f"{since.astimezone(UTC):{HOUR}}" if since else ""
    last = f"{until.astimezone(UTC):{HOUR}}" if until else "~"
    for hour in lake.names(name):
        if first <= hour.rpartition("/")[2] <= last:
            yield hour


def _parts(lake: Lake, name: str, since: datetime | None, until: datetime | None) -> Iterator[pa.Table]:
    for hour in _hours(lake, name, since, until):
        for _ in range(5):  # a server may make one version of several meanwhile
            try:
                tables = [lake.read(ref) for ref in lake.versions(hour)]
            except (LakeError, FileNotFoundError):
                continue
            yield from tables
            break
        else:
            yield from (lake.read(ref) for ref in lake.versions(hour))


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all tables; columns that an earlier version of the log did not have are null."""
    return pa.concat_tables(tables, promote_options="default")


def _latest(table: pa.Table, order: str) -> pa.Table:
    """Return one row for each request, the latest, in the order of a column."""
    table = table.sort_by([(order, "ascending"), ("request_id", "ascending")])
    places: dict[str, int] = {key: at for at, key in enumerate(table["request_id"].to_pylist())}
    return table if len(places) == len(table) else table.take(sorted(places.values()))
