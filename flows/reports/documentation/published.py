"""The evidence that ships with the repository, and the tables of README and docs that are made from it.

`docs/evidence` is laid out like a state folder (`evidence/*.parquet`, `studies/<id>/record.json`,
`runs/<id>/report.json`), so the figures are computed by the same code. A page marks what is generated:

    <!-- table: STUDY arms -->          title, arms, energies, devices, noise or notes of `ketcycle study --show STUDY`
    <!-- /table -->
    <!-- figure: STUDY PATH FORMAT -->  one value of the study's table by its dotted path, e.g. `needed {}`
    <!-- /figure -->

A page may name a decision instead of a study, such as `inference/pruning`: its newest shipped study; without one, the
part says so. The name `decisions` means all shipped studies, with the tables `results` and `devices`. A pilot has the
further table `page`, all of `ketcycle pilot --show STUDY`; the name `cases` means all pilots, with the table `all`. The
name `outlook` means `ketcycle outlook` on the shipped evidence: its tables by name, with a choice of columns after a
colon (`roadmap: stage; verdict`) and, with `of challengers`, of rows; and the figure `cost`, what a QPU-second must
replace.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any

import flows
from flows.pilots.page import build_page
from flows.reports.documentation.results import MAKERS as RESULTS
from flows.reports.documentation.results import in_order
from flows.reports.outlook.build import Outlook, build_outlook, cost_sentence
from flows.reports.outlook.tables import MAKERS, Shown
from flows.reports.study.cases import case_table
from flows.reports.study.cells import TABLES, notes, title
from flows.reports.study.pilot import markdown
from flows.reports.text import pipes
from flows.study.config import load_record, read_record, record_path
from flows.study.noisy import kept_names
from flows.study.table import build_study
from infra import runs
from infra.errors import BadInput
from infra.evidence import Evidence
from infra.lake import write_atomic
from infra.settings import Settings
from infra.shared import open_evidence
from tasks.contract import PILOTS
from tasks.options import decisions_of
from tasks.outlook.assumptions import load_assumptions
from tasks.registry import find_subtask, subtasks

STUDY_TABLES = ("title", *TABLES, "notes")  # and `page` of a pilot
ROOT = Path(str(flows.__file__)).parents[1]
SHIPPED = Path("docs") / "evidence"
LARGEST_MB = 10.0
CHALLENGERS = " of challengers"  # selects the rows of each decision's challenger
OUTLOOK, DECISIONS, CASES = "outlook", "decisions", "cases"  # in place of a study
_MARK = re.compile(
    r"<!-- (?P<kind>table|figure): (?P<study>[\w./-]+) (?P<what>.*?) -->(?P<text>.*?)<!-- /(?P=kind) -->", re.DOTALL
)


STUDY_PAGE = """# `{decision}`: the study

`ketcycle study {decision}`; the decision itself: [{stage}](../stages/{stage}.md).
How it was made and its limits: [data card](../evidence/README.md); [what each figure is](../figures.md).
Joules are *modelled* from CPU seconds, QPU seconds *projected*.

<!-- table: {decision} title --><!-- /table -->

{tables}

## What it means

<!-- table: {decision} notes --><!-- /table -->
"""

PILOT_PAGE = """<!-- table: {decision} page --><!-- /table -->
"""


@dataclass(frozen=True)
class Block:
    """A generated part of a page.

    Attributes:
        page: the page.
        kind: `table` or `figure`.
        study: the study it is made from.
        what: name of a table, or path and format of a figure.
        text: the text between the marks.
    """

    page: Path
    kind: str
    study: str
    what: str
    text: str


@dataclass(frozen=True)
class Difference:
    """A published cell that differs from the shipped evidence.

    Attributes:
        page: the page.
        study: the study.
        cell: the table with row and column, or the path of the figure.
        published: its text on the page.
        recomputed: its text by the evidence.
    """

    page: str
    study: str
    cell: str
    published: str
    recomputed: str


def pages(root: Path) -> list[Path]:
    """Return the README and all pages below `docs` but the data card."""
    found = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in found if page.exists() and not page.is_relative_to(root / SHIPPED)]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the generated parts of a page."""
    for found in _MARK.finditer(page.read_text(encoding="utf-8")):
        yield Block(page, found["kind"], found["study"], found["what"], found["text"].strip())


