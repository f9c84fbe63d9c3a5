"""Texts of the requests in a drifted window, divided into text to train a challenger on and text to judge it on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from infra.lake import Lake, Ref
from tasks.serving.request_log import read_requests

PARTS = 5  # one in so many texts is judged on
RUN = 5  # words of a sequence by which texts are compared
WORDS = 200  # of a document made of several requests; single ones are too short for the rules of curation


def texts_of(lake: Lake, data: Ref, window: str) -> list[str]:
    """Return the distinct prompts of a window that the request log still holds.

    Args:
        lake: where window and log are.
        data: the data set of the window that the watch wrote; without request ids there are no texts.
        window: its name.

    Raises:
        LakeError: the data set was removed.
    """
    table = lake.read(data)
    if not {"window", "request_id", "time"} <= set(table.column_names):
        return []
    table = table.filter(pc.equal(table["window"], window))
    if not table.num_rows:
        return []
    span = pc.min_max(table["time"]).as_py()
    requests = read_requests(lake, since=span["min"], until=span["max"] + timedelta(microseconds=1))
    requests = requests.filter(pc.is_in(requests["request_id"], pa.array(table["request_id"].to_pylist(), pa.string())))
    return list(dict.fromkeys(text for text in requests["prompt"].to_pylist() if text and text.strip()))


def apart(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divide texts by a hash of their words in lower case: (to train on, to judge on).

    A text of which half the five-word sequences occur in a text to judge on is left out of the training.
    """
    learned: list[str] = []
    judged: list[str] = []
    for text in texts:
        digest = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
        (learned if int.from_bytes(digest, "big") % PARTS else judged).append(text)
    held = {part for text in judged for part in _runs(text)}
    return [text for text in learned if 2 * len(_runs(text) & held) < len(_runs(text))], judged


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[k : k + RUN]) for k in range(max(1, len(words) - RUN + 1))}


def documents(texts: Sequence[str], words: int = WORDS) -> list[str]:
    """Join texts in their order into documents of at least so many words; the rest is added to the last one."""
    found: list[list[str]] = []
    waiting: list[str] = []
    for text in texts:
        waiting.append(text)
        if sum(len(part.split()) for part in waiting) >= words:
            found.append(waiting)
            waiting = []
    if waiting:
        found[-1:] = [[*found[-1], *waiting]] if found else [waiting]
    return ["\n\n".join(parts) for parts in found]
