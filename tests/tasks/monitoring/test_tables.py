from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.monitoring.tables import COLUMNS, Column, Kind, Reader, choose_columns, describe

RNG = np.random.default_rng(0)


def table(n: int = 30, **more: Any) -> pa.Table:
    texts = [f"how do I pay bill number {i}?" for i in range(n)]
    return pa.table({"text": texts, "amount": RNG.normal(size=n), "plan": ["free", "paid"] * (n // 2), **more})


def test_columns_are_read_for_what_they_hold() -> None:
    vectors = pa.array(RNG.normal(size=(30, 4)).tolist(), pa.list_(pa.float32(), 4))
    columns, notes = choose_columns(*(table(vector=vectors, paid=[True, False] * 15) for _ in range(2)))
    assert {c.name: c.kind for c in columns} == {
        "text": Kind.TEXT, "amount": Kind.NUMBER, "plan": Kind.CATEGORY, "vector": Kind.VECTOR, "paid": Kind.CATEGORY,
    }  # fmt: skip
    assert notes == ()


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (["x"] * 30, "constant"),
        ([1.0, float("nan")] * 15, "15 values of the reference and 15 of the current table are missing"),
        ([1, None] * 15, "missing"),
        ([[1.0], [1.0, 2.0]] * 15, "several lengths"),
        ([{"a": 1}] * 30, "not compared"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_note_and_refused_by_name(column: list[Any], why: str) -> None:
    one, two = table(odd=column), table(odd=column)
    columns, notes = choose_columns(one, two)
    assert "odd" not in {c.name for c in columns}
    assert why in notes[0]
    with pytest.raises(ValueError, match="'odd' cannot be watched"):
        choose_columns(one, two, ["odd"])


def test_tables_that_share_nothing_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no common column: the reference has a, the current b"):
        choose_columns(pa.table({"a": [1]}), pa.table({"b": [1]}))
    with pytest.raises(ValueError, match="'b' is not in both tables; common columns: a"):
        choose_columns(pa.table({"a": [1]}), pa.table({"a": [1], "b": [1]}), ["b"])
    with pytest.raises(ValueError, match="no column can be watched"):
        choose_columns(pa.table({"a": [1]}), pa.table({"a": [1]}))
    with pytest.raises(ValueError, match="int64 in the reference and string"):
        choose_columns(pa.table({"a": [1, 2]}), pa.table({"a": ["x", "y"]}), ["a"])


def test_numbers_are_ranks_among_the_calm_rows() -> None:
    calm = pa.table({"x": [1.0, 2.0, 3.0, 4.0]})
    ranks = Reader([Column("x", Kind.NUMBER)], calm).views(pa.table({"x": [0.0, 2.0, 2.5, 1e9]}))[COLUMNS]
    np.testing.assert_allclose(ranks[:, 0], [-1.0, -0.25, 0.0, 1.0])


def test_a_new_category_is_seen() -> None:
    reader = Reader([Column("plan", Kind.CATEGORY)], table())
    assert reader.features == ("plan = free", "plan = paid", "plan: new")
    moved = reader.moved(table(), pa.table({"plan": ["gold"] * 30}))
    assert moved[0] == {"feature": "plan: new", "distance": 1.0, "p_value": moved[0]["p_value"], "means": (0.0, 1.0)}


def test_a_text_is_described_by_counts_and_shares() -> None:
    assert describe("Ab 12 ab") == (8, 3, 2.0, 0.5, 0.25, 0.125, 1.0)
    assert describe("") == (0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
