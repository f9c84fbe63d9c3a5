"""A home that was moved or copied, with a real MLflow store in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra import settings
from infra.errors import BadInput
from infra.installation import doctor
from infra.moved import missing_models, moved_from, readdress
from infra.tracking import Tracking

pytestmark = pytest.mark.slow  # MLflow makes its database


def opened(home: Path) -> Tracking:
    return Tracking(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with one model, whose files are in the lake, and a run with an artifact."""
    home = tmp_path_factory.mktemp("first") / "home of us"
    folder = home / "lake" / "inference" / "model" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    tracking = opened(home)
    tracking.register("ketcycle", folder, "champion", {})
    run = tracking.open("r1", "lifecycle", 1.0, {}, {})
    (home / "report.md").write_text("words")
    tracking.artifact(run, home / "report.md")
    return home


def test_a_copy_uses_its_own_files_and_the_original_stays(first: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    assert moved_from(copy) == first.as_uri()
    assert moved_from(first) is None
    tracking = opened(copy)
    assert tracking.pointed_at("ketcycle", "champion") == (1, copy / "lake" / "inference" / "model" / "abc")
    run = tracking.find("r1")
    assert run is not None
    tracking.artifact(run, copy / "report.md")
    assert len(list((copy / "mlflow" / "artifacts").rglob("report.md"))) == 1
    assert tracking._client.get_run(run).info.artifact_uri.startswith(copy.as_uri())
    assert readdress(copy) == 0
    assert opened(first).pointed_at("ketcycle", "champion") == (1, first / "lake" / "inference" / "model" / "abc")


def test_doctor_finds_and_repairs_what_does_not_resolve(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KETCYCLE_HOME", raising=False)
    home = tmp_path / "moved"
    shutil.copytree(first, home)
    loaded = settings.load(home=home)

    def registry() -> list[tuple[str, str, str]]:
        return [(i.level, i.found, i.advice) for i in doctor.examine(loaded) if i.about == "model registry"]

    ((level, found, advice),) = registry()
    assert (level, advice) == ("wrong", "`ketcycle doctor --fix`, or the next run, changes the addresses")
    assert str(first.as_uri()) in found
    assert any("addresses in MLflow's database" in line for line in doctor.repair(loaded))
    assert registry() == [("ok", "the files of all versions are there", "")]
    shutil.rmtree(home / "lake")
    ((level, found, advice),) = registry()
    assert (level, found) == ("wrong", "ketcycle version 1 (champion) has no files any more")
    assert [item.aliases for item in missing_models(home)] == [("champion",)]
    tracking = opened(home)
    with pytest.raises(BadInput, match=r"ketcycle version 1 is registered, but its files are gone: .*doctor"):
        tracking.pointed_at("ketcycle", "champion")
    assert tracking.version_at("ketcycle", "champion") == 1
    assert tracking.promote("ketcycle", 1, "champion") == 1, "a champion without files can be succeeded"


def test_a_link_to_a_home_is_that_home(first: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(first)
    assert moved_from(link) is None
    assert readdress(link) == 0
    assert opened(link).pointed_at("ketcycle", "champion") == (1, first / "lake" / "inference" / "model" / "abc")


@pytest.mark.parametrize("name", ["a b", "ünï", "100%25", "a#b", "a'b", "a_b"])
def test_any_name_of_a_folder_will_do(first: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    shutil.copytree(first, copy)
    tracking = opened(copy)
    assert tracking.pointed_at("ketcycle", "champion") == (1, copy / "lake" / "inference" / "model" / "abc")
    again = tmp_path / "again"
    shutil.copytree(copy, again)
    assert opened(again).pointed_at("ketcycle", "champion") == (1, again / "lake" / "inference" / "model" / "abc")


def test_a_folder_whose_name_databases_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a question mark ends the path"):
        settings.load(home=tmp_path / "what?")
