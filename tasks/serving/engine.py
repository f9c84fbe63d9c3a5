"""A loaded model that answers one prompt at a time, in a thread of its own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from tasks.model.causal import load_model, load_tokenizer
from tasks.model.generate import Sampling, Token, context_of, encode_prompt, generate
from tasks.serving.compact import compact


@dataclass(frozen=True)
class Answer:
    """A finished completion and what it took.

    Attributes:
        text: the completion.
        tokens: the text that became certain with each token.
        logprobs: natural log-probability of each token.
        prompt_tokens: tokens read.
        truncated: whether the beginning of the prompt did not fit into the context.
        finish: `stop`, `length` or `cancelled`.
        cpu_s: CPU seconds of the computing thread.
        first_s: seconds to the first token.
    """

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    truncated: bool
    finish: str
    cpu_s: float
    first_s: float


class Engine:
    """One model in memory; removed heads and channels are taken out when it is loaded."""

    def __init__(self, folder: Path, threads: int = 1, version: str = "") -> None:
        torch.set_num_threads(threads)
        self.model = load_model(folder)
        self.tokenizer = load_tokenizer(folder)
        self.version = version or weights_digest(folder)
        self._clock = time.thread_time if threads == 1 else time.process_time
        compact(self.model)

    @property
    def context(self) -> int:
        """Tokens that the model sees at once."""
        return context_of(self.model)

    def answer(self, prompt: str, sampling: Sampling, watch: Callable[[Token], bool] | None = None) -> Answer:
        """Complete a prompt; `watch` sees each token and stops the text by returning False."""
        cpu, began, first_s = self._clock(), time.monotonic(), 0.0
        ids = encode_prompt(self.model, self.tokenizer, prompt)
        full = len(self.tokenizer.encode(prompt, add_special_tokens=False))
        texts, logprobs, finish = [], [], "length"
        for token in self._tokens(prompt, sampling):
            first_s = first_s or time.monotonic() - began
            texts.append(token.text)
            logprobs.append(token.logprob)
            finish = token.finish or finish
            if watch is not None and not watch(token):
                finish = "cancelled"
                break
        return Answer(
            text="".join(texts),
            tokens=tuple(texts),
            logprobs=tuple(logprobs),
            prompt_tokens=len(ids),
            truncated=full > len(ids),
            finish=finish,
            cpu_s=self._clock() - cpu,
            first_s=first_s,
        )

    def mean_logprob(self, prompt: str) -> float:
        """Return the mean natural log-probability of the prompt's tokens; nan where there is only one."""
        ids = torch.tensor([encode_prompt(self.model, self.tokenizer, prompt)])
        if ids.shape[1] < 2:
            return float("nan")
        with torch.inference_mode():
            logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        return -float(cross_entropy(logits[0].float(), ids[0, 1:]))

    def _tokens(self, prompt: str, sampling: Sampling) -> Iterator[Token]:
        return generate(self.model, self.tokenizer, prompt, sampling) if sampling.max_tokens else iter(())


def weights_digest(folder: Path) -> str:
    """Name a model by its configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
