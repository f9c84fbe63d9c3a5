from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from tasks.model.causal import load_tokenizer
from tasks.preprocessing import encode
from tasks.preprocessing.bpe import END_OF_TEXT, save_tokenizer, train_bpe
from tasks.preprocessing.encode import choose_encoder
from tasks.text.samples import sample_documents

TEXTS = [text for domain in ("base", "second") for _, text in sample_documents(domain)[::20]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_bpe(iter(TEXTS), 2048), folder, context=32)
    return load_tokenizer(folder)


def test_the_vocabulary_is_the_one_that_tokenizers_trains() -> None:
    reference = Tokenizer(BPE())
    reference.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = BpeTrainer(
        vocab_size=2048,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(TEXTS, trainer=trainer)
    assert train_bpe(iter(TEXTS), 2048).get_vocab() == reference.get_vocab()


def test_the_fast_encoder_gives_the_same_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    fast, name = choose_encoder(tokenizer, TEXTS[:8])
    assert name == "gigatoken"
    reference = encode._reference(tokenizer)
    for text, (ids, sizes), (expected, _) in zip(TEXTS, fast(TEXTS), reference(TEXTS), strict=True):
        assert np.array_equal(ids, expected)
        assert sizes.sum() == len(text.encode())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=4))
def test_any_text_is_encoded_alike(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    fast, _ = choose_encoder(tokenizer, [])
    texts = [*texts, f"a{END_OF_TEXT}b"]
    for text, (ids, sizes), (expected, _) in zip(texts, fast(texts), encode._reference(tokenizer)(texts), strict=True):
        assert np.array_equal(ids, expected)
        assert sizes.sum() == len(text.encode())


def test_a_tokenizer_that_the_fast_encoder_does_not_know(tokenizer: PreTrainedTokenizerFast) -> None:
    words = Tokenizer(WordPiece({"[UNK]": 0, "the": 1, "cat": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    chosen, name = choose_encoder(PreTrainedTokenizerFast(tokenizer_object=words), ["the cat"])
    assert name == "tokenizers"
    assert chosen(["the cat"])[0][0].tolist() == [1, 2]
    composing = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    composing.normalizer = NFC()
    assert choose_encoder(PreTrainedTokenizerFast(tokenizer_object=composing), ["x"])[1] == "tokenizers"


def test_disagreement_is_seen(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fast = encode._fast(tokenizer)
    assert fast is not None
    monkeypatch.setattr(encode, "_fast", lambda _: lambda texts: [(ids[::-1], sizes) for ids, sizes in fast(texts)])
    assert choose_encoder(tokenizer, ["the cat sat on the mat"])[1] == "tokenizers"
