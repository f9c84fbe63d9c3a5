"""Pilots: the smoke profile of each without the engine, and the verdicts on published numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.pilots.config import PilotConfig
from flows.pilots.page import build_page, compare
from flows.reports.run.page import page
from flows.reports.run.report import build_report
from flows.reports.study.cases import case_table, read_pilots
from flows.reports.study.pilot import answers, markdown, write_pilot
from flows.study.config import draw_instances, record_path
from flows.study.study import run_instance
from infra import runs, settings
from infra.lake import write_atomic
from infra.settings import Settings
from tasks.contract import PILOTS, Material
from tasks.evaluation.claims import better, reproduced, score
from tasks.evaluation.paired import Paired
from tasks.options import decisions_of
from tasks.pilots.claim import Number, Published, Seen, profile, published
from tasks.registry import find_subtask
from tasks.workbench import Workbench

approx = pytest.approx


def smoke(home: Path, pilot: str) -> dict[str, Any]:
    """Run the smoke profile of a pilot as the flow does, without the engine; return the record of its study."""
    loaded = settings.load(home=home)
    config = PilotConfig(pilot=pilot, profile="smoke").study("s1")
    bench = Workbench("s1", home, loaded.ledger, minimum_s=0.0, probe=True)
    arms = config.arms or tuple(arm.name for arm in find_subtask(config.subtask).arms)
    instances = [
        run_instance(config.subtask, instance, arms, config.repeats, frozenset(), bench)
        for instance in draw_instances(config, Material({}, home / "cache"))
    ]
    return {"config": config.model_dump(mode="json"), "wall_s": 1.0, "sources": {}, "instances": instances}


@pytest.mark.parametrize("pilot", decisions_of(PILOTS))
def test_the_smoke_profile_of_a_pilot_ends_with_its_page(pilot: str, home: Path) -> None:
    record = smoke(home, pilot)
    write_atomic(record_path(home, "s1"), json.dumps(record))
    found = build_page(settings.load(home=home), record)
    assert {row["status"] for row in found["study"]["arms"]} <= {"done", "skipped"}
    assert any(row["kind"] == "quantum" and row["circuits"] for row in found["study"]["arms"])
    assert [answer for _, answer, _ in answers(found)] == ["cannot be judged", "undecided"]
    folder = home / "studies" / "s1"
    write_pilot(folder, found)
    stored = json.loads((folder / "pilot.json").read_text())
    for text in (markdown(stored), (folder / "pilot.html").read_text()):
        assert published(pilot).title in text
        assert "What the published comparison left out" in text
    assert list(read_pilots(home)) == [], "a smoke run is no case"
    result = CliRunner().invoke(app, ["pilot", "--show", "s1", "--json", "--home", str(home)])
    assert json.loads(result.stdout)["pilot"] == pilot
    in_report(home, {**stored, "profile": "full"})


def in_report(home: Path, full: dict[str, Any]) -> None:
    """Check that a full page is a line of the table of cases, in the report of a run too."""
    write_atomic(home / "studies" / "s1" / "pilot.json", json.dumps(full))
    header, [cells] = case_table(read_pilots(home))
    assert len(cells) == len(header)
    report = page(home, build_report(Settings(home=home), *runs.read(home, "r1")))
    assert "Published cases" in report
    assert f"<td>{cells[0]}</td>" in report


@pytest.mark.parametrize("pilot", decisions_of(PILOTS))
def test_a_claim_names_arms_sources_and_profiles_that_exist(pilot: str) -> None:
    claim, subtask = published(pilot), find_subtask(f"{PILOTS}/{pilot}")
    arms = {arm.name for arm in subtask.arms}
    named = {name for number in claim.numbers for name in (number.arm, number.against) if name}
    assert named | set(claim.all_features) <= arms
    assert claim.url.startswith("https://")
    for which in ("smoke", "full"):
        assert set(PilotConfig(pilot=pilot, profile=which).study("s1").arms) <= arms
        assert profile(pilot, which)
    with pytest.raises(KeyError, match="smoke, full"):
        profile(pilot, "huge")


def seen(arm: str, quality: float, fold: int, source: str = "wine", **measures: float) -> Seen:
    return Seen(source, f"N=8, fold {fold}", f"{source} {fold}", 10, arm, "quantum", quality, measures)


def number(**values: Any) -> Number:
    return Number(**{"name": "n", "arm": "a", "judged": False, **values})


def test_a_published_number_is_set_beside_the_instances_it_names() -> None:
    entries = [seen("a", 0.9, 0, loss=1.0), seen("a", 0.7, 1, loss=3.0), seen("a", 0.1, 0, "iris", loss=9.0)]
    entries += [seen("b", 0.5, 0, loss=4.0), seen("b", 0.5, 1, loss=4.0)]
    plain = compare(number(source="wine", published=0.82, within=0.02, judged=True), entries)
    assert (plain.ours, plain.n, plain.units, plain.met, plain.bar) == (approx(0.8), 2, 2, True, "within 0.02")
    assert compare(number(source="wine", contains="fold 1", least=0.8), entries).met is False
    gain = compare(number(against="b", measure="loss", relative=True), entries)
    assert (gain.ours, gain.arm) == (approx(-0.5), "a - b")  # 1 - 4 and 3 - 4, over 4
    missing = compare(number(source="digits", least=0.1), entries)
    assert (missing.ours, missing.met, missing.n) == (None, None, 0)


def test_a_claim_is_reproduced_if_every_judged_number_meets_its_bar() -> None:
    entries = [seen("a", 0.9, 0), seen("a", 0.9, 1)]
    good, bad, gone, shown = (
        compare(number(judged=True, name=name, **values), entries)
        for name, values in (
            ("good", {"published": 0.91, "within": 0.02}),
            ("bad", {"least": 0.95}),
            ("gone", {"least": 0.1, "source": "digits"}),
            ("shown", {"least": 0.99}),
        )
    )
    shown = compare(number(name="shown", least=0.99), entries)
    assert reproduced([good, shown]).answer == "reproduced"
    assert reproduced([good, bad]).answer == "not reproduced"
    assert "missed: bad" in reproduced([good, bad]).reason
    assert reproduced([good, gone]).answer == "cannot be judged"
    assert reproduced([good, bad], "private data").reason.startswith("private data")
    assert reproduced([]).answer == "cannot be judged"


@pytest.mark.parametrize(
    ("interval", "units", "answer"),
    [
        ((0.001, 0.02), 20, "yes"),
        ((-0.02, 0.009), 20, "no"),
        ((-0.02, 0.02), 20, "undecided"),
        ((0.001, 0.02), 7, "undecided"),
        (None, 1, "undecided"),
    ],
)
def test_better_is_decided_by_the_interval(interval: tuple[float, float] | None, units: int, answer: str) -> None:
    found = Paired("a", "b", 20, units, None if interval is None else sum(interval) / 2, interval, 0, 0)
    assert better(found, 0.01).answer == answer


def test_predictions_of_three_answers_are_scored_by_squared_errors() -> None:
    sure = {"yes": 1.0, "no": 0.0, "undecided": 0.0}
    assert score(sure, "yes") == 0
    assert score(sure, "no") == 2
    assert score(dict.fromkeys(sure, 1 / 3), "no") == approx(2 / 3)


def test_a_claim_must_give_probabilities_that_add_up() -> None:
    values = published(decisions_of(PILOTS)[0]).model_dump()
    values["predicted"]["better"] = {"yes": 0.5, "no": 0.6, "undecided": 0.1}
    with pytest.raises(ValueError, match="add up to 1"):
        Published(**values)


def test_what_cannot_be_run_is_said_with_code_two(tmp_path: Path) -> None:
    for arguments, said in ((["nonsense"], "no pilot"), (["--show", "gone"], "no study gone")):
        result = CliRunner().invoke(app, ["pilot", *arguments, "--home", str(tmp_path)])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())
