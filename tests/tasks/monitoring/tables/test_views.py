from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tasks.monitoring.tables.layout import Column, Kind, Layout, choose_columns
from tasks.monitoring.tables.views import COLUMNS, Reader, Sizes, describe, pose_views, split_reference


def test_numbers_are_ranks_among_the_calm_rows_and_missing_ones_take_the_middle() -> None:
    layout = Layout((Column("x", Kind.NUMBER, missing=True),))
    calm, rows = pa.table({"x": [1.0, 2.0, 3.0, 4.0]}), pa.table({"x": [0.0, 2.0, 2.5, 1e9, np.inf, None, np.nan]})
    ranks = Reader(layout, calm).views(rows)[COLUMNS]
    np.testing.assert_allclose(ranks[:, 0], [-1.0, -0.25, 0.0, 1.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(ranks[:, 1], [0, 0, 0, 0, 0, 1, 1])  # the indicator


def test_a_new_category_is_seen() -> None:
    reader = Reader(Layout((Column("plan", Kind.CATEGORY),)), pa.table({"plan": ["free", "paid"] * 5}))
    assert reader.features == ("plan = free", "plan = paid", "plan: other")
    np.testing.assert_array_equal(reader.views(pa.table({"plan": ["gold"]}))[COLUMNS], [[-0.5, -0.5, 1.0]])


def test_rows_without_a_text_or_with_a_broken_vector_are_left_out_of_their_view() -> None:
    vectors = pa.array([[1.0, 2.0], [1.0, float("nan")], None, [3.0, 4.0]] * 10)
    rows = pa.table({"v": vectors, "t": ["a b", None, "c", "d"] * 10})
    layout = Layout(
        (Column("v", Kind.VECTOR, missing=True), Column("t", Kind.TEXT, missing=True)), vectors=frozenset("v")
    )
    flat = layout.flat(rows)
    views = Reader(layout, flat).views(flat)
    assert (len(views["v"]), len(views["t"]), len(views[COLUMNS])) == (20, 30, 40)
    assert np.isfinite(views["v"]).all()
    assert np.isfinite(views[COLUMNS]).all()


def test_the_level_is_divided_by_the_views() -> None:
    rng = np.random.default_rng(0)
    rows = pa.table({"t": [f"word {i} and {i % 7}" for i in range(90)], "x": rng.normal(size=90)})
    layout = choose_columns(rows, rows)
    flat = layout.flat(rows)
    problems, texts = pose_views(layout, flat, flat, Sizes(rows=30), 0.05, rng)
    assert {name: p.level for name, p in problems.items()} == {"t": 0.025, COLUMNS: 0.025}
    assert [len(some) for some in texts["t"]] == [30, 30]
    assert len(problems["t"].background) == 60


def test_a_reference_is_dealt_to_sample_and_background() -> None:
    rng = np.random.default_rng(0)
    sample, background = split_reference(400, 100, rng)
    assert (len(sample), len(background)) == (100, 300)
    assert not {*sample} & {*background}
    with pytest.raises(ValueError, match="at least 6"):
        split_reference(4, 10, rng)


def test_a_text_is_described_by_counts_and_shares() -> None:
    assert describe("Ab 12 ab") == (8, 3, 2.0, 0.5, 0.25, 0.125, 1.0)
    assert describe("") == (0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
