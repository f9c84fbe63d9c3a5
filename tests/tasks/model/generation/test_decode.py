"""Incremental decoding against one decode of all tokens, over tokenizers of the families that people use."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks.model.generation.decode import Detokenizer, Vocabulary, pieces_of

TEXTS = ["the modules, don't: naïve café. isn't it? 日本語 😀 'm n't 've ! , do not"] * 5


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's, Llama 3's and Qwen's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"])
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_tokens(["<tool>", " two words"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's, Mistral's and Gemma's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *map(chr, range(97, 123))]
    pieces += ["▁the", "▁a", "▁module", "ing", "é", "日", "▁日"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's; its decoder joins words by spaces and takes some away before punctuation."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[SEP]"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")


def unigram() -> PreTrainedTokenizerFast:
    """As T5's and XLM-R's."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<s>", "<unk>"], unk_token="<unk>")
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<s>")


Make = Callable[[], PreTrainedTokenizerFast]
FAMILIES = pytest.mark.parametrize("make", [byte_level, byte_fallback, word_piece, unigram])


def written(stream: Detokenizer, ids: list[int]) -> str:
    return "".join([stream.add(token) for token in ids]) + stream.rest()


@FAMILIES
def test_any_tokens_joined_are_one_decode_of_all(make: Make) -> None:
    tokenizer, rng = make(), random.Random(0)
    vocabulary = Vocabulary(tokenizer)
    parts = [i for i in range(vocabulary.size) if "\ufffd" in tokenizer.decode([i])] or list(range(vocabulary.size))
    for k in range(400):
        pool = parts if k % 2 else range(vocabulary.size)
        ids = [rng.choice(pool) for _ in range(rng.randint(1, 40))]
        assert written(Detokenizer(vocabulary), ids) == tokenizer.decode(ids, skip_special_tokens=True)
        prompt = [rng.choice(range(vocabulary.size)) for _ in range(4)]
        before = vocabulary.context(prompt)
        expected = tokenizer.decode([*before, *ids], skip_special_tokens=True)
        assert vocabulary.decode(before) + written(Detokenizer(vocabulary, prompt), ids) == expected


@FAMILIES
def test_pieces_of_a_text_joined_are_the_text(make: Make) -> None:
    tokenizer = make()
    vocabulary = Vocabulary(tokenizer)
    for text in ("the modules", "naïve café 日本語 😀"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = pieces_of(vocabulary, ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


def test_the_first_space_of_a_completion_is_kept() -> None:
    tokenizer = byte_fallback()
    vocabulary = Vocabulary(tokenizer)
    ids: Any = tokenizer.convert_tokens_to_ids(["▁a", "▁module"])
    prompt = tokenizer.encode("the", add_special_tokens=False)
    assert written(Detokenizer(vocabulary, [1, *prompt]), ids) == " a module"
    assert written(Detokenizer(vocabulary, [1]), ids) == "a module", "a text that begins has no space before it"
    half: Any = tokenizer.convert_tokens_to_ids(["<0xE6>", "<0x97>"])
    assert written(Detokenizer(vocabulary, [1, *half]), ids) == (" a module")
    assert vocabulary.piece(ids[0]) == " a"


def test_a_run_of_byte_tokens_is_held_until_it_cannot_change() -> None:
    tokenizer = byte_fallback()
    stream = Detokenizer(Vocabulary(tokenizer))
    names = ["<0xE6>", "<0x97>", "<0xA5>", "</s>", "<0xC3>", "a"]
    # One invalid byte makes every byte of its run a replacement character, also those of a whole character before it.
    pieces = [stream.add(token) for token in tokenizer.convert_tokens_to_ids(names)]
    assert pieces == ["", "", "", "", "", "\ufffd" * 4 + "a"]
