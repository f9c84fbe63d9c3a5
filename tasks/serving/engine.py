"""A loaded model that writes the answers to many prompts side by side, in a thread of its own.

Continuous batching (Yu et al. 2022, Orca, OSDI): a prompt that waits joins the texts being written as soon as one of
them is finished, after any token, so nobody waits for the longest of a batch.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tasks.model.causal import load_model, load_tokenizer, separator
from tasks.model.generate import Sampling, Text, Texts, Token, context_of, started
from tasks.serving.compact import compact

ROWS = 16
CACHE_BYTES = 1 << 30  # room for keys and values of all texts together
SCORED = 256  # tokens at the end of a prompt whose probability the log may ask


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        text: as it was given.
        ids: its tokens, with the one that starts a text.
        lead: how many tokens stand before those of the text.
        truncated: whether its beginning did not fit into the context.
    """

    text: str
    ids: tuple[int, ...]
    lead: int
    truncated: bool = False


@dataclass(frozen=True)
class Answer:
    """A finished completion and what it took.

    Attributes:
        prompt: what was read.
        tokens: what was written.
        finish: `stop`, `length` or `cancelled`.
        cpu_s: its part of the CPU seconds of the computing thread.
        busy_s: its part of the seconds that the thread was busy.
        first_s: seconds from asking to the first token.
        prompt_logprobs: computes the log-probability of the prompt's tokens but the first, or of its last ones.
    """

    prompt: Prompt
    tokens: tuple[Token, ...]
    finish: str
    cpu_s: float
    busy_s: float
    first_s: float
    prompt_logprobs: Callable[[], torch.Tensor]

    @property
    def text(self) -> str:
        """The completion."""
        return "".join(token.text for token in self.tokens)


class BadPrompt(ValueError):
    """A prompt that cannot be read."""


class TooLong(BadPrompt):
    """A prompt that does not fit into the context."""


@dataclass
class _Job:
    prompt: Prompt
    sampling: Sampling
    watch: Callable[[Token], bool] | None
    scored: int | None
    answer: Future[Answer] = field(default_factory=Future)
    asked: float = field(default_factory=time.monotonic)
    tokens: list[Token] = field(default_factory=list)
    cpu_s: float = 0.0
    busy_s: float = 0.0
    first_s: float = 0.0
    text: Text | None = None


