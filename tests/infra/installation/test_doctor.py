import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra import settings
from infra.evidence import Evidence, EvidenceRow
from infra.installation import doctor


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("QISKIT_IBM_TOKEN", "PREFECT_API_URL", "KETCYCLE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def examine(backend="aer", **flags):
        return {item.about: item for item in doctor.examine(settings.load(**flags), backend)}

    return examine


def test_a_fresh_folder_is_usable(found):
    items = found()
    assert not [item for item in items.values() if item.level == "wrong"]
    assert items["evidence"].found == "0 rows"
    assert "ketcycle 0.1.0" in items["packages"].found


def test_what_is_wrong_comes_with_advice(found, tmp_path):
    (tmp_path / ".ketcycle").mkdir()
    (tmp_path / ".ketcycle" / "services.json").write_text(json.dumps({"prefect_url": "http://127.0.0.1:9/api"}))
    (tmp_path / ".ketcycle" / "ledger.db").write_text("this is no database, whatever its name says" * 50)
    items = found(carbon_series=tmp_path / "none.csv")
    for about, words in (("Prefect", "ketcycle up"), ("ledger", ""), ("carbon series", "unset")):
        assert items[about].level == "wrong"
        assert items[about].advice
        assert words in items[about].advice


def test_evidence_of_another_schema_is_named(found, tmp_path):
    Evidence(tmp_path / ".ketcycle" / "evidence").append([EvidenceRow("r", "training", arm="stage")])
    assert found()["evidence"].found == "1 rows"


def test_credentials_are_present_or_not_and_never_shown(found, monkeypatch):
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "very-secret-token")
    items = found()
    assert items["IBM credentials"].found == "variable QISKIT_IBM_TOKEN: present"
    assert "very-secret-token" not in str(items)


def test_looking_loads_nothing_heavy(tmp_path):
    code = "import sys; from flows.cli import app; app(['doctor'], standalone_mode=False); "
    code += "print([m for m in ('prefect', 'mlflow', 'torch', 'qiskit', 'distributed') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_fresh_database_server_is_usable(found, postgres):
    assert found(ledger_url=postgres)["ledger"].level == "ok"


def test_a_store_is_asked(found, bucket, monkeypatch):
    monkeypatch.setenv("KETCYCLE_LAKE_URL", bucket)
    items = found()
    assert (items["store"].found, items["evidence"].level) == (bucket, "ok")
    monkeypatch.setenv("KETCYCLE_LAKE_URL", "s3://no-such-bucket-here/x")
    items = found()
    assert items["evidence"].level == "wrong"
    assert "make the bucket" in items["evidence"].found


@pytest.mark.engine
def test_the_workers_of_a_scheduler_are_asked(found, monkeypatch):
    import distributed

    from infra import versions

    options = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        address = cluster.scheduler_address
        assert found(dask_address=address)["Dask workers"].found.startswith("1, with the versions")
        mine, asked = dict(versions.installed()), itertools.count()
        monkeypatch.setattr(versions, "installed", lambda: mine | {"torch": str(next(asked))})
        item = found(dask_address=address)["Dask workers"]
        assert item.level == "wrong"
        assert "differ: torch" in item.found
        monkeypatch.undo()
        cluster.scale(0)
        cluster.sync(cluster._correct_state)
        assert "has no worker" in found(dask_address=address)["Dask workers"].found
