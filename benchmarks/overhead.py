"""Where the time of a run goes, by component: `python -m benchmarks overhead`, `python -m benchmarks.overhead --help`.

A command runs in a fresh home. Every quarter second the CPU times of its processes are read from the kernel; a
process counts with what was last read of it, so that up to a quarter second of one that ends is missing. The line
`reaped` is what the kernel charged to the command and to all children that were waited for, without that gap.
With `--before FOLDER` a run of another checkout and one of this are measured in turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from infra.compute import DASK
from infra.shared import open_evidence
from tasks.contract import STAGES
from tasks.text.samples import sample_documents

ROOT = Path(__file__).parents[1]
SAMPLE_S = 0.25
DOCUMENTS = 200
COMPONENTS = {  # what stands in the command line of a process, the first that fits
    "tasks.serving": "model servers",
    "prefect.server": "Prefect server",
    "prefect server": "Prefect server",
    "forkserver": "Dask workers",
    "spawn_main": "Dask workers",
    "resource_tracker": "resource tracker",
}
SHOWN = ("Dask workers", "model servers")
IMPORTS = ("flows.cli", "flows.lifecycle.run", "flows.lifecycle.lifecycle", "tasks.steps",
           "tasks.curation.stage", "tasks.inference.stage",
           "tasks.serving.server", "infra.tracking", "torch", "transformers", "mlflow")  # fmt: skip


@dataclass
class Watched:
    """What a command took.

    Attributes:
        wall_s: elapsed seconds.
        first_line_s: seconds until the first line of a stage.
        cpu_s: (user, system) CPU seconds by component.
        reaped_s: (user, system) CPU seconds by the kernel's account.
        page_faults: minor page faults by the same account.
        code: exit code.
    """

    wall_s: float = 0.0
    first_line_s: float = float("nan")
    cpu_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    reaped_s: tuple[float, float] = (0.0, 0.0)
    page_faults: int = 0
    code: int = 0


def watch(command: Sequence[str], environment: Mapping[str, str], checkout: Path = ROOT) -> Watched:
    """Run a command of a checkout and read the CPU times of its processes until it ends."""
    environment = {"PYTHONPATH": str(checkout), **environment}
    began, found = time.monotonic(), Watched()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command], env={**os.environ, **environment}, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True, cwd=checkout,
    )  # fmt: skip
    said: list[str] = []

    def listen() -> None:
        for line in process.stderr or ():
            said.append(line)
            if found.first_line_s != found.first_line_s and any(f"  {stage}" in line for stage in STAGES):
                found.first_line_s = time.monotonic() - began

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    seen: dict[tuple[int, float], tuple[str, float, float]] = {}
    root = psutil.Process(process.pid)
    while True:
        for member in _family(root):
            _read(member, root.pid, seen)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(SAMPLE_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join(5)
    found.wall_s, found.code = time.monotonic() - began, process.returncode
    found.reaped_s, found.page_faults = (used.ru_utime, used.ru_stime), used.ru_minflt
    total: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for name, user, system in seen.values():
        total[name] = (total[name][0] + user, total[name][1] + system)
    found.cpu_s = dict(total)
    if found.code:
        sys.stderr.write("".join(said[-20:]))
    return found


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _read(process: psutil.Process, root: int, seen: dict[tuple[int, float], tuple[str, float, float]]) -> None:
    try:
        with process.oneshot():
            key, times = (process.pid, process.create_time()), process.cpu_times()
            name = seen[key][0] if key in seen else "other"
            if name == "other":  # a process may change its program
                line = " ".join(process.cmdline())
                name = next((title for text, title in COMPONENTS.items() if text in line), "other")
    except psutil.Error:
        return
    seen[key] = ("main" if process.pid == root else name, times.user, times.system)


def _print(title: str, found: Watched, home: Path) -> None:
    total = sum(user + system for user, system in found.cpu_s.values())
    write = sys.stdout.write
    write(f"{title}: {found.wall_s:.1f} s, {total:.1f} CPU s, exit code {found.code}, ")
    write(f"first line of a stage after {found.first_line_s:.1f} s, load of the machine {os.getloadavg()[0]:.1f}\n")
    write(f"  {'component':18s} {'CPU s':>7s} {'user':>7s} {'system':>7s}\n")
    for name, (user, system) in sorted(found.cpu_s.items(), key=lambda item: -sum(item[1])):
        write(f"  {name:18s} {user + system:7.1f} {user:7.1f} {system:7.1f}\n")
    user, system = found.reaped_s
    write(f"  {'reaped':18s} {user + system:7.1f} {user:7.1f} {system:7.1f}   {found.page_faults:,} page faults\n")
    parts = _parts(home)
    whole = sum(parts.values())
    for kind, cpu_s in sorted(parts.items(), key=lambda item: -item[1]):
        write(f"  in the evidence: {kind:18s} {cpu_s:7.1f} CPU s {cpu_s / whole:6.1%}\n")


def _parts(home: Path) -> dict[str, float]:
    """Return the CPU seconds of a home's evidence by what they were spent on."""
    parts: dict[str, float] = defaultdict(float)
    for row in open_evidence(home).read():
        kind = {"orchestration": "orchestration", "stage": "stages' own work"}.get(row.arm, "arms")
        parts[kind] += row.total.cpu_s
    return parts


