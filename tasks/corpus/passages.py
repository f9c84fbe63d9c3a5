"""Cut long texts into passages at places that their content decides.

A cut depends on the lines just before it alone (content-defined chunking, as in Muthitacharoen et al., SOSP 2001). An
insertion at the head of a text moves the first cuts only; the passages behind are copies of those of the other text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tasks.corpus.formats.encodings import Source

LEAST, MOST = 2_048, 16_384  # bytes of a passage
ONE_IN = 8  # paragraphs after which a passage may end, ends


def passages(source: Source, whole: int) -> Iterator[bytes]:
    """Yield the passages of a text; together they are the text, and none ends within a character of UTF-8.

    Args:
        source: the text.
        whole: bytes up to which a text is one passage.
    """
    held = b""
    while len(held) <= whole:
        more = source.read(whole + 1 - len(held))
        held += more
        if not more:
            yield held
            return
    while True:
        at = 0
        while len(held) - at > 2 * MOST:
            end = _end(held, at)
            yield held[at:end]
            at = end
        more = source.read(whole)
        held = held[at:] + more
        if not more:
            break
    while len(held) > MOST:
        end = _end(held, 0)
        yield held[:end]
        held = held[end:]
    if held:
        yield held


def _end(data: bytes, start: int) -> int:
    """Return where the passage that begins at `start` ends: behind a paragraph, a line or a character."""
    for mark in (b"\n\n", b"\n"):
        at = start + LEAST
        while (found := data.find(mark, at, start + MOST)) >= 0:
            at = found + len(mark)
            if zlib.crc32(data[max(start, found - 64) : found]) % ONE_IN == 0:
                return at
    for mark in (b"\n\n", b"\n", b" "):
        found = data.rfind(mark, start + LEAST, start + MOST)
        if found >= 0:
            return found + len(mark)
    end = start + MOST
    while end > start + MOST - 4 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end
