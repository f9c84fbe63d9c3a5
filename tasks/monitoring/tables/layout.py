"""Which columns of two tables are compared and how: what each holds, what is gone or new, what is left out and why.

Pure: knows neither the lake nor the request log.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.monitoring.drift.problem import Vectors
from tasks.monitoring.tables.flat import flatten, plain, vector_lengths

CATEGORIES = 200  # distinct values up to which strings are a category and not a text
REPEATS = 5  # rows for each distinct value that a category has at least, on average
EXACT = 2**53  # integers up to which a float is exact
EPOCH, UNITS = (0.9e9, 2.2e9), (1, 1e3, 1e6, 1e9)  # seconds since 1970, 1998 to 2039, and the units they are counted in
DAY_S = 86_400
MOVED_ON = 0.1  # share of the current rows whose days are not those of the reference from which days move on
DENSE = 50  # distinct whole numbers with few gaps from which they number the rows
TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
NUMBERED = re.compile(r"(\D*)(\d{1,15})(\D*)")
MOMENT = re.compile(r"(?i:time|date|epoch|stamp|created|modified|seen|(?:^|[_.])(?:ts|at)$)|[a-z]At$")  # in names
CLOCK = "a clock: its values move on with time"

Floats = NDArray[np.float64]


class Kind(StrEnum):
    """What a column holds."""

    NUMBER = "number"
    CATEGORY = "category"
    TEXT = "text"
    VECTOR = "vector"


@dataclass(frozen=True)
class Column:
    """A column that is compared.

    Attributes:
        name: of the flat column, `a.b` for the field b of the struct a.
        kind: what it holds.
        missing: whether a value is missing in either table.
        offset: subtracted from integers before they become floats, so that large ones keep their differences.
        constant: whether all values that are there are equal.
    """

    name: str
    kind: Kind
    missing: bool = False
    offset: int = 0
    constant: bool = False


@dataclass(frozen=True)
class SchemaChange:
    """A difference between the columns of two tables: `gone`, `new`, `type` or `timezone`."""

    column: str
    change: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.column}: {self.change}{f' ({self.detail})' if self.detail else ''}"


@dataclass(frozen=True)
class LeftOut:
    """A column of both tables that is not compared.

    Attributes:
        column: its name.
        why: the reason.
        harmless: nothing in it could have drifted: no value in either table, one and the same value, a clock or a
            running number.
    """

    column: str
    why: str
    harmless: bool = False

    def __str__(self) -> str:
        return f"{self.column}: {self.why}"


@dataclass(frozen=True)
class Layout:
    """How two tables are compared: which columns, and how they are read.

    Attributes:
        columns: that are compared.
        schema: differences between the tables' columns.
        left_out: columns of both tables that are not compared.
        notes: what a reader should know beside.
        vectors: columns of lists that are vectors.
    """

    columns: tuple[Column, ...]
    schema: tuple[SchemaChange, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    vectors: frozenset[str] = frozenset()

    def flat(self, table: pa.Table) -> pa.Table:
        """Return the compared columns of a table as flat ones.

        Raises:
            ValueError: the table lacks one of them.
        """
        found = flatten(table, self.vectors)
        gone = [column.name for column in self.columns if column.name not in found.schema.names]
        if gone:
            raise ValueError(f"the table has no column {', '.join(map(repr, gone))}")
        return found.select([column.name for column in self.columns])


def choose_columns(
    reference: pa.Table,
    current: pa.Table,
    names: Sequence[str] = (),
    ignored: Sequence[str] = (),
    *,
    none: bool = False,
    whole: tuple[int, int] | None = None,
) -> Layout:
    """Look at two tables and decide how they are compared.

    Args:
        reference: normal rows, in their order.
        current: rows to be judged, in their order.
        names: columns to be compared, the fields of a struct by the struct's name or by `struct.field`; empty = all.
        ignored: columns that are left alone where `names` is empty.
        whole: rows of the tables from which these rows were drawn, None = these are all.
        none: whether a layout without columns is returned where all that there is changed its schema or is harmless.

    Raises:
        ValueError: a named column that is not in both tables or cannot be compared, or nothing that can be compared.
    """
    vectors, changes = _vectors(plain(reference), plain(current))
    one, two = (flatten(table, vectors) for table in (reference, current))
    left_out = _unreadable(reference, current, (one, two), names)
    wanted = _wanted(one.schema.names, two.schema.names, names, ignored, [out.column for out in left_out])
    changes += _gone_and_new(one.schema.names, two.schema.names, wanted)
    columns: list[Column] = []
    notes: list[str] = []
    lengths = {change.column for change in changes if change.change == "type"}
    for name in (n for n in one.schema.names if n in two.schema.names and n in wanted):
        if name.removesuffix(".length").removesuffix(".mean") in lengths:
            continue
        found = _look(name, one[name], two[name], whole or (one.num_rows, two.num_rows))
        match found:
            case Column():
                columns.append(found)
                changes += _zones(name, one[name].type, two[name].type)
                if one[name].type != two[name].type and not pa.types.is_null(one[name].type):
                    notes.append(f"{name} is {one[name].type} in the reference and {two[name].type} now; compared")
            case SchemaChange():
                changes.append(found)
            case LeftOut():
                left_out.append(found)
    if names and (left_out or any(change.column in wanted for change in changes if change.change == "type")):
        why = left_out[0] if left_out else next(c for c in changes if c.column in wanted and c.change == "type")
        raise ValueError(f"column {why.column!r} cannot be compared: {str(why).partition(': ')[2]}; choose others")
    if not columns and not (none and (changes or (left_out and all(out.harmless for out in left_out)))):
        why_not = "; ".join(map(str, [*changes, *left_out])) or "the tables have no columns"
        raise ValueError(f"no column can be compared ({why_not}); choose or repair them")
    return Layout(tuple(columns), tuple(changes), tuple(left_out), tuple(notes), vectors)


def _vectors(reference: pa.Table, current: pa.Table) -> tuple[frozenset[str], list[SchemaChange]]:
    """Return the columns of vectors, and those whose vectors have another length now."""
    vectors, changes = [], list[SchemaChange]()
    for name in (n for n in reference.schema.names if n in current.schema.names):
        before, now = vector_lengths(reference[name]), vector_lengths(current[name])
        if before is not None and before == now:
            vectors.append(name)
        elif before is not None and now is not None:
            changes.append(SchemaChange(name, "type", f"vectors of length {before} before, {now} now"))
    return frozenset(vectors), changes


def _wanted(
    one: Sequence[str], two: Sequence[str], names: Sequence[str], ignored: Sequence[str], unreadable: Collection[str]
) -> set[str]:
    """Return the flat columns that are to be compared."""
    known = {*one, *two}
    if not names:
        return {column for column in known if not any(_is_part(column, name) for name in ignored)}
    common = sorted({*one} & {*two})
    for name in names:
        if name not in unreadable and not any(_is_part(column, name) for column in common):
            raise ValueError(f"column {name!r} is not in both tables; common columns: {', '.join(common) or 'none'}")
    return {column for column in known if any(_is_part(column, name) for name in names)}


def _is_part(column: str, name: str) -> bool:
    return column == name or column.startswith(f"{name}.")


def _gone_and_new(one: Sequence[str], two: Sequence[str], wanted: set[str]) -> list[SchemaChange]:
    def alike(name: str, names: Sequence[str]) -> str:
        found = [other for other in names if _plain_name(other) == _plain_name(name)]
        return f"{found[0]!r} looks like it" if found else ""

    gone = [name for name in one if name not in two and name in wanted]
    new = [name for name in two if name not in one and name in wanted]
    return [
        *(SchemaChange(name, "gone", alike(name, new)) for name in gone),
        *(SchemaChange(name, "new", alike(name, gone)) for name in new),
    ]


def _plain_name(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def _unreadable(
    reference: pa.Table, current: pa.Table, flat: tuple[pa.Table, pa.Table], names: Sequence[str]
) -> list[LeftOut]:
    """Return the columns of both tables that gave no flat column in either, because of their type."""
    flat_names = {name for table in flat for name in table.schema.names}
    common = [n for n in reference.schema.names if n in current.schema.names and (not names or n in names)]
    return [
        LeftOut(name, f"values of type {reference.schema.field(name).type} are not compared")
        for name in common
        if not any(_is_part(column, name) for column in flat_names)
    ]


def _zones(name: str, before: pa.DataType, now: pa.DataType) -> list[SchemaChange]:
    if not (pa.types.is_timestamp(before) and pa.types.is_timestamp(now)) or before.tz == now.tz:
        return []
    detail = f"{before.tz or 'none'} before, {now.tz or 'none'} now; compared as UTC"
    return [SchemaChange(name, "timezone", detail)]


def _look(
    name: str, one: pa.ChunkedArray, two: pa.ChunkedArray, whole: tuple[int, int]
) -> Column | SchemaChange | LeftOut:
    """Return how a column is compared, or why it is not."""
    before, now = _kind_of(one.type), _kind_of(two.type)
    if before is None and now is None:
        return LeftOut(name, "it has no value in either table", harmless=True)
    if before is not None and now is not None and before != now:
        return SchemaChange(name, "type", f"{one.type} before, {two.type} now")
    of = one.type if before is not None else two.type
    kind = before if before is not None else now
    parts = [part if _kind_of(part.type) is not None else pa.chunked_array([part.combine_chunks().cast(of)]) for part in (one, two)]  # noqa: E501  # fmt: skip
    there = [present(Column(name, kind or Kind.TEXT), part) for part in parts]
    missing = not all(known.all() for known in there)
    if not any(known.any() for known in there):
        return LeftOut(name, "it has no value in either table", harmless=True)
    match kind:
        case Kind.VECTOR:
            return Column(name, Kind.VECTOR, missing)
        case Kind.NUMBER:
            return _look_at_numbers(name, parts, there, missing, whole)
    if not missing and all(len(part) > 1 for part in parts) and kind is Kind.TEXT and (why := _counted(parts, whole)):
        return LeftOut(name, why, harmless=True)
    distinct = {str(value) for part in parts for value in pc.unique(part.drop_null()).to_pylist()}
    rows = sum(int(known.sum()) for known in there)
    if len(distinct) == 1:
        return _constant(Column(name, Kind.CATEGORY, missing, constant=True), next(iter(distinct)))
    category = kind is Kind.CATEGORY or len(distinct) <= min(CATEGORIES, max(2, rows // REPEATS))
    return Column(name, Kind.CATEGORY if category else Kind.TEXT, missing)


def _look_at_numbers(
    name: str,
    parts: Sequence[pa.ChunkedArray],
    there: Sequence[NDArray[np.bool_]],
    missing: bool,
    whole: tuple[int, int],
) -> Column | LeftOut:
    offset = _offset(parts)
    column = Column(name, Kind.NUMBER, missing, offset)
    values = [numbers(column, part) for part in parts]
    known = [v[k] for v, k in zip(values, there, strict=True)]
    least, most = min(v.min() for v in known if len(v)), max(v.max() for v in known if len(v))
    if least == most:
        shown = next(v for part in parts for v in part.drop_null().to_pylist())
        return _constant(Column(name, Kind.NUMBER, missing, offset, constant=True), shown)
    if all(len(v) > 1 for v in known) and not missing:
        temporal = pa.types.is_temporal(parts[0].type)
        day = _day(parts[0].type, least + offset, most + offset)
        if day and _is_clock(
            known,
            finer=any(((v + offset) % day != 0).any() for v in known),
            certain=temporal or MOMENT.search(name) is not None,
        ):
            return LeftOut(name, CLOCK, harmless=True)
        if all(pa.types.is_integer(part.type) for part in parts) and (why := _numbered(known, whole)):
            return LeftOut(name, why, harmless=True)
    return column


def _day(of: pa.DataType, least: float, most: float) -> float:
    """Return how much of a column is a day: of dates, times, and numbers that may be times since 1970; else 0."""
    if pa.types.is_temporal(of) and not pa.types.is_duration(of):
        return 1.0 if pa.types.is_date(of) else DAY_S * 1e6
    return next((DAY_S * unit for unit in UNITS if EPOCH[0] * unit <= least and most <= EPOCH[1] * unit), 0.0)


def _is_clock(values: Sequence[NDArray[Any]], *, finer: bool, certain: bool) -> bool:
    """Return whether times of two tables are those at which their rows came to be.

    Times in order are, where they tell more than the day. Days in order are where they move on; else the tables may be
    sorted by a date that can drift, as one of birth. Times without order are where all current ones are later.

    Args:
        values: of the reference and of the current table, as numbers.
        finer: whether some tell more than the day.
        certain: whether the type or the name of the column says that they are times.
    """
    before, now = values
    if all((np.diff(v) >= 0).all() for v in values):
        return finer or bool(((now < before.min()) | (now > before.max())).mean() > MOVED_ON)
    return certain and bool(before.max() < now.min())


def _numbered(values: Sequence[Floats], whole: tuple[int, int]) -> str:
    """Return why whole numbers of two tables, or of rows drawn from them, number the rows; empty if they do not."""
    if all((np.diff(v) > 0).all() for v in values):
        return "a running number: each row has a larger one"
    dense = all(len(v) >= DENSE and v.max() - v.min() < 2 * rows for v, rows in zip(values, whole, strict=True))
    if dense and all(len(np.unique(v)) == len(v) for v in values):
        return "a number of the row: each is there once, with few gaps"
    return ""


def _counted(parts: Sequence[pa.ChunkedArray], whole: tuple[int, int]) -> str:
    """Return why texts of two tables are times in order or number their rows; empty if neither."""
    texts = [part.to_pylist() for part in parts]
    if all(TIME.fullmatch(text) for some in texts for text in (some[0], some[-1])):
        if all(TIME.fullmatch(text) for some in texts for text in some):
            _, ranks = np.unique([*texts[0], *texts[1]], return_inverse=True)
            finer = any(len(text) > len("2026-01-01") for some in texts for text in some)
            return CLOCK if _is_clock(np.split(ranks, [len(texts[0])]), finer=finer, certain=True) else ""
        return ""
    if any(map(str.isspace, texts[0][0] + texts[1][0])):  # words, no id
        return ""
    if all((len(a), a) < (len(b), b) for some in texts for a, b in pairwise(some)):
        return "a running number: each row has a larger one"
    first = NUMBERED.fullmatch(texts[0][0])
    if first is None:
        return ""
    same = re.compile(rf"{re.escape(first[1])}(\d{{1,15}}){re.escape(first[3])}")
    found = [[same.fullmatch(text) for text in some] for some in texts]
    numbers = [np.array([one[1] for one in some if one], float) for some in found]
    return _numbered(numbers, whole) if all(all(some) for some in found) else ""


def _constant(column: Column, value: object) -> Column | LeftOut:
    if column.missing:
        return column
    return LeftOut(column.name, f"it is constant ({value!r})", harmless=True)


def _offset(parts: Sequence[pa.ChunkedArray]) -> int:
    """Return the least of all integers, 0 where the difference to the largest is no exact float either."""
    if not all(pa.types.is_integer(part.type) for part in parts):
        return 0
    ends = [pc.min_max(part).as_py() for part in parts if part.null_count < len(part)]
    least, most = min((end["min"] for end in ends), default=0), max((end["max"] for end in ends), default=0)
    return int(least) if most - least < EXACT else 0


def _kind_of(of: pa.DataType) -> Kind | None:
    """Return the kind of a flat type; None where every value is missing."""
    types = pa.types
    if types.is_null(of):
        return None
    if types.is_boolean(of):
        return Kind.CATEGORY
    if types.is_large_string(of):
        return Kind.TEXT
    listed = types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of)
    return Kind.VECTOR if listed else Kind.NUMBER


def present(column: Column, values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return which values are there: neither null nor NaN; of vectors those whose components all are finite."""
    if column.kind is Kind.VECTOR:
        known = np.asarray(values.is_valid())
        known[known] = np.isfinite(vectors_of(values.drop_null())).all(axis=1) if known.any() else False
        return known
    if pa.types.is_floating(values.type):
        return ~np.asarray(pc.is_null(values, nan_is_null=True))
    return np.asarray(values.is_valid())


