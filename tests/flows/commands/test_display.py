"""What a command shows while it works: the picture drawn from records, plain lines, and both in real terminals."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.commands.display import LiveView, OutputMode, PlainLines, shown
from tasks.contract import STAGES

ROOT = Path(__file__).parents[3]
BEGAN = 1_800_000_000.0


def record(text: str, after_s: float = 0.0, level: int = logging.INFO, **figures: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": level, "created": BEGAN + after_s, **figures})


def screen(picture: LiveView, after_s: float = 60.0, width: int = 120) -> list[str]:
    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(picture.render(BEGAN + after_s))
    return [line.rstrip() for line in console.export_text().splitlines()]


def begun() -> LiveView:
    picture = LiveView("run r1", stages=STAGES)
    picture.take(record("curation begins", 0, stage=("curation", "running")))
    picture.take(record("curation: 9 of 10 documents kept", 12, stage=("curation", "done")))
    picture.take(record("preprocessing begins", 12, stage=("preprocessing", "running")))
    return picture


def line_of(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.strip().startswith(name))


def test_seven_stages_with_state_time_and_result() -> None:
    lines = screen(begun(), after_s=20)
    assert lines[0].startswith("run r1")
    assert re.fullmatch(r"  curation +done +0:12 9 of 10 documents kept", lines[1])
    assert re.fullmatch(r"  preprocessing running +0:08", lines[2])
    assert [line.split()[:2] for line in lines[3:8]] == [[name, "waits"] for name in STAGES[2:]]


@pytest.mark.parametrize("state", ["failed", "skipped", "reused"])
def test_a_stage_that_did_not_run_to_its_end_says_so(state: str) -> None:
    picture = begun()
    picture.take(record("preprocessing: no text", 15, stage=("preprocessing", state)))
    assert re.fullmatch(rf"  preprocessing {state} +0:03 no text", line_of(screen(picture), "preprocessing"))


def test_a_bar_has_amount_rate_and_time_left() -> None:
    picture = begun()
    clock = iter(range(1000))
    picture._bars.get_time = lambda: float(next(clock))  # a second at each look
    for step in range(0, 101, 10):
        picture.take(record(f"step {step}/400", worker="0", bar=("training steps", step, 400)))
    found = line_of(screen(picture), "training steps")
    assert "100 of 400" in found
    rate = float(re.search(r"([\d.]+)/s", found).group(1))
    left_s = sum(int(part) * size for part, size in zip(found.split()[-1].split(":"), (60, 1), strict=True))
    assert left_s == pytest.approx(300 / rate, rel=0.15)


def test_counts_of_several_workers_are_added_up() -> None:
    picture = begun()
    picture.take(record("curation: 6 shadow arms submitted", count=("arms", 0, 6)))
    for worker in ("0", "1", "0"):
        picture.take(record("arm qaoa ran", worker=worker, count=("arms", 1, 0)))
    assert "3 of 6" in line_of(screen(picture), "arms")


def test_a_finished_bar_goes_and_comes_back_when_there_is_more() -> None:
    picture = begun()
    picture.take(record("", count=("arms", 2, 2)))
    assert "2 of 2" in "\n".join(screen(picture, after_s=60))
    assert "2 of 2" not in "\n".join(screen(picture, after_s=70))
    picture.take(record("", count=("arms", 0, 3)))
    assert "2 of 5" in "\n".join(screen(picture, after_s=71))


def test_the_last_line_of_each_worker_and_warnings() -> None:
    picture = begun()
    for worker, text in (("0", "first"), ("1", "[b]second[/b]"), ("0", "third")):
        picture.take(record(text, worker=worker))
    picture.take(record("qaoa failed: no reason", level=logging.WARNING, worker="1"))
    lines = screen(picture)
    assert line_of(lines, "worker 1").endswith("third")
    assert "first" not in "\n".join(lines)
    assert "! qaoa failed: no reason" in lines


def test_a_count_without_a_total_goes_when_it_no_longer_grows() -> None:
    picture = begun()
    picture.take(record("", count=("documents", 1280, 0)))
    assert "1,280" in line_of(screen(picture, after_s=60), "documents")
    assert "documents" not in "\n".join(line for line in screen(picture, after_s=75) if "1,280" in line)
    picture.take(record("", count=("documents", 20, 0)))
    assert "1,300" in line_of(screen(picture, after_s=76), "documents")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_screen_is_at_most_100_columns_and_never_wider_than_the_terminal(width: int) -> None:
    picture = begun()
    picture.take(record("long " * 60, worker="0", level=logging.WARNING, bar=("steps", 1, 10)))
    lines = screen(picture, width=width)
    assert max(map(len, lines)) <= min(width, 100)
    assert len(lines) <= 14, "no line is wrapped"


def test_plain_lines_are_results_warnings_and_bars_now_and_then() -> None:
    said: list[str] = []
    lines = PlainLines(said.append)
    lines.take(record("curation begins"))
    lines.take(record("curation: prepare", worker="0"))
    lines.take(record("qaoa failed", level=logging.WARNING, worker="0"))
    for step in range(1, 41):
        lines.take(record(f"step {step}", after_s=step, worker="0", bar=("training steps", step, 40)))
    assert [line.split("s  ")[1] for line in said] == [
        "curation begins", "qaoa failed", "step 1", "step 11", "step 21", "step 31", "step 40",
    ]  # fmt: skip


def test_verbose_lines_are_all() -> None:
    said: list[str] = []
    PlainLines(said.append, every=True).take(record("curation: prepare", worker="0"))
    assert said[0].endswith("s  curation: prepare")


SCRIPT = """
import logging, subprocess, sys, time
from pathlib import Path
from flows.commands.display import OutputMode, shown
log = logging.getLogger("ketcycle.x")
with shown("run r1", OutputMode(plain="--plain" in sys.argv, verbose="--verbose" in sys.argv), ("curation", "training"),
           Path("output.txt")) as display:
    display.say("it begins")
    log.info("curation begins", extra={"stage": ("curation", "running")})
    subprocess.run(["sh", "-c", "echo noise of a child; echo more noise >&2"])
    print("a library prints")
    log.info("step 5/10", extra={"bar": ("steps", 5, 10)})
    time.sleep(0.7)
    log.info("curation: kept all", extra={"stage": ("curation", "done")})
