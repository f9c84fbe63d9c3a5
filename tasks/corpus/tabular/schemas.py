"""Column types of tables that come in pieces: inferred from records, merged between pieces, cast to the merged type.

Where two pieces have no common type the column becomes text; what was no text is then written as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.string()
MOST_FIELDS = 500  # of one structure; records with free keys become JSON text
MOST_LEVELS = 16  # of nested types; what is deeper becomes JSON text
_FLAT = frozenset([pa.string(), pa.large_string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()])
_OF_JSON = (bool, int, float, list, tuple, dict)


def infer(values: Sequence[Any]) -> pa.Array:
    """Return a column of Python values; text where they have no common type that a file can hold."""
    try:
        found = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return as_text(values)
    return found if _storable(found.type) else as_text(values)


def as_text(values: Iterable[Any]) -> pa.Array:
    """Return values as text: strings, times and decimal numbers as they are written, everything else as JSON."""
    return pa.array([v if v is None or isinstance(v, str) else _text(v) for v in values], TEXT)


def _text(value: Any) -> str:
    return json_text(value) if isinstance(value, _OF_JSON) else _plain(value)


def json_text(value: Any) -> str:
    """Return a value as JSON; what JSON does not know as its own text, bytes as the text that they hold."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except RecursionError:
        return repr(value)


