from __future__ import annotations

import filecmp
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import mlflow
import pandas as pd
import pytest

from infra.tracking import Tracking
from tasks.model.causal import load_model, load_tokenizer
from tasks.model.generation.generate import Sampling, complete
from tasks.serving.pyfunc import add_mlflow_files

pytestmark = pytest.mark.slow

PROMPTS = ["This LICENSE", "Python"]


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(tiny_model, made)
    add_mlflow_files(made)
    return made


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> list[str]:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    return [complete(model, tokenizer, prompt, Sampling(max_tokens=9)).text for prompt in PROMPTS]


def test_the_same_weights_give_the_same_files_without_a_pickle(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    again = tmp_path / "model"
    shutil.copytree(tiny_model, again)
    add_mlflow_files(again)
    names = sorted(path.name for path in folder.iterdir())
    assert filecmp.cmpfiles(folder, again, names, shallow=False) == (names, [], [])
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]
    assert str(folder.parent) not in (folder / "MLmodel").read_text()


def test_mlflow_loads_the_registered_model_and_gives_its_text(
    folder: Path, expected: list[str], tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Tracking(uri, tmp_path / "artifacts").register("m", folder, "champion", {})
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    loaded = mlflow.pyfunc.load_model("models:/m@champion")
    asked = pd.DataFrame({"prompt": PROMPTS})
    assert loaded.predict(asked, params={"max_tokens": 9}) == expected
    draws = [loaded.predict(asked, params={"temperature": 1.5, "seed": seed}) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    with pytest.raises(Exception, match="the prompt has"):
        loaded.predict(pd.DataFrame({"prompt": ["word " * 300]}))


def test_mlflow_serves_it(folder: Path, expected: list[str], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    activated = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it looks for uvicorn
    with (tmp_path / "log").open("wb") as output:
        server = subprocess.Popen(command, env=activated, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    client.get("/ping").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.2)
            body = {"dataframe_split": {"columns": ["prompt"], "data": [[p] for p in PROMPTS]}}
            answer = client.post("/invocations", json=body | {"params": {"max_tokens": 9}})
        assert answer.json() == {"predictions": expected}
    finally:
        server.terminate()
        server.wait(20)
