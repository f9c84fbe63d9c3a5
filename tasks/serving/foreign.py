"""Request logs that other programs wrote, read as rows of ours.

`FIELDS` says which of their fields becomes which of ours; it is the table of docs/serving.md. A file holds Parquet
rows, JSON lines (gzipped or not), an OTLP JSON export, or the lines that vLLM prints with `--enable-log-requests`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadInput
from tasks.serving.gateway.exchange import content_of, conversation_of
from tasks.serving.request_log import Request

log = logging.getLogger("ketcycle.serving")

# Ours: theirs, the first that is there counts. A dot goes into a nested object; OpenTelemetry's names hold dots.
FIELDS: dict[str, tuple[str, ...]] = {
    "request_id": ("request_id", "gen_ai.response.id", "litellm_call_id", "id", "response.id", "span_id"),
    "time": ("time", "startTime", "start_time", "startTimeUnixNano", "timestamp", "created", "created_at", "ts"),
    "end": ("endTime", "end_time", "endTimeUnixNano", "completionStartTime"),
    "model_version": ("model_version", "gen_ai.response.model", "gen_ai.request.model", "model", "response.model"),
    "prompt": (
        "prompt",
        "gen_ai.input.messages",
        "gen_ai.prompt",
        "messages",
        "request.messages",
        "request.prompt",
        "input",
        "question",
        "query",
        "text",
    ),
    "completion": (
        "completion",
        "gen_ai.output.messages",
        "gen_ai.completion",
        "response.choices",
        "choices",
        "response",
        "output",
        "answer",
    ),
    "label": ("label", "end_user", "user", "request.user"),
    "prompt_tokens": (
        "prompt_tokens",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "usage.prompt_tokens",
        "response.usage.prompt_tokens",
        "input_tokens",
    ),
    "completion_tokens": (
        "completion_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "usage.completion_tokens",
        "response.usage.completion_tokens",
        "output_tokens",
    ),
    "finish": ("finish", "gen_ai.response.finish_reasons", "finish_reason", "response.choices.0.finish_reason"),
    "latency_s": ("latency_s", "response_time", "duration_s", "latency"),
    "first_s": ("first_s", "gen_ai.server.time_to_first_token", "time_to_first_token"),
    "completion_logprob": ("completion_logprob",),
    "path": ("path", "call_type", "gen_ai.operation.name"),
    "status": ("status_code", "http.response.status_code"),
    "error": ("error", "error_str", "error.type", "exception"),
}
_ASKED = re.compile(r"Received request (?P<id>[\w-]+): prompt: (?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_SAID = re.compile(
    r"Generated response (?P<id>[\w-]+?)(?: \([^)]*\))?: output: (?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
)
_STAMP = re.compile(r"(?P<month>\d\d)-(?P<day>\d\d) (?P<clock>\d\d:\d\d:\d\d)")
NO_VERSION = "a foreign log"


def read_log(place: str, now: datetime | None = None) -> list[Request]:
    """Return the requests of a log, in its order.

    Args:
        place: a file, or an http(s) address.
        now: time of records that have none, and year of vLLM's lines.

    Raises:
        BadInput: it is not there, cannot be read, or no record of it holds a prompt.
    """
    now = now or datetime.now(UTC)
    records = list(_records(_content(place), place, now))
    found = [row for at, record in enumerate(records) if (row := _row(record, f"{place}/{at}", now)) is not None]
    if not found:
        known = ", ".join(sorted({name for record in records[:20] for name in record}))
        wanted = ", ".join(FIELDS["prompt"])
        raise BadInput(f"no record of {place} holds a prompt; fields there: {known or 'none'}; one of {wanted} is read")
    if len(found) < len(records):
        log.warning(
            "%d of %d records of %s hold no prompt and are left out", len(records) - len(found), len(records), place
        )
    if all(row.received != now.timestamp() for row in found):  # all have a time; exports often begin with the newest
        found.sort(key=lambda row: row.received)
    return found


def _content(place: str) -> bytes:
    if place.startswith(("http://", "https://")):
        import httpx

        try:
            content = httpx.get(place, timeout=60, follow_redirects=True).raise_for_status().content
        except httpx.HTTPError as error:
            raise BadInput(f"{place} cannot be read ({error})") from None
    else:
        try:
            content = Path(place).expanduser().read_bytes()
        except OSError as error:
            raise BadInput(f"{place} cannot be read ({error.strerror}); give a file or an http(s) address") from None
    try:
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError) as error:
        raise BadInput(f"{place} is damaged gzip ({error})") from None


def _records(content: bytes, place: str, now: datetime) -> Iterator[dict[str, Any]]:
    if content.startswith(b"PAR1"):
        try:
            yield from pq.read_table(io.BytesIO(content)).to_pylist()
        except pa.ArrowException as error:
            raise BadInput(f"{place} is damaged Parquet ({str(error).splitlines()[0]})") from None
        return
    text = content.decode("utf-8", errors="replace")
    if _ASKED.search(text):
        yield from _vllm(text, now)
        return
    for value in _values(text, place):
        if isinstance(value, dict):
            yield from _spans(value) if "resourceSpans" in value else [value]


def _values(text: str, place: str) -> Iterator[Any]:
    """Yield the values of JSON lines, or the one value, or the members of the one list, of a JSON file."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if whole is not None:
        yield from whole if isinstance(whole, list) else [whole]
        return
    bad: list[str] = []
    good = 0
    for number, line in enumerate(text.split("\n"), 1):  # a text may hold other ends of lines
        if line.strip():
            try:
                yield json.loads(line)
                good += 1
            except (ValueError, RecursionError) as error:
                bad.append(f"line {number} of {place} is not JSON ({error})")
    if bad and not good:
        raise BadInput(f"{bad[0]}; give Parquet, JSON lines, OTLP JSON or vLLM's log")
    if bad:  # a line that was being written, or a crash
        log.warning("%s and is left out; such lines: %d", bad[0], len(bad))


