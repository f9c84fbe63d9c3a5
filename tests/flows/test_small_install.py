"""Without the extra `pipeline` the runtime queue works, as a library and as a command; all else names the extra."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Runs with every module missing that the packages of `dependencies`, and what they depend on, do not bring.
PLAYER = """
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def closure(names):
    found, left = set(), [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        left += [canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found

core = closure(sys.argv.pop(1).split(","))
for top, owners in packages_distributions().items():
    ours = {"ketcycle", "setuptools", "pip"} | core
    if not any(canonicalize_name(owner) in ours for owner in owners):
        sys.modules[top] = None
"""

LIBRARY = """
from qiskit import QuantumCircuit
from infra.runtime.client import Queue

circuit = QuantumCircuit(2)
circuit.x(0)
circuit.measure_all()
queue = Queue("ledger.db", run="small")
job_id = queue.submit([circuit], shots=50)
print(queue.attach(job_id).result(timeout=60)[0].data.meas.get_counts())
print(queue.estimator().run([(circuit.remove_final_measurements(inplace=False), "IZ")]).result()[0].data.evs)
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print(sorted(loaded & {"torch", "mlflow", "prefect", "dask", "distributed", "pyarrow", "pandas", "sklearn"}))
"""

COMMAND = """
from flows.entry import main
main()
"""


def play(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    core = ",".join(Requirement(text).name for text in PROJECT["dependencies"])
    command = [sys.executable, "-c", PLAYER + script, core, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_queue_is_a_library_without_the_pipeline(tmp_path: Path) -> None:
    done = play(LIBRARY, tmp_path)
    assert done.stdout.splitlines() == ["{'01': 50}", "-1.0", "[]"], done.stderr


def test_the_queues_commands_work_and_others_name_the_extra(tmp_path: Path) -> None:
    assert play(LIBRARY, tmp_path).returncode == 0
    ledger = ("--home", str(tmp_path))
    listed = play(COMMAND, tmp_path, "queue", "list", "--json", *ledger)
    assert '"state": "DONE"' in listed.stdout, listed.stderr
    assert "aer: 0 jobs" in play(COMMAND, tmp_path, "queue", "drain", "--backend", "aer", *ledger).stderr
    for arguments in (("queue", "list", "--run", "small", "--summary", *ledger), ("run",), ("study", "x")):
        refused = play(COMMAND, tmp_path, *arguments)
        assert refused.returncode == 2
        assert "pip install 'ketcycle[pipeline]'" in refused.stderr


def test_the_pipeline_keeps_its_packages() -> None:
    extras = PROJECT["optional-dependencies"]
    core, pipeline = (
        {Requirement(text).name for text in names} for names in (PROJECT["dependencies"], extras["pipeline"])
    )
    assert {"dask", "distributed", "prefect", "prefect-dask", "mlflow", "datasketch", "torch"} <= pipeline
    assert {"qiskit", "qiskit-aer", "qiskit-ibm-runtime", "sqlalchemy"} <= core
    assert not core & pipeline
    assert "INSTALL,'.[pipeline]'" in (ROOT / "Makefile").read_text()
