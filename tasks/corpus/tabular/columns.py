"""Text and id of documents out of the columns of a table, whatever types they have there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.corpus.formats.encodings import decode, replaced
from tasks.corpus.tabular.schemas import json_text

JOINT = "\n\n"
TEXT_COLUMNS = ("text", "content", "body")
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """The texts of some rows.

    Attributes:
        values: the texts, without nulls.
        replaced: characters of each that could not be decoded.
        parents: the row of each text, where a row has several; None if there is one text for each row.
    """

    values: pa.Array
    replaced: Counts
    parents: NDArray[np.int64] | None = None


def find_path(schema: pa.Schema, given: str, usual: Sequence[str]) -> tuple[str, ...] | None:
    """Return the path of a column: its name, or the names of nested fields (`data.text`); None if there is none.

    Args:
        schema: of the table.
        given: name or dotted path; empty = the first usual name that there is.
        usual: names to try.
    """
    if not given:
        return next(((name,) for name in usual if name in schema.names), None)
    if given in schema.names:
        return (given,)
    names = tuple(given.split("."))
    kind: pa.DataType | None = pa.struct(list(schema))
    for name in names:
        kind = _field(kind, name)
        if kind is None:
            return None
    return names


def _field(kind: pa.DataType, name: str) -> pa.DataType | None:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _field(kind.value_type, name)
    at = kind.get_field_index(name) if pa.types.is_struct(kind) else -1
    return kind.field(at).type if at >= 0 else None


def find_value(values: Mapping[str, Any], given: str) -> Any:
    """Return the value at the name or path of the text in a record, as `find_path` does; `...` if there is none."""
    if not given:
        return next((values[name] for name in TEXT_COLUMNS if name in values), ...)
    if given in values:
        return values[given]
    found: Any = values
    for part in given.split("."):
        inner = [item[part] for item in _items(found) if isinstance(item, Mapping) and part in item]
        if not inner:
            return None if values.get(given.split(".")[0], ...) is None else ...
        found = inner if isinstance(found, list) else inner[0]
    return found


def _items(value: Any) -> list[Any]:
    """Return the items of a list, those of lists in it included; of anything else the value."""
    return [inner for item in value for inner in _items(item)] if isinstance(value, list) else [value]


def is_text(value: Any) -> bool:
    """Return whether a value of JSON is a text, or a list of texts or of the parts of a chat message."""
    if isinstance(value, list):
        return all(
            is_text(one.get("text")) if isinstance(one, dict) and "type" in one else is_text(one) for one in value
        )
    return value is None or isinstance(value, str)


def column_at(batch: pa.RecordBatch, path: Sequence[str]) -> pa.Array:
    """Return the column at a path; below a list it is a list."""
    return _inside(batch.column(batch.schema.get_field_index(path[0])), path[1:])


def _inside(array: pa.Array, path: Sequence[str]) -> pa.Array:
    if not path:
        return array
    if _is_list(array.type):
        plain = array if not array.offset else pa.concat_arrays([array])
        return type(plain).from_arrays(plain.offsets, _inside(plain.values, path), mask=plain.is_null())
    found = array.field(path[0])
    return _inside(pc.if_else(array.is_null(), pa.nulls(len(array), found.type), found), path[1:])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type can be read as text."""
    if pa.types.is_dictionary(kind):
        return holds_text(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return holds_text(kind.storage_type) and not pa.types.is_fixed_size_binary(kind.storage_type)  # a UUID
    if _is_list(kind) or pa.types.is_fixed_size_list(kind) or _is_list_view(kind) or pa.types.is_run_end_encoded(kind):
        return holds_text(kind.value_type)
    return _is_string(kind) or _is_bytes(kind) or pa.types.is_null(kind)


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(binary or pa.types.is_fixed_size_binary(kind))


def texts_of(column: pa.Array, *, rows: bool = False) -> Texts:
    """Return the texts of a column; a missing one is empty.

    Args:
        column: strings, bytes, a dictionary of them, or lists of them.
        rows: whether each item of a list is a text of its own; else they are joined by an empty line.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return Texts(pa.array([""] * len(column), pa.large_string()), np.zeros(len(column), np.int64))
    if pa.types.is_dictionary(kind):
        return texts_of(column.dictionary_decode(), rows=rows)
    if isinstance(column, pa.ExtensionArray):
        return texts_of(column.storage, rows=rows)
    if pa.types.is_run_end_encoded(kind):
        return texts_of(pc.run_end_decode(column), rows=rows)
    if pa.types.is_fixed_size_list(kind):
        return texts_of(column.cast(pa.list_(kind.value_type)), rows=rows)
    if _is_list_view(kind):  # Arrow's cast is out of order
        return texts_of(pa.array(column.to_pylist(), pa.large_list(kind.value_type)), rows=rows)
    if _is_list(kind):
        return _of_lists(column, rows)
    values, replaced = repaired_strings(column)
    return Texts(pc.fill_null(values.cast(pa.large_string()), ""), replaced)


def _of_lists(column: pa.Array, rows: bool) -> Texts:
    column = pa.concat_arrays([column])  # without an offset
    items = column.flatten()
    parents = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    if items.null_count:
        parents, items = parents[np.asarray(items.is_valid())], items.drop_null()
    inner = texts_of(items)
    if inner.parents is not None:  # lists of lists
        parents = parents[inner.parents]
    if rows:
        return Texts(inner.values, inner.replaced, parents)
    joined = [[] for _ in range(len(column))]  # type: list[list[str]]
    for parent, text in zip(parents.tolist(), inner.values.to_pylist(), strict=True):
        joined[parent].append(text)
    values = pa.array([JOINT.join(parts) for parts in joined], pa.large_string())
    return Texts(values, np.bincount(parents, inner.replaced, len(column)).astype(np.int64))


def texts_of_values(values: Sequence[Any], rows: bool) -> Texts:
    """Return the texts of values of JSON: texts, None, or lists of them at any depth.

    Args:
        values: one for each row.
        rows: whether each item of a list is a text of its own; else they are joined by an empty line.
    """
    lists = [list(_flat(value)) for value in values]
    none = np.zeros(len(values), np.int64)
    if not rows or not any(isinstance(value, list) for value in values):
        return Texts(pa.array([JOINT.join(parts) for parts in lists], pa.large_string()), none)
    parts = [part for some in lists for part in some]
    parents = np.repeat(np.arange(len(values)), [len(some) for some in lists])
    return Texts(pa.array(parts, pa.large_string()), np.zeros(len(parts), np.int64), parents)


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):  # a part of a chat message: text, or a picture and the like
        yield from _flat(value.get("text"))
    elif value is not None:
        yield value


def repaired_strings(column: pa.Array) -> tuple[pa.Array, Counts]:
    """Return strings or bytes as valid text, and how many characters of each became U+FFFD."""
    none, declared = np.zeros(len(column), np.int64), _is_string(column.type)  # strings say that they are UTF-8
    if _is_string(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            pass
        else:
            return column, none
        raw = column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column
        column = raw.view(pa.large_binary() if pa.types.is_large_string(raw.type) else pa.binary())
    found: list[str | None] = []
    for k, value in enumerate(column.to_pylist()):
        text, none[k] = (None, 0) if value is None else replaced(value, "utf-8") if declared else decode(value)
        found.append(text)
    return pa.array(found, pa.large_string()), none


def repaired(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose strings are all valid UTF-8, nested ones included."""
    columns = []
    for column in batch.columns:
        try:
            column.validate(full=True)
            columns.append(column)
        except pa.ArrowInvalid:
            columns.append(_repaired(column))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _repaired(column: pa.Array) -> pa.Array:
    kind = column.type
    if _is_string(kind):
        return repaired_strings(column)[0].cast(kind)
    if pa.types.is_dictionary(kind):
        return _repaired(column.dictionary_decode())
    if isinstance(column, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(kind, _repaired(column.storage))
    if pa.types.is_struct(kind):
        fields = [kind.field(k) for k in range(kind.num_fields)]
        return pa.StructArray.from_arrays(
            [_repaired(column.field(k)) for k in range(kind.num_fields)], fields=fields, mask=column.is_null()
        )
    if _is_list(kind):
        whole = pa.concat_arrays([column])
        return type(whole).from_arrays(whole.offsets, _repaired(whole.values), mask=whole.is_null())
    return column


def ids_of(column: pa.Array) -> pa.Array:
    """Return ids as text; null where there is none.

    Whole numbers that a table holds as floats, because other rows have none, are whole again; bytes are decoded, or
    written as hexadecimal digits if they are no text; structures become JSON.
    """
    if _is_string(column.type):
        values = repaired_strings(column)[0].cast(pa.string())
        return pc.if_else(pc.equal(values, ""), None, values)
    return pa.array([_id(value) for value in column.to_pylist()], pa.string())


def _id(value: Any) -> str | None:
    if isinstance(value, float):
        if value != value:  # not a number: missing
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    if isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
        return (text if text.isprintable() else value.hex()) or None
    if isinstance(value, dict | list | bool):
        return json_text(value)
    return str(value) if value not in (None, "") else None


def numbers_of(column: pa.Array) -> list[float | None]:
    """Return positive finite numbers; None for everything else."""
    return [_number(value) for value in column.to_pylist()]


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 < found < float("inf") else None