print("the result")
"""


def in_a_terminal(folder: Path, *arguments: str, term: str = "xterm") -> str:
    """Run the script with a pseudo-terminal as its standard streams; return what the terminal got."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), "TERM": term},
    )  # fmt: skip
    os.close(theirs)
    got = b""
    try:
        while piece := os.read(ours, 65536):
            got += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, got.decode()
    return got.decode()


def text_of(raw: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)


def test_a_terminal_shows_the_picture_and_none_of_the_libraries_noise(tmp_path: Path) -> None:
    raw = in_a_terminal(tmp_path)
    assert "\x1b[?25l" in raw, "the cursor is hidden while the picture is drawn"
    assert raw.count("\x1b[?25h") == 1
    seen = text_of(raw)
    assert re.search(r"curation +running", seen)
    assert re.search(r"curation +done +0:0\d kept all", seen)
    assert "5 of 10" in seen
    assert "noise" not in seen
    assert "a library prints" not in seen
    assert seen.rstrip().endswith("the result")
    assert (tmp_path / "output.txt").read_text().splitlines() == [
        "noise of a child", "more noise", "a library prints",
    ]  # fmt: skip


@pytest.mark.parametrize(("arguments", "term"), [(("--plain",), "xterm"), ((), "dumb")])
def test_lines_where_they_are_asked_for_or_the_terminal_can_do_no_more(
    tmp_path: Path, arguments: tuple[str, ...], term: str
) -> None:
    seen = in_a_terminal(tmp_path, *arguments, term=term)
    assert "\x1b[" not in seen
    assert [line.partition("s  ")[2] or line for line in seen.splitlines()] == [
        "it begins", "curation begins", "step 5/10", "curation: kept all", "the result",
    ]  # fmt: skip


def test_verbose_leaves_what_libraries_print_where_it_was(tmp_path: Path) -> None:
    seen = in_a_terminal(tmp_path, "--verbose")
    assert "noise of a child" in seen
    assert not (tmp_path / "output.txt").exists()


def lose_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    raise ZeroDivisionError


def test_the_error_of_a_run_whose_folder_was_removed_is_not_hidden(tmp_path: Path) -> None:
    output = tmp_path / "run" / "output.txt"
    with pytest.raises(ZeroDivisionError), shown("run r1", OutputMode(plain=True), ("curation",), output):
        lose_the_folder(output.parent)
