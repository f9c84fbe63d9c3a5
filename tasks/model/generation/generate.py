"""Text from a causal language model, one token at a time with a key-value cache, for several texts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.model.causal import separator
from tasks.model.generation.decode import Detokenizer, Vocabulary
from tasks.model.generation.llama import LlamaSteps, Numbers, Reading, score, supports
from tasks.model.recipe import Form

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_tokens: maximum number of generated tokens.
        temperature: sampling temperature; 0 chooses the most probable token.
        top_k: draw among the k most probable tokens, 0 = among all.
        top_p: draw among the most probable tokens that together have this probability (Holtzman et al. 2020,
            arXiv 1904.09751), 1 = among all.
        seed: seed of the random draws.
        stop: strings that end the text; they are not part of it.
        top: number of the most probable tokens reported with each token.
        frequency_penalty: taken from the score of a token for each time that the text holds it already, the prompt not
            counted.
        presence_penalty: taken once from the score of a token that the text holds already.
        bias: ids of tokens and what is added to their scores.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
        id: number of the token in the vocabulary.
        text: the text that is final with this token: empty while a character or a possible stop string is incomplete.
        logprob: natural log-probability of the token under the model at temperature 1.
        finish: `stop`, `length`, or None while more may follow.
        top: id and log-probability of the most probable tokens, as many as requested.
    """

    id: int
    text: str
    logprob: float
    finish: str | None = None
    top: tuple[tuple[int, float], ...] = ()


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
    return started(tokenizer, tokenizer.encode(prompt, add_special_tokens=False))[-max(1, context_of(model) - 1) :]


def started(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[int]:
    """Return the tokens of a text after the token between documents, if there is one."""
    first = separator(tokenizer)
    return ([] if first is None else [first]) + list(ids)


def context_of(model: PreTrainedModel) -> int:
    """Return the tokens that the model can see at once."""
    return int(model.config.max_position_embeddings)


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, sampling: Sampling | None = None
) -> Iterator[Token]:
    """Continue a prompt; the texts of the tokens joined are the completion.

    When the context is full, the model reads its later half again and continues.

    Raises:
        ValueError: the prompt is empty and the tokenizer has no end-of-text token to start from.
    """
    sampling = sampling or Sampling()
    ids = encode_prompt(model, tokenizer, prompt)
    texts = Texts(model, tokenizer, 1, min(context_of(model), len(ids) + sampling.max_tokens))
    texts.add(ids, sampling)
    while texts.open:
        for _, token in texts.draw():
            if isinstance(token, Exception):
                raise token
            yield token
        texts.advance()


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


class Text:
    """A text that is being generated.

    Attributes:
        ids: tokens of the prompt and the generated tokens.
        prompt: logits and log-probabilities of the prompt.
    """

    def __init__(self, vocabulary: Vocabulary, ends: frozenset[int], ids: Sequence[int], sampling: Sampling) -> None:
        self.ids = list(ids)
        self.prompt: Reading
        self.sampling = sampling
        self._ends = ends
        self._rng = np.random.default_rng(sampling.seed)
        self._certain = _Certain(Detokenizer(vocabulary, ids), sampling.stop)
        self._left = sampling.max_tokens
        self._prompted = len(self.ids)

    def draw(self, log_probabilities: Numbers, likeliest: int) -> Token:
        """Generate one token; what is reported of it are probabilities without penalties and bias.

        Args:
            log_probabilities: of the next token, (vocabulary,).
            likeliest: token that has the highest one.
        """
        asked = self.sampling
        weighed = bool(asked.frequency_penalty or asked.presence_penalty or asked.bias)
        if weighed or asked.temperature > 0:
            token = _draw(self._weighed(log_probabilities) if weighed else log_probabilities, asked, self._rng)
        else:
            token = likeliest
        self.ids.append(token)
        self._left -= 1
        ended = token in self._ends
        if not ended:
            self._certain.add(token)
        if ended or not self._left:
            self._certain.end()
        finish = "stop" if ended or self._certain.stopped else (None if self._left else "length")
        text = self._certain.take(last=finish is not None)
        top: tuple[tuple[int, float], ...] = ()
        if asked.top:
            found = torch.from_numpy(log_probabilities).topk(min(asked.top, len(log_probabilities)))
            top = tuple(zip(found.indices.tolist(), found.values.tolist(), strict=True))
        return Token(token, text, float(log_probabilities[token]), finish, top)

    def _weighed(self, scores: Numbers) -> Numbers:
        """Return scores after penalties and bias."""
        asked = self.sampling
        ids, counts = np.unique(np.array(self.ids[self._prompted :], np.int64), return_counts=True)
        scores = scores.copy()
        scores[ids] -= asked.frequency_penalty * counts + asked.presence_penalty
        for token, added in asked.bias:
            scores[token] += added
        return scores


