import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import WordPieceTrainer

from tasks.model.causal import load_tokenizer
from tasks.preprocessing.bpe import END_OF_TEXT, save_tokenizer
from tasks.preprocessing.encode import choose_encoder
from tasks.preprocessing.wordpiece import INSIDE, LONGEST, _words, count_words, train_wordpiece
from tasks.text.samples import sample_documents

ODD = "na\u00efve \u732b \U0001f600\r\n\t\x00  x ## \u2581 " + "y" * 250


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for _, text in sample_documents("base")[:150]]


@pytest.fixture(scope="module")
def trained(texts: list[str]) -> Tokenizer:
    return train_wordpiece(texts, 1200)


def test_words_are_counted_as_a_counter_counts_them(texts: list[str], tmp_path: Path) -> None:
    split = _words()
    expected = Counter(word for text in texts for word, _ in split.pre_tokenize_str(text))
    counted = list(count_words(iter(texts), tmp_path))
    assert dict(counted) == expected
    assert [word for word, _ in counted] == sorted(expected, key=lambda word: word.encode())


def test_the_pieces_are_those_of_the_trainer_of_tokenizers(texts: list[str], trained: Tokenizer) -> None:
    """It adds a byte inside words only where it has seen one there, so it has room for a few joins more."""
    peer = Tokenizer(
        WordPiece({}, unk_token=END_OF_TEXT, max_input_chars_per_word=LONGEST, continuing_subword_prefix=INSIDE)
    )
    peer.pre_tokenizer = _words()
    alphabet = ByteLevel.alphabet()
    trainer = WordPieceTrainer(
        vocab_size=1200, initial_alphabet=alphabet, continuing_subword_prefix=INSIDE, show_progress=False
    )
    peer.train_from_iterator(texts, trainer=trainer)
    joins = {piece for piece in trained.get_vocab() if len(piece.removeprefix(INSIDE)) > 1} - {END_OF_TEXT}
    missing = joins - set(peer.get_vocab())
    assert len(joins) == 1200 - 513
    assert len(missing) <= 14  # 2 %: of equally frequent pairs it takes any, each time another one


def test_ids_are_those_of_tokenizers_and_of_the_longest_match(
    texts: list[str], trained: Tokenizer, tmp_path: Path
) -> None:
    save_tokenizer(trained, tmp_path, 128)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    assert described["model"]["type"] == "WordPiece"
    loaded, oracle = load_tokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    examples = [ODD, "", *texts[:20]]
    encode, by = choose_encoder(loaded, texts[:5])
    assert by == "tokenizers"
    for text, (ids, sizes) in zip(examples, encode(examples), strict=True):
        expected = oracle.encode(text, add_special_tokens=False).ids
        np.testing.assert_array_equal(ids, expected)
        assert sizes.sum() == len(text.encode())
        assert oracle.decode(expected) == text
        assert expected == longest_match(text, trained.get_vocab())


def longest_match(text: str, vocabulary: dict[str, int]) -> list[int]:
    ids = []
    for word, _ in _words().pre_tokenize_str(text):
        at = 0
        while at < len(word):
            end = next(e for e in range(len(word), at, -1) if (INSIDE if at else "") + word[at:e] in vocabulary)
            ids.append(vocabulary[(INSIDE if at else "") + word[at:end]])
            at = end
    return ids


def test_the_same_text_gives_the_same_tokens(texts: list[str]) -> None:
    one, other = (train_wordpiece(iter(texts[:40]), 700).get_vocab() for _ in range(2))
    assert one == other


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 513 tokens, not 512"):
        train_wordpiece(["text"], 512)
