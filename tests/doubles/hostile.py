"""The platform's double in a bad mood: any request may be answered by anything.

A mood spoils some requests of a route, before they are carried out or after. What it may say is every status with
every kind of body, a redirection, a connection that is cut or stalls, and, after a request was carried out, its own
answer with something in it changed. Job lists leave jobs out, come unsorted, without tags, with other people's jobs,
or in pages that do not end; jobs are unknown for a while; cancellations are carried out late.
"""

import contextlib
import json
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

from ibm_jobs import CANCELLED, FINAL, QUEUED, Platform, Script
from ibm_platform import Handler, Refused

STATUSES = (
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    410,
    413,
    418,
    422,
    425,
    429,
    451,
    500,
    501,
    502,
    503,
    504,
    520,
    524,
)
REDIRECTIONS = (301, 302, 303, 307, 308)
BODIES = {
    "none": b"",
    "page": b"<html><head><title>Sign in</title></head><body>The proxy wants to know you.</body></html>",
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "words": b'"all is well"',
    "object": b"{}",
    "cut": b'{"id": "d0", "state": {"sta',
    "deep": b'{"jobs":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "bytes": bytes(range(128, 256)),
    "full": b'{"errors": [{"message": "the plan allows no more pending jobs", "code": 3458}]}',
    "odd error": b'{"errors": "none", "error": ["?"]}',
}
RETRY_AFTER = (None, "0", "1", "86400", "Wed, 21 Oct 2065 07:28:00 GMT", "soon", "-5")
VALUES: tuple[Any, ...] = (
    None, -1, 0, 1e308, 10**30, "x", "", [], {}, True, float("nan"), float("inf"), [None], {"a": 1}, "2000-13-45",
)  # fmt: skip
LISTS = (
    "untagged",
    "everybody's",
    "reversed",
    "no count",
    "count null",
    "count huge",
    "offset ignored",
    "holes",
    "twofold",
)
ROUTES = ("token", "device", "submit", "submit", "submit", "job", "job", "jobs", "jobs", "results", "metrics", "cancel")


@dataclass
class Mood:
    """What happens to some requests of a route.

    Attributes:
        route: which request.
        kind: status, redirect, cut, reset, half, stall, body, field, list, unknown, late, tag, twice.
        times: how many requests.
        skip: how many pass before.
        after: whether the request is carried out.
        seed: of the details.
    """

    route: str
    kind: str
    times: int = 1
    skip: int = 0
    after: bool = False
    seed: int = 0


def moods(rng):
    """Draw what goes wrong in one night."""
    return [_mood(rng) for _ in range(rng.randint(1, 4))]


def _mood(rng):
    route = rng.choice(ROUTES)
    kinds = ["status", "status", "redirect", "cut", "reset", "half", "stall", "body", "field", "type"]
    kinds += {"jobs": ["list"] * 6, "job": ["unknown", "tag"], "cancel": ["late"], "submit": ["twice"] * 2}.get(
        route, []
    )
    times = rng.choice((1, 1, 2, 3, 6, 12))
    return Mood(
        route, rng.choice(kinds), times, rng.choice((0, 0, 0, 1, 2, 4)), rng.random() < 0.5, rng.randrange(10**6)
    )


class Night(Platform):
    """A platform with moods, and a job of somebody else on it."""

    def __init__(self, devices):
        self.moods = []
        self.late = []
        self.again = []
        super().__init__(devices)

    def begin(self, moods, **script):
        """Start anew; another person's job waits already."""
        with self.lock:
            self.reset(Script(**script))
            self.moods, self.late, self.again = moods, [], []
            self.stranger = self.create(
                {"backend": "ibm_lagos", "program_id": "executor", "params": {}, "tags": ["theirs"]}
            )

    def mood(self, route):
        """The mood for a request, counted down."""
        with self.lock:
            for mood in self.moods:
                if mood.route == route and mood.times > 0:
                    if mood.skip > 0:
                        mood.skip -= 1
                        continue
                    mood.times -= 1
                    return mood
        return None

    def poll(self, job):
        """Let a job go on, and carry out what was cancelled late."""
        if job is self.stranger:
            return
        super().poll(job)
        with self.lock:
            for count, other in list(self.late):
                self.late.remove((count, other))
                if count > 0:
                    self.late.append((count - 1, other))
                elif other.state not in FINAL:
                    Platform.cancel(self, other)

    @property
    def ours(self):
        """The jobs that the queue made."""
        return [job for job in self.jobs.values() if job is not self.stranger]


