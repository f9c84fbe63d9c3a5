"""Arrivals as people send them; the curation itself is not run here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from flows.operations import arrival as module
from flows.operations.arrival import ARRIVAL, curate_on_arrival, watch_corpus
from infra.errors import BadInput
from infra.events import CorpusArrived

TEXT = "Some words that people wrote. " * 9


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path / "home of us"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home of us" / "inbox"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def curated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The corpora that were curated, by file names."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "lifecycle", lambda config: found.append(tuple(Path(p).name for p in config.corpus)))
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of the events that were emitted."""
    found: list[list[str]] = []
    monkeypatch.setattr(
        module, "emit", lambda _, payload, once: found.append([Path(name).name for name in payload["files"]])
    )
    return found


def put(inbox: Path, name: str, content: str | bytes = TEXT) -> Path:
    path = inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else (content + name).encode())
    os.utime(path, (time.time() - 60,) * 2)
    return path


def answer(*files: str) -> Any:
    return curate_on_arrival.fn(CorpusArrived(files=files), ARRIVAL)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("photo.png", b"\x89PNG\0\1\2", "photo.png is no text"),
        ("slides.pptx", b"PK\x03\x04" + bytes(40), "slides.pptx is no text"),
        ("pointer.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
    ],
)
def test_a_file_that_is_no_text_does_not_keep_the_others_waiting(
    inbox: Path, curated: list[tuple[str, ...]], told: list[list[str]], name: str, content: bytes, reason: str
) -> None:
    put(inbox, "good.txt")
    put(inbox, name, content)
    assert reason in str(watch_corpus.fn().message)
    assert told == [["good.txt"]]
    said = answer("good.txt", name).message
    assert curated == [("good.txt",)]
    assert said.startswith("1 of 2 files were new")
    assert reason in said
    with pytest.raises(BadInput, match=f"nothing to curate: .*{reason}"):
        answer(name)


def test_a_file_that_is_gone_is_left_out(inbox: Path, curated: list[tuple[str, ...]]) -> None:
    put(inbox, "good.txt")
    assert "there is no file" in answer("good.txt", "gone.txt").message
    assert curated == [("good.txt",)]
    with pytest.raises(BadInput, match="there is no file"):
        answer("gone.txt", "never.txt")


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "link.txt", "folder/../../secret.txt"])
def test_nothing_outside_the_inbox_is_read(
    inbox: Path, curated: list[tuple[str, ...]], told: list[list[str]], name: str
) -> None:
    (inbox.parent / "secret.txt").write_text("secret")
    (inbox / "folder").mkdir()
    (inbox / "link.txt").symlink_to(inbox.parent / "secret.txt")
    put(inbox, "good.txt")
    with pytest.raises(BadInput, match="is outside"):
        answer("good.txt", name)
    assert curated == []
    os.utime(inbox.parent / "secret.txt", (time.time() - 60,) * 2)
    assert "link.txt links outside it" in str(watch_corpus.fn().message)
    assert told == [["good.txt"]]


@pytest.mark.parametrize(
    "name", ["with space.txt", "ünïcode.txt", "deep/er/file.txt", "no-ending", "new\nline.txt", "-rf.txt", "UPPER.TXT"]
)
def test_names_are_taken_as_they_are(
    inbox: Path, curated: list[tuple[str, ...]], told: list[list[str]], name: str
) -> None:
    put(inbox, name)
    watch_corpus.fn()
    assert told == [[Path(name).name]]
    answer(name)
    assert curated == [(Path(name).name,)]


def test_the_same_content_twice_is_curated_once(inbox: Path, curated: list[tuple[str, ...]]) -> None:
    path = put(inbox, "a.txt")
    (inbox / "b.txt").write_bytes(path.read_bytes())
    answer("a.txt", "b.txt", "a.txt")
    assert curated == [("a.txt",)]
    assert answer("b.txt").name == "Completed", "called by hand, the holder may go on"


def test_what_is_hidden_or_still_being_written_is_not_reported(inbox: Path, told: list[list[str]]) -> None:
    put(inbox, ".hidden.txt")
    put(inbox, ".folder/inside.txt")
    (inbox / "being-written.txt").write_text(TEXT)
    os.mkfifo(inbox / "pipe.txt")
    (inbox / "dangling.txt").symlink_to(inbox / "nothing")
    assert watch_corpus.fn().name == "Skipped"
    assert told == []
