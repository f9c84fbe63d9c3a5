"""Fine-tuning data as people keep it: JSON lines with chats, prompts with completions, or plain text.

A row is one of `{"messages": [{"role": ..., "content": ...}, ...]}`, `{"prompt": ..., "completion": ...}` (both texts
or both lists of messages) and `{"text": ...}`. A row for preference tuning is `{"prompt": ..., "chosen": ...,
"rejected": ...}`. A file may be packed (gzip, zstd, xz, bzip2, lz4). Every file is checked in full before a run starts;
an error names the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from infra.errors import BadInput
from tasks.corpus.formats.kinds import DAMAGE, HEAD, packing_of, unpacked

ROLES = ("system", "developer", "user", "assistant", "tool")
FORMS = "messages, or prompt and completion, or text"

T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One row of a file; either a chat, or a text of which the end is learnt.

    Attributes:
        where: file and line number, for messages.
        messages: the turns of a chat; the loss counts on those of the assistant from `learnt_from` on.
        learnt_from: position of the first message that is learnt.
        prompt: text that is read, where the row is no chat.
        completion: text that is learnt, where the row is no chat.
    """

    where: str
    messages: tuple[Message, ...] = ()
    learnt_from: int = 0
    prompt: str = ""
    completion: str = ""


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the first preferred; each is a text or a list of messages, as in the file."""

    where: str
    prompt: Any
    chosen: Any
    rejected: Any


def read_rows(path: Path) -> list[Row]:
    """Read and check a file of chats, prompts with completions, or texts.

    Raises:
        BadInput: the file cannot be read, or a row is malformed; the message names the line.
    """
    return _read(path, _row)


def read_preferences(path: Path) -> list[Preference]:
    """Read and check a file of preferences.

    Raises:
        BadInput: the file cannot be read, or a row is malformed; the message names the line.
    """
    return _read(path, _preference)


def _read(path: Path, convert: Callable[[str, Mapping[str, Any]], T]) -> list[T]:
    rows = [convert(where, given) for where, given in _objects(path)]
    if not rows:
        raise BadInput(f"{path} has no row; give JSON lines, one object a line")
    return rows


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with unpacked(path, packing_of(path)) as stream:
            content = b"".join(iter(lambda: stream.read(1 << 20), b""))  # damage raises behind what could be read
    except DAMAGE as error:
        raise BadInput(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); give a file of JSON lines"
        ) from None
    if b"\0" in content[:HEAD]:
        raise BadInput(f"{path} is no text in UTF-8; give JSON lines, one object a line")
    for number, line in enumerate(content.split(b"\n"), 1):
        where = f"{path} line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise BadInput(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
        if not text:
            continue
        try:
            found: Any = json.loads(text)
        except json.JSONDecodeError as error:
            hint = "; the file is one JSON document, give one object a line" if text[0] == "[" else ""
            raise BadInput(f"{where}: not JSON ({error.msg} at column {error.colno}){hint}") from None
        except (RecursionError, ValueError):  # brackets in brackets, or a number of thousands of digits
            raise BadInput(f"{where}: nested too deeply, or a number too long, to be read; remove the row") from None
        if not isinstance(found, dict):
            raise BadInput(f"{where}: a JSON object expected, found {_kind(found)}")
        yield where, found


def _row(where: str, given: Mapping[str, Any]) -> Row:
    present = [name for name in ("messages", "prompt", "completion", "text") if name in given]
    if present == ["messages"]:
        return Row(where, _messages(where, "messages", given["messages"], answered=True))
    if present == ["text"]:
        return Row(where, completion=_text(where, "text", given["text"]))
    if present == ["prompt", "completion"]:
        return _prompted(where, given["prompt"], given["completion"])
    if len(present) == 1:
        missing = "completion" if present == ["prompt"] else "prompt"
        raise BadInput(f"{where}: {present[0]} without {missing}; a row has {FORMS}")
    found = ", ".join(map(str, present or sorted(given))) or "nothing"
    raise BadInput(f"{where}: a row has {FORMS}; this one has {found}")


def _prompted(where: str, prompt: Any, completion: Any) -> Row:
    if isinstance(prompt, list) and isinstance(completion, list):
        before = _messages(where, "prompt", prompt, answered=False)
        return Row(where, before + _messages(where, "completion", completion, answered=True), learnt_from=len(before))
    if isinstance(prompt, str) and isinstance(completion, str):
        completion = _text(where, "completion", completion)
        return Row(where, prompt=_string(where, "prompt", prompt), completion=completion)
    raise BadInput(
        f"{where}: prompt and completion are both texts or both lists of messages, "
        f"found {_kind(prompt)} and {_kind(completion)}"
    )


def _preference(where: str, given: Mapping[str, Any]) -> Preference:
    missing = [name for name in ("prompt", "chosen", "rejected") if name not in given]
    if missing:
        raise BadInput(f"{where}: a preference has prompt, chosen and rejected; this one lacks {', '.join(missing)}")
    kinds = {_kind(given[name]) for name in ("prompt", "chosen", "rejected")}
    if kinds == {"a list"}:
        for name in ("prompt", "chosen", "rejected"):
            _messages(where, name, given[name], answered=name != "prompt")
    elif kinds == {"a text"}:
        _string(where, "prompt", given["prompt"])
        for name in ("chosen", "rejected"):
            _text(where, name, given[name])
    else:
        raise BadInput(
            f"{where}: prompt, chosen and rejected are all texts or all lists of messages, "
            f"found {', '.join(sorted(kinds))}"
        )
    if given["chosen"] == given["rejected"]:
        raise BadInput(f"{where}: chosen and rejected are the same answer; remove the row")
    return Preference(where, given["prompt"], given["chosen"], given["rejected"])


def _messages(where: str, name: str, given: Any, *, answered: bool) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise BadInput(f"{where}: {name} should be a list of messages, found {_kind(given)}")
    found = []
    for number, item in enumerate(given):
        at = f"{where}: {name}[{number}]"
        if not isinstance(item, dict) or "role" not in item or "content" not in item:
            found_keys = f" with {', '.join(map(str, item))[:80] or 'nothing'}" if isinstance(item, dict) else ""
            raise BadInput(f'{at} should be {{"role": ..., "content": ...}}, found {_kind(item)}{found_keys}')
        if item["role"] not in ROLES:
            raise BadInput(f"{at}.role is {item['role']!r:.40}; it should be one of {', '.join(ROLES)}")
        found.append(Message(item["role"], _string(where, f"{name}[{number}].content", item["content"])))
    if answered and not any(message.role == "assistant" and message.content for message in found):
        raise BadInput(f"{where}: {name} has no answer of the assistant, so there is nothing to learn")
    return tuple(found)


def _text(where: str, name: str, given: Any) -> str:
    if not _string(where, name, given).strip():
        raise BadInput(f"{where}: {name} is empty")
    return str(given)


def _string(where: str, name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise BadInput(f"{where}: {name} should be a text, found {_kind(given)}")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{where}: {name} has half of a surrogate pair at {error.start}; remove it") from None
    return given


def _kind(value: object) -> str:
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
