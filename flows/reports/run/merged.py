"""Examples of removed duplicates for the HTML report: both texts side by side, differing words marked.

Reads the data sets of the curation stage: `decisions` (removed, witness, jaccard or cosine, subtask) and
`candidates` (text).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import LakeError
from infra.lake import Lake, Ref

CONTEXT = 14  # equal words shown on either side of a difference
LONGEST = 130  # most words shown of one side
_WORDS = re.compile(r"\S+")


@dataclass(frozen=True)
class Piece:
    """Some words of one side, equal to the other side's or not."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Merged:
    """A removed document and its witness; without pieces if a text was not stored."""

    removed: str
    witness: str
    kept: str
    similarity: float
    subtask: str
    left: tuple[Piece, ...] = ()
    right: tuple[Piece, ...] = ()
    note: str = ""


def merged_documents(lake: Lake, refs: Mapping[str, str]) -> tuple[list[Merged], str]:
    """Return examples of merged documents, and a note on what is missing.

    For each subtask that removes documents: the pair with the lowest and the pair with the median similarity.
    """
    try:
        rows = _examples(lake.read(Ref.parse(refs["curation/decisions"])).to_pylist())
        names = {name for row in rows for name in (row["removed"], row["witness"])}
        texts = _texts(lake, Ref.parse(refs["curation/candidates"]), names)
    except (KeyError, LakeError) as error:
        return [], f"the documents are not in the lake any more ({error})"
    return [_merged(row, texts) for row in rows], ""


def saved_training(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the cost of one training pass over the removed duplicates; None if a stage of the run is missing.

    Tokens by the tokenizer of this run; joules per token from its training stage, evaluation included.
    """
    try:
        repeated = sum(stages["curation"]["facts"]["bytes_repeated"].values())
        packed = [v for k, v in stages["preprocessing"]["facts"]["statistics"].items() if k.endswith("/train")]
        tokens = repeated * sum(v["tokens"] for v in packed) / sum(v["n_bytes"] for v in packed)
        spent, trained = stages["training"]["spent"], stages["training"]["facts"]["tokens"]
        joules = [tokens * value / trained for value in spent["narrow"]]
    except (KeyError, TypeError, ZeroDivisionError):  # a stage did not run
        return None
    return {"mb": repeated / 1e6, "tokens": tokens, "joules": joules, "source": spent["source"]}


def _examples(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for way in dict.fromkeys(row["subtask"] for row in rows):
        group = sorted((r for r in rows if r["subtask"] == way), key=lambda r: (_similarity(r), r["removed"]))
        alike = _similarity(group[0]) == _similarity(group[-1])  # exact copies: one example is enough
        found += [group[i] for i in sorted({0} if alike else {0, len(group) // 2})]
    return found


def _similarity(row: Mapping[str, Any]) -> float:
    value: float = row["cosine"] if row["jaccard"] is None else row["jaccard"]
    return value


def _texts(lake: Lake, ref: Ref, names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for batch in lake.scan(ref, columns=["doc_id", "text"]):
        ids = batch.column("doc_id").to_pylist()
        found |= {name: batch.column("text")[i].as_py() for i, name in enumerate(ids) if name in names}
    return found


def _merged(row: Mapping[str, Any], texts: Mapping[str, str]) -> Merged:
    about = (row["removed"], row["witness"], row["kept"], _similarity(row), row["subtask"])
    missing = [name for name in (row["removed"], row["witness"]) if name not in texts]
    if missing:
        # The text of an exact copy is not stored; it equals the text of its witness.
        copy = row["subtask"] == "exact_duplicates"
        if copy and row["witness"] in texts:
            words = _WORDS.findall(texts[row["witness"]])
            same = (Piece(_cut(words), False),)
            again = _similarity(row) < 1
            note = "an exact copy of a document removed in favour of this one" if again else "an exact copy"
            return Merged(*about, same, note=f"{note}; its text is kept once")
        return Merged(*about, note=f"the text of {' and '.join(missing)} is not kept")
    left, right = side_by_side(texts[row["removed"]], texts[row["witness"]])
    return Merged(*about, left, right)


def side_by_side(a: str, b: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Return both texts in pieces: differing words marked, long equal parts left out."""
    left, right = _WORDS.findall(a)[: 8 * LONGEST], _WORDS.findall(b)[: 8 * LONGEST]
    codes = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return tuple(_pieces(codes, left, first=True)), tuple(_pieces(codes, right, first=False))


def _pieces(codes: Sequence[tuple[str, int, int, int, int]], words: Sequence[str], *, first: bool) -> Iterator[Piece]:
    shown = 0
    for position, code in enumerate(codes):
        part = words[code[1] : code[2]] if first else words[code[3] : code[4]]
        if not part:
            continue
        if shown >= LONGEST:
            yield Piece("…", False)
            return
        if code[0] == "equal":
            part = _shorten(part, first=position == 0, last=position == len(codes) - 1)
        shown += len(part)
        yield Piece(_cut(part), code[0] != "equal")


def _shorten(words: Sequence[str], *, first: bool, last: bool) -> Sequence[str]:
    if len(words) <= 2 * CONTEXT:
        return words
    head = [] if first and not last else list(words[:CONTEXT])
    tail = [] if last else list(words[-CONTEXT:])
    return [*head, "…", *tail]


def _cut(words: Sequence[str]) -> str:
    return " ".join(words[:LONGEST]) + (" …" if len(words) > LONGEST else "")
