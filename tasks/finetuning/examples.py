"""From rows to training windows: chat templates, which tokens are learnt, and packing of several rows into a window.

Rows in one window do not see each other: positions start again at 0 with every row, from which `transformers` makes a
block-diagonal attention mask. Rows are packed by best-fit decreasing (Ding et al. 2024, arXiv 2404.10830).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from infra.errors import BadInput
from tasks.model.causal import separator
from tasks.model.windows import Windows, token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tasks.finetuning.conversations import Row

# For tokenizers that bring no template; the separator ends each answer.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True, eq=False)
class Example:
    """One encoded row.

    Attributes:
        ids: int64, (n,), tokens.
        learnt: bool, (n,), whether the loss counts on the token.
        n_bytes: int64, (n,), UTF-8 bytes of each token; special tokens and templates count none of their own.
        where: file and line number of the row, for messages.
    """

    ids: np.ndarray
    learnt: np.ndarray
    n_bytes: np.ndarray
    where: str = ""


@dataclass(frozen=True)
class Packed:
    """Windows made of rows, and what was left out.

    Attributes:
        windows: the windows; `scored` marks the learnt tokens.
        rows: rows in the windows.
        cut: rows of which the end did not fit into a window.
        dropped: rows of which nothing that is learnt fitted.
        filled: share of the positions that hold a token of a row.
        first_left: the first row that was cut or dropped, by file and line; empty = none.
    """

    windows: Windows
    rows: int
    cut: int
    dropped: int
    filled: float
    first_left: str = ""


class Encoder:
    """Encodes rows with the chat template of a tokenizer.

    Args:
        tokenizer: of the model.
        template: Jinja template of chats; empty = the tokenizer's own, else a plain one.

    Raises:
        BadInput: the template is not valid, or the tokenizer names no separator.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str = "") -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        end = separator(tokenizer)
        if end is None:
            raise BadInput("the tokenizer has no end-of-text token; add one to its special tokens")
        self.end = int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else end)
        self._lead, self._close = (str(tokenizer.convert_ids_to_tokens(token)) for token in (end, self.end))
        self._special = tuple(tokenizer.all_special_tokens)
        self._template = template or tokenizer.chat_template or PLAIN_TEMPLATE

    def encode(self, row: Row) -> Example:
        """Return the tokens of a row; learnt are the answers, or the completion with the end-of-text token.

        Raises:
            BadInput: the template refuses the chat, or changes earlier turns when later ones follow; or the row spells
                a special token, which would be read as one.
        """
        written = (row.prompt, row.completion, *(message.content for message in row.messages))
        if spelt := [token for token in self._special if any(token in text for text in written)]:
            raise BadInput(f"{row.where}: the text contains the special token {spelt[0]}; remove it")
        if row.messages:
            text, spans = self._chat(row)
        else:
            text = self._lead + row.prompt + row.completion + self._close
            spans = [(len(self._lead + row.prompt), len(text))]
        self._backend.encode_special_tokens = False
        found = self._backend.encode(text, add_special_tokens=False)
        starts, ends = (np.array([o[i] for o in found.offsets], np.int64) for i in (0, 1))
        learnt = np.zeros(len(starts), bool)
        for first, last in spans:
            # A token that reaches from the prompt into the answer, such as a space with a word, belongs to the answer.
            learnt |= (starts < last) & (ends > first)
        special = np.isin(found.ids, self._tokenizer.all_special_ids)
        sizes = np.where(special, 0, token_bytes(text, ends.tolist()))
        return Example(np.array(found.ids, np.int64), learnt, sizes, row.where)

    def _chat(self, row: Row) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of a chat and where the learnt answers are in it.

        An answer begins where the template, asked for a generation prompt, ends before it.
        """
        turns = [{"role": m.role, "content": m.content} for m in row.messages]
        render = partial(self._render, row.where)
        text, spans = render(turns), []
        for index, turn in enumerate(turns):
            if turn["role"] == "assistant" and index >= row.learnt_from:
                before, after = render(turns[:index], prompt=True), render(turns[: index + 1])
                if not (after.startswith(before) and text.startswith(after)):
                    raise BadInput(
                        f"{row.where}: the chat template rewrites earlier turns, so the answers cannot be located; "
                        "give another one with finetuning.template"
                    )
                spans.append((len(before), len(after)))
        return text, spans

    def _render(self, where: str, turns: list[dict[str, str]], *, prompt: bool = False) -> str:
        try:
            made: Any = self._tokenizer.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=prompt
            )
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise BadInput(f"{where}: the chat template refuses this chat: {error}") from error
        return str(made)


def pack(examples: Iterable[Example], context: int, filler: int, *, together: bool = True) -> Packed:
    """Put examples into windows of `context` predicted tokens.

    Args:
        examples: encoded rows; what exceeds a window is cut at its end.
        context: predicted tokens of a window.
        filler: token of positions that hold none; never learnt.
        together: whether several rows share a window.

    Raises:
        ValueError: no example has anything to learn within a window.
    """
    kept, cut, dropped, first_left = [], 0, 0, ""
    for example in examples:
        ids, learnt, sizes = (values[: context + 1] for values in (example.ids, example.learnt, example.n_bytes))
        fits = Example(ids, learnt, sizes)
        if len(example.ids) > context + 1 or not fits.learnt[1:].any():
            first_left = first_left or example.where
        if not fits.learnt[1:].any():
            dropped += 1
            continue
        cut += len(example.ids) > context + 1
        kept.append(fits)
    if not kept:
        where = f", the first is {first_left}" if first_left else ""
        raise ValueError(f"none of {dropped} rows has a token to learn within {context} tokens{where}")
    bins = (
        _best_fit([len(example.ids) for example in kept], context + 1) if together else [[i] for i in range(len(kept))]
    )
    rows = [_fill([kept[i] for i in members], context, filler) for members in bins]
    tokens, scored, positions, n_bytes = (np.stack(values) for values in zip(*rows, strict=True))
    used = sum(len(example.ids) for example in kept)
    windows = Windows(tokens, n_bytes, scored, positions)
    return Packed(windows, len(kept), cut, dropped, used / tokens.size, first_left)


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items, the longest first, each into the bin with the least room that still holds it."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, bin), sorted
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_left(rooms, (lengths[item], -1))
        if at < len(rooms):
            room, chosen = rooms.pop(at)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        insort(rooms, (room - lengths[item], chosen))
    return bins


def _fill(members: Sequence[Example], context: int, filler: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.int64]:
    tokens = np.full(context + 1, filler, np.int64)
    learnt, sizes = np.zeros(context + 1, bool), np.zeros(context + 1, np.int64)
    positions = np.zeros(context + 1, np.int64)
    edges = np.cumsum([0, *(len(member.ids) for member in members), context + 1])
    for (start, end), member in zip(pairwise(edges[:-1]), members, strict=True):
        tokens[start:end], learnt[start:end], sizes[start:end] = member.ids, member.learnt, member.n_bytes
        learnt[start] = False  # nothing in front of a row predicts its first token
    for start, end in pairwise(edges):
        if start < context + 1:
            stop = min(end, context + 1)
            positions[start:stop] = np.arange(stop - start)
    return tokens, learnt[1:], positions[:-1], sizes[1:][learnt[1:]].sum()
