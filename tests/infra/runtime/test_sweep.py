"""When the jobs under a batch's tag are listed again."""

from __future__ import annotations

import pytest

from infra.runtime.sweep import DAY_S, is_due


@pytest.mark.parametrize(
    ("age_s", "looked_s", "due"),
    [
        (1.0, -1e9, True),  # never looked
        (100.0, 5.0, False),  # not before twice the listing delay
        (121.0, 5.0, True),
        (199.0, 100.0, False),
        (201.0, 100.0, True),
        (1.9 * DAY_S, DAY_S, False),
        (2.1 * DAY_S, 1.05 * DAY_S, True),  # a day since the last look
    ],
)
def test_a_look_is_due_when_the_age_has_doubled_and_daily(age_s: float, looked_s: float, due: bool) -> None:
    assert is_due(age_s, looked_s, listing_delay_s=60.0) is due