def verify(loaded: Settings, root: Path = ROOT) -> tuple[int, list[Difference]]:
    """Recompute every generated part of the pages from the shipped evidence.

    Returns:
        The number of parts, and every cell that differs.

    Raises:
        BadInput: there is no shipped evidence, or a page names a study that is not in it.
    """
    table = _Tables(loaded, root)
    found = [block for page in pages(root) for block in blocks(page)]
    return len(found), [d for block in found for d in _differences(block, table.rendered(block), root)]


def publish(loaded: Settings, names: Sequence[str], root: Path = ROOT) -> list[Path]:
    """Add studies and runs of a home to the shipped evidence, then rewrite every generated part of the pages.

    A study replaces an earlier one of the same decision, a run the run of the same name. Returns the changed pages.

    Raises:
        BadInput: a name is neither a study nor a run of the home, or the evidence would be larger than 10 MB.
    """
    target = root / SHIPPED
    shipped = open_evidence(target)
    for name in names:
        record = load_record(loaded.home, name)
        if record is not None:
            write_atomic(record_path(target, name), json.dumps(record, indent=1))
            mine = open_evidence(loaded.home)
            rows = [row for of in (name, *kept_names(name)) for row in mine.read(run_id=of)]
            shipped.append(replace(row, host="") for row in rows)
            _withdraw(target, shipped, record["config"]["subtask"], name)
        elif runs.find(loaded.home, name) is not None:
            runs.write_report(target, name, runs.read_report(loaded.home, name), "", "")
        else:
            raise BadInput(f"{name} is neither a study nor a run in {loaded.home}; see ketcycle study --list")
    shipped.compact()
    size_mb = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    if size_mb > LARGEST_MB:
        raise BadInput(f"{target} would hold {size_mb:.1f} MB, {LARGEST_MB:g} are allowed; publish fewer studies")
    write_atomic(target / "ro-crate-metadata.json", json.dumps(crate(target), indent=1))
    return write_pages(loaded, root)


def _withdraw(target: Path, shipped: Evidence, decision: str, newest: str) -> None:
    for path in target.glob("studies/*/record.json"):
        name = path.parent.name
        if name != newest and json.loads(path.read_text())["config"]["subtask"] == decision:
            shipped.remove([name, *kept_names(name)])
            shutil.rmtree(path.parent)


def write_pages(loaded: Settings, root: Path = ROOT) -> list[Path]:
    """Rewrite every generated part of the pages from the shipped evidence; return the changed pages.

    A decision with a shipped study but without a page in `docs/studies` gets one.

    Raises:
        BadInput: a page names a study that is not in the evidence, or a table that does not exist.
    """
    table, changed = _Tables(loaded, root), []
    for decision in table.newest():
        path = root / "docs" / "studies" / f"{decision.replace('/', '-')}.md"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            stage = decision.partition("/")[0]
            text = PILOT_PAGE if stage == PILOTS else STUDY_PAGE
            write_atomic(path, text.format(decision=decision, stage=stage, tables=_marks(decision)))
    for page in pages(root):
        before = page.read_text(encoding="utf-8")
        after = _MARK.sub(partial(table.marked, page), before)
        if after != before:
            write_atomic(page, after)
            changed.append(page)
    return changed


def _marks(decision: str) -> str:
    """Return the headings, explanations and marks of all tables of a study."""
    parts = []
    for name, table in TABLES.items():
        parts += [f"## {table.heading}", fill(table.about, 120), f"<!-- table: {decision} {name} --><!-- /table -->"]
    return "\n\n".join(part for part in parts if part)


