"""Arrow's many types as few: views, dictionaries and run-ends as what they hold, nested columns as flat ones.

Structs become one column a field, lists their length and content, bytes their length:
`messages: list<struct<role, content>>` becomes `messages.length`, `messages.role`, `messages.content`. Lists of
numbers that all have one length are vectors and stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.corpus.tabular.json_records import unique_columns

LENGTH, MEAN = "length", "mean"


def readable_fields(schema: pa.Schema) -> tuple[list[pa.Field | None], tuple[tuple[str, str], ...]]:
    """Return the fields in types that rows can be taken from, None for others, which are named with their type."""
    fields: list[pa.Field | None] = []
    unreadable = []
    for field in schema:
        of = _plain(field.type)
        try:
            if of is not None:
                as_plain(pa.nulls(1, field.type), of).take(pa.array([0]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            of = None
        fields.append(None if of is None else pa.field(field.name, of))
        if of is None:
            unreadable.append((field.name, str(field.type)))
    return fields, tuple(unreadable)


def _plain(of: pa.DataType) -> pa.DataType | None:
    """Return the type in which values of a type are kept: views, run-ends and extensions as what they stand for."""
    types = pa.types
    if isinstance(of, pa.BaseExtensionType):
        return _plain(of.storage_type)
    if types.is_dictionary(of):
        return pa.large_string() if types.is_integer(of.value_type) else _plain(of.value_type)  # codes are no amounts
    if types.is_run_end_encoded(of):
        return _plain(of.value_type)
    if types.is_string_view(of) or types.is_string(of):
        return pa.large_string()  # a string's offsets overflow at 2 GiB of text
    if types.is_binary_view(of) or types.is_binary(of):
        return pa.large_binary()
    if types.is_list_view(of) or types.is_large_list_view(of) or types.is_list(of) or types.is_large_list(of):
        inner = _plain(of.value_type)
        return None if inner is None else pa.large_list(inner)
    if types.is_struct(of):
        fields = [(field.name, _plain(field.type)) for field in of]
        return None if any(inner is None for _, inner in fields) else pa.struct(fields)
    if types.is_float16(of):
        return pa.float32()
    return None if types.is_union(of) else of


def as_plain(column: Any, of: pa.DataType) -> Any:
    """Cast an array or a chunked array to the type of its field in `readable_fields`."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([as_plain(chunk, of) for chunk in column.chunks], of)
    types = pa.types
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if column.type == of:
        return column
    if types.is_run_end_encoded(column.type):
        return as_plain(pc.run_end_decode(column), of)
    if types.is_dictionary(column.type):
        return as_plain(column.dictionary, of).take(column.indices)
    if types.is_large_list(of):
        return _as_lists(column, of.value_type)
    if types.is_struct(of):
        fields = [as_plain(column.field(k), of.field(k).type) for k in range(of.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(of), mask=column.is_null())
    return column.cast(of)


def _as_lists(lists: pa.Array, of: pa.DataType) -> pa.Array:
    """Return lists or list views as lists with items of a type.

    Not by a cast: that of pyarrow 25.0.1 gives the last list of a view a wrong end.
    """
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    return pa.LargeListArray.from_arrays(offsets, as_plain(pc.list_flatten(lists), of), mask=lists.is_null())


def plain(table: pa.Table) -> pa.Table:
    """Return the columns of a table in plain types, without those that cannot be read; see `readable_fields`."""
    fields = [field for field in readable_fields(table.schema)[0] if field is not None]
    return pa.table([as_plain(table[field.name], field.type) for field in fields], schema=pa.schema(fields))


def flatten(table: pa.Table, vectors: Collection[str] = ()) -> pa.Table:
    """Return a table of numbers, booleans, texts, dates, times and vectors; what is none of these is dropped.

    Args:
        table: any.
        vectors: columns that stay lists, see `vector_lengths`.
    """
    known = plain(table)
    found = [flat for name in known.schema.names for flat in _flat(name, known[name], vectors)]
    return pa.table([column for _, column in found], names=unique_columns([name for name, _ in found]))


def vector_lengths(column: pa.ChunkedArray) -> int | None:
    """Return the common length of the lists of numbers in a column; None where there is none or it is below 2."""
    of = column.type
    if not (_listed(of) and _number(of.value_type)):
        return None
    lengths = pc.unique(pc.list_value_length(column)).drop_null().to_pylist()
    return int(lengths[0]) if len(lengths) == 1 and lengths[0] >= 2 else None


def _listed(of: pa.DataType) -> bool:
    return bool(pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of))


