"""The documentation says what the code does: followed literally where it gives instructions."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.reports.documentation.decisions import list_decisions, markdown
from tasks.contract import STAGES
from tasks.options import listed, sections
from tasks.stage import decisions, stage_module

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("stage", STAGES)
def test_the_page_of_a_stage_names_every_arm_of_its_decisions(stage):
    page = (DOCS / "stages" / f"{stage}.md").read_text()
    for subtask in decisions(stage):
        assert f"**`{subtask.name}`**" in page
        for arm in subtask.arms:
            assert f"`{arm.name}`" in page, f"{stage}.md says nothing of {subtask.name}/{arm.name}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_page_of_a_stage_names_its_steps_and_decisions_in_order(stage):
    page = (DOCS / "stages" / f"{stage}.md").read_text()
    steps = page.split("## Steps\n\n")[1].split("\n\n")[0]
    road = [item if isinstance(item, str) else item.__name__ for item in stage_module(stage).ROAD]
    assert re.findall(r"`(\w+)`", steps) == road


@pytest.mark.parametrize(
    "page", ["add-a-decision.md", "add-an-arm.md", "glossary.md", *(f"stages/{s}.md" for s in STAGES)]
)
def test_options_that_pages_name_exist(page):
    known = {name for section in sections() for name, _ in listed(section)} | {"curation.largest.documents"}
    named = set(
        re.findall(rf"(?<![.\w])((?:{'|'.join(sections())})(?:\.[a-z_]+)+)(?:=[^`]*)?`", (DOCS / page).read_text())
    )
    assert {name for name in named if not name.endswith((".md", ".py"))} <= known


PAGES = [page for page in [ROOT / "README.md", *DOCS.rglob("*.md")] if page.parent.name != "reference"]  # not generated


@pytest.mark.parametrize("page", sorted(page.relative_to(ROOT).as_posix() for page in PAGES))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert "://" in target or ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", ["results.md", "outlook.md", "queue.md", *(f"stages/{s}.md" for s in STAGES)])
def test_a_table_of_figures_is_generated_or_its_section_names_the_command(page):
    text = re.sub(r"<!-- (table|figure): .*?<!-- /\1 -->", "", (DOCS / page).read_text(), flags=re.DOTALL)
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        figures = [
            re.findall(r"(?<![\w.])\d*\.\d+|\d{3,}", table) for table in re.findall(r"(?:^\|.*\n)+", section, re.M)
        ]
        said = re.search(r"\b(python -m benchmarks|ketcycle |make )", section)
        assert said or all(len(found) <= 5 for found in figures), f"{page}: no command in: {section.splitlines()[0]}"


@pytest.mark.slow
def test_an_arm_is_added_in_one_file_by_following_the_page(tmp_path):
    function, line = re.findall(r"```python\n(.*?)```", (DOCS / "add-an-arm.md").read_text(), re.DOTALL)
    for folder in ("tasks", "infra", "flows", "deployments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)  # with what is compiled, which takes as long as the test
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "tasks" / "monitoring" / "drift" / "arms.py"
    head, others = module.read_text().split("OTHERS: ", 1)
    assert others.rstrip().endswith(")")
    module.write_text(f"{head}{function}\n\nOTHERS: {others.rstrip()[:-1]}    {line.strip()},\n)\n")

    chosen = "drift and not bank and not one_problem"  # what an arm has no part in takes the longest
    code = (
        "import sys, pytest; from tasks.monitoring.drift.subtask import DRIFT; "
        "print(*(arm.name for arm in DRIFT.arms), flush=True); sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "tests/contracts/test_subtasks.py", "-k", chosen, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert "energy-distance" in done.stdout.partition("\n")[0].split(), done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_list_of_decisions_is_the_generated_one():
    made = markdown(list_decisions())
    assert (DOCS / "decisions.md").read_text() == made, "run: ketcycle decisions --markdown > docs/decisions.md"
