"""Encoding: texts to token ids and the number of bytes of each token.

`gigatoken` encodes byte-level BPE about 60 times as fast as `tokenizers`. It is used if it supports the tokenizer and
gives the same ids as `tokenizers` on the first texts of the corpus; otherwise `tokenizers` encodes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import awkward
import gigatoken
import numpy as np
from numpy.typing import NDArray

from tasks.model.windows import token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("ketcycle.preprocessing")

Encoded = tuple[NDArray[np.uint32], NDArray[np.int32]]
Encode = Callable[[Sequence[str]], list[Encoded]]


def choose_encoder(tokenizer: PreTrainedTokenizerFast, examples: Sequence[str]) -> tuple[Encode, str]:
    """Return the encoder of a corpus and its name: the fast encoder if it agrees with `tokenizers` on the examples.

    Either returns for each text the ids, without special tokens, and the UTF-8 bytes of each token, which add up to
    the text's. Text that spells a special token is encoded as text.
    """
    reference = _reference(tokenizer)
    fast = _fast(tokenizer)
    if fast is None:
        return reference, "tokenizers"
    texts = [*examples, *map(str, tokenizer.all_special_tokens), "na\u00efve \u732b \U0001f600\r\n\t\x00  x"]
    for text, (ids, sizes), (expected, _) in zip(texts, fast(texts), reference(texts), strict=True):
        if not np.array_equal(ids, expected) or sizes.sum() != len(text.encode()):
            log.warning("the fast encoder disagrees with tokenizers on %r; it is not used", text[:40])
            return reference, "tokenizers"
    return fast, "gigatoken"


def _fast(tokenizer: PreTrainedTokenizerFast) -> Encode | None:
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if described["normalizer"] is not None:
        return None
    bare = json.dumps({**described, "added_tokens": [], "post_processor": None})
    try:
        encoder = gigatoken.Tokenizer.from_json(bare)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        log.info("the fast encoder does not know this tokenizer (%s); tokenizers encodes", str(error).split("\n")[0])
        return None
    widths = np.zeros(1 + max(encoder.vocab), np.int32)
    for token, piece in encoder.vocab.items():
        widths[token] = len(piece)

    def encode(texts: Sequence[str]) -> list[Encoded]:
        found = encoder.encode_batch(list(texts), parallel=False)
        ids = awkward.to_numpy(awkward.flatten(found))
        sizes, ends = widths[ids], np.cumsum(awkward.to_numpy(awkward.num(found))).tolist()
        return [(ids[start:end], sizes[start:end]) for start, end in pairwise([0, *ends])]

    return encode


def _reference(tokenizer: PreTrainedTokenizerFast) -> Encode:
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True

    def encode(texts: Sequence[str]) -> list[Encoded]:
        found = backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.asarray(row.ids, np.uint32), token_bytes(text, [end for _, end in row.offsets]).astype(np.int32))
            for text, row in zip(texts, found, strict=True)
        ]

    return encode
