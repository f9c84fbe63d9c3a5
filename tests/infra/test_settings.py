from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra import settings


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KETCYCLE_HOME", raising=False)
    assert settings.load().country == "DEU"
    (tmp_path / "ketcycle.toml").write_text('country = "FRA"\nworkers = 3\n')
    assert settings.load().country == "FRA"
    monkeypatch.setenv("KETCYCLE_COUNTRY", "NOR")
    loaded = settings.load()
    assert (loaded.country, loaded.workers) == ("NOR", 3)
    assert settings.load(country="POL").country == "POL"
    assert settings.load(home=tmp_path / "elsewhere").home == tmp_path / "elsewhere"


def test_the_file_that_init_writes_says_the_defaults_where_its_comments_are_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("KETCYCLE_")]:
        monkeypatch.delenv(name)
    default = settings.load()
    lines = re.findall(r"^# ([a-z_]+ = .*)", settings.template(), re.MULTILINE)
    (tmp_path / "ketcycle.toml").write_text("\n".join(lines))
    assert settings.load() == default
    assert len(lines) == len(settings.Settings.model_fields)


def test_the_home_is_absolute_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KETCYCLE_HOME", raising=False)
    loaded = settings.load()
    assert loaded.home == tmp_path / ".ketcycle"
    assert loaded.home.is_dir()
    assert loaded.ledger == f"sqlite:///{tmp_path}/.ketcycle/ledger.db"


def test_libraries_stay_quiet_but_the_user_may_overrule(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from infra import settings; "
        f"settings.quiet_libraries(Path({str(tmp_path)!r})); "
        "names = 'DO_NOT_TRACK PREFECT_SERVER_ANALYTICS_ENABLED HF_HUB_OFFLINE QDK_PYTHON_TELEMETRY'; "
        "print(*map(os.environ.get, names.split()))"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    env.pop("DO_NOT_TRACK", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["true", "false", "0", "none"]
