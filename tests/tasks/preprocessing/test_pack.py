import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.preprocessing.pack import Packer

LENGTHS = np.array([0, 1, 1, 2, 3, 7])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 5), max_size=20), max_size=12),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_packing_conserves_tokens_and_bytes(documents: list[list[int]], context: int, every: int) -> None:
    packer = Packer(context, end_of_text=0, vocab_size=6)
    windows, n_bytes = [], 0
    for index, document in enumerate(documents):
        packer.add(document, LENGTHS[document] if document else LENGTHS[:0])
        if index % every == 0:
            tokens, counted = packer.take()
            windows.append(tokens)
            n_bytes += int(counted.sum())
    tokens, counted = packer.take()
    windows.append(tokens)
    n_bytes += int(counted.sum())
    left_tokens, left_bytes = packer.left
    stream = [0] + [token for document in documents for token in (*document, 0)]

    packed = np.concatenate(windows)
    assert packed.dtype == np.uint16
    assert packed.shape[1] == context + 1
    # Every token but the first is predicted exactly once.
    assert packed[:, 1:].ravel().tolist() == stream[1 : 1 + packed[:, 1:].size]
    assert packed[:, 0].tolist() == stream[: packed[:, 1:].size : context]
    assert left_tokens == len(stream) - 1 - packed[:, 1:].size < context
    assert n_bytes + left_bytes == int(LENGTHS[[t for d in documents for t in d]].sum() if any(documents) else 0)


def test_bytes_are_those_of_the_predicted_tokens() -> None:
    packer = Packer(2, end_of_text=0, vocab_size=6)
    packer.add([5, 4, 3], LENGTHS[[5, 4, 3]])
    tokens, n_bytes = packer.take()
    assert tokens.tolist() == [[0, 5, 4], [4, 3, 0]]
    assert n_bytes.tolist() == [10, 2]


def test_a_large_vocabulary_needs_wider_tokens() -> None:
    for vocab_size, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        packer = Packer(1, end_of_text=0, vocab_size=vocab_size)
        packer.add([vocab_size - 1], np.array([2]))
        tokens, _ = packer.take()
        assert tokens.dtype == dtype
        assert tokens.tolist() == [[0, vocab_size - 1], [vocab_size - 1, 0]]
