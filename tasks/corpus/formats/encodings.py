"""Text out of bytes: UTF-8, what a file declares, or what its bytes look like."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import IO, Any, Protocol
from unicodedata import category

from charset_normalizer import from_bytes
from resiliparse.parse.encoding import detect_encoding

SAMPLE = 65_536
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The labels of the WHATWG encoding standard mean the supersets that browsers decode with.
_SUPERSETS = {
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "iso8859-11": "cp874",
    "big5": "big5hkscs",
}
_ALIASES = {"macintosh": "mac_roman", "x-mac-roman": "mac_roman", "x-mac-cyrillic": "mac_cyrillic", "x-sjis": "cp932"}
_ALIASES |= {"x-euc-jp": "euc_jp", "x-gbk": "gb18030", "ks_c_5601-1987": "cp949", "windows-949": "cp949"}
_CENTRAL = ("iso8859-2", "cp1250", "iso8859-16", "iso8859-4", "iso8859-13", "cp1257", "iso8859-10")
_CENTRAL_EUROPEAN = frozenset(["pl", "cs", "sk", "hu", "ro", "sl", "hr", "bs", "sq", "lt", "lv", "et"])
_DECLARED = re.compile(
    rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]{0,200}?encoding=["']([\w.-]+)""", re.I
)
_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile(rb"[\x80-\xff]")
_ESCAPED = (  # encodings whose bytes are all ASCII, and what tells them
    (re.compile(rb"\x1b\$[B@]|\x1b\(J|\x1b\$\(D"), "iso2022_jp_2"),
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr"),
    (re.compile(rb"~\{(?:[!-w][!-~])+~\}"), "hz"),
)
# Encodings that detection confuses: a letter of the right one is a sign or a capital within a word in the others.
_RIVALS = {
    "cp1252": ("mac_roman", "cp850", "iso8859-2", "cp1250", "cp852"),
    "koi8-r": ("koi8-u",),
    "cp1250": ("iso8859-2", "cp852"),
    "iso8859-2": ("cp1250", "cp852"),
}
_ODD = re.compile(
    r"(?<=[^\W\d_])[^\w\s'’ʼ\-\u00ad‐-―…./,;:!?()@&+*=<>\"«»“”_](?=[^\W\d_])|\ufffd|(?<=[a-zß-öø-ÿ])[À-ÖØ-ÞŠŽŸŒ]|[\x80-\x9f]"
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
MOST_CONTROL = 0.01


def python_name(label: str) -> str:
    """Return the codec that a declared label means; empty if there is none."""
    label = label.strip().lower()
    try:
        name = codecs.lookup(_ALIASES.get(label, label)).name
    except LookupError:
        return ""
    return _SUPERSETS.get(name, name)


def mark_of(data: bytes) -> tuple[str, int]:
    """Return the encoding that a byte-order mark names and the length of the mark; ("", 0) without one."""
    return next(((name, len(mark)) for mark, name in _MARKS if data.startswith(mark)), ("", 0))


def is_binary(head: bytes) -> bool:
    """Return whether the first bytes of a file are no text in any encoding that is read here."""
    if mark_of(head)[0] or utf16_without_mark(head) or (head.isascii() and _escaped(head)):
        return False
    return len(_CONTROL.findall(head)) > MOST_CONTROL * len(head)


def utf16_without_mark(head: bytes) -> str:
    """Return `utf-16-le` or `utf-16-be` if every second byte of the text is one of a few, else an empty string.

    The first bytes of characters are zero in Latin text; other alphabets share one, beside the zeros of spaces.
    """
    pairs = len(head) // 2
    if pairs < 4 or 0 not in head:
        return ""
    columns = head[0 : 2 * pairs : 2], head[1 : 2 * pairs : 2]
    first, second = (column.count(0) for column in columns)
    if min(first, second) > 0.05 * pairs:
        return ""
    name, high = ("utf-16-be", columns[0]) if first > second else ("utf-16-le", columns[1])
    if max(first, second) >= 0.6 * pairs:
        return name
    usual = sum(count for _, count in Counter(high).most_common(3))
    text = head[: 2 * pairs - 2].decode(name, "replace")
    odd = sum(category(character) in ("Cc", "Cn", "Co", "So") for character in text if character not in "\t\n\r")
    return name if usual >= 0.95 * pairs and odd <= 0.01 * pairs else ""


def decode_page(data: bytes, declared: str = "") -> tuple[str, int]:
    """Decode a page by its mark, as the server or the page itself declares it, as UTF-8, or by detection.

    Args:
        data: the page.
        declared: charset of the HTTP header, or empty.

    Returns:
        The text, and how many characters could not be decoded and became U+FFFD.
    """
    name, mark = mark_of(data)
    if name:
        return replaced(data[mark:], name)
    found = _DECLARED.search(data[:HEAD_OF_PAGE])
    inside = (found[1] or found[2] or b"").decode("ascii", "replace") if found else ""
    for label in (declared, inside):
        codec = python_name(label) if label else ""
        if codec.startswith(("utf-16", "utf-32")) and b"\0" not in data[:HEAD_OF_PAGE]:
            continue  # a page that was converted; the label stayed
        if codec and _has_a_byte_each(codec) and _MULTIBYTE.search(data) and strict(data, "utf-8") is not None:
            continue  # likewise: a text of such an encoding is no UTF-8 by chance
        if codec and (text := strict(data, codec)) is not None:
            return text, 0
    return decode(data)


HEAD_OF_PAGE = 8192


@cache
def _has_a_byte_each(codec: str) -> bool:
    """Return whether every character of an encoding has one byte."""
    return codec != "utf-8" and len(bytes(range(256)).decode(codec, "replace")) == 256


def decode(data: bytes) -> tuple[str, int]:
    """Decode text of an undeclared encoding; return it, and how many characters became U+FFFD."""
    name, mark = mark_of(data)
    if name:
        return replaced(data[mark:], name)
    return replaced(data, _ascii_only(data) or ("utf-8" if strict(data, "utf-8") is not None else detect(data)))


def _ascii_only(data: bytes) -> str:
    """Return the encoding of bytes that are ASCII and mean other characters by escapes; empty if they mean ASCII."""
    if not (b"\x1b" in data or b"~{" in data) or not data.isascii():
        return ""
    return next((name for name in _escaped(data) if strict(data, name) is not None), "")


def _escaped(data: bytes) -> list[str]:
    """Return the encodings whose escapes the bytes hold."""
    return [name for mark, name in _ESCAPED if mark.search(data)]


def detect(data: bytes) -> str:
    """Return the likely encoding of bytes that are not valid UTF-8.

    Damaged UTF-8 stays UTF-8: valid sequences of several bytes do not come about by chance.
    """
    valid = sum(len(found) for found in _MULTIBYTE.findall(data))
    if 2 * valid >= len(_HIGH.findall(data)):
        return "utf-8"
    if name := utf16_without_mark(data[:SAMPLE]):
        return name
    sample = _sample(data)
    named = python_name(detect_encoding(sample) or "")
    if (
        named
        and named not in ("utf-8", "cp1252", *_CENTRAL)
        and strict(data, named) is not None
        and _plausible(data, named)
    ):
        return _least_odd(sample, named)
    best = from_bytes(sample, steps=8, chunk_size=1024).best()
    guess = python_name(best.encoding) if best is not None else ""
    if guess and guess not in ("utf-8",) and len(_HIGH.findall(sample)) > 0.45 * len(sample):  # no Latin script
        return guess
    if named in _CENTRAL:  # often taken for Western text with few accents; the language tells
        language = identifier().classify(sample.decode("cp1252", "replace")[:4000])[0]
        return _least_odd(sample, named if language in _CENTRAL_EUROPEAN else "cp1252")
    return _least_odd(sample, named if named not in ("", "utf-8") else "cp1252")


def _least_odd(sample: bytes, first: str) -> str:
    """Return the encoding, or a rival of it in which far fewer characters are signs or capitals within words."""
    odd = {name: len(_ODD.findall(sample.decode(name, "replace"))) for name in (first, *_RIVALS.get(first, ()))}
    best = min(odd, key=lambda name: odd[name])
    return best if 4 * odd[best] < odd[first] else first


@cache
def identifier() -> Any:
    """Return the model that names languages (`py3langid`: langid.py, Lui and Baldwin 2012, retrained)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _sample(data: bytes) -> bytes:
    """Return the part of the bytes in which the first characters that are no ASCII are."""
    found = _HIGH.search(data)
    start = max(0, found.start() - 512) if found else 0
    return data[start : start + SAMPLE]


def _plausible(data: bytes, name: str) -> bool:
    """Return whether a decoding looks like text: few controls, private characters and half-width kana."""
    text = data[:SAMPLE].decode(name, "replace")
    odd = sum(0x80 <= ord(c) < 0xA0 or 0xE000 <= ord(c) < 0xF900 or 0xFF61 <= ord(c) < 0xFFA0 for c in text)
    return odd <= 0.01 * len(text)


def strict(data: bytes, name: str) -> str | None:
    """Return the decoded text, or None if the bytes are not valid in that encoding."""
    try:
        return data.decode(name)
    except (UnicodeDecodeError, LookupError):
        return None


def joined(data: bytes) -> bytes:
    """Return UTF-8 in which the halves of surrogate pairs, as Java and some databases write them, are characters."""
    return _PAIR.sub(
        lambda found: (
            found[0].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode()
        ),
        data,
    )


def replaced(data: bytes, name: str) -> tuple[str, int]:
    """Decode with U+FFFD in place of invalid and zero bytes, and count those."""
    text = (joined(data) if name == "utf-8" else data).decode(name, "replace")
    before = data.count("\ufffd".encode()) if name == "utf-8" else 0
    text = text.replace("\0", "\ufffd")
    return text, text.count("\ufffd") - before


@dataclass
class Decoder:
    """Decodes the parts of one text in turn, all in one encoding, which is found out when a part is not UTF-8.

    Attributes:
        encoding: the encoding once it is known, or empty.
        utf8: whether a part held valid UTF-8 beyond ASCII.
    """

    encoding: str = ""
    utf8: bool = False

    def decode(self, data: bytes) -> tuple[str, int]:
        """Return the text of a part, and how many characters became U+FFFD."""
        if self.encoding:
            return replaced(data, self.encoding)
        if name := _ascii_only(data):
            return replaced(data, name)
        if strict(joined(data), "utf-8") is not None:
            self.utf8 = self.utf8 or not data.isascii()
            return replaced(data, "utf-8")
        self.encoding = "utf-8" if self.utf8 else detect(data)
        return replaced(data, self.encoding)


class Source(Protocol):
    """Something that bytes are read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes, all of them without a size; none at the end."""
        ...


class Utf8Stream:
    """A stream in UTF-16 or UTF-32 as one in UTF-8; reads as much of the source as is asked for."""

    def __init__(self, stream: Source, encoding: str) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)("replace")
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes, all of them without a size; none at the end."""
        parts, held = [self._rest], len(self._rest)
        while size < 0 or held < size:
            data = self._stream.read(SAMPLE)
            part = self._decoder.decode(data, not data).encode("utf-8", "replace")
            parts.append(part)
            held += len(part)
            if not data:
                break
        whole = b"".join(parts)
        cut = len(whole) if size < 0 else size
        self._rest = whole[cut:]
        return whole[:cut]


_WIDE: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}


def as_utf8(stream: Source, head: bytes) -> Utf8Stream | None:
    """Return a stream in UTF-16 or UTF-32 as UTF-8, or None if neither a mark nor zero bytes tell them.

    Args:
        stream: behind `head`.
        head: its first bytes, at least four.
    """
    name, mark = mark_of(head)
    if not mark:
        zero = tuple(byte == 0 for byte in head[:4])  # of two characters of ASCII (RFC 4627, section 3)
        name = _WIDE.get(zero, "")
    if not name.startswith(("utf-16", "utf-32")):
        return None
    return Utf8Stream(Joined(head[mark:], stream), name)


class Joined:
    """Bytes that were read already, followed by the rest of their stream."""

    def __init__(self, head: bytes, stream: Source) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes, all of them without a size; none at the end."""
        if size < 0:
            found, self._head = self._head, b""
            return found + self._stream.read()
        found, self._head = self._head[:size], self._head[size:]
        return found or self._stream.read(size)


class Between:
    """The bytes of a file from one place to another."""

    def __init__(self, stream: IO[bytes], start: int, end: int) -> None:
        stream.seek(start)
        self._stream, self._left = stream, end - start

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes, all of them without a size; none at the end."""
        found = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(found)
        return found