def compare(command: Sequence[str], before: Path, times: int) -> None:
    """Print what a command takes in another checkout and in this one, run in turns, as a table in Markdown.

    The first turn is not counted: in it each checkout compiles its functions for this processor.
    """
    found: dict[str, list[list[float]]] = defaultdict(lambda: [[], []])
    for turn in range(times + 1):
        for side, checkout in enumerate((before, ROOT)):
            with tempfile.TemporaryDirectory() as home:
                seen = watch([*command, "--home", home], {"KETCYCLE_HOME": home}, checkout)
                parts = _parts(Path(home))
            if seen.code:
                raise SystemExit(f"the command ended with exit code {seen.code} in {checkout}")
            values = {
                "elapsed, s": seen.wall_s,
                "first line of a stage after, s": seen.first_line_s,
                "CPU s": sum(seen.reaped_s),
                "of them user": seen.reaped_s[0],
                "of them system": seen.reaped_s[1],
                **{f"CPU s, {name}": sum(seen.cpu_s.get(name, (0.0,))) for name in ("main", *SHOWN)},
                **{f"CPU s, {kind}": cpu_s for kind, cpu_s in sorted(parts.items())},
                "orchestration, % of CPU s": 100 * parts["orchestration"] / sum(parts.values()),
            }
            for name, value in values.items():
                if turn:
                    found[name][side].append(value)
    sys.stdout.write(f"| {' '.join(command)} | before | after |\n|---|---|---|\n")
    for name, (old, new) in found.items():
        cells = (f"{median(side):.1f} [{min(side):.1f}, {max(side):.1f}]" for side in (old, new))
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")


def metering(seconds: float = 8.0) -> None:
    """Print the CPU seconds that metering itself takes of each elapsed second."""
    from tasks import steps
    from tasks.stage import Context

    with tempfile.TemporaryDirectory() as folder:
        context = Context("metering", "curation", Path(folder), 0, {})
        with steps._work(context, "warm"):
            pass
        before, began = time.process_time(), time.monotonic()
        with steps._work(context, "wait"):
            time.sleep(seconds)
        used, wall = time.process_time() - before, time.monotonic() - began
    sys.stdout.write(f"metering a stage: {used:.3f} CPU s in {wall:.1f} s, {used / wall:.2%} of one core\n")


TRAINING = """
import resource, sys, threading, torch
torch.set_num_threads(1)
used = []
def work():
    shapes = (2048, 128), (128, 512), (512, 128), (128, 2048)
    e, a, b, o = (torch.randn(shape, requires_grad=True) for shape in shapes)
    for step in range(12):
        x = torch.randint(0, 2048, (8, 128))
        h = e[x]
        for _ in range(4):
            h = h + torch.relu(h @ a) @ b * 0.01
        torch.nn.functional.cross_entropy((h @ o).flatten(0, 1), x.flatten()).backward()
        for parameter in (e, a, b, o):
            parameter.grad = None
        if step in (1, 11):
            used.append(resource.getrusage(resource.RUSAGE_SELF))
thread = threading.Thread(target=work)  # as a task of a worker
thread.start()
thread.join()
names = "ru_utime", "ru_stime", "ru_minflt"
user, system, faults = (getattr(used[1], name) - getattr(used[0], name) for name in names)
sys.stdout.write(f"user {user:.2f} s, system {system:.2f} s, {faults:,} page faults\\n")
"""


def allocation() -> None:
    """Print what ten training steps take with Dask's settings of malloc and with those of a run's workers."""
    prefix = "distributed.nanny.pre-spawn-environ."
    ours = {name.removeprefix(prefix): str(value) for name, value in DASK.items() if name.startswith(prefix)}
    for title, settings in (("Dask's malloc", {"MALLOC_TRIM_THRESHOLD_": "65536"}), ("ours", ours)):
        sys.stdout.write(f"ten training steps, {title:14s}")
        sys.stdout.flush()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
        subprocess.run([sys.executable, "-c", TRAINING], check=True, env=environment)


def imports() -> None:
    """Print what importing modules takes, each in a fresh interpreter."""
    for name in IMPORTS:
        before = os.times()
        subprocess.run([sys.executable, "-c", f"import {name}"], check=True, stderr=subprocess.DEVNULL)
        after = os.times()
        user, system = after.children_user - before.children_user, after.children_system - before.children_system
        sys.stdout.write(f"import {name:28s} {user + system:6.2f} CPU s\n")


def one_stage(folder: Path) -> list[str]:
    """Write 200 documents and return the command that deduplicates them."""
    documents = [{"doc_id": name, "text": text} for name, text in sample_documents("base")][:DOCUMENTS]
    pq.write_table(pa.Table.from_pylist(documents), folder / "corpus.parquet")
    return ["stage", "curation", "--corpus", str(folder / "corpus.parquet"), "--method", "classical"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead")
    parser.add_argument("--profile", default="smoke", help="profile of the run")
    parser.add_argument(
        "--only", choices=("run", "stage", "imports", "metering", "allocation"), help="one of the tables"
    )
    parser.add_argument("--before", type=Path, help="another checkout, which the run is compared with")
    parser.add_argument("--times", type=int, default=3, help="counted runs of each checkout")
    options = parser.parse_args(arguments)
    if options.before:
        compare(["run", "--profile", options.profile], options.before.absolute(), options.times)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.only in (None, "imports"):
            imports()
        if options.only in (None, "metering"):
            metering()
        if options.only in (None, "allocation"):
            allocation()
        for name in ("run", "stage"):
            if options.only in (None, name):
                command = ["run", "--profile", options.profile] if name == "run" else one_stage(folder)
                home = folder / name
                found = watch([*command, "--home", str(home)], {"KETCYCLE_HOME": str(home)})
                _print(" ".join(command), found, home)


if __name__ == "__main__":
    main()
