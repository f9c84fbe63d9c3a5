"""The alias moves while the server answers."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import httpx
import pytest
from transformers import LlamaForCausalLM

from infra.errors import BadInput
from infra.lake import Lake
from infra.tracking import Tracking
from tasks.serving.client import complete, read_requests, running_server
from tasks.serving.source import Source

pytestmark = pytest.mark.slow


def test_the_alias_moves_and_no_request_is_lost(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(tiny_model, folder)
    model = LlamaForCausalLM.from_pretrained(folders[1])
    model.model.norm.weight.data.neg_()
    model.save_pretrained(folders[1])
    registry = Tracking(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")
    registry.register("m", folders[0], "champion", {})
    stop, answers, failures = threading.Event(), [], []
    options = ["--model", "models:/m@champion", "--follow-s", "0.2"]
    with running_server(folders[0], tmp_path, "run", options=options) as url:

        def ask(i: int) -> None:
            while not stop.is_set():
                try:
                    answers.append(complete(url, f"text {i}", max_tokens=8))
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        try:
            _until(lambda: len(answers) > 8)
            registry.register("m", folders[1], "champion", {})
            _until(lambda: any(a["system_fingerprint"] == "m/2" for a in answers))
            # A successor that cannot be loaded leaves the one that answers where it is.
            (tmp_path / "broken").mkdir()
            registry.register("m", tmp_path / "broken", "champion", {})
            _until(lambda: 'ketcycle_reloads_total{outcome="failed"} 1.0' in _get(url, "/metrics"))
            before = len(answers)
            _until(lambda: len(answers) > before + 4)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        text = _get(url, "/metrics")
    assert failures == []
    versions = [a["system_fingerprint"] for a in answers]
    assert set(versions) == {"m/1", "m/2"}
    assert versions[-1] == "m/2"
    said = {v: {a["choices"][0]["text"] for a in answers if a["system_fingerprint"] == v} for v in versions}
    assert not said["m/1"] & said["m/2"]
    assert 'ketcycle_model{name="m",version="m/1"} 0.0' in text
    assert 'ketcycle_model{name="m",version="m/2"} 1.0' in text
    rows = read_requests(Lake(tmp_path / "lake"), "run")
    assert sorted(rows["model_version"].to_pylist()) == sorted(versions), "every answer has its row"
    assert {f"{a['id']}-0" for a in answers} == set(rows["request_id"].to_pylist())


def _until(condition, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _get(url: str, path: str) -> str:
    return httpx.get(url + path, timeout=30, trust_env=False).text


def test_what_the_registry_does_not_have_is_said(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    registry = Tracking(f"sqlite:///{tmp_path}/mlflow/mlflow.db", tmp_path / "mlflow" / "artifacts")
    with pytest.raises(BadInput, match=r"no model m@champion .*no model yet"):
        Source.parse("models:/m@champion").find()
    registry.register("m", tiny_model, "challenger", {})
    with pytest.raises(BadInput, match=r"no model m@champion .*m@challenger"):
        Source.parse("models:/m@champion").find()
    with pytest.raises(BadInput, match="no model m/7"):
        Source.parse("models:/m/7").find()
    assert Source.parse("models:/m/1").find().folder == tiny_model
    assert Source.parse("models:/m/1").find().form == "fp32"
    copied = shutil.copytree(tiny_model, tmp_path / "copied")
    registry.register("m", copied, "challenger", {"form": "int8"})
    assert Source.parse("models:/m@challenger").find().form == "int8", "what the model card chose"


@pytest.mark.parametrize("asked", ["models:/m", "models:/m@a@b", "models:/m/latest", "models:/../x@y"])
def test_an_address_of_another_form_is_refused(asked: str) -> None:
    with pytest.raises(BadInput, match="models:/NAME@ALIAS"):
        Source.parse(asked)


def test_a_moved_home_still_has_its_models(tiny_model: Path, tmp_path: Path) -> None:
    home, moved = tmp_path / "home", tmp_path / "moved"
    folder = home / "lake" / "inference" / "model" / "v1"
    shutil.copytree(tiny_model, folder)
    Tracking(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts").register("m", folder, "champion", {})
    home.rename(moved)
    registry = Tracking(f"sqlite:///{moved}/mlflow/mlflow.db", moved / "mlflow" / "artifacts")
    assert registry.model("m", "champion")[:2] == (1, moved / "lake" / "inference" / "model" / "v1")