def _number(of: pa.DataType) -> bool:
    return bool(pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_decimal(of))


def _flat(name: str, column: pa.ChunkedArray, vectors: Collection[str]) -> Iterator[tuple[str, pa.ChunkedArray]]:
    of, types = column.type, pa.types
    if name in vectors:
        yield name, column
    elif types.is_struct(of):
        for k in range(of.num_fields):
            yield from _flat(f"{name}.{of.field(k).name}", pc.struct_field(column, [k]), vectors)
    elif _listed(of) or types.is_map(of):
        yield from _of_list(name, column)
    elif types.is_large_binary(of) or types.is_fixed_size_binary(of):
        yield f"{name}.{LENGTH}", pc.binary_length(column)
    elif types.is_timestamp(of):
        yield name, column.cast(pa.timestamp("us", of.tz), safe=False)
    elif types.is_date(of):
        yield name, column.cast(pa.date32(), safe=False)
    elif types.is_time(of):
        yield name, _seconds(column.cast(pa.time64("us"), safe=False))
    elif types.is_duration(of):
        yield name, _seconds(column.cast(pa.duration("us"), safe=False))
    elif types.is_string(of):
        yield name, column.cast(pa.large_string())
    elif types.is_boolean(of) or types.is_large_string(of) or types.is_null(of) or _number(of):
        yield name, column


def _seconds(microseconds: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.divide(microseconds.cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)


def _of_list(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield the length of each list, and what of its items can be said in one value."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], column.type)
    if pa.types.is_map(lists.type):
        lengths = np.diff(np.asarray(lists.offsets)).astype(np.int64)
        items = pa.StructArray.from_arrays([lists.keys, lists.items], ["key", "value"])
    else:
        lengths = np.asarray(pc.list_value_length(lists).fill_null(0)).astype(np.int64)
        items = pc.list_flatten(lists)
    known = np.asarray(lists.is_valid())
    yield f"{name}.{LENGTH}", pa.chunked_array([pa.array(lengths, mask=~known)])
    yield from _items(name, items, np.where(known, lengths, 0), known)


def _items(
    name: str, items: pa.Array, lengths: NDArray[np.int64], known: NDArray[np.bool_]
) -> Iterator[tuple[str, pa.ChunkedArray]]:
    of = items.type
    if pa.types.is_struct(of):
        for k in range(of.num_fields):
            yield from _items(f"{name}.{of.field(k).name}", pc.struct_field(items, [k]), lengths, known)
    elif pa.types.is_large_string(of) or pa.types.is_string(of):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pc.fill_null(items.cast(pa.string()), ""))
        joined = pc.binary_join(lists, " ").cast(pa.large_string())
        yield name, pa.chunked_array([pc.if_else(pa.array(known), joined, pa.scalar(None, joined.type))])
    elif _number(of) or pa.types.is_boolean(of):
        values = np.asarray(items.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        rows, there = np.repeat(np.arange(len(lengths)), lengths), np.isfinite(values)
        count = np.bincount(rows[there], minlength=len(lengths))
        sums = np.bincount(rows[there], values[there], minlength=len(lengths))
        means = pa.array(np.divide(sums, count, out=np.zeros(len(count)), where=count > 0), mask=count == 0)
        yield f"{name}.{MEAN}", pa.chunked_array([means])
