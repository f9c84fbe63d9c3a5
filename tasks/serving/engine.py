"""A loaded model that writes the answers to many prompts side by side, in a thread of its own.

Continuous batching (Yu et al. 2022, Orca, OSDI): a waiting prompt joins the batch after any token, as soon as another
text is finished and the cache has room, so no answer waits for the longest text of its batch.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tasks.model.causal import load_model, load_tokenizer, separator
from tasks.model.generation.decode import Vocabulary, pieces_of
from tasks.model.generation.generate import Sampling, Text, Texts, Token, context_of, started
from tasks.model.generation.llama import Scored
from tasks.model.generation.plain import read_plain
from tasks.model.recipe import Form
from tasks.serving.compact import compact

ROWS = 16
CACHE_BYTES = 1 << 30  # of keys and values of all texts together
REMEMBERED_BYTES = 1 << 28  # of texts that are over, for those that begin alike
SCORED = 256  # tokens at the end of a prompt whose log-probabilities the request log takes the mean of


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        text: as it was given, or decoded where tokens were given.
        ids: its tokens, with the one that starts a text.
        lead: number of tokens put before those of the text.
        truncated: whether its beginning did not fit into the context.
    """

    text: str
    ids: tuple[int, ...]
    lead: int
    truncated: bool = False


@dataclass(frozen=True)
class Answer:
    """A finished completion and its share of the computing thread.

    Attributes:
        prompt: the tokens read.
        tokens: the tokens written.
        finish: `stop`, `length`, or `cancelled` where the client left.
        cpu_s: its share of the thread's CPU seconds.
        busy_s: its share of the seconds in which the thread computed.
        first_s: seconds from submission to the first token.
        scores: computes the log-probabilities of the prompt's tokens but the first, or of its last ones, with as many
            of the most probable tokens as asked for.
    """

    prompt: Prompt
    tokens: tuple[Token, ...]
    finish: str
    cpu_s: float
    busy_s: float
    first_s: float
    scores: Callable[[int], Scored]

    @property
    def text(self) -> str:
        """The completion."""
        return "".join(token.text for token in self.tokens)


class BadPrompt(ValueError):
    """A prompt that cannot be read."""


class TooLong(BadPrompt):
    """A prompt that does not fit into the context."""


