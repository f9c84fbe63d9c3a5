"""The state of the completion server: the model that answers now, its successor, the request log and the metrics."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.energy.usage import Usage
from tasks.model.generation.generate import Token
from tasks.serving import request_log
from tasks.serving.engine import SCORED, Answer, Engine, Prompt
from tasks.serving.protocol import ChatRequest, CompletionRequest
from tasks.serving.request_log import RequestLog
from tasks.serving.source import Found, Source

log = logging.getLogger("ketcycle.serving")

MAX_WAITING = 128
AFTER_FAILURE_S = 60.0
disable_created_metrics()  # type: ignore[no-untyped-call]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
Load = Callable[[Found], Engine]


class Busy(Exception):
    """Too many prompts wait for another one to be accepted."""


class AnswerFigures:
    """Prometheus metrics of answers, the same for a service and a gateway.

    Args:
        requests: their log.
        unit: what is timed, `token` or `byte`.
    """

    def __init__(self, requests: RequestLog, unit: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.responses = Counter("ketcycle_responses", "Answers by status.", ["code"], registry=registry)
        self.prompt_tokens = Counter("ketcycle_prompt_tokens", "Tokens read.", registry=registry)
        self.completion_tokens = Counter("ketcycle_completion_tokens", "Tokens written.", registry=registry)
        self.latency = Histogram(
            "ketcycle_latency_seconds", f"Arrival to the last {unit}.", buckets=SECONDS, registry=registry
        )
        self.first = Histogram(
            "ketcycle_first_token_seconds", f"Arrival to the first {unit}.", buckets=SECONDS, registry=registry
        )
        registry.register(LogFigures(requests))


class Figures(AnswerFigures):
    """Prometheus metrics of a service."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.log, "token")
        registry = self.registry
        self.cpu_s = Counter("ketcycle_cpu_seconds", "CPU seconds of the answers.", registry=registry)
        self.reloads = Counter("ketcycle_reloads", "Changes of the model by outcome.", ["outcome"], registry=registry)
        self.model = Gauge("ketcycle_model", "The model that answers.", ["name", "version"], registry=registry)
        waiting = Gauge("ketcycle_waiting", "Prompts without a finished answer.", registry=registry)
        waiting.set_function(lambda: service.waiting)
        running = Gauge("ketcycle_running", "Texts that are generated now.", registry=registry)
        running.set_function(lambda: service.engine.running)


class LogFigures(Collector):
    """Metrics of a request log, read at the moment of a scrape."""

    def __init__(self, requests: RequestLog) -> None:
        self._log = requests

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        it = self._log
        yield GaugeMetricFamily("ketcycle_log_rows_pending", "Rows not yet in the lake.", it.pending)
        yield CounterMetricFamily("ketcycle_log_rows_written", "Rows in the lake.", it.written)
        yield CounterMetricFamily("ketcycle_log_rows_lost", "Answers without a row.", it.lost)
        yield CounterMetricFamily("ketcycle_log_cpu_seconds", "CPU seconds of the log.", it.cpu_s)


