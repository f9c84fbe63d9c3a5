"""The table of public reports: each is replayed from its files, or shown by the test that it names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.curation.deduplicate import deduplicate

ROOT = Path(__file__).parents[1]
REPORTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "docs" / "curation-reports.yaml").read_text())
REPLAYED = [report for report in REPORTS if "files" in report]


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        encoding = content["encoding"] if isinstance(content, dict) else "utf-8"
        (folder / name).write_bytes((content["text"] if isinstance(content, dict) else content).encode(encoding))


@pytest.mark.parametrize("report", REPLAYED, ids=[report["report"] for report in REPLAYED])
def test_a_report_is_replayed(tmp_path: Path, report: dict[str, Any]) -> None:
    write(tmp_path, report["files"])
    found, expected = deduplicate(tmp_path, **report.get("options", {})), report["expect"]
    assert found.kept.num_rows + found.dropped.num_rows == expected["read"]
    assert found.kept.num_rows == expected["kept"]
    assert found.quarantined.num_rows == expected.get("aside", 0)
    if "texts" in expected:
        assert [text.strip() for text in found.kept["text"].to_pylist()] == expected["texts"]
    for name in expected.get("columns", ()):
        assert name in found.kept.column_names


def test_every_other_report_names_a_test_that_is_there() -> None:
    for report in REPORTS:
        if "files" in report:
            continue
        path, _, name = report["test"].partition("::")
        source = (ROOT / path).read_text()
        assert not name or re.search(rf"^def {name}\(", source, re.M), report["test"]


def table() -> str:
    lines = [
        "# Reports of other tools' users", "",
        f"{len(REPORTS)} public reports, by kind, and what `ketcycle stage curation` and `deduplicate` do with inputs",
        "of their kind. Generated from `curation-reports.yaml`; `tests/test_curation_reports.py` replays those with",
        "files and looks for the tests of the others.", "",
        "| kind | report | what | now | shown by |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for report in REPORTS:
        repository, _, number = report["report"].partition("#")
        link = f"[{report['report']}](https://github.com/{repository}/issues/{number})"
        shown = "replayed" if "files" in report else f"`{report['test'].rpartition('/')[2].partition('::')[0]}`"
        lines.append(f"| {report['kind']} | {link} | {report['what']} | {report['now']} | {shown} |")
    return "\n".join(lines) + "\n"


def test_the_page_is_generated_from_the_file() -> None:
    made = ROOT / "docs" / "curation-reports.md"
    assert made.read_text() == table(), "run: python tests/test_curation_reports.py"


if __name__ == "__main__":
    (ROOT / "docs" / "curation-reports.md").write_text(table())