class _Tables:
    """Renders generated parts from the shipped studies, each study computed once."""

    def __init__(self, loaded: Settings, root: Path) -> None:
        self._home = root / SHIPPED
        self._loaded = loaded.model_copy(update={"home": self._home, "lake_url": ""})
        self._studies: dict[str, Mapping[str, Any]] = {}
        self._root, self._outlook, self.pilot = root, cache(self._build_outlook), cache(self._build_pilot)

    def newest(self) -> dict[str, str]:
        """Return the newest shipped study of each decision."""
        records = [json.loads(path.read_text()) for path in sorted(self._home.glob("studies/*/record.json"))]
        return {record["config"]["subtask"]: record["config"]["study_id"] for record in records}

    def study(self, name: str) -> Mapping[str, Any]:
        if name not in self._studies:
            record = read_record(self._home, name)
            self._studies[name] = build_study(self._loaded, find_subtask(record["config"]["subtask"]), record)
        return self._studies[name]

    def _build_outlook(self) -> Outlook:
        return build_outlook(self._loaded, load_assumptions(), root=self._root)

    def rendered(self, block: Block) -> str:
        if block.study == OUTLOOK:
            return self._of_outlook(block)
        if block.study == DECISIONS:
            return self._of_decisions(block)
        if block.study == CASES:
            return self._of_cases(block)
        if "/" in block.study and block.study not in self.newest():
            find_subtask(block.study)
            return f"no study ships; `ketcycle study {block.study}`"
        found = self.study(self.newest().get(block.study, block.study))
        if block.kind == "figure":
            path, _, form = block.what.partition(" ")
            return (form or "{}").format(_at(found, path, block))
        if table := TABLES.get(block.what):
            cells = table.cells(found)
            return pipes(table.header, cells) if cells else table.empty
        match block.what:
            case "title":
                return title(found)
            case "page" if found["subtask"].startswith(f"{PILOTS}/"):
                return markdown(self.pilot(found["study"]))
            case "notes":
                return "\n".join(f"* {line}" for line in notes(found))
        raise BadInput(f"{block.page}: no table {block.what!r}; there are {', '.join(STUDY_TABLES)}")

    def _of_decisions(self, block: Block) -> str:
        if block.kind == "figure" or block.what not in RESULTS:
            raise BadInput(f"{block.page}: no {block.kind} {block.what!r} of all decisions; there are the tables "
                           f"{', '.join(RESULTS)}")  # fmt: skip
        studies = [self.study(name) for key, name in self.newest().items() if not key.startswith(f"{PILOTS}/")]
        return RESULTS[block.what](in_order(studies, list(subtasks())))

    def _build_pilot(self, name: str) -> Mapping[str, Any]:
        """Return the page of a pilot from its study."""
        return build_page(self._loaded, read_record(self._home, name), self.study(name))

    def _of_cases(self, block: Block) -> str:
        if block.kind == "figure" or block.what != "all":
            raise BadInput(f"{block.page}: no {block.kind} {block.what!r} of the cases; there is the table all")
        newest = self.newest()
        shipped = {name: newest[f"{PILOTS}/{name}"] for name in decisions_of(PILOTS) if f"{PILOTS}/{name}" in newest}
        return pipes(*case_table([self.pilot(study) for study in shipped.values()], decisions_of(PILOTS)))

    def _of_outlook(self, block: Block) -> str:
        if block.kind == "figure" and block.what.split()[0] == "cost":
            return cost_sentence()
        named, _, columns = block.what.partition(":")
        name, only, _ = named.strip().partition(CHALLENGERS)
        if block.kind == "figure" or name not in MAKERS:
            raise BadInput(f"{block.page}: no {block.kind} {name!r} of the outlook; there are the figure cost and the "
                           f"tables {', '.join(MAKERS)}")  # fmt: skip
        table = MAKERS[name](self._outlook())
        rows = [row for row in table.rows if not only or _of_challenger(table.header, row)]
        chosen = [column.strip() for column in columns.split(";") if column.strip()] or list(table.header)
        if unknown := [column for column in chosen if column not in table.header]:
            raise BadInput(f"{block.page}: table {name} has no column {unknown[0]!r}; it has {', '.join(table.header)}")
        at = [table.header.index(column) for column in chosen]
        return pipes(chosen, [[row[i].text for i in at] for row in rows])

    def marked(self, page: Path, found: re.Match[str]) -> str:
        block = Block(page, found["kind"], found["study"], found["what"], "")
        around = "\n" if block.kind == "table" else ""
        start = f"<!-- {block.kind}: {block.study} {block.what} -->"
        return f"{start}{around}{self.rendered(block)}{around}<!-- /{block.kind} -->"