@dataclass
class Service:
    """The model that answers, and what is kept of its answers."""

    engine: Engine
    log: RequestLog
    source: Source
    load: Load
    started: int = field(default_factory=lambda: int(time.time()))
    waiting: int = 0

    def __post_init__(self) -> None:
        self.figures = Figures(self)
        self.figures.model.labels(self.name, self.engine.version).set(1)

    @property
    def name(self) -> str:
        """The model's name in the API."""
        return self.source.name

    @contextmanager
    def using(self) -> Iterator[Engine]:
        """Yield the model that answers now; it is kept until the block ends, also where another one takes its place."""
        engine = self.engine
        engine.users += 1
        try:
            yield engine
        finally:
            engine.users -= 1

    @contextmanager
    def queued(self, prompts: int) -> Iterator[None]:
        """Count prompts as waiting.

        Raises:
            Busy: too many wait already.
        """
        if self.waiting + prompts > MAX_WAITING:
            raise Busy(f"{self.waiting} prompts wait already; try again later")
        self.waiting += prompts
        try:
            yield
        finally:
            self.waiting -= prompts

    async def answer(
        self,
        engine: Engine,
        asked: CompletionRequest | ChatRequest,
        prompt: Prompt,
        request_id: str,
        index: int,
        left: threading.Event,
        watch: Callable[[Token], None] | None = None,
    ) -> Answer:
        """Write one of the answers, after those that wait already, and log it, also where it failed."""
        received, began = time.time(), time.monotonic()
        answer: Answer | None = None
        future = engine.submit(prompt, asked.sampling(index), watch, left, score=asked.scores_prompt)
        try:
            answer = await asyncio.wrap_future(future)
        finally:
            latency_s = time.monotonic() - began
            self.log.put(
                request_log.Request(
                    request_id=request_id,
                    model_version=engine.version,
                    prompt=prompt.text,
                    completion=answer.text if answer else "",
                    label=asked.user,
                    prompt_tokens=len(prompt.ids),
                    completion_tokens=len(answer.tokens) if answer else 0,
                    finish=answer.finish if answer else "failed",
                    first_s=answer.first_s if answer else None,
                    latency_s=latency_s,
                    usage=Usage(cpu_s=answer.cpu_s, rss_gb_s=self.log.rss_gb * answer.busy_s) if answer else None,
                    received=received,
                    mean_logprob=_prompt_logprob(answer),
                    completion_logprob=_mean([t.logprob for t in answer.tokens]) if answer else None,
                    path="/v1/completions" if isinstance(asked, CompletionRequest) else "/v1/chat/completions",
                    status=200 if answer else 500,
                    error=None if answer else "the model failed",
                )
            )
        figures = self.figures
        figures.prompt_tokens.inc(len(answer.prompt.ids))
        figures.completion_tokens.inc(len(answer.tokens))
        figures.cpu_s.inc(answer.cpu_s)
        figures.latency.observe(latency_s)
        figures.first.observe(answer.first_s)
        return answer

    async def follow(self, every_s: float) -> None:
        """Change the model when the source names another one; a request keeps the one that it began with."""
        while True:
            await asyncio.sleep(every_s)
            try:
                found = await asyncio.to_thread(self.source.find)
                if found.version == self.engine.version:
                    continue
                log.info("%s is now version %s; loading it", self.source, found.version)
                successor = await asyncio.to_thread(self.load, found)
            except Exception as error:  # noqa: BLE001  (registry, disk or weights; the present model goes on answering)
                log.error("the model stays version %s: %s", self.engine.version, error)
                self.figures.reloads.labels("failed").inc()
                await asyncio.sleep(AFTER_FAILURE_S)
                continue
            self.figures.model.labels(self.name, self.engine.version).set(0)
            former, self.engine = self.engine, successor
            self.figures.model.labels(self.name, successor.version).set(1)
            self.figures.reloads.labels("done").inc()
            log.info("version %s answers", successor.version)
            while former.users:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(former.close)

    @asynccontextmanager
    async def at_work(self, follow_s: float | None) -> AsyncIterator[None]:
        """Follow the source while the server runs; at the end finish all answers and write the log."""
        following = asyncio.create_task(self.follow(follow_s)) if follow_s and self.source.moves else None
        try:
            yield
        finally:
            if following:
                following.cancel()
            await asyncio.to_thread(self.engine.close)
            await asyncio.to_thread(self.log.close)


def new_key(kind: str) -> str:
    """Return a name for an answer."""
    return f"{kind}-{uuid.uuid4().hex}"


def _mean(logprobs: list[float]) -> float | None:
    return sum(logprobs) / len(logprobs) if logprobs else None


def _prompt_logprob(answer: Answer | None) -> Callable[[], float | None]:
    """Return a function that computes the mean log-probability of the last tokens of the prompt."""
    return lambda: _mean(answer.scores(0).logprobs[-SCORED:].tolist()) if answer else None
