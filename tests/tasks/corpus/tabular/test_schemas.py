from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from tasks.corpus.tabular.schemas import Columns, as_text, fitted, holds, infer, merged, union


def test_whole_numbers_beyond_2_to_the_53_are_not_rounded() -> None:
    columns = Columns()
    first = columns.fitted({"x": infer([2**53 + 1, 7])}, 2)
    second = columns.fitted({"x": infer([0.5, None])}, 2)
    third = columns.fitted({"x": infer([2**60 + 1])}, 1)
    assert first.column("x").to_pylist() == [2**53 + 1, 7]
    assert second.column("x").to_pylist() == [0.5, None]
    assert third.column("x").to_pylist() == [str(2**60 + 1)]
    assert infer([2**53 + 1, 0.5]).to_pylist() == [str(2**53 + 1), "0.5"]
    assert infer([10**30]).to_pylist() == [str(10**30)]


@pytest.mark.parametrize(
    ("kind", "value", "is_held"),
    [
        (pa.float64(), 2**53 + 1, False),
        (pa.float64(), 2**53, True),
        (pa.timestamp("ns", "UTC"), datetime(1600, 1, 1, tzinfo=UTC), False),
        (pa.timestamp("us", "UTC"), datetime(2020, 1, 1, tzinfo=UTC), True),
        (pa.string(), Decimal("1.10"), True),
    ],
)
def test_a_type_holds_what_it_does_not_change(kind: pa.DataType, value: object, is_held: bool) -> None:
    assert holds(kind, pa.array([value])) is is_held


def test_types_without_a_common_one_become_text_as_json() -> None:
    assert merged(pa.int64(), pa.string()) == pa.string()
    assert as_text([1, "one", [1, 2], {"a": b"x"}, None]).to_pylist() == ["1", "one", "[1, 2]", '{"a": "x"}', None]
    whole = union([pa.schema({"a": pa.int64()}), pa.schema({"a": pa.list_(pa.int64()), "b": pa.bool_()})])
    batch = pa.record_batch({"a": pa.array([[1, 2]])})
    assert fitted(batch, whole).to_pylist() == [{"a": "[1, 2]", "b": None}]


def test_deep_records_become_text() -> None:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    assert pa.types.is_string(infer([deep]).type)