class Engine:
    """One model in memory; removed heads and channels are taken out when it is loaded.

    Attributes:
        version: name of the weights.
        rows: texts written side by side at most.
        users: requests that hold on to it; kept by its owner.
    """

    def __init__(self, folder: Path, threads: int = 1, version: str = "", rows: int = ROWS) -> None:
        torch.set_num_threads(threads)
        self.model = load_model(folder)
        self.tokenizer = load_tokenizer(folder)
        self.version = version or weights_digest(folder)
        self.users = 0
        compact(self.model)
        self.rows = max(1, min(rows, CACHE_BYTES // _cache_bytes(self.model)))
        self._clock = time.thread_time if threads == 1 else time.process_time
        self._texts = Texts(self.model, self.tokenizer, self.rows)
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: dict[Text, _Job] = {}
        self._tokenizing = threading.Lock()  # a fast tokenizer is not for two threads at once
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """Tokens that the model sees at once."""
        return context_of(self.model)

    @property
    def running(self) -> int:
        """Texts being written now."""
        return len(self._jobs)

    @property
    def chats(self) -> bool:
        """Whether the tokenizer knows how a conversation is written down."""
        return bool(self.tokenizer.chat_template)

    def prompt(self, text: str, *, truncate: bool = False) -> Prompt:
        """Turn a text into a prompt.

        Raises:
            TooLong: it does not fit into the context and may not be cut.
            BadPrompt: there is nothing to read.
        """
        with self._tokenizing:
            ids = list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))
        return self._fitting(text, started(self.tokenizer, ids), int(separator(self.tokenizer) is not None), truncate)

    def conversation(self, messages: Sequence[dict[str, str]], *, truncate: bool = False) -> Prompt:
        """Turn a conversation into a prompt by the template of the tokenizer.

        Raises:
            TooLong: it does not fit into the context and may not be cut.
            BadPrompt: the template refuses it.
        """
        from jinja2 import TemplateError

        with self._tokenizing:
            try:
                text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            except TemplateError as error:
                raise BadPrompt(f"the model's chat template refuses these messages: {error}") from None
            ids = list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))
        return self._fitting(str(text), ids, 0, truncate)

    def _fitting(self, text: str, ids: list[int], lead: int, truncate: bool) -> Prompt:
        if not ids:
            raise BadPrompt("the prompt is empty and the tokenizer has no token to start from")
        over = len(ids) - max(1, self.context - 1)
        if over <= 0:
            return Prompt(text, tuple(ids), lead)
        if not truncate:
            raise TooLong(
                f"the prompt has {len(ids)} tokens, the model reads {self.context - 1} and a new one; shorten it, or "
                'ask for its end with "truncation": "auto"'
            )
        return Prompt(text, tuple(ids[over:]), max(0, lead - over), truncated=True)

    def submit(
        self, prompt: Prompt, sampling: Sampling, watch: Callable[[Token], bool] | None = None, *, score: bool = False
    ) -> Future[Answer]:
        """Let a prompt wait for its turn.

        Args:
            prompt: of `prompt` or `conversation`.
            sampling: how the text is drawn.
            watch: sees each token, in the thread of the model, and stops the text by returning False.
            score: whether the probability of every token of the prompt will be asked.
        """
        job = _Job(prompt, sampling, watch, None if score else SCORED)
        self._waiting.put(job)
        return job.answer

    def decode(self, token: int) -> str:
        """Return the text of one token."""
        with self._tokenizing:
            return str(self.tokenizer.decode([token]))

    def close(self) -> None:
        """Finish what was submitted and stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_ or self._jobs:
            try:
                open_ = self._admit() and open_
                self._step()
            except Exception as error:  # one bad step must not leave its texts, or all later ones, without an answer
                for text, job in list(self._jobs.items()):
                    if text in self._texts.open:
                        self._texts.drop(text)
                    job.answer.set_exception(error)
                self._jobs.clear()

    def _admit(self) -> bool:
        """Read prompts that wait, as many as there are rows; False when no more will come."""
        while len(self._jobs) < self.rows:
            try:
                job = self._waiting.get(block=not self._jobs)
            except queue.Empty:
                return True
            if job is None:
                return False
            if not job.answer.set_running_or_notify_cancel():
                continue
            self._read(job)
        return True

    def _read(self, job: _Job) -> None:
        try:
            with self._shared([job]):
                job.text = self._texts.add(job.prompt.ids, job.sampling, job.scored)
        except Exception as error:  # the answer to this prompt alone
            job.answer.set_exception(error)
            return
        if job.sampling.max_tokens:
            self._jobs[job.text] = job
        else:
            self._finish(job, "length")

    def _step(self) -> None:
        """Give every text a token and let the model read them."""
        with self._shared(list(self._jobs.values())):
            drawn = [(self._jobs[text], token) for text, token in self._texts.draw()]
            for job, token in drawn:
                job.first_s = job.first_s or time.monotonic() - job.asked
                job.tokens.append(token)
        for job, token in drawn:
            wanted = job.watch is None or job.watch(token)
            if token.finish or not wanted:
                assert job.text is not None  # noqa: S101
                del self._jobs[job.text]
                if not token.finish:
                    self._texts.drop(job.text)
                self._finish(job, token.finish or "cancelled")
        with self._shared(list(self._jobs.values())):
            self._texts.advance()

    @contextmanager
    def _shared(self, jobs: list[_Job]) -> Iterator[None]:
        """Book the time of a block to jobs in equal parts."""
        cpu, began = self._clock(), time.monotonic()
        yield
        for job in jobs:
            job.cpu_s += (self._clock() - cpu) / len(jobs)
            job.busy_s += (time.monotonic() - began) / len(jobs)

    def _finish(self, job: _Job, finish: str) -> None:
        assert job.text is not None  # noqa: S101
        reading = job.text.prompt
        job.answer.set_result(
            Answer(job.prompt, tuple(job.tokens), finish, job.cpu_s, job.busy_s, job.first_s, reading.logprobs)
        )


def weights_digest(folder: Path) -> str:
    """Name a model by its configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _cache_bytes(model: Any) -> int:
    """Return the bytes of keys and values of one text at full length."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * 4 * config.num_hidden_layers * heads * width * context_of(model))
