"""The request log: one row for each answered prompt in the data set `inference/requests`, each flush one version.

Rows wait in memory for at most `flush_s`; embedding and self-perplexity are computed here, behind the answer. A
request is never delayed or refused because of its log: what does not fit is counted in `lost`. Text is kept only if
asked for; without it a row holds a digest of the prompt.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from infra.lake import Lake
from tasks.text.embeddings import DIMENSION, embed

log = logging.getLogger("ketcycle.serving")

NAME = "inference/requests"
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("run_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("model_version", pa.string()),
        ("label", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("latency_s", pa.float64()),
        ("cpu_s", pa.float64()),
        ("mean_logprob", pa.float64()),
        ("embedding", pa.list_(pa.float32(), DIMENSION)),
        ("prompt_sha256", pa.string()),
        ("prompt", pa.string()),
    ]
)


@dataclass(frozen=True)
class Request:
    """One answered prompt.

    Attributes:
        request_id: its name; prompts sent together share all but the last part.
        prompt: the text.
        label: known truth given by the sender, for demonstrations only.
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
        latency_s: seconds from arrival to the last token.
        cpu_s: CPU seconds of the answer.
        received: seconds since the epoch.
    """

    request_id: str
    prompt: str
    label: str | None
    prompt_tokens: int
    completion_tokens: int
    latency_s: float
    cpu_s: float
    received: float


@dataclass(frozen=True)
class Source:
    """Whose requests are logged.

    Attributes:
        run_id: the run.
        model_version: version of the served model.
        mean_logprob: returns the mean log-probability of a prompt under the served model.
        keep_text: whether prompts are stored.
    """

    run_id: str
    model_version: str
    mean_logprob: Callable[[str], float]
    keep_text: bool = False


class RequestLog:
    """Writes requests to the lake from a thread of its own."""

    def __init__(
        self, lake: Lake, source: Source, flush_s: float = 2.0, flush_rows: int = 256, capacity: int = 4096
    ) -> None:
        self.written = 0
        self.lost = 0
        self._lake, self._source = lake, source
        self._flush_s, self._flush_rows, self._capacity = flush_s, flush_rows, capacity
        self._queue: queue.Queue[Request] = queue.Queue(capacity)
        self._waiting: list[dict[str, object]] = []
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Requests not yet in the lake."""
        return self._queue.qsize() + len(self._waiting)

    def put(self, request: Request) -> bool:
        """Take a request without ever waiting; False and one more in `lost` where the log is full."""
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            self._lose(1)
            return False
        return True

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is left and stop; what could not be written is counted in `lost`."""
        self._stop.set()
        self._thread.join(timeout_s)
        self._lose(self.pending)

    def _lose(self, rows: int) -> None:
        with self._counting:
            self.lost += rows

    def _run(self) -> None:
        due, failing = time.monotonic() + self._flush_s, False
        while not self._stop.is_set():
            if len(self._waiting) < self._capacity:
                self._take(max(0.0, min(due - time.monotonic(), 0.2)))
            else:
                self._stop.wait(0.2)  # the lake takes none: leave the others in the queue, so that it fills
            if time.monotonic() >= due or (len(self._waiting) >= self._flush_rows and not failing):
                failing = bool(self._waiting) and not self._flush()
                due = time.monotonic() + self._flush_s
        while not self._queue.empty() or self._waiting:
            while not self._queue.empty() and len(self._waiting) < self._capacity:
                self._take(0.0)
            if not self._flush():
                return

    def _take(self, wait_s: float) -> None:
        try:
            request = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
        except queue.Empty:
            return
        try:
            self._waiting.append(self._row(request))
        except Exception:  # a prompt that cannot be scored must not end the log of all others
            log.exception("request %s could not be logged", request.request_id)
            self._lose(1)

    def _row(self, request: Request) -> dict[str, object]:
        score = self._source.mean_logprob(request.prompt)
        return {
            "request_id": request.request_id,
            "run_id": self._source.run_id,
            "time": datetime.fromtimestamp(request.received, UTC),
            "model_version": self._source.model_version,
            "label": request.label,
            "prompt_tokens": request.prompt_tokens,
            "completion_tokens": request.completion_tokens,
            "latency_s": request.latency_s,
            "cpu_s": request.cpu_s,
            "mean_logprob": score if np.isfinite(score) else None,
            "embedding": embed([request.prompt])[0].tolist(),
            "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
            "prompt": request.prompt if self._source.keep_text else None,
        }

    def _flush(self) -> bool:
        """Write the waiting rows; False where there are none or the lake did not take them."""
        if not self._waiting:
            return False
        try:
            table = pa.Table.from_pylist(self._waiting, schema=SCHEMA)
            self._lake.write(NAME, table, {"run_id": self._source.run_id, "model_version": self._source.model_version})
        except OSError as error:
            log.error("request log: %s; %d rows wait for the next flush", error, len(self._waiting))
            return False
        self.written += len(self._waiting)
        self._waiting.clear()
        return True


def read_requests(lake: Lake, run_id: str) -> pa.Table:
    """Read the requests of a run, the earliest first; an empty table where there are none."""
    tables = [lake.read(ref) for ref in lake.versions(NAME) if lake.meta(ref).get("run_id") == run_id]
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    return table.sort_by([("time", "ascending"), ("request_id", "ascending")])