class Angry(Handler):
    """One request to a platform with moods."""

    def _answer(self, name, arguments, raw):
        night, mood = self.platform, self.platform.mood(name)
        self.body, self.copies = raw, 1
        rng = random.Random(mood.seed) if mood else random
        with night.lock:
            night.requests.append({"route": name, "mood": mood and mood.kind, "arguments": list(arguments)})
        if mood and mood.kind == "twice":
            self.copies = rng.choice((2, 2, 3))
        carried_out = (
            mood is None or mood.after or mood.kind in ("field", "list", "type", "twice", "tag", "half", "late")
        )
        status, content, headers = 200, None, {}
        if carried_out:
            if mood and mood.kind == "late" and arguments:
                with night.lock:
                    night.late.append((rng.randint(1, 4), night.jobs[arguments[0]]))
                status = 204
            else:
                status, content, headers = self._carry_out(name, arguments)
        if name == "submit" and status == 200 and content is not None:
            night.again.append(self._listed_already(content["id"]))
        if mood is None or mood.kind in ("twice", "late"):
            self._send(status, content, **headers)
        else:
            self._spoil(mood, rng, name, status, content, headers)

    def _carry_out(self, name, arguments):
        try:
            if name not in ("token",):
                self._authorise()
            return (*getattr(self, f"on_{name}")(*arguments), {})
        except Refused as refusal:
            return refusal.status, {"errors": [{"message": refusal.message, "code": refusal.code}]}, refusal.headers

    def _listed_already(self, job_id):
        """Whether a job with the same circuits was listed, and not over without a result, when this one was made."""
        night = self.platform
        with night.lock:
            made = night.jobs[job_id]
            program = _circuits(made.params)
            return [
                job.id
                for job in night.listed([], mocks=False)
                if job is not night.stranger
                and job.tags != made.tags
                and job.state not in ("Failed", CANCELLED)
                and program & _circuits(job.params)
            ]

    def _spoil(self, mood, rng, name, status, content, headers):
        match mood.kind:
            case "status" | "unknown":
                code = 404 if mood.kind == "unknown" else rng.choice(STATUSES)
                after = rng.choice(RETRY_AFTER)
                extra = {"Retry-After": after} if after is not None and code in (413, 429, 503) else {}
                self._raw(code, BODIES[rng.choice(sorted(BODIES))], rng.choice(TYPES), **extra)
            case "redirect":
                where = rng.choice((self.path, "/nowhere", "/api/v1/jobs", "http://127.0.0.1:1/", ""))
                self._raw(rng.choice(REDIRECTIONS), b"", Location=where)
            case "cut":
                self._drop()
            case "reset":
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "stall":
                time.sleep(0.6)
                self._drop()
            case "body":
                self._raw(200, BODIES[rng.choice(sorted(BODIES))], rng.choice(TYPES))
            case "half":
                data = _bytes(content)
                self._raw(status, data[: len(data) // 2], length=len(data) if rng.random() < 0.5 else None)
            case "type":
                self._raw(status, _bytes(content), rng.choice(TYPES), **headers)
            case "tag":
                content = (
                    {**content, "tags": rng.choice(([], None, ["theirs"], "theirs", 3))} if status == 200 else content
                )
                self._send(status, content)
            case "list" if status == 200:
                self._send(200, self._list(rng.choice(LISTS), rng))
            case _:
                spoiled = _changed(content, rng) if status == 200 else content
                self._raw(status, _bytes(spoiled))

    def _list(self, how, rng):
        night = self.platform
        with night.lock:
            found = night.listed([] if how == "everybody's" else self.query.get("tags", []), mocks=False)
            page = [night.describe(job, estimate=False) for job in found]
        answer = {"jobs": page, "count": len(page), "limit": 20, "offset": 0}
        match how:
            case "untagged" | "everybody's":
                for job in page:
                    job.pop("tags")
            case "reversed":
                page.reverse()
            case "no count":
                answer.pop("count")
            case "count null":
                answer["count"] = None
            case "count huge" | "offset ignored":
                answer["count"] = 10**9
                if how == "count huge" and int(self.query.get("offset", ["0"])[0]):
                    answer["jobs"] = []
            case "holes":
                answer["jobs"] = [*page, {"id": None}, None][: len(page) + rng.randint(1, 2)]
            case "twofold":
                answer["jobs"] = page * 2
        return answer

    def _raw(self, status, data, kind="application/json", length=None, **headers):
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)
            if length is not None:
                self._drop()


TYPES = ("application/json", "text/html", "text/plain; charset=utf-16", "application/octet-stream", "")


def _bytes(content):
    return b"" if content is None else content.encode() if isinstance(content, str) else json.dumps(content).encode()


def _circuits(params):
    """What tells the programs of two jobs apart: digests and shots, which the queue notes in its circuits."""
    found = set()

    def walk(value):
        if isinstance(value, dict):
            note = value.get("ketcycle")
            if isinstance(note, dict) and "compile" in note:
                found.add((note["compile"][0], note["shots"]))
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(params)
    return found


def _changed(content, rng):
    """An answer with one field gone, renamed, or of another value; the numbers measured are left alone."""
    text = isinstance(content, str)
    try:
        found = json.loads(content) if text else json.loads(json.dumps(content))
    except ValueError:
        return content
    places: list[tuple[Any, Any]] = []

    def walk(value):
        if isinstance(value, dict):
            places.extend((value, key) for key in value if key != "data" or not text)
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            places.extend((value, index) for index in range(len(value)))
            for each in value:
                walk(each)

    walk(found)
    if not places:
        return content
    where, key = rng.choice(places)
    how = rng.choice(("gone", "renamed", "value", "value", "value"))
    if key == "status" and how == "value":
        where[key] = rng.choice(("Held", "AWAITING", "", "settling", 5))
    elif how == "gone" or (how == "renamed" and isinstance(where, list)):
        del where[key]
    elif how == "renamed":
        where[f"{key}_2"] = where.pop(key)
    else:
        where[key] = rng.choice(VALUES)
    return json.dumps(found) if text else found


def serve(devices=("lagos",)):
    """Serve from a thread of this process; return the server and its platform."""
    import ibm_programs  # noqa: F401  (seconds; paid before the first request)

    night = Night([f"ibm_{name}" for name in devices])
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Angry,), {"platform": night}))
    server.daemon_threads = True
    threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True).start()
    return server, night


__all__ = ["FINAL", "QUEUED", "Angry", "Mood", "Night", "moods", "serve"]
