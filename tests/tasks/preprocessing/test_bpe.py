import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tasks.model.causal import load_tokenizer
from tasks.model.windows import token_bytes
from tasks.preprocessing.bpe import END_OF_TEXT, save_tokenizer, train_bpe

TEXTS = ["the cat sat on the mat", "the dog sat on the log\n\n  indented", "naïve café — 猫 😀"] * 20


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_bpe(iter(TEXTS), 300), folder, context=32)
    return load_tokenizer(folder)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_exactly_and_its_bytes_are_counted(loaded: PreTrainedTokenizerFast, text: str) -> None:
    encoding = loaded.backend_tokenizer.encode(text, add_special_tokens=False)
    assert loaded.decode(encoding.ids) == text
    sizes = token_bytes(text, [end for _, end in encoding.offsets])
    assert sizes.sum() == len(text.encode())
    assert len(sizes) == len(encoding.ids)
    assert (sizes >= 0).all()


@pytest.mark.parametrize("text", [END_OF_TEXT, f"a {END_OF_TEXT}{END_OF_TEXT} b", "\x00\r\n\t  ", "\u200b\ufeff"])
def test_text_that_looks_special_is_text(loaded: PreTrainedTokenizerFast, text: str) -> None:
    ids = loaded.encode(text, add_special_tokens=False)
    assert 0 not in ids
    assert loaded.decode(ids, skip_special_tokens=True) == text


def test_the_end_of_text_token_is_number_zero(loaded: PreTrainedTokenizerFast) -> None:
    assert loaded.eos_token_id == loaded.bos_token_id == loaded.pad_token_id == 0
    assert loaded.convert_ids_to_tokens(0) == END_OF_TEXT
    assert loaded.model_max_length == 32


def test_frequent_words_become_one_token(loaded: PreTrainedTokenizerFast) -> None:
    assert len(loaded.encode(" the", add_special_tokens=False)) == 1


def test_bytes_of_each_token_are_those_it_stands_for(loaded: PreTrainedTokenizerFast) -> None:
    text = "the cat \u732b sat"
    encoding = loaded.backend_tokenizer.encode(text, add_special_tokens=False)
    sizes = token_bytes(text, [end for _, end in encoding.offsets])
    for token, size in zip(encoding.tokens, sizes, strict=True):
        if token.isascii() or token[1:].isascii():
            assert size in (len(token), 3)  # of the three bytes of a character the first token has all


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    assert train_bpe(iter(["ab ab"]), 4096).get_vocab_size() < 270


def test_the_same_texts_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    texts = [f"word{i % 97} and other{i % 13} words {i % 7}" for i in range(500)]
    code = (
        "import sys; from pathlib import Path; from tasks.preprocessing.bpe import *\n"
        f"save_tokenizer(train_bpe(iter({texts!r}), 400), Path(sys.argv[1]), 32)"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_texts_are_read_as_a_stream() -> None:
    most, now = 0, 0

    class Text(str):
        def __new__(cls, value: str) -> Self:
            nonlocal most, now
            now += 1
            most = max(most, now)
            return super().__new__(cls, value)

        def __del__(self) -> None:
            nonlocal now
            now -= 1

    train_bpe((Text(f"word{i} " * 10) for i in range(5000)), 300)
    assert most < 1000
