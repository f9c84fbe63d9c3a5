import pytest

from tasks.text.windows import passages, spread


def test_passages_are_whole_words_and_a_short_rest_is_dropped() -> None:
    assert passages("a b\nc  d e", 2) == ["a b", "c d"]
    assert passages("a b c d e", 2, minimum=1) == ["a b", "c d", "e"]
    assert passages("", 3) == []


def test_a_passage_needs_a_word() -> None:
    with pytest.raises(ValueError, match="at least 1 word"):
        passages("a", 0)


def test_spreading_takes_turns_over_the_documents() -> None:
    assert spread([["a1", "a2", "a3"], [], ["b1"]], 3) == ["a1", "b1", "a2"]
    assert spread([["a1"]], 5) == ["a1"]
    assert spread([], 5) == []