def _plain(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _storable(kind: pa.DataType, levels: int = MOST_LEVELS) -> bool:
    """Return whether Parquet can hold a type: it has no struct without fields."""
    kind = _plain_type(kind)
    if pa.types.is_nested(kind) and not levels:
        return False
    if pa.types.is_struct(kind):
        fields = [kind.field(k).type for k in range(kind.num_fields)]
        return 0 < len(fields) <= MOST_FIELDS and all(_storable(field, levels - 1) for field in fields)
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        return all(_storable(kind.field(k).type, levels - 1) for k in range(kind.num_fields))
    return not (pa.types.is_union(kind) or pa.types.is_interval(kind))


def storable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch that Parquet can hold and Arrow can filter; columns of other types become text."""
    columns = []
    for column in batch.columns:
        if column.type in _FLAT:
            columns.append(column)
            continue
        kind = _usual(column.type, fixed=not _has_null_lists(column))
        if kind != column.type:
            column = _cast(column, kind)
        columns.append(column if _storable(kind) else as_text(column.to_pylist()))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names) if columns else batch


def _usual(kind: pa.DataType, *, fixed: bool) -> pa.DataType:
    """Return the type without views and run lengths, and without lists of fixed size unless they may stay."""
    if isinstance(kind, pa.BaseExtensionType):
        storage = _usual(kind.storage_type, fixed=fixed)
        return kind if storage == kind.storage_type else storage
    if pa.types.is_run_end_encoded(kind):
        return _usual(kind.value_type, fixed=fixed)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([(f.name, _usual(f.type, fixed=fixed)) for f in map(kind.field, range(kind.num_fields))])
    if pa.types.is_map(kind):
        return pa.map_(_usual(kind.key_type, fixed=fixed), _usual(kind.item_type, fixed=fixed))
    if pa.types.is_fixed_size_list(kind) and fixed:
        return pa.list_(_usual(kind.value_type, fixed=fixed), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_usual(kind.value_type, fixed=fixed))
    if _is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_usual(kind.value_type, fixed=fixed))
    return kind


def _has_null_lists(column: pa.Array) -> bool:
    """Return whether lists of fixed size are null somewhere, or may be: Parquet files of them cannot be read."""
    kind = column.type
    if kind == _usual(kind, fixed=False):
        return False
    if column.null_count:
        return True
    if isinstance(column, pa.ExtensionArray):
        return _has_null_lists(column.storage)
    if pa.types.is_struct(kind):
        return any(map(_has_null_lists, column.flatten()))
    if pa.types.is_fixed_size_list(kind):
        return _has_null_lists(column.flatten())
    return bool(pa.types.is_nested(kind))


def merged(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that holds the values of both types."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if isinstance(one, pa.BaseExtensionType) or isinstance(other, pa.BaseExtensionType):
        return merged(_plain_type(one), _plain_type(other))
    if pa.types.is_dictionary(one) or pa.types.is_dictionary(other):
        return merged(*(k.value_type if pa.types.is_dictionary(k) else k for k in (one, other)))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = _union([one, other])
        return pa.struct(fields) if len(fields) <= MOST_FIELDS else TEXT
    if _is_list(one) and _is_list(other):
        return pa.list_(merged(one.value_type, other.value_type))
    if {one, other} <= {pa.string(), pa.large_string(), pa.string_view()}:
        return pa.large_string()
    numbers = [pa.types.is_integer(k) or pa.types.is_floating(k) for k in (one, other)]
    same = [test(one) and test(other) for test in (pa.types.is_temporal, pa.types.is_decimal, _is_binary)]
    if all(numbers) or any(same):
        try:
            return pa.unify_schemas(
                [pa.schema([("x", one)]), pa.schema([("x", other)])], promote_options="permissive"
            ).types[0]
        except pa.ArrowException:
            return TEXT
    return TEXT


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that holds the values of an extension type; any other type itself."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def union(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the schema that holds the columns of all schemas, in the order in which they first occur."""
    return pa.schema(_union(list(schemas)))


def _union(parts: Sequence[Iterable[pa.Field]]) -> dict[str, pa.DataType]:
    """Return the merged fields of several parts; one that is missing somewhere has a type that can be null."""
    kinds: dict[str, pa.DataType] = {}
    times: Counter[str] = Counter()
    for part in parts:
        for one in part:
            kinds[one.name] = merged(kinds[one.name], one.type) if one.name in kinds else one.type
            times[one.name] += not pa.types.is_null(one.type)
    return {name: _usual(kind, fixed=times[name] == len(parts)) for name, kind in kinds.items()}


def holds(kind: pa.DataType, column: pa.Array) -> bool:
    """Return whether a type holds the values of a column exactly: no number is rounded, no time leaves its range."""
    try:
        _cast(column, kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


@dataclass
class Columns:
    """The columns of a table that comes in batches; their types only ever widen.

    Attributes:
        kinds: the type of each column so far.
    """

    kinds: dict[str, pa.DataType] = field(default_factory=dict)

    def fitted(self, columns: Mapping[str, pa.Array], rows: int) -> pa.RecordBatch:
        """Return some rows with all columns so far; missing ones hold nulls.

        Args:
            columns: of the rows.
            rows: their number.
        """
        for name, column in columns.items():
            kind = merged(self.kinds[name], column.type) if name in self.kinds else column.type
            self.kinds[name] = kind if holds(kind, column) else TEXT
        if not self.kinds:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
        table = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)) if columns else None
        if table is None:
            return pa.RecordBatch.from_arrays(
                [pa.nulls(rows, kind) for kind in self.kinds.values()], names=[*self.kinds]
            )
        return fitted(table, pa.schema(self.kinds))


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with the columns and types of a merged schema; missing columns hold nulls."""
    columns = []
    for wanted in schema:
        at = batch.schema.get_field_index(wanted.name)
        columns.append(pa.nulls(len(batch), wanted.type) if at < 0 else _cast(batch.column(at), wanted.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if isinstance(array, pa.ExtensionArray):
        return _cast(array.storage, kind)
    if pa.types.is_run_end_encoded(array.type):
        return _cast(pc.run_end_decode(array), kind)
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):  # Arrow's cast is out of order
        return pa.array(array.to_pylist(), kind)
    if pa.types.is_dictionary(array.type):
        return _cast(array.dictionary_decode(), kind)
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        have = {array.type.field(k).name: k for k in range(array.type.num_fields)}
        parts = [
            _cast(array.field(have[f.name]), f.type) if f.name in have else pa.nulls(len(array), f.type)
            for f in (kind.field(k) for k in range(kind.num_fields))
        ]
        fields = [kind.field(k) for k in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=array.is_null())
    if kind == TEXT and not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return as_text(array.to_pylist())
    try:
        return array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if pa.types.is_temporal(kind) or pa.types.is_floating(kind):  # a way through Python would round
            raise
        return pa.array(array.to_pylist(), kind)
