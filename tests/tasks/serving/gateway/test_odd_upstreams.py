"""The gateway before upstreams that answer oddly, byte for byte, and clients that ask oddly."""

from __future__ import annotations

import gzip
import json
import re
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brotli
import httpx
import pytest

from infra.lake import Lake
from tasks.serving.edge import Edge, Limits
from tasks.serving.gateway.app import Gateway, Upstream
from tasks.serving.request_log import RequestLog, Rules, read_requests

sys.path.insert(0, str(Path(__file__).parents[3] / "doubles"))
from openai_server import served

TEXT = "größer 東京 🙂"
CHAT = json.dumps({"id": "c", "model": "m", "choices": [{"index": 0, "message": {"content": TEXT}}]}).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return an answer with its length, after which the connection ends."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(*parts: bytes, kind: str = "text/event-stream") -> list[bytes]:
    """Return the pieces of a chunked answer, after which the connection ends."""
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    return [head, *(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def events(*texts: str) -> bytes:
    said = [{"id": "s", "model": "m", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    lines = [b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in said]
    return b"".join(lines) + b"data: [DONE]\n\n"


STREAM = events("größer ", "東京", " 🙂")
CUTS = [STREAM[at : at + 7] for at in range(0, len(STREAM), 7)]  # within characters too


def _is_whole(request: bytes) -> bool:
    head, blank, body = request.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(blank) and len(body) >= (int(length[1]) if length else 0)


@dataclass
class Raw:
    """An upstream that gives canned bytes for each path, piece by piece.

    Attributes:
        said: the pieces by path.
        asked: the heads of all requests.
    """

    said: dict[str, list[bytes]]
    asked: list[bytes] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer, suppress(OSError):
            got = b""
            while not _is_whole(got):  # to close with a part unread would reset the connection
                if not (piece := peer.recv(65_536)):
                    return
                got += piece
            self.asked.append(got)
            path = got.split(b" ")[1].decode("latin-1").split("?")[0]
            pieces = self.said.get(path, [whole(b"")])
            for piece in [pieces[0].partition(b"{")[0]] if got.startswith(b"HEAD") else pieces:
                peer.sendall(piece)
                time.sleep(0.002)


ANSWERS: dict[str, list[bytes]] = {
    "/nonsense/completions": [b"hello, this is no HTTP\r\n\r\n"],
    "/nothing/completions": [],
    "/html/completions": [whole(b"<h1>Bad gateway</h1>", "Content-Type: text/html", status="502 Bad Gateway")],
    "/short/completions": [whole(b"x" * 100)[:-50]],
    "/cut/chat/completions": chunked(*CUTS),
    "/to-the-end/chat/completions": [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", CHAT],
    "/hints/chat/completions": [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", whole(CHAT)],
    "/twice": [whole(b"{}", "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Odd: caf\xe9")],
    "/large": chunked(*[b"y" * 2**22] * 8, kind="application/octet-stream"),
    "/gzip/chat/completions": [whole(gzip.compress(CHAT), "Content-Encoding: gzip")],
    "/deflate/chat/completions": [whole(zlib.compress(CHAT), "Content-Encoding: deflate")],
    "/bare/chat/completions": [whole(zlib.compress(CHAT)[2:-4], "Content-Encoding: deflate")],
    "/br/chat/completions": [whole(brotli.compress(CHAT), "Content-Encoding: br")],
    "/numbers/completions": [whole(b'{"choices": [{"index": -7}], "usage": {"prompt_tokens": 1%s}}' % (b"0" * 30))],
    "/refused/completions": [whole(b'{"error": {"message": "n is too large"}}', status="400 Bad Request")],
    "/comment/chat/completions": chunked(b": PROCESSING\n\n", STREAM),
    "/retry/chat/completions": chunked(b"retry: 3000\r\nid: 1\r\n\r\n" + STREAM.replace(b"\n", b"\r\n")),
    "/mark/chat/completions": chunked(b"\xef\xbb\xbf" + STREAM),
    "/lines/chat/completions": chunked(
        STREAM.replace(b'"model": "m", ', b'"model": "m",\ndata: ').replace(b"data: {", b"data:{")
    ),
    "/without-an-end/chat/completions": chunked(STREAM.replace(b"data: [DONE]\n\n", b"")),
    "/fails/chat/completions": chunked(
        STREAM.replace(b"[DONE]", b'{"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]')
    ),
    "/no-chunk/chat/completions": [*chunked(STREAM)[:-1], b"zz\r\nrubbish"],
    "/headers/chat/completions": [whole(CHAT, "X-Big: " + "a" * 50_000, *(f"X-{k}: v" for k in range(300)))],
    "/detail/chat/completions": [whole(b'{"detail": "Not Found"}', status="404 Not Found")],
    "/moved/chat/completions": [whole(b"", "Location: http://other.example/x", status="307 Temporary Redirect")],
    "/options": [whole(b"", "Allow: GET, POST", status="204 No Content")],
}


@dataclass
class Front:
    raw: Raw
    url: str
    lake: Lake
    client: httpx.Client

    def row(self, path: str) -> dict[str, Any]:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            found = [row for row in read_requests(self.lake).to_pylist() if row["path"] == path]
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no row of {path}")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    lake, raw = Lake(tmp_path_factory.mktemp("lake")), Raw(ANSWERS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=raw.serve, args=(listener,), daemon=True).start()
        upstream = Upstream.of(f"http://localhost:{listener.getsockname()[1]}")
        gateway = Gateway(upstream, RequestLog(lake, Rules("odd", "plain", flush_s=0.05)), None)
        edge = Edge(gateway, Limits(None, 1024, 1 << 20), lambda _: None)
        with served(edge) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            yield Front(raw, url, lake, client)


@pytest.mark.parametrize("path", ["/nonsense/completions", "/nothing/completions"])
def test_an_upstream_that_gives_no_answer_is_said_in_openais_form(front: Front, path: str) -> None:
    answer = front.client.post(path, json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert "gave no answer" in answer.json()["error"]["message"]
    assert (front.row(path)["status"], front.row(path)["finish"]) == (502, "failed")


def test_an_error_that_is_no_json_passes_as_it_is(front: Front) -> None:
    answer = front.client.post("/html/completions", json={"prompt": "a"})
    assert (answer.status_code, answer.text) == (502, "<h1>Bad gateway</h1>")
    assert answer.headers["content-type"] == "text/html"
    assert front.row("/html/completions")["error"] == "status 502"


def test_an_answer_that_is_shorter_than_it_says_breaks_off(front: Front) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        front.client.post("/short/completions", json={"prompt": "a"})
    assert front.row("/short/completions")["finish"] == "cut"


def test_a_stream_cut_within_characters_comes_whole_and_is_read(front: Front) -> None:
    answer = front.client.post("/cut/chat/completions", json={"messages": [], "stream": True})
    assert answer.content == STREAM
    assert front.row("/cut/chat/completions")["completion"] == TEXT


@pytest.mark.parametrize("how", ["to-the-end", "hints", "gzip", "deflate", "bare", "br"])
def test_every_form_of_an_answer_passes_and_is_read(front: Front, how: str) -> None:
    path = f"/{how}/chat/completions"
    with front.client.stream("POST", path, json={"messages": []}) as answer:
        given = b"".join(answer.iter_raw())
    said = ANSWERS[path][-1]
    assert given == (said if how == "to-the-end" else said.partition(b"\r\n\r\n")[2])
    row = front.row(path)
    assert (row["completion"], row["model_version"], row["status"]) == (TEXT, "m", 200)


def test_headers_that_repeat_or_are_no_ascii_pass(front: Front) -> None:
    answer = front.client.get("/twice", headers=[("X-A", "1"), ("X-A", "2"), ("Cookie", "s=1")])
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (b"x-odd", "caf\xe9".encode()) in [(name.lower(), value) for name, value in answer.headers.raw]
    head = front.raw.asked[-1].lower()
    assert head.count(b"x-a: ") == 2
    assert b"cookie: s=1" in head


def test_cookies_of_one_client_are_not_sent_for_another(front: Front) -> None:
    assert front.client.get("/twice").cookies
    httpx.get(f"{front.url}/twice", trust_env=False)
    assert b"cookie:" not in front.raw.asked[-1].lower()


@pytest.mark.parametrize("how", ["comment", "retry", "mark", "lines", "headers"])
def test_every_form_of_events_and_headers_passes_and_is_read(front: Front, how: str) -> None:
    path = f"/{how}/chat/completions"
    assert front.client.post(path, json={"messages": [], "stream": True}).status_code == 200
    row = front.row(path)
    assert (row["completion"], row["model_version"], row["finish"]) == (TEXT, "m", "stop")


@pytest.mark.parametrize(
    ("how", "finish", "error"),
    [
        ("without-an-end", "cut", None),
        ("fails", "failed", "out of memory"),
        ("detail", "failed", "Not Found"),
        ("moved", "failed", "status 307"),
    ],
)
def test_what_went_wrong_behind_the_head_is_in_the_log(front: Front, how: str, finish: str, error: str | None) -> None:
    path = f"/{how}/chat/completions"
    front.client.post(path, json={"messages": [], "stream": True})
    assert (front.row(path)["finish"], front.row(path)["error"]) == (finish, error)


def test_a_stream_that_becomes_malformed_ends_for_the_client_too(front: Front) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        front.client.post("/no-chunk/chat/completions", json={"messages": [], "stream": True})
    row = front.row("/no-chunk/chat/completions")
    assert (row["finish"], row["completion"]) == ("cut", TEXT)


def test_a_large_answer_comes_whole(front: Front) -> None:
    assert front.client.get("/large").content == b"y" * 2**25


def test_numbers_that_make_no_sense_do_not_stop_the_log(front: Front) -> None:
    front.client.post("/numbers/completions", json={"prompt": "a"})
    assert front.row("/numbers/completions")["prompt_tokens"] is None
    front.client.post("/refused/completions", json={"prompt": "many", "n": 10**9})
    assert front.row("/refused/completions")["error"] == "n is too large"
    assert "ketcycle_log_rows_lost_total 0.0" in front.client.get("/metrics").text


def test_other_methods_and_long_addresses_pass(front: Front) -> None:
    assert (front.client.options("/options").status_code, front.client.head("/twice").status_code) == (204, 200)
    assert front.client.head("/twice").headers["content-length"] == "2"
    query = "q=" + "a" * 30_000
    assert front.client.get(f"/long?{query}").status_code == 200
    assert query.encode() in front.raw.asked[-1]
    assert front.client.get("/caf\xe9 %2F?x=\xe9").status_code == 200


def test_a_packed_question_is_passed_packed_and_read_for_the_log(front: Front) -> None:
    body = gzip.compress(json.dumps({"messages": [{"role": "user", "content": "packed"}], "user": "z"}).encode())
    front.client.post("/x/chat/completions", content=body, headers={"Content-Encoding": "gzip"})
    assert front.row("/x/chat/completions")["prompt"] == "user: packed"
    assert b"content-encoding: gzip" in front.raw.asked[-1].lower()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /hints/chat/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", 200),
        (b"GET /twice HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (b"GET /twice HTTP/1.0\r\n\r\n", 200),
        (b"GET http://other.example/twice HTTP/1.1\r\nHost: other.example\r\n\r\n", 200),
        (b"GET @other.example/twice HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"rubbish\r\n\r\n", 400),
    ],
)
def test_clients_that_ask_oddly_get_an_answer(front: Front, head: bytes, status: int) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as peer:
        peer.sendall(head)
        got = peer.recv(65_536)
        if got.startswith(b"HTTP/1.1 100"):
            peer.sendall(b"{}")
            got = got.partition(b"\r\n\r\n")[2] or peer.recv(65_536)
    assert got.startswith(b"HTTP/1.1 %d" % status), got


def test_no_address_leads_to_another_server(front: Front) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    for target in (b"@other.example/x", b"http://other.example/x", b".other.example/x", b":1/x"):
        with socket.create_connection((host, int(port)), timeout=20) as peer:
            peer.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target)
            assert peer.recv(65_536).startswith(b"HTTP/1.1 200")
        assert front.raw.asked[-1].startswith((b"GET / HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\n"))