def _spans(export: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the GenAI spans of an OTLP JSON export, their attributes as fields."""
    for resource in export["resourceSpans"]:
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                fields = {a["key"]: _plain(a.get("value", {})) for a in span.get("attributes", ())}
                if any(name.startswith("gen_ai.") for name in fields):
                    own = {name: span.get(name) for name in ("startTimeUnixNano", "endTimeUnixNano")}
                    yield {"span_id": span.get("spanId"), **own, **fields}


def _plain(value: Mapping[str, Any]) -> Any:
    """Return a value of OTLP JSON, which names its type."""
    for kind, given in value.items():
        if kind == "arrayValue":
            return [_plain(each) for each in given.get("values", ())]
        return int(given) if kind == "intValue" else given
    return None


def _vllm(text: str, now: datetime) -> Iterator[dict[str, Any]]:
    """Yield the requests of vLLM's lines, with the answers where they are logged."""
    asked: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        for pattern, name in ((_ASKED, "prompt"), (_SAID, "completion")):
            if found := pattern.search(line):
                record = asked.setdefault(found["id"], {"request_id": found["id"]})
                record[name] = _unquoted(found["text"])
                stamp = _STAMP.search(line)
                if stamp:
                    moment = f"{now.year}-{stamp['month']}-{stamp['day']}T{stamp['clock']}+00:00"
                    record["time" if name == "prompt" else "endTime"] = moment
    yield from asked.values()


def _unquoted(text: str) -> str:
    """Return a string from its Python literal, as vLLM prints it."""
    import ast

    return str(ast.literal_eval(text))


def _row(record: Mapping[str, Any], place: str, now: datetime) -> Request | None:
    """Return the row of a record, None where it holds no prompt."""
    given = {name: _first(record, theirs) for name, theirs in FIELDS.items()}
    prompt = _text(given["prompt"])
    if not prompt:
        return None
    begin, end = _moment(given["time"]), _moment(given["end"])
    latency = _number(given["latency_s"])
    if latency is None:
        latency = end - begin if begin is not None and end is not None else None
    finish = given["finish"][0] if isinstance(given["finish"], list) and given["finish"] else given["finish"]
    name = str(given["request_id"] or "") or hashlib.sha256(f"{place}/{prompt}".encode()).hexdigest()[:32]
    return Request(
        request_id=name,
        model_version=str(given["model_version"] or NO_VERSION),
        prompt=prompt,
        completion=_text(given["completion"]),
        label=str(given["label"]) if given["label"] else None,
        prompt_tokens=_whole(given["prompt_tokens"]),
        completion_tokens=_whole(given["completion_tokens"]),
        finish=str(finish) if finish else "failed" if given["error"] else "stop",
        first_s=_number(given["first_s"]),
        latency_s=latency,
        usage=None,
        received=begin if begin is not None else now.timestamp(),
        mean_logprob=lambda: _number(record.get("mean_logprob")),
        completion_logprob=_number(given["completion_logprob"]),
        path=str(given["path"]) if given["path"] else None,
        status=_whole(given["status"]),
        error=_text(given["error"])[:500] or None,
    )


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    attributes = record.get("attributes")
    for name in names:
        for place in (record, attributes):
            found = _at(place, name) if isinstance(place, dict) else None
            if found is not None and found != "":
                return found
    return None


def _at(value: Any, name: str) -> Any:
    """Return a field by its whole name, else by the way into nested objects and lists."""
    if isinstance(value, dict) and name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    if not dot:
        return None
    if isinstance(value, list):
        return _at(value[int(head)], rest) if head.isdigit() and int(head) < len(value) else None
    return _at(value[head], rest) if isinstance(value, dict) and head in value else None


def _text(value: Any) -> str:
    """Return the text of a string, of messages, or of OpenAI's choices."""
    if isinstance(value, str):
        if value.startswith(("[", "{")):
            try:
                return _text(json.loads(value)) or value
            except ValueError:
                return value
        return value
    if isinstance(value, dict):
        return _text(value.get("choices") or value.get("message") or value.get("messages")) or content_of(
            value.get("content") or value.get("parts") or value.get("text")
        )
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        if "message" in value[0] or "text" in value[0]:
            return "".join(_text(each.get("message") or each.get("text")) for each in value)
        if len(value) == 1 and value[0].get("role") == "assistant":
            return _text(value[0])
        return conversation_of(value)
    return ""


def _moment(value: Any) -> float | None:
    """Return seconds since the epoch of a time in seconds, milliseconds, nanoseconds or ISO 8601."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    number = _number(value)
    if number is not None:
        return number / 1e9 if number > 1e17 else number / 1e3 if number > 1e11 else number
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or number != number else int(number)