@dataclass(eq=False)
class _Job:
    prompt: Prompt
    sampling: Sampling
    watch: Callable[[Token], None] | None
    left: threading.Event
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
        context: tokens that the model sees at once.
        users: requests that use it now; counted by its owner.
    """

    def __init__(
        self, folder: Path, threads: int = 1, version: str = "", rows: int = ROWS, form: Form = "fp32"
    ) -> None:
        """Load a model.

        Args:
            folder: the model with its tokenizer.
            threads: threads that compute.
            version: name of the weights, by default their digest.
            rows: texts written side by side at most.
            form: number format of the weights.
        """
        torch.set_num_threads(threads)
        model: Any = read_plain(folder) or load_model(folder)
        self.tokenizer = load_tokenizer(folder)
        self.version = version or weights_digest(folder)
        self.users = 0
        compact(model)
        self.rows, self.context = rows, context_of(model)
        self._vocabulary = Vocabulary(self.tokenizer)
        self._size = int(model.config.vocab_size)
        self._token_bytes = _token_bytes(model)
        self._clock = time.thread_time if threads == 1 else time.process_time
        # Keeps the weights that it needs.
        self._texts = Texts(model, self.tokenizer, rows, form=form, remembered=REMEMBERED_BYTES, threads=threads)
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._line: deque[_Job] = deque()  # taken from there, waiting for a row and room in the cache
        self._jobs: dict[Text, _Job] = {}
        self._tokenizing = threading.Lock()  # a fast tokenizer is not for two threads at once
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Texts being written now."""
        return len(self._jobs)

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def prompt(self, given: str | Sequence[int], *, truncate: bool = False) -> Prompt:
        """Turn a text into a prompt, after the token between documents; tokens are read as they are.

        Raises:
            TooLong: it does not fit into the context and may not be cut.
            BadPrompt: there is nothing to read, or a token is not in the vocabulary.
        """
        with self._tokenizing:
            if isinstance(given, str):
                ids = list(self.tokenizer.encode(given, add_special_tokens=False, verbose=False))
                text, lead = given, int(separator(self.tokenizer) is not None)
                ids = started(self.tokenizer, ids)
            else:
                self.check_tokens(given)
                text, ids, lead = self._vocabulary.decode(given), list(given), 0
        return self._fitting(text, ids, lead, truncate)

    def pieces(self, prompt: Prompt) -> list[str]:
        """Return the text of each token of a prompt but those put before it; joined, the text that was read."""
        ids = prompt.ids[prompt.lead :]
        with self._tokenizing:
            read = self.tokenizer.backend_tokenizer.encode(prompt.text, add_special_tokens=False)
            if len(read.ids) < len(ids) or tuple(read.ids[len(read.ids) - len(ids) :]) != tuple(ids):
                return pieces_of(self._vocabulary, ids)  # tokens were given, not a text
        ends = [0, *(end for _, end in read.offsets)]
        ends[-1] = len(prompt.text)
        pieces = [prompt.text[start:end] for start, end in pairwise(ends)]
        return pieces[len(pieces) - len(ids) :]

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
        self,
        prompt: Prompt,
        sampling: Sampling,
        watch: Callable[[Token], None] | None = None,
        left: threading.Event | None = None,
        *,
        score: bool = False,
    ) -> Future[Answer]:
        """Queue a prompt.

        Args:
            prompt: of `prompt` or `conversation`.
            sampling: how the text is drawn.
            watch: called with each token, in the thread of the model.
            left: once set, the text ends with its next token, or is not begun; its answer is `cancelled`.
            score: whether the probability of every token of the prompt will be asked.
        """
        job = _Job(prompt, sampling, watch, left or threading.Event(), None if score else SCORED)
        self._waiting.put(job)
        return job.answer

    def check_tokens(self, ids: Iterable[int]) -> None:
        """See whether the model has these tokens.

        Raises:
            BadPrompt: it has not.
        """
        unknown = next((token for token in ids if not 0 <= token < self._size), None)
        if unknown is not None:
            raise BadPrompt(f"token {unknown} is not in the model's vocabulary of {self._size}")

    def piece(self, token: int) -> str:
        """Return the text that a token adds to a text."""
        with self._tokenizing:
            return self._vocabulary.piece(token)

    def close(self) -> None:
        """Finish what was submitted and stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_ or self._jobs or self._line:
            try:
                open_ = self._admit(open_)
                self._step()
            except Exception as error:  # noqa: BLE001  (a failed step of the model ends its own texts, not later ones)
                for text, job in list(self._jobs.items()):
                    if text in self._texts.open:
                        self._texts.drop(text)
                    job.answer.set_exception(error)
                self._jobs.clear()

    def _admit(self, open_: bool) -> bool:
        """Read waiting prompts while there are rows and cache for them; return whether more may come."""
        while open_:
            try:
                job = self._waiting.get(block=not (self._jobs or self._line))
            except queue.Empty:
                break
            if job is None:
                open_ = False
            else:
                self._line.append(job)
        for job in [job for job in self._line if job.left.is_set()]:
            self._line.remove(job)
            job.answer.set_result(Answer(job.prompt, (), "cancelled", 0.0, 0.0, 0.0, _nothing))
        while self._line and len(self._jobs) < self.rows and self._fits(self._line[0]):
            self._read(self._line.popleft())
        return open_

    def _fits(self, job: _Job) -> bool:
        """Return whether the cache has room for one more text, all being as long as the longest may become."""
        longest = max(self._length(open_) for open_ in (job, *self._jobs.values()))
        return not self._jobs or (len(self._jobs) + 1) * longest * self._token_bytes <= CACHE_BYTES

    def _length(self, job: _Job) -> int:
        return min(self.context, len(job.prompt.ids) + job.sampling.max_tokens)

    def _read(self, job: _Job) -> None:
        try:
            with self._shared([job]):
                job.text = self._texts.add(job.prompt.ids, job.sampling, job.scored)
        except Exception as error:  # noqa: BLE001  (a prompt that fails in tokenizers or torch fails alone)
            job.answer.set_exception(error)
            return
        if job.sampling.max_tokens:
            self._jobs[job.text] = job
        else:
            self._finish(job, "length")

    def _step(self) -> None:
        """Give every text a token and let the model read them."""
        with self._shared(list(self._jobs.values())):
            drawn = self._texts.draw()
        for text, token in drawn:
            job = self._jobs[text]
            if isinstance(token, Exception):
                del self._jobs[text]
                job.answer.set_exception(token)
                continue
            job.first_s = job.first_s or time.monotonic() - job.asked
            job.tokens.append(token)
            if job.watch:
                job.watch(token)
            if token.finish or job.left.is_set():
                del self._jobs[text]
                if not token.finish:
                    self._texts.drop(text)
                self._finish(job, token.finish or "cancelled")
        with self._shared(list(self._jobs.values())):
            self._texts.advance()

    @contextmanager
    def _shared(self, jobs: list[_Job]) -> Iterator[None]:
        """Charge the time of a block to jobs in equal parts."""
        cpu, began = self._clock(), time.monotonic()
        yield
        for job in jobs:
            job.cpu_s += (self._clock() - cpu) / len(jobs)
            job.busy_s += (time.monotonic() - began) / len(jobs)

    def _finish(self, job: _Job, finish: str) -> None:
        assert job.text is not None  # noqa: S101
        scores = job.text.prompt.scores
        job.answer.set_result(Answer(job.prompt, tuple(job.tokens), finish, job.cpu_s, job.busy_s, job.first_s, scores))


def weights_digest(folder: Path) -> str:
    """Name a model by its configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _token_bytes(model: Any) -> int:
    """Return the bytes of keys, values and state of one token."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(4 * (2 * config.num_hidden_layers * heads * width + config.hidden_size))


def _nothing(top: int) -> Scored:
    """Return the scores of a prompt that was not read."""
    return Scored(torch.zeros(0), torch.zeros(0, top), torch.zeros(0, top))
