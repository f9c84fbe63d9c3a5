"""A token goes down every road that ends badly, and is found nowhere: no log, ledger, evidence, report or message."""

import json
import logging
import os
import re
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import harness
import hosted
import pytest
from ibm_platform import environment
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime.api.session import PostForcelistRetry

from flows.cli import app
from infra.runtime.backends.ibm.device import IBMDevice
from infra.runtime.queue import Runtime, Scope

ROOT = Path(__file__).parents[2]
TOKEN = "Zx9-a-token-that-must-not-be-seen-0123456789ab"  # noqa: S105  (of the double)

PLACES = ("submit", "job", "results", "metrics", "jobs", "usage", "device", "backends", "configuration", "properties")
ROADS: dict[str, dict[str, Any]] = {
    "the token is refused": {"api_key": "another-key"},
    "the token is refused later": {"faults": [{"route": "submit", "kind": "401", "times": 9}]},
    "not found": {"faults": [{"route": "backends", "kind": "404", "times": 9}]},
    "the identity service fails": {"faults": [{"route": "token", "kind": "500", "times": 9}]},
    "maintenance": {"maintenance": True},
    **{
        f"{place} repeats what it was sent": {"faults": [{"route": place, "kind": "echo", "times": 9}]}
        for place in PLACES
    },
    "the connection ends": {"faults": [{"route": "submit", "kind": "drop", "times": 9}]},
    "the job fails": {"faults": [{"route": "create", "kind": "failed", "times": 9}]},
    "all goes well": {},
}


@pytest.fixture(scope="module")
def double():
    transpile(QuantumCircuit(1))  # its plugins are looked up once, not in each forked child
    made = hosted.Double(devices=("lagos", "guadalupe"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _no_idling(monkeypatch):
    """Ask again at once: what is written down and said does not depend on the pause."""
    monkeypatch.setattr(IBMDevice, "poll_s", 0.01)
    monkeypatch.setattr(IBMDevice, "linger_s", 0.0)
    monkeypatch.setattr(PostForcelistRetry, "get_backoff_time", lambda _: 0.0)


def surroundings(home, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QISKIT_IBM", "KETCYCLE", "IAM"))}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **variables}


def tell(home, command, **variables):
    """Run a command and return all that it left: what it said, and every file below its home."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=surroundings(home, **variables), capture_output=True, timeout=280
    )
    return done.stdout + done.stderr, files_of(home)


def files_of(home):
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def call(home, patience_s=1.5, **variables):
    """Be a caller that logs everything it can and prints whatever it is told; return what is left of it."""
    return forked(home, lambda: _call(home, patience_s), **variables)


def forked(home, function, **variables):
    """Call a function in a forked child and return all that it left: what it said, and every file below its home."""
    said = home / "said"
    child = os.fork()
    if child == 0:
        try:
            with said.open("wb", buffering=0) as target:
                for stream in (1, 2):
                    os.dup2(target.fileno(), stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            os.environ.clear()
            os.environ.update(surroundings(home, **variables))
            function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(child, 0)
    text = said.read_bytes()
    said.unlink()
    return text, files_of(home)


def _call(home, patience_s):
    warnings.simplefilter("always")
    logging.basicConfig(level=logging.DEBUG, filename=home / "everything.log", force=True)
    logging.captureWarnings(True)
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    try:
        runtime = Runtime("ledger.db", "ibm:lagos", home=home, projection=harness.PROJECTION)
        sampler = runtime.sampler(Scope("r", "inference", "pruning", "p", "a"), deadline=time.time() + patience_s)
        print(sampler.run([circuit], shots=10).result()[0].data.meas.num_shots)
        print("it went well")
    except BaseException as error:
        traceback.print_exc()
        shown: BaseException | None = error
        while shown is not None:  # whatever Python itself would show
            print(repr(shown), shown.args, getattr(shown, "__dict__", {}))
            logging.getLogger("caller").error("it failed", exc_info=shown)
            shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


WEB_TOKEN = rb"eyJ[\w-]{8}"  # three bytes alone also occur by chance in binary files


def assert_unseen(said, files, *, besides=()):
    for secret in (re.escape(TOKEN.encode()), b"Bearer e", WEB_TOKEN):
        assert not re.search(secret, said), said.decode(errors="replace")[-3000:]
        seen = [path for path, content in files.items() if path not in besides and re.search(secret, content)]
        assert seen == [], f"{secret!r} stands in {seen}"


@pytest.mark.parametrize("road", ROADS)
def test_no_error_shows_the_token(tmp_path, double, road):
    double.reset(**{"api_key": TOKEN, **ROADS[road]})
    patience_s = 60 if road == "all goes well" else 1.5
    said, files = call(tmp_path, patience_s, **double.environment(TOKEN))
    assert b"it went well" in said or road != "all goes well", said.decode()
    assert_unseen(said, files)
    assert any(path.name == "everything.log" and content for path, content in files.items())


def test_an_address_that_refuses_shows_no_token(tmp_path):
    nobody = environment("http://127.0.0.1:9", TOKEN)
    said, files = call(tmp_path, **nobody)
    assert b"it went well" not in said
    assert_unseen(said, files)


@pytest.mark.parametrize("content", ['{"default": {"token": "%s", "channel": ', '{"default": {"token": "%s"}}', "%s"])
def test_a_damaged_account_file_shows_no_token(tmp_path, content):
    account = tmp_path / ".qiskit" / "qiskit-ibm.json"
    account.parent.mkdir()
    account.write_text(content % TOKEN)
    said, files = call(tmp_path)
    assert b"it went well" not in said
    assert_unseen(said, files, besides=(account,))


@pytest.mark.parametrize("key", [TOKEN, "another-key"])
def test_the_doctor_shows_no_token(tmp_path, double, key):
    double.reset(api_key=key)
    command = ["doctor", "--backend", "ibm:lagos", "--home", str(tmp_path)]
    said, files = forked(tmp_path, lambda: app(command), **double.environment(TOKEN))
    assert b"identity service" in said, said.decode()
    assert_unseen(said, files)


@pytest.mark.engine
@pytest.mark.slow
def test_a_run_whose_device_fails_shows_no_token_in_evidence_and_report(tmp_path, double):
    double.reset(api_key=TOKEN, faults=[{"route": "submit", "kind": "echo", "times": 1000}])
    command = ["-m", "flows.cli", "run", "--profile", "smoke", "--stages", "curation", "--backend", "ibm:guadalupe"]
    surrounding = {**double.environment(TOKEN), "KETCYCLE_IBM_LISTING_DELAY_S": "1"}
    said, files = tell(tmp_path, [*command, "--home", str(tmp_path), "--run", "r", "--json"], **surrounding)
    assert_unseen(said, files)
    names = {path.name for path in files}
    assert {"report.json", "ledger.db"} <= names, said.decode()[-2000:]
    assert any(path.suffix == ".parquet" and "evidence" in path.parts for path in files)
    found = (tmp_path / "runs" / "r" / "report.json").read_text()
    assert json.loads(found)["run_id"] == "r"
    assert "the submission was answered 400" in found
