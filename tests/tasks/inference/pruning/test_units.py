from __future__ import annotations

import pytest

from tasks.inference.pruning.units import ATTENTION, FFN, Layout, choose_units, make_units

DEMO = Layout(layers=4, hidden=128, kv_heads=4, queries_per_kv=1, head_width=32, channels=384)


def test_units_cover_blocks_without_overlap() -> None:
    units = make_units(DEMO, (1, 3), 2, 5)
    assert len(units) == 14
    for layer in (1, 3):
        for part, size in ((ATTENTION, 4), (FFN, 384)):
            covered = [i for u in units if (u.layer, u.part) == (layer, part) for i in range(u.start, u.stop)]
            assert covered == list(range(size))
    assert list(units) == sorted(units, key=lambda u: (u.sublayer, u.start))
    with pytest.raises(ValueError, match="between 0 and 3"):
        make_units(DEMO, (4,), 1, 1)
    with pytest.raises(ValueError, match="too few"):
        make_units(DEMO, (0,), 5, 1)


@pytest.mark.parametrize("limit", [4, 8, 12, 14, 16, 24])
def test_chosen_units_are_few_and_about_equal(limit: int) -> None:
    units = choose_units(DEMO, limit)
    sizes = [DEMO.parameters(unit) for unit in units]
    assert len(units) <= limit
    assert max(sizes) / min(sizes) <= 1.35
    assert {u.part for u in units} == {ATTENTION, FFN}


def test_the_demo_model_is_covered_whole() -> None:
    units = choose_units(DEMO, 14)
    assert len(units) == 12
    assert {u.layer for u in units} == {0, 1, 2, 3}


def test_the_first_block_is_spared_where_all_are_too_many() -> None:
    assert {u.layer for u in choose_units(Layout(12, 128, 4, 1, 32, 384), 14)} == {4, 5, 6, 7}
    with pytest.raises(ValueError, match="too small"):
        choose_units(DEMO, 1)
