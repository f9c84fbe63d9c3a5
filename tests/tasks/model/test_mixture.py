from __future__ import annotations

import numpy as np
import pytest

from tasks.model.mixture import mixed
from tasks.model.windows import Windows


def windows(value: int, count: int, context: int = 4) -> Windows:
    return Windows(np.full((count, context + 1), value, np.int64), np.full(count, context, np.int64))


def test_a_mixture_has_the_share_and_the_number_of_windows_it_is_asked_for() -> None:
    found = mixed(windows(1, 3), windows(2, 10), 0.25, 8)
    assert found.tokens[:, 0].tolist() == [1] * 6 + [2] * 2
    assert found.scored is None
    assert mixed(windows(1, 3), windows(2, 0), 0.0, 2).tokens[:, 0].tolist() == [1, 1]


def test_text_of_the_base_domain_counts_as_a_whole_beside_packed_rows() -> None:
    rows = windows(1, 2)
    packed = Windows(rows.tokens, rows.n_bytes, np.zeros((2, 4), bool), np.tile([0, 1, 0, 1], (2, 1)))
    found = mixed(packed, windows(2, 2), 0.5, 4)
    assert found.scored is not None
    assert found.positions is not None
    assert found.scored.tolist() == [[False] * 4] * 2 + [[True] * 4] * 2
    assert found.positions.tolist() == [[0, 1, 0, 1]] * 2 + [[0, 1, 2, 3]] * 2


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match="needs windows of both texts, found 3 and 0"):
        mixed(windows(1, 3), windows(2, 0), 0.5, 4)
    with pytest.raises(ValueError, match="windows of 4 and of 5 tokens"):
        mixed(windows(1, 3), windows(2, 3, 5), 0.5, 4)
