"""Numbers that a table holds as text: with marks of thousands, a decimal comma, a currency or a per cent sign."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

CURRENCY = "$€£¥₹"
_SIGNS = rf"[{CURRENCY}%\s]|USD|EUR|GBP"
_POINT = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
_COMMA = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?")
_SIGN = re.compile(_SIGNS)
_PLAIN = re.compile(r"[-+]?\d+(\.\d+)?")


def written_numbers(tables: Sequence[pa.Table]) -> tuple[list[pa.Table], tuple[str, ...]]:
    """Return tables in which columns whose texts all are numbers, and not plain ones, are numbers; and their names.

    Plain digits stay text: they are codes more often than amounts, else the table would hold numbers.
    """
    found = list(tables)
    names: list[str] = []
    for name in tables[0].schema.names:
        columns = [table[name] for table in tables if name in table.schema.names]
        if len(columns) < len(tables) or not all(pa.types.is_large_string(column.type) for column in columns):
            continue
        numbers = _numbers([column.to_pylist() for column in columns])
        if numbers is None:
            continue
        names.append(name)
        found = [
            table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.float64()))
            for table, values in zip(found, numbers, strict=True)
        ]
    return found, tuple(names)


def _numbers(columns: Sequence[Sequence[str | None]]) -> list[list[float | None]] | None:
    """Return the numbers of some columns of texts; None if a text is none, or all are plain digits."""
    first = next((text for column in columns for text in column if text is not None), "")
    if not any(map(str.isdigit, first)) or len(first) > 40:
        return None
    bare = [[None if text is None else _SIGN.sub("", text.strip()) for text in column] for column in columns]
    known = [text for column in bare for text in column if text is not None]
    given = [text for column in columns for text in column if text is not None]
    if all(_PLAIN.fullmatch("".join(text.split())) for text in given):
        return None
    for pattern, thousands in ((_POINT, ","), (_COMMA, ".")):
        if all(pattern.fullmatch(text) for text in known):
            return [[None if t is None else float(t.replace(thousands, "").replace(",", ".")) for t in c] for c in bare]
    return None
