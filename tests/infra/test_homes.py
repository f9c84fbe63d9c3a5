"""State of released versions is read by this one; `homes/VERSION` is what that version left, `ledger.sql` its database.

The home of 0.1.0 is of a run of the profile smoke (seed 0), without lake data, with one claim and one limit put in.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from infra import completion, runs, settings
from infra.claims import Claims
from infra.installation import doctor
from infra.installation.status import look
from infra.runtime.ledger.budget import limits
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings
from infra.shared import open_evidence

HOMES = sorted(path for path in (Path(__file__).parent / "homes").iterdir() if path.is_dir())


@pytest.fixture(params=HOMES, ids=lambda path: path.name)
def loaded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "KETCYCLE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    shutil.copytree(request.param, home)
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.executescript((home / "ledger.sql").read_text())
    return settings.load(home=home)


def test_what_a_released_version_left_is_read(loaded: Settings) -> None:
    assert runs.read(loaded.home, "r1")[1]["status"] == "done"
    done = completion.find(loaded.home, "r1", "inference")
    assert done is not None
    assert done.result["facts"]["registered"]["name"] == "ketcycle"
    rows = open_evidence(loaded.home).scan("r1")
    assert {"curation"} <= {row.stage for row in rows}
    assert limits(Ledger(loaded.ledger)) == {("day", "qpu_s"): 60.0}
    assert Claims(loaded.ledger, "curate-on-arrival", at_work=lambda _: False).claim("abc", "another") is not None
    assert [run.name for run in look(loaded).recent] == ["r1"]


def test_doctor_repairs_it_and_finds_nothing_wrong(loaded: Settings) -> None:
    assert "brought the tables of the ledger to the schema of this version" in doctor.repair(loaded)
    wrong = [item for item in doctor.examine(loaded) if item.level == "wrong" and item.about != "disk"]
    assert not wrong
