from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.monitoring.tables.layout import Column, Kind, Layout, choose_columns, numbers

RNG = np.random.default_rng(0)
N = 40


def table(n: int = N, **more: Any) -> pa.Table:
    texts = [f"how do I pay bill number {i}?" for i in range(n)]
    return pa.table({"text": texts, "amount": RNG.normal(size=n), "plan": ["free", "paid"] * (n // 2), **more})


def layout_of(column: Any, other: Any = None) -> Layout:
    return choose_columns(table(odd=column), table(odd=column if other is None else other))


def kinds(found: Layout) -> dict[str, str]:
    return {c.name: str(c.kind) for c in found.columns if c.name not in {"text", "amount", "plan"}}


SHUFFLED = RNG.permutation(N)
MOMENTS = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(i), seconds=int(i)) for i in SHUFFLED]
CHAT = [[{"role": "user", "content": f"question {i}"}] * (1 + i % 3) for i in range(N)]
CODED = pa.DictionaryArray.from_arrays([0, 1, None, 0] * 10, pa.array(["a", "b"], pa.string_view()))
TYPES: dict[str, tuple[Any, dict[str, str]]] = {
    "boolean": ([True, False] * 20, {"odd": "category"}),
    "dictionary": (pa.array(["a", "b"] * 20).dictionary_encode(), {"odd": "category"}),
    "codes in a dictionary": (pa.array([7, 9] * 20).dictionary_encode(), {"odd": "category"}),
    "large string": (pa.array(["a", "b"] * 20, pa.large_string()), {"odd": "category"}),
    "string view": (pa.array([f"words {i}" for i in range(N)], pa.string_view()), {"odd": "text"}),
    "run ends": (pa.RunEndEncodedArray.from_arrays([20, 40], ["a", "b"]), {"odd": "category"}),
    "half float": (pa.array(SHUFFLED.astype(np.float16)), {"odd": "number"}),
    "unsigned": (pa.array(SHUFFLED.astype(np.uint64)), {"odd": "number"}),
    "decimal": ([Decimal(int(i)) / 4 for i in SHUFFLED], {"odd": "number"}),
    "wide decimal": (pa.array([Decimal(int(i)) for i in SHUFFLED], pa.decimal256(60, 2)), {"odd": "number"}),
    "date": ([moment.date() for moment in MOMENTS], {"odd": "number"}),
    "timestamp": (pa.array(MOMENTS, pa.timestamp("ns", "Europe/Berlin")), {"odd": "number"}),
    "time": ([time(int(i) % 24) for i in SHUFFLED], {"odd": "number"}),
    "duration": ([timedelta(hours=int(i)) for i in SHUFFLED], {"odd": "number"}),
    "vector": (pa.array(RNG.normal(size=(N, 4)).tolist(), pa.list_(pa.float32(), 4)), {"odd": "vector"}),
    "whole vector": ([[1, 2], [3, 4]] * 20, {"odd": "vector"}),
    "list of numbers": ([[1.0], [1.0, 2.0]] * 20, {"odd.length": "number", "odd.mean": "number"}),
    "list of tags": ([["a"], ["a", "b"]] * 20, {"odd.length": "number", "odd": "category"}),
    "list view": (pa.array([[1], [1, 2]] * 20, pa.list_view(pa.int64())),
                  {"odd.length": "number", "odd.mean": "number"}),
    "struct": ([{"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": "y"}}] * 20, {"odd.a": "number", "odd.b.c": "category"}),
    "struct of views": (pa.array([{"a": "x"}, {"a": "y"}] * 20, pa.struct([("a", pa.string_view())])),
                        {"odd.a": "category"}),
    "list of views": (pa.array([["x"], None] * 20, pa.list_view(pa.string_view())),
                      {"odd.length": "number", "odd": "category"}),
    "dictionary of views": (CODED, {"odd": "category"}),
    "messages": (CHAT, {"odd.length": "number", "odd.content": "text", "odd.role": "category"}),
    "map": (pa.array([[("k", 1)], [("k", 2), ("l", 3)]] * 20, pa.map_(pa.string(), pa.int64())),
            {"odd.length": "number", "odd.key": "category", "odd.value.mean": "number"}),
    "bytes": ([b"a", b"bcd"] * 20, {"odd.length": "number"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_every_type_that_users_have_is_compared(name: str) -> None:
    column, expected = TYPES[name]
    found = layout_of(column)
    assert kinds(found) == expected
    assert found.left_out == found.schema == ()
    assert found.flat(table(odd=column)).num_rows == N


@pytest.mark.parametrize(
    ("column", "why", "harmless"),
    [
        (["x"] * N, "constant ('x')", True),
        ([2.5] * N, "constant (2.5)", True),
        (pa.nulls(N), "no value in either table", True),
        (pa.nulls(N, pa.float64()), "no value in either table", True),
        ([float("nan")] * N, "no value in either table", True),
        (list(range(N)), "a running number", True),
        ([datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=i // 3) for i in range(N)], "a clock", True),
        (pa.array([(1, 2, 3)] * N, pa.month_day_nano_interval()), "type month_day_nano_interval", False),
    ],
)  # fmt: skip
def test_what_is_not_compared_is_named_and_refused_when_asked_for(column: Any, why: str, harmless: bool) -> None:
    found = layout_of(column)
    (out,) = found.left_out
    assert (out.column, out.harmless) == ("odd", harmless)
    assert why in out.why
    with pytest.raises(ValueError, match="'odd' cannot be compared"):
        choose_columns(table(odd=column), table(odd=column), ["odd"])


def test_a_clock_that_went_on_and_dates_that_overlap_are_told_apart() -> None:
    later = [moment + timedelta(days=400) for moment in MOMENTS]
    assert "a clock" in layout_of(MOMENTS, later).left_out[0].why
    assert kinds(layout_of(MOMENTS, [moment + timedelta(days=5) for moment in MOMENTS])) == {"odd": "number"}


@pytest.mark.parametrize("kind", ["date", "text", "seconds"])
def test_days_in_order_are_a_clock_only_where_they_move_on(kind: str) -> None:
    def days(first: int) -> Any:
        found = [date(2000, 1, 1) + timedelta(days=first + i // 3) for i in range(N)]
        if kind == "seconds":
            return [int(datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp()) for d in found]
        return found if kind == "date" else [str(d) for d in found]

    for first in (N, N // 6, -N // 6):
        assert "a clock" in layout_of(days(0), days(first)).left_out[0].why
    assert set(kinds(layout_of(days(0), days(0)))) == {"odd"}, "both may be sorted by a date of birth"


def test_durations_in_order_are_no_clock() -> None:
    assert kinds(layout_of([timedelta(minutes=i) for i in range(N)])) == {"odd": "number"}


def test_shuffled_seconds_since_1970_are_a_clock_if_their_name_says_so() -> None:
    before = 1_700_000_000 + 977 * SHUFFLED
    for name in ("created_at", "ts", "eventTime", "payload.seen"):
        (out,) = choose_columns(table(**{name: before}), table(**{name: before + 977 * N})).left_out
        assert (out.column, out.harmless) == (name, True)
    found = choose_columns(table(bytes=before), table(bytes=before + 977 * N))
    assert not found.left_out, "may be an amount that drifted"


@pytest.mark.parametrize("text", [False, True])
def test_shuffled_numbers_of_rows_are_known_in_a_sample_of_them(text: bool) -> None:
    drawn = [RNG.permutation(4000)[:200] + first for first in (0, 4000)]
    one, two = ([f"req-{i}" for i in some] if text else some for some in drawn)
    tables = table(200, odd=one), table(200, odd=two)
    (out,) = choose_columns(*tables, whole=(4000, 4000)).left_out
    assert (out.column, out.harmless) == ("odd", True)
    assert not choose_columns(*tables).left_out, "200 rows with numbers up to 4,000 have many gaps"


@pytest.mark.parametrize(
    ("before", "now", "change", "detail"),
    [
        ([1.5] * N, ["1.5"] * N, "type", "double before, large_string now"),
        ([True] * N, [1] * N, "type", "bool before, int64 now"),
        ([[1.0, 2.0]] * N, [[1.0, 2.0, 3.0]] * N, "type", "vectors of length 2 before, 3 now"),
        (pa.array(MOMENTS, pa.timestamp("us", "UTC")), pa.array(MOMENTS, pa.timestamp("us", "Asia/Tokyo")), "timezone",
         "UTC before, Asia/Tokyo now; compared as UTC"),
        (pa.array(MOMENTS, pa.timestamp("us", "UTC")), pa.array(MOMENTS, pa.timestamp("s")), "timezone", "none now"),
    ],
)  # fmt: skip
def test_a_change_of_type_is_a_finding_of_its_own(before: Any, now: Any, change: str, detail: str) -> None:
    (found,) = layout_of(before, now).schema
    assert (found.column, found.change) == ("odd", change)
    assert detail in found.detail


def test_columns_that_are_gone_or_new_are_named_with_what_looks_like_them() -> None:
    found = choose_columns(table(**{"Age ": SHUFFLED}), table(age=SHUFFLED, extra=SHUFFLED))
    assert [str(change) for change in found.schema] == [
        "Age : gone ('age' looks like it)", "age: new ('Age ' looks like it)", "extra: new",
    ]  # fmt: skip


def test_integers_beyond_what_a_float_holds_keep_their_differences() -> None:
    large = pa.chunked_array([[2**60 + int(i) for i in SHUFFLED]])
    column = next(c for c in layout_of(large).columns if c.name == "odd")
    assert column.offset == 2**60
    np.testing.assert_array_equal(numbers(column, large), SHUFFLED)
    unsigned = pa.chunked_array([pa.array([2**63 + 5, 2**63 + 7, None], pa.uint64())])
    values = numbers(Column("odd", Kind.NUMBER, offset=2**63 + 6), unsigned)
    np.testing.assert_array_equal(values, [-1.0, 1.0, np.nan])
    hashes = RNG.integers(-(2**63), 2**63 - 1, N)
    assert next(c for c in layout_of(pa.array(hashes)).columns if c.name == "odd").offset == 0


def test_integers_that_became_floats_are_compared_with_a_note() -> None:
    found = layout_of(SHUFFLED, SHUFFLED.astype(float))
    assert found.schema == ()
    assert "odd is int64 in the reference and double now" in found.notes[0]


def test_tables_that_share_nothing_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no column can be compared \\(a: gone; b: new\\)"):
        choose_columns(pa.table({"a": [1]}), pa.table({"b": [1]}))
    with pytest.raises(ValueError, match="'b' is not in both tables; common columns: a"):
        choose_columns(pa.table({"a": [1]}), pa.table({"a": [1], "b": [1]}), ["b"])
    with pytest.raises(ValueError, match="no column can be compared"):
        choose_columns(pa.table({"a": [1]}), pa.table({"a": [1]}))


def test_a_struct_is_chosen_by_its_name_or_by_a_field() -> None:
    column, _ = TYPES["struct"]
    one, two = table(odd=column), table(odd=column)
    assert [c.name for c in choose_columns(one, two, ["odd"]).columns] == ["odd.a", "odd.b.c"]
    assert [c.name for c in choose_columns(one, two, ["odd.a"]).columns] == ["odd.a"]
    assert {c.name for c in choose_columns(one, two, ignored=["odd"]).columns} == {"text", "amount", "plan"}