class Texts:
    """Texts generated together by one model: `draw` adds a token to each text, `advance` lets the model read them.

    Attributes:
        open: texts that are not finished, one for each row of the cache.
        rows: maximum number of open texts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        rows: int,
        capacity: int | None = None,
        *,
        form: Form = "fp32",
        remembered: int = 0,
        threads: int = 1,
    ) -> None:
        """Prepare for texts.

        Args:
            model: whose weights are used.
            tokenizer: of the model.
            rows: maximum number of open texts.
            capacity: maximum number of tokens of a text, by default the context.
            form: number format of the weights; models of another build than Llama stay as they are.
            remembered: bytes of finished texts that are remembered, so that texts which begin alike are read once.
            threads: threads among which the texts are split.
        """
        self.rows = rows
        self.open: list[Text] = []
        self._vocabulary = Vocabulary(tokenizer)
        self._ends = frozenset(e for e in (separator(tokenizer), tokenizer.eos_token_id) if isinstance(e, int))
        self._capacity = capacity or context_of(model)
        self._steps: LlamaSteps | CachedSteps
        if supports(model):
            self._steps = LlamaSteps(model, self._capacity, rows, form, remembered, threads)
        else:
            self._steps = CachedSteps(model)
        self._logits = torch.empty(0)  # of the open texts, (texts, vocabulary)

    def add(self, ids: Sequence[int], sampling: Sampling, scored: int | None = None) -> Text:
        """Read a prompt; if no token is requested, the text is finished at once.

        Args:
            ids: tokens of the prompt.
            sampling: how the tokens are drawn.
            scored: number of last prompt tokens whose probability can be computed later, by default all.

        Raises:
            ValueError: the prompt is empty, or no row is free.
        """
        if not ids:
            raise ValueError("the prompt is empty and the tokenizer has no end-of-text token to start from")
        if len(self.open) == self.rows:
            raise ValueError(f"{self.rows} texts are being written, there is no room for another one")
        text = Text(self._vocabulary, self._ends, ids, sampling)
        row = self._steps.add()
        try:
            text.prompt = self._steps.read(ids, row, scored)
        except BaseException:
            self._steps.drop(row)
            raise
        self.open.append(text)
        last = text.prompt.last[None]
        self._logits = torch.cat([self._logits, last]) if len(self.open) > 1 else last
        if not sampling.max_tokens:
            self.drop(text)
        return text

    def draw(self) -> list[tuple[Text, Token | Exception]]:
        """Generate one token in every text; finished texts are closed.

        A text that fails is closed too, and its error is returned instead of a token; the other texts continue.
        """
        if not self.open:
            return []
        drawn = torch.log_softmax(self._logits, dim=-1).numpy()
        tokens: list[tuple[Text, Token | Exception]] = []
        for text, row, likeliest in zip(list(self.open), drawn, drawn.argmax(-1).tolist(), strict=True):
            try:
                token: Token | Exception = text.draw(row, likeliest)
            except Exception as error:  # noqa: BLE001  (tokenizers raises bare Exception; it ends this text only)
                token = error
            tokens.append((text, token))
            if isinstance(token, Exception) or token.finish:
                self.drop(text)
        return tokens

    def drop(self, text: Text) -> None:
        """Close a text."""
        row = self.open.index(text)
        self._steps.drop(row)
        self.open[row] = self.open[-1]
        self.open.pop()
        if row < len(self.open):
            self._logits[row] = self._logits[-1]
        self._logits = self._logits[: len(self.open)]

    def advance(self) -> None:
        """Let the model read the last token of every text."""
        for row, (text, size) in enumerate(zip(self.open, self._steps.sizes, strict=True)):
            if size == self._capacity:
                self._steps.clear(row)
                again = text.ids[-max(1, self._capacity // 2) : -1]
                if again:
                    self._steps.read(again, row, scored=0)
        if self.open:
            self._logits = self._steps.step([text.ids[-1] for text in self.open])


class CachedSteps:
    """Any causal model of transformers: every text has a separate cache; the texts are advanced one after another."""

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers import DynamicCache

        self._empty = partial(DynamicCache, config=model.config)
        self._model = model
        self._caches: list[Any] = []
        self.sizes: list[int] = []

    def add(self) -> int:
        """Open the next row with an empty text and return its number."""
        self.sizes.append(0)
        self._caches.append(self._empty())
        return len(self.sizes) - 1

    def clear(self, row: int) -> None:
        """Clear the cache of a text."""
        self.sizes[row], self._caches[row] = 0, self._empty()

    def drop(self, row: int) -> None:
        """Remove a row; the last row moves to its place."""
        self.sizes[row], self._caches[row] = self.sizes[-1], self._caches[-1]
        self.sizes.pop(), self._caches.pop()

    def read(self, ids: Sequence[int], row: int = 0, scored: int | None = None) -> Reading:
        """Read tokens into a row; the logits of the last `scored` are kept, by default of all."""
        given = torch.tensor([list(ids)])
        with torch.inference_mode():
            logits = self._model(input_ids=given, past_key_values=self._caches[row], use_cache=True).logits[0].float()
        self.sizes[row] += len(ids)
        kept = len(ids) - 1 if scored is None else min(len(ids) - 1, scored)
        states, tokens = logits[-kept - 1 : -1], given[0, len(ids) - kept :]
        return Reading(logits[-1], partial(score, lambda part: part, states, tokens))

    def step(self, ids: Sequence[int]) -> torch.Tensor:
        """Read one more token in every row and return the logits after each, (rows, vocabulary)."""
        return torch.stack([self.read([token], row).last for row, token in enumerate(ids)])


class _Certain:
    """Returns text once no later token can change it, and ends it before a stop string."""

    def __init__(self, stream: Detokenizer, stop: tuple[str, ...]) -> None:
        self._stream = stream
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> None:
        self._hold(self._stream.add(token))

    def end(self) -> None:
        if not self.stopped:
            self._hold(self._stream.rest())

    def _hold(self, text: str) -> None:
        self._held += text
        found = [at for at in map(self._held.find, self._stop) if at >= 0]
        if found:
            self._held = self._held[: min(found)]
            self.stopped = True

    def take(self, last: bool) -> str:
        keep = 0
        if self._stop and not (last or self.stopped):
            longest = max(map(len, self._stop)) - 1
            for size in range(min(longest, len(self._held)), 0, -1):
                if any(s.startswith(self._held[-size:]) for s in self._stop):
                    keep = size
                    break
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out


def _draw(log_probabilities: Numbers, sampling: Sampling, rng: np.random.Generator) -> int:
    if sampling.temperature <= 0:
        return int(log_probabilities.argmax())
    scores = log_probabilities.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        floor = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores = np.where(scores >= floor, scores, -np.inf)
    if sampling.top_p < 1:
        scores = _nucleus(scores, sampling.top_p)
    # Gumbel's trick: the argmax of scores plus Gumbel noise is a draw from their softmax.
    return int(np.argmax(scores + rng.gumbel(size=len(scores))))


def _nucleus(scores: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Keep the smallest set of tokens whose probability reaches `top_p`, at least the most probable token."""
    order = np.argsort(-scores, kind="stable")
    shares = np.exp(scores[order] - scores[order[0]])
    before = np.cumsum(shares) - shares
    out = scores.copy()
    out[order[before >= top_p * shares.sum()]] = -np.inf
    out[order[0]] = scores[order[0]]
    return out
