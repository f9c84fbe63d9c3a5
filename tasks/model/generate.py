"""Text from a causal language model, one token at a time with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from transformers import DynamicCache

from tasks.model.causal import separator
from tasks.model.llama import LlamaSteps, supports

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_tokens: tokens written at most.
        temperature: 0 takes the most probable token.
        top_k: draw among the k most probable tokens, 0 = among all.
        seed: of the draws.
        stop: strings that end the text; they are not part of it.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
        id: its number in the vocabulary.
        text: the text that became certain with it: empty while a character or a possible stop string is incomplete.
        logprob: its natural log-probability under the model at temperature 1.
        finish: `stop`, `length`, or None while more may follow.
    """

    id: int
    text: str
    logprob: float
    finish: str | None = None


@dataclass(frozen=True)
class Completion:
    """A finished text with its tokens."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    n_prompt: int
    finish: str


def encode_prompt(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Return the tokens of a prompt after the token between documents, the last `context - 1` where there are more."""
    first = separator(tokenizer)
    ids = ([] if first is None else [first]) + list(tokenizer.encode(prompt, add_special_tokens=False))
    return ids[-max(1, context_of(model) - 1) :]


def context_of(model: PreTrainedModel) -> int:
    """Return the tokens that the model can see at once."""
    return int(model.config.max_position_embeddings)


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, sampling: Sampling | None = None
) -> Iterator[Token]:
    """Continue a prompt; the texts of the tokens joined are the completion.

    Where the context is full, the model reads its later half again and goes on.

    Raises:
        ValueError: there is nothing to read, the prompt is empty and the tokenizer has no token to start from.
    """
    sampling = sampling or Sampling()
    ids = encode_prompt(model, tokenizer, prompt)
    if not ids:
        raise ValueError("the prompt is empty and the tokenizer has no end-of-text token to start from")
    rng = np.random.default_rng(sampling.seed)
    text = _Text(tokenizer, sampling.stop)
    logits, ends = _Logits(model, ids, sampling.max_tokens), {separator(tokenizer), tokenizer.eos_token_id}
    for count in range(1, sampling.max_tokens + 1):
        log_probabilities = torch.log_softmax(logits.last, dim=-1)
        token = _draw(log_probabilities, sampling, rng)
        ended = token in ends
        if not ended:
            text.add(token)
        finish = "stop" if ended or text.stopped else ("length" if count == sampling.max_tokens else None)
        yield Token(token, text.take(last=finish is not None), float(log_probabilities[token]), finish)
        if finish:
            return
        logits.read(token)


def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, sampling: Sampling | None = None
) -> Completion:
    """Continue a prompt to the end."""
    tokens = list(generate(model, tokenizer, prompt, sampling))
    return Completion(
        text="".join(token.text for token in tokens),
        ids=tuple(token.id for token in tokens),
        logprobs=tuple(token.logprob for token in tokens),
        n_prompt=len(encode_prompt(model, tokenizer, prompt)),
        finish=(tokens[-1].finish if tokens else None) or "length",
    )


class _Cached:
    """The generic road: any causal model of transformers with its own cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache: Any = DynamicCache(config=model.config)

    def read(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            out = self._model(input_ids=torch.tensor([list(ids)]), past_key_values=self._cache, use_cache=True)
        last: torch.Tensor = out.logits[0, -1].float()
        return last


class _Logits:
    """The model's logits after everything read so far."""

    def __init__(self, model: PreTrainedModel, ids: Sequence[int], max_tokens: int) -> None:
        self._model = model
        self._context = context_of(model)
        self._room = min(self._context, len(ids) + max_tokens)
        self._start(list(ids))

    def _start(self, ids: list[int]) -> None:
        self._ids = ids
        self._steps = LlamaSteps(self._model, self._room) if supports(self._model) else _Cached(self._model)
        self.last = self._steps.read(ids)

    def read(self, token: int) -> None:
        self._ids.append(token)
        if len(self._ids) > self._context:
            self._start(self._ids[-max(1, self._context // 2) :])
        else:
            self.last = self._steps.read([token])


class _Text:
    """Turns tokens into text; holds back what may still become a character or a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: tuple[str, ...]) -> None:
        self._tokenizer: Any = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> None:
        self._held += self._stream.step(self._tokenizer, token) or ""
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self._held = self._held[: min(found)]
            self.stopped = True

    def take(self, last: bool) -> str:
        keep = 0
        if not (last or self.stopped):
            longest = max((len(s) for s in self._stop), default=1) - 1
            for size in range(min(longest, len(self._held)), 0, -1):
                if any(s.startswith(self._held[-size:]) for s in self._stop):
                    keep = size
                    break
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out


def _draw(log_probabilities: torch.Tensor, sampling: Sampling, rng: np.random.Generator) -> int:
    if sampling.temperature <= 0:
        return int(log_probabilities.argmax())
    scores = log_probabilities.double().numpy() / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        floor = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores = np.where(scores >= floor, scores, -np.inf)
    # Gumbel's trick: the argmax of scores plus Gumbel noise is a draw from their softmax.
    return int(np.argmax(scores + rng.gumbel(size=len(scores))))