def numbers(column: Column, values: pa.ChunkedArray) -> Floats:
    """Return a column of numbers, dates or times as floats less the offset, NaN where a value is missing."""
    of = values.type
    if pa.types.is_null(of):
        return np.full(len(values), np.nan)
    if pa.types.is_timestamp(of):
        values = values.cast(pa.int64())
    elif pa.types.is_date(of):
        values = values.cast(pa.int32()).cast(pa.int64())
    if not pa.types.is_integer(values.type):
        return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    whole = np.asarray(pc.fill_null(values, 0))
    if column.offset:
        # Differences modulo 2^64, read as signed ones, so that integers beyond 2^53 are told apart.
        whole = (whole.astype(np.uint64) - np.uint64(column.offset % 2**64)).view(np.int64)
    floats = whole.astype(np.float64)
    floats[~np.asarray(values.is_valid())] = np.nan
    return floats


def strings(values: pa.ChunkedArray) -> list[str | None]:
    """Return a column of texts or categories as Python strings, None where one is missing."""
    return [None if value is None else str(value) for value in values.to_pylist()]


def vectors_of(values: pa.ChunkedArray) -> Vectors:
    """Return a column of vectors without nulls as (n, d)."""
    flat = pc.list_flatten(values)
    parts = [np.asarray(chunk.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)) for chunk in flat.chunks]
    joined = np.concatenate(parts) if parts else np.zeros(0)
    return np.asarray(joined, np.float32).reshape(len(values), -1)
