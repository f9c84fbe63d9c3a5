"""The architecture, held by the imports of the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("curation", "preprocessing", "architecture", "training", "finetuning", "inference", "monitoring")
PURE_ROOTS = ("prefect", "prefect_dask", "mlflow", "distributed", "dask", "infra", "flows")
ALLOWED = {
    "flows": {"flows", "tasks", "infra", "deployments"},
    "tasks": {"tasks", "infra", "deployments"},
    "infra": {"infra", "deployments"},
    "deployments": {"infra", "deployments"},
}
OURS = {"flows", "tasks", "infra", "deployments", "tests", "benchmarks"}
BRIDGES = {"tasks/settle.py", "tasks/stage.py", "tasks/steps.py"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return the import statements of a file, also those within functions."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return tuple(node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_downwards(package: str) -> None:
    for path in modules(package):
        ours = {name.split(".")[0] for name in imports(path)} & OURS
        assert ours <= ALLOWED[package], f"{named(path)} imports {ours - ALLOWED[package]}"


def import_graph() -> dict[str, set[str]]:
    """Return which of our modules each of our modules imports, type-checking imports included."""
    paths = [path for package in ALLOWED for path in modules(package)]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found: set[str] = set()
        for node in statements(path):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = {other for other in found if other in names and other != name}
    return graph


def test_no_import_circle() -> None:
    graph = import_graph()
    with_circle = TopologicalSorter({"a": {"b"}, "b": {"a"}})
    with pytest.raises(CycleError):
        with_circle.prepare()
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of the circle


def test_no_stage_imports_a_pilot() -> None:
    for stage in STAGES:
        for path in modules(f"tasks/{stage}"):
            assert not {name for name in imports(path) if name.startswith("tasks.pilots")}, named(path)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_never_import_each_other(stage: str) -> None:
    for path in modules(f"tasks/{stage}"):
        foreign = [name for name in imports(path) if name.startswith("tasks.") and name.split(".")[1] in STAGES]
        assert all(name.split(".")[1] == stage for name in foreign), f"{named(path)} imports {foreign}"


def test_only_the_ibm_backend_imports_the_vendor_client() -> None:
    users = [
        named(p)
        for package in ("flows", "tasks", "infra")
        for p in modules(package)
        if any(n.split(".")[0] == "qiskit_ibm_runtime" for n in imports(p))
    ]
    snapshots = "infra/runtime/backends/snapshots.py"  # the fake devices that ship with the client
    assert all(name == snapshots or name.startswith("infra/runtime/backends/ibm/") for name in users), users


def test_only_settings_reads_the_environment() -> None:
    for package in ("flows", "tasks", "infra"):
        for path in modules(package):
            if named(path) != "infra/settings.py":
                text = path.read_text()
                assert "os.environ" not in text, named(path)
                assert "getenv" not in text, named(path)


def test_lake_and_evidence_are_opened_where_the_store_is_known() -> None:
    for package in ("flows", "tasks", "infra"):
        for path in modules(package):
            if named(path) != "infra/shared.py":
                calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
                called = {function.id for function in calls if isinstance(function, ast.Name)}
                assert not called & {"Lake", "SharedLake", "Evidence"}, f"{named(path)}: use infra.shared"


def test_stage_flows_are_short_and_alike() -> None:
    for stage in STAGES:
        assert len((ROOT / "flows" / "stages" / f"{stage}.py").read_text().splitlines()) <= 60


def test_the_packages_are_this_repository() -> None:
    import flows
    import infra
    import tasks

    for package in (flows, infra, tasks):
        assert Path(str(package.__file__)).is_relative_to(ROOT)


def pure_modules() -> list[str]:
    """Return contract, policy, figures, circuits, solvers, and every decision's folder but for its `subtask.py`."""
    paths = [
        ROOT / "tasks/contract.py",
        ROOT / "tasks/policy.py",
        ROOT / "tasks/statistics.py",
        *modules("tasks/evaluation"),
        *(
            p for p in modules("tasks/outlook") if p.stem not in ("assumptions", "cells", "spending")
        ),  # read coefficients
        *modules("tasks/quantum"),
        *modules("tasks/combinatorial"),
    ]
    for stage in (*STAGES, "pilots"):
        for arms in (ROOT / "tasks" / stage).glob("*/arms.py"):
            paths += [path for path in arms.parent.glob("*.py") if path.name != "subtask.py"]
    return [named(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths]


def test_arms_import_neither_orchestrator_nor_infrastructure() -> None:
    """Every arm module, imported in a fresh process, leaves the orchestrator and the infrastructure unloaded."""
    names = pure_modules()
    assert "tasks.contract" in names
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    bad = sorted(m for m in sys.modules if m.split('.')[0] in {PURE_ROOTS!r})\n"
        "    assert not bad, (name, bad)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_contract_loads_in_milliseconds() -> None:
    code = "import sys, tasks.contract; assert not {'numpy', 'torch', 'qiskit', 'prefect'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
