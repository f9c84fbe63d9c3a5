"""The HTML report: self-contained, complete, and true to the stored data."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.reports import charts as html_charts
from flows.reports.html import anchor
from flows.reports.run.closing import HEADER
from flows.reports.run.meanings import MEANINGS
from flows.reports.run.merged import side_by_side
from flows.reports.run.page import QUANTUM_HEADER, page
from flows.reports.run.report import build_report
from flows.reports.run.text import ARM_HEADER, QUEUE_HEADER, RECORD_HEADER, STAGE_HEADER, markdown
from infra import runs
from infra.settings import Settings
from tasks.sections import Chart, Section, Series, Step, Waterfall, plain

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Outline(HTMLParser):
    """Collects tags, identifiers and attributes; raises where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "action")]
        self.anchors |= {value or "" for name, value in attrs if name == "id"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def text(stored_home: Path) -> str:
    return page(stored_home, build_report(Settings(home=stored_home), *runs.read(stored_home, "r1")))


def test_the_page_needs_nothing_but_itself(text: str) -> None:
    outline = Outline(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(outline.tags)
    assert all(address.startswith("#") for address in outline.addresses)
    assert {address[1:] for address in outline.addresses} <= outline.anchors
    assert not re.search(r"@import|url\((?!#)", text)
    names = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert names <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert len(text) < 1_000_000


def test_every_part_is_there(text: str) -> None:
    headings = " ".join(Outline(text).headings)
    for name in (
        "Did a quantum method help?",
        "What did it cost?",
        "Pictures",
        "Tables",
        "What the columns mean",
        "Three energies",
        "Merged",
        "Results",
        "Provenance",
    ):
        assert name in headings
    assert text.count("<svg") == 6  # all arms, stages, the decision, three energies, training, drift
    for title in (
        "training: Training curve",
        "training: What the model writes",
        "inference: Pruning",
        "Drift over time",
    ):
        assert title in text
    assert "insufficient evidence (n=4, need 20)" in text
    assert "-0.05 [-0.1, 0.01]" in text
    assert "drift.detected" in text
    assert "modelled, time projected" in text


def test_the_page_opens_with_the_answer_then_pictures_then_tables(text: str) -> None:
    found = [text.index(part) for part in ("Did a quantum method help?", "What did it cost?", "<svg", 'id="tables"')]
    assert found == sorted(found)
    assert 0 < text.index("<h2") - text.index("<h1") < 500, "nothing but a line stands before the answer"


def test_a_run_without_quantum_arms_says_so_without_an_empty_table(stored_home: Path, text: str) -> None:
    report = build_report(Settings(home=stored_home), *runs.read(stored_home, "r1"))
    for stage in report["stages"]:
        for subtask in stage["subtasks"]:
            subtask["rows"] = [row for row in subtask["rows"] if row["kind"] != "quantum"]
    found = page(stored_home, report)
    assert "This run compared no quantum arm with a classical one." in found
    assert "quality of the quantum arm" in text
    assert "quality of the quantum arm" not in found


def test_a_column_with_a_unit_or_a_term_is_explained(text: str) -> None:
    """Every column of the main tables but plain names has a tooltip and a place at the end of the page."""
    plain_names = {"arm", "quantum arm", "status", "stage", "decision", "result", "chosen", "reason", "backend"}
    headers = {*HEADER, *STAGE_HEADER, *RECORD_HEADER, *ARM_HEADER, *QUANTUM_HEADER, *QUEUE_HEADER}
    assert headers - plain_names <= MEANINGS.keys()
    for name in MEANINGS.keys() & headers - set(QUEUE_HEADER):
        assert f'id="{anchor(name)}"' in text
        assert f'href="#{anchor(name)}" title="' in text, name


def test_texts_of_models_and_documents_are_escaped(text: str) -> None:
    assert "&lt;b&gt;tags &amp; more&lt;/b&gt;" in text
    assert "<b>tags" not in text


def test_merged_documents_stand_side_by_side_with_their_difference_marked(text: str) -> None:
    assert "<mark>three</mark>" in text
    assert "<mark>drei</mark>" in text
    assert "an exact copy" in text
    assert "the text of lost is not kept" in text


def test_a_run_without_its_data_sets_says_so(home: Path) -> None:
    report = build_report(Settings(home=home), *runs.read(home, "r1"))
    shutil.rmtree(home / "lake")
    text = page(home, report)
    assert "the documents are not in the lake any more" in text
    assert "monitoring: Drift over time" in text  # sections are stored in the report


def test_a_report_stored_before_there_were_sections_still_renders(stored_home: Path) -> None:
    report = build_report(Settings(home=stored_home), *runs.read(stored_home, "r1"))
    report |= {"version": 2, "stages": [{k: v for k, v in s.items() if k != "sections"} for s in report["stages"]]}
    text = page(stored_home, report)
    Outline(text)
    assert "holds no sections" in text
    assert "removed_units" in text  # the facts are there
    assert "## Facts: training" in markdown(report)


def test_a_section_of_any_stage_is_rendered(stored_home: Path) -> None:
    section = Section("A < title", "Its sentence.", ("name", "value"), (("pi", 3.14159), ("none", None), ("n", 12345)))
    chart = Chart("a", "b", (Series("s", ((1.0, 10.0), (100.0, 0.001))),), (("level", 0.01),), "xy")
    report = build_report(Settings(home=stored_home), *runs.read(stored_home, "r1"))
    falls = Waterfall("J", (Step("made", "own", 100.0), Step("saved", "serving", -30.0)), (("in all", 2),))
    shown = [section, Section("Drawn", chart=chart), Section("Falls", chart=falls)]
    sections = json.loads(json.dumps(plain(shown)))
    report["stages"] = [{**report["stages"][0], "stage": "unheard-of", "sections": sections}]
    text = page(stored_home, report)
    Outline(text)
    assert "unheard-of: A &lt; title" in text
    assert "<td>3.142</td>" in text and "<td>12345</td>" in text and "<td>-</td>" in text  # noqa: PT018
    assert 'aria-label="Drawn"' in text
    lines = markdown(report).splitlines()
    assert "| pi | 3.142 |" in lines
    assert "| s | 2 | 1 | 10 | 100 | 0.001 |" in lines
    assert 'aria-label="Falls"' in text
    assert ">-30</text>" in text and ">in all</text>" in text  # noqa: PT018
    assert "| saved | serving | -30 | 70 |" in lines


def test_a_page_made_again_is_the_same_to_the_byte(stored_home: Path, text: str) -> None:
    report = build_report(Settings(home=stored_home), *runs.read(stored_home, "r1"))
    assert page(stored_home, report) == text


def test_kinds_differ_by_shape_and_by_colour() -> None:
    assert len(set(html_charts.COLOURS.values())) == len(html_charts.COLOURS) == 5
    assert len(set(html_charts.MARKERS.values())) == 5
    assert html_charts.COLOURS.keys() == html_charts.MARKERS.keys()


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", html_charts.COLOURS)
def test_marks_stand_out_from_white(kind: str) -> None:
    """WCAG 2.1 asks 3 : 1 of graphical objects."""
    assert 1.05 / (luminance(html_charts.COLOURS[kind]) + 0.05) >= 3


def test_off_the_chart_is_what_would_hide_the_others() -> None:
    rows = [{"quality": q} for q in (1.0, 0.999, 0.998, 0.46)]
    assert html_charts._lowest(rows, 0.01) == pytest.approx(1.0 - 0.03)
    assert html_charts._lowest(rows[:3], 0.01) == float("-inf")
    assert html_charts._lowest([], 0.01) == float("-inf")


def test_the_front_holds_what_no_arm_beats_on_both() -> None:
    def arm(name: str, energy_j: float, quality: float) -> dict[str, object]:
        return {"arm": name, "quality": quality, "energy": {"spent": {"narrow": [0, energy_j, 0]}}}

    rows = [arm("dear", 9, 0.9), arm("cheap", 1, 0.5), arm("beaten", 2, 0.4), arm("good", 3, 0.9)]
    assert [row["arm"] for row in html_charts._front(rows)] == ["cheap", "good"]


def test_a_line_joins_the_arms_of_the_front() -> None:
    def arm(name: str, energy_j: float, quality: float) -> dict[str, object]:
        band = [energy_j / 2, energy_j, 2 * energy_j]
        ends = dict.fromkeys(("quality_lo", "quality_hi"))
        about = {"arm": name, "kind": "classical", "status": "done", "quality": quality}
        return {**about, **ends, "energy": {"spent": {"narrow": band}}}

    rows = [
        arm("dear", 90, 0.9),
        arm("cheap", 1, 0.5),
        arm("beaten", 2, 0.4),
        arm("good", 3, 0.8),
        arm("best", 9, 0.95),
    ]
    subtask = {"name": "d", "metric": "q", "chosen": "good", "tolerance": 0.01, "oracle": None, "rows": rows}
    with html_charts.style():
        text = html_charts.arms(subtask)
    assert text is not None
    dashed = re.findall(r'<path d="([^"]*)"[^>]*stroke-dasharray', text)
    assert [path.count("M") + path.count("L") for path in dashed] == [3], "cheap, good and best"


def test_long_equal_parts_are_left_out_of_a_difference() -> None:
    words = [f"w{i}" for i in range(100)]
    left, right = side_by_side(" ".join(words), " ".join([*words[:50], "new", *words[51:]]))
    assert [piece.text for piece in left if piece.differs] == ["w50"]
    assert [piece.text for piece in right if piece.differs] == ["new"]
    assert "…" in left[0].text
    assert "w49" in left[0].text
    assert "w0 " not in left[0].text
