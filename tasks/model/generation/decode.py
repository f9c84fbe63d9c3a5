"""Incremental decoding of tokens: the returned pieces joined equal one decode of all tokens.

Text is held back while a later token may still change it: an incomplete UTF-8 character, and a run of byte-fallback
tokens (`<0xE6>`), which decoders of the SentencePiece kind turn into characters only if the whole run is valid UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

REPLACEMENT = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Vocabulary:
    """Properties of a tokenizer that decoding needs, computed once.

    Attributes:
        size: number of token ids.
        joins: whether the text of tokens is the texts of the single ones joined, where all are whole characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        state = json.loads(self._tokenizer.to_str())
        self.joins = (state.get("decoder") or {}).get("type") == "ByteLevel"
        falls_back = '"ByteFallback"' in json.dumps(state.get("decoder"))
        self._bytes = {i for text, i in self._tokenizer.get_vocab().items() if falls_back and _BYTE.fullmatch(text)}
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        self._pieces: dict[int, str] = {}  # at most one entry for each token id
        self._alone: dict[int, str] = {}  # likewise
        self._anchor = plain[-1:] if plain and self.decode(plain[-1:]) else []

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        if len(ids) != 1:
            return self._tokenizer.decode(list(ids), skip_special_tokens=True)
        found = self._alone.get(ids[0])
        if found is None:
            found = self._alone[ids[0]] = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return found

    def piece(self, token: int) -> str:
        """Return the text that a token adds in the middle of a text; for a special token its name."""
        found = self._pieces.get(token)
        if found is None:
            if token in self._special:
                found = str(self._tokenizer.id_to_token(token))
            else:
                before = self.decode(self._anchor)
                found = self.decode([*self._anchor, token]).removeprefix(before)
            self._pieces[token] = found
        return found

    def stands_alone(self, token: int) -> bool:
        """Return whether later tokens decode correctly with this token as their only context."""
        return token not in self._special and token not in self._bytes and bool(self.decode([token]))

    def is_special(self, token: int) -> bool:
        """Return whether a token has no text."""
        return token in self._special

    def is_byte(self, token: int) -> bool:
        """Return whether a token is one byte of a byte-fallback tokenizer."""
        return token in self._bytes

    def context(self, prompt: Sequence[int]) -> list[int]:
        """Return a token that is decoded before a completion, so that the completion's first space is not lost.

        Decoders of the SentencePiece kind strip one space at the beginning of a text. The token is the last token
        of the prompt that can be decoded alone, else any letter; none if the text has no prompt.
        """
        for token in reversed(prompt):
            if self.stands_alone(token) and not self.decode([token]).endswith(REPLACEMENT):
                return [token]
        return list(self._anchor) if any(token not in self._special for token in prompt) else []


class Detokenizer:
    """Decodes the tokens of one text as they come."""

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._ids = vocabulary.context(prompt)
        self._start = 0  # the tokens decoded again each time begin here
        self._end = len(self._ids)  # the text of the tokens before it was given out

    def add(self, token: int) -> str:
        """Return the text that is final once a token is added."""
        if self._vocabulary.is_special(token):
            return ""
        held = self._end < len(self._ids)
        self._ids.append(token)
        if self._vocabulary.joins and not held:
            alone = self._vocabulary.decode([token])
            if alone and REPLACEMENT not in alone:
                self._start, self._end = len(self._ids) - 1, len(self._ids)
                return alone
        if self._vocabulary.is_byte(token):
            return ""
        text = self._text()
        if text.endswith(REPLACEMENT):
            return ""
        self._end = len(self._ids)
        if self._vocabulary.stands_alone(token):
            self._start = self._end - 1
        return text

    def rest(self) -> str:
        """Return the text that is still held back."""
        text = self._text()
        self._end = len(self._ids)
        return text

    def _text(self) -> str:
        """Return the text that has not been returned yet."""
        before = self._vocabulary.decode(self._ids[self._start : self._end])
        return self._vocabulary.decode(self._ids[self._start :])[len(before) :]


def pieces_of(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Return the text of each token; joined, the whole text. A character of several tokens belongs to the last one."""
    stream = Detokenizer(vocabulary)
    pieces = [stream.add(token) for token in ids]
    if pieces:
        pieces[-1] += stream.rest()
    return pieces
