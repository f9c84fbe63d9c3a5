import math
import zlib

import numpy as np
import pytest

from tasks.model.windows import Windows
from tasks.training.reference import (
    KneserNey,
    compressed_bits_per_byte,
    ngram_bits_per_byte,
    uniform_bits_per_byte,
)


def markov(n: int, length: int, seed: int) -> np.ndarray:
    """Sequences in which the two tokens before decide the next with probability .9."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 6, (n, length))
    for at in range(2, length):
        decided = (2 * tokens[:, at - 2] + 3 * tokens[:, at - 1] + 1) % 6
        tokens[:, at] = np.where(rng.random(n) < 0.9, decided, tokens[:, at])
    return tokens


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one_for_seen_and_unseen_contexts(order: int) -> None:
    model = KneserNey(markov(5, 12, seed=0), vocab_size=8)  # tokens 6 and 7 never occur
    for before in ([0, 1], [5, 5], [7, 3], [2, 7]):
        rows = np.array([[*before, token] for token in range(8)])
        probability = model.probability(rows, order)[:, -1]
        assert probability.min() > 0
        assert probability.sum() == pytest.approx(1.0)


def test_a_bigram_by_hand() -> None:
    # Distinct bigrams 01, 11, 12, 20; each has one left neighbour but 01 (2 and the start), so n1 = 3, n2 = 1.
    model = KneserNey(np.array([[0, 1, 1, 2, 0, 1]]), vocab_size=3)
    # Left neighbours: 0 has one (2), 1 has two (0, 1), 2 has one (1): n1 = 2, n2 = 1.
    one, two = 2 / (2 + 2 * 1), 3 / (3 + 2 * 1)
    unigram = (2 - one) / 4 + one * 3 / 4 * 1 / 3
    expected = (1 - two) / 2 + two * 2 / 2 * unigram  # P(1 | 1): 11 counts one of the two that follow 1
    assert model.probability(np.array([[1, 1]]), 2)[0, 0] == pytest.approx(expected)
    assert model.probability(np.array([[1, 1]]), 1)[0, 0] == pytest.approx((3 + 1) / (6 + 3))


def test_higher_orders_use_what_there_is_to_know() -> None:
    train, held = markov(400, 20, seed=0), markov(50, 20, seed=1)
    windows = Windows(held, np.full(50, 19))
    bits = ngram_bits_per_byte(Windows(train, np.full(400, 19)), windows, vocab_size=6)
    # .9 decided plus .1 uniform: entropy of one token given two, and log2(6) for the first, which is undecided.
    p = np.array([0.9 + 0.1 / 6] + [0.1 / 6] * 5)
    floor = (18 * float(-(p * np.log2(p)).sum()) + math.log2(6)) / 19
    assert bits["trigram"] == pytest.approx(floor, rel=0.08)
    assert floor < bits["trigram"] < bits["bigram"] < bits["unigram"] < 1.02 * math.log2(6)
    assert uniform_bits_per_byte(windows, 6) == pytest.approx(math.log2(6))


def test_compressors_are_those_of_the_standard_library() -> None:
    texts = ["the cat sat on the mat. " * 10, "naïve"]
    data = "".join(texts).encode()
    bits = compressed_bits_per_byte(texts)
    assert bits["zlib"] == pytest.approx(8 * len(zlib.compress(data, 9)) / len(data))
    assert 0 < bits["lzma"] < 8
    with pytest.raises(ValueError, match="no text"):
        compressed_bits_per_byte([])