def _of_challenger(header: Sequence[str], row: Sequence[Shown]) -> bool:
    decision, arm = (row[header.index(column)].text for column in ("decision", "arm"))
    challenger = find_subtask(decision).challenger
    return challenger is not None and challenger.name == arm


def _at(found: Mapping[str, Any], path: str, block: Block) -> Any:
    value: Any = found
    for name in path.split("."):
        if isinstance(value, list):
            value = {str(item.get("arm", i) if isinstance(item, Mapping) else i): item for i, item in enumerate(value)}
        if not isinstance(value, Mapping) or name not in value:
            raise BadInput(f"{block.page}: study {block.study} has no value {path}")
        value = value[name]
    return value


def _differences(block: Block, recomputed: str, root: Path) -> Iterator[Difference]:
    where = (str(block.page.relative_to(root)), block.study)
    if block.kind == "figure":
        if block.text != recomputed:
            yield Difference(*where, block.what.split()[0], block.text, recomputed)
        return
    published, wanted = _cells(block.text), _cells(recomputed)
    header = wanted[0] if wanted else []
    for row in range(max(len(published), len(wanted))):
        mine = published[row] if row < len(published) else []
        its = wanted[row] if row < len(wanted) else []
        for column in range(max(len(mine), len(its))):
            said = mine[column] if column < len(mine) else ""
            right = its[column] if column < len(its) else ""
            if said != right:
                name = header[column] if column < len(header) and block.what != "notes" else str(column)
                line = (its or mine)[0] if block.what != "notes" else str(row + 1)
                yield Difference(*where, f"{block.what}, {line}, {name}", said, right)


def _cells(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] if "|" in line else [line] for line in lines]


EVIDENCE_NAME = "ketcycle evidence: quantum and classical methods for the decisions of a language model's life"
EVIDENCE_ABOUT = "One row for each executed method: quality, raw physical quantities, provenance. See README.md."
LICENCE = {
    "@id": "https://www.apache.org/licenses/LICENSE-2.0",
    "@type": "CreativeWork",
    "name": "Apache License 2.0",
    "identifier": "https://spdx.org/licenses/Apache-2.0",
}
AUTHORS = {"@id": "#authors", "@type": "Organization", "name": "The ketcycle authors"}  # as in CITATION.cff
ENCODINGS = {
    "parquet": "application/vnd.apache.parquet",
    "json": "application/json",
    "csv": "text/csv",
    "html": "text/html",
}


def crate(folder: Path, name: str = EVIDENCE_NAME, description: str = EVIDENCE_ABOUT) -> dict[str, Any]:
    """Return the RO-Crate 1.1 metadata of a folder, ready for an archive that gives a DOI."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith((".", "ro-crate")))
    entries = [
        {
            "@id": path.relative_to(folder).as_posix(),
            "@type": "File",
            "contentSize": path.stat().st_size,
            "encodingFormat": ENCODINGS.get(path.suffix[1:], "text/markdown"),
        }
        for path in files
    ]
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": description,
        "license": {"@id": LICENCE["@id"]},
        "author": {"@id": AUTHORS["@id"]},
        "datePublished": f"{datetime.now(UTC):%Y-%m-%d}",
        "version": version("ketcycle"),
        "hasPart": [{"@id": entry["@id"]} for entry in entries],
    }
    about = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": [about, root, LICENCE, AUTHORS, *entries]}
