"""Byte-level BPE: training on a stream of texts and saving as a `transformers` tokenizer.

`gigatoken` trains: it counts words in one pass over a file and merges on these counts, so memory grows with the number
of distinct words and not with the text. Ties are broken as in `tokenizers`, so the merges are identical.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gigatoken.gigatoken_rs import train_bpe as train
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

END_OF_TEXT = "<|endoftext|>"
BETWEEN = b"\xff"  # occurs in no UTF-8 text


def train_bpe(texts: Iterator[str], vocab_size: int, scratch: Path | None = None) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2); the texts are read once, in order.

    Token 0 is the end-of-text token, tokens 1..256 are the bytes. A small corpus may give fewer than `vocab_size`.

    Args:
        texts: training texts.
        vocab_size: size of the vocabulary.
        scratch: folder for a temporary file of the size of the texts.
    """
    alphabet = sorted(ByteLevel.alphabet())
    with TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "texts"
        with file.open("wb") as stream:
            stream.writelines(text.encode() + BETWEEN for text in texts)
        with _silent():
            _, pairs = train(file, vocab_size, [END_OF_TEXT], "huggingface", BETWEEN)
    shown = _shown()
    merges = [("".join(shown[byte] for byte in a), "".join(shown[byte] for byte in b)) for a, b in pairs]
    tokens = dict.fromkeys([END_OF_TEXT, *alphabet, *(a + b for a, b in merges)])  # two merges may form one token
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _shown() -> list[str]:
    """Return the character that represents each byte in a vocabulary (GPT-2)."""
    printable = [byte for byte in range(256) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174]
    others = (chr(256 + number) for number in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress what the trainer prints; the trainer has no option for it."""
    with ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for stream in (1, 2):
            kept = os.dup(stream)
            stack.callback(os.close, kept)
            os.dup2(nowhere, stream)
            stack.callback(os.dup2, kept, stream)
        yield


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Save as a folder that `transformers` loads; text that spells a special token is encoded as text."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    ).save_pretrained(folder)
