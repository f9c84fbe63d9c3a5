"""The hyperparameter search: makes the stored table of real training runs, and replays every arm on it.

    python -m benchmarks.hpo table FOLDER [--seconds 280]   # as many runs as fit; call it until none is left
    python -m benchmarks.hpo pack FOLDER                    # writes the package resource from its complete tables
    python -m benchmarks.hpo replay [--cells 20] [--arm N]  # arms (default all) on the packed tables, as a table;
                                                            # --write puts it into docs/stages/architecture.md

A table has every setting of the grid, trained once on each of the two shipped domains, with the validation loss after
each quarter, the test loss and the CPU seconds. Regret is the lowest validation loss of the complete runs so far minus
the lowest of the table. Joules are modelled: CPU seconds of the stored trainings and of the arm itself times the watts
of a core, simulated circuits included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from qiskit_aer.primitives import SamplerV2 as AerSampler

from benchmarks.page import write_part
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from tasks.architecture.hyperparameters import bank
from tasks.architecture.hyperparameters.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.architecture.hyperparameters.problem import Found, Search
from tasks.architecture.hyperparameters.runs import QUARTERS, Real, Stored
from tasks.architecture.hyperparameters.space import SETTINGS, SPACE
from tasks.bench import make_bench
from tasks.contract import Arm
from tasks.model.windows import Windows
from tasks.text.samples import sample_documents

PAGE = Path(__file__).parents[1] / "docs" / "stages" / "architecture.md"
CONTEXT, TOKENS, SEED = 64, 65_536, 0
PARTS = {"training": 1024, "validation": 64, "test": 64}  # windows
AT = (10, 20, 40)  # runs at which the regret is shown
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("setting", pa.int16()),
        ("validation", pa.list_(pa.float32())),
        ("test", pa.float32()),
        ("cpu_s", pa.list_(pa.float32())),
    ]
)
DOMAINS = {"documentation": "base", "licences": "second"}


def texts(source: str, seed: int = SEED, held_out: int = PARTS["validation"]) -> Real:
    """Return the training run on a source: its windows are drawn from all of its text, without overlap."""
    parts_of = {"training": PARTS["training"], "validation": held_out, "test": held_out}
    joined = "\n\n".join(text for _, text in sample_documents(DOMAINS[source])).encode()
    rows = np.frombuffer(joined, np.uint8)[: len(joined) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    chosen = rows[np.random.default_rng(seed).permutation(len(rows))[: sum(parts_of.values())]].astype(np.int64)
    ends = np.cumsum(list(parts_of.values()))[:-1]
    parts = [Windows(part, np.full(len(part), CONTEXT, np.int64)) for part in np.split(chosen, ends)]
    training, validation, test = parts
    return Real(training, validation, test, vocab_size=256, tokens=TOKENS, seed=seed)


def done(folder: Path, source: str) -> dict[int, dict[str, object]]:
    """Return the stored runs of a source by setting; a line that a kill cut short is left out."""
    path = folder / f"{source}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["setting"]: row for row in (json.loads(line) for line in lines if line.endswith("}"))}


def table(folder: Path, seconds: float) -> None:
    """Train settings in a random order until the time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    left = 0
    for source in DOMAINS:
        runs, finished = texts(source), done(folder, source)
        with (folder / f"{source}.jsonl").open("a") as stream:
            for setting in np.random.default_rng(SEED).permutation(SETTINGS).tolist():
                if setting in finished:
                    continue
                if time.monotonic() - began > seconds:
                    left += 1
                    continue
                curve = runs.curve(setting, ())
                row = {"setting": setting, "validation": curve.validation, "test": curve.test, "cpu_s": curve.cpu_s}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
    sys.stdout.write(f"{left} runs are left\n")


def pack(folder: Path) -> None:
    """Write the complete tables of a folder as Parquet into the package, with how they were made."""
    tables = {source: done(folder, source) for source in DOMAINS}
    for source, runs in tables.items():
        if len(runs) < SETTINGS:
            sys.stdout.write(f"{source}: {len(runs)} of {SETTINGS} runs, left out\n")
    rows = [
        {"source": source, **run}
        for source, runs in tables.items()
        if len(runs) == SETTINGS
        for _, run in sorted(runs.items())
    ]
    if not rows:
        raise SystemExit(f"no table in {folder} is complete; run: python -m benchmarks.hpo table {folder}")
    about = {
        "made_by": "python -m benchmarks.hpo table",
        "grid": json.dumps({dimension.name: dimension.levels for dimension in SPACE}),
        "tokens": str(TOKENS),
        "context": str(CONTEXT),
        "windows": json.dumps(PARTS),
        "seed": str(SEED),
        "torch": torch.__version__,
        "text": "deployments/sample: base.parquet and second.parquet",
    }
    found = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(about)
    target = Path(bank.__file__).parent / bank.RESOURCE
    pq.write_table(found, target, compression="zstd")
    sys.stdout.write(f"{len(rows)} runs, {target.stat().st_size:,} bytes\n")


def regret(found: Found, runs: Stored, count: int) -> float:
    """Return the regret after a number of runs."""
    complete = [trial.validation for trial in found.trials[:count] if trial.quarters == QUARTERS]
    return float(min(complete) - runs.validation[:, -1].min())


def replay(cells: int, chosen: list[str]) -> str:
    """Print and return what arms came to, means over tables and cells, the regrets with their standard errors."""
    watts = Coefficients.load().cpu_energy_j(Usage(cpu_s=1.0), source="modelled").p50
    names = (
        "runs",
        "oracle queries",
        "tabulated",
        "circuits",
        *(f"regret at {n}" for n in AT),
        "to 1 %, searches that arrive",
        "training J a run",
    )
    lines = [f"| arm | {' | '.join(names)} | J of the search |\n|---|{'---|' * (len(names) + 1)}\n"]
    sys.stdout.write(lines[0])
    for arm in (INCUMBENT, CHALLENGER, *OTHERS):
        if chosen and arm.name not in chosen:
            continue
        rows = [replayed(arm, source, cell, watts) for source in bank.stored_runs() for cell in range(cells)]
        values = np.array(rows)
        means, errors = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
        regrets = [f"{means[4 + k]:.3f} ± {errors[4 + k]:.3f}" for k in range(len(AT))]
        arrived = f"{means[7]:.0f} J, {values[:, 10].sum():.0f} of {len(values)}"
        shown = (*(f"{mean:.0f}" for mean in means[:4]), *regrets, arrived)
        lines.append(f"| {arm.name} | {' | '.join(shown)} | {means[8]:.2f} | {means[9]:.2f} |\n")
        sys.stdout.write(lines[-1])
        sys.stdout.flush()
    return "".join(lines)


def replayed(arm: Arm[Search, Found], source: str, cell: int, watts: float) -> list[float]:
    """Return the figures of one replay.

    They are counts, regrets, joules to 1 % of the best, of a run and of the search itself, and whether it arrived.
    """
    runs = bank.stored_runs()[source]
    problem = Search(runs, bank.TRIALS, bank.START, bank.PARALLEL, cell)
    with TemporaryDirectory() as folder:
        tools = make_bench(cell, Path(folder), AerSampler(seed=cell))
        bench = replace(tools, rng=np.random.default_rng([cell, 1]))
        began = time.process_time()
        found = arm.solve(problem, bench)
        own = time.process_time() - began
    spent, best = np.cumsum([trial.cpu_s for trial in found.trials]), runs.validation[:, -1].min()
    near = [t.quarters == QUARTERS and t.validation <= 1.01 * best for t in found.trials]
    to_best = spent[near.index(True)] if any(near) else spent[-1]  # a search that never arrives counts as a whole
    counts = [len(found.trials), found.queries, found.tabulated, found.circuits]
    joules = [watts * to_best, watts * spent[-1] / len(spent), watts * own]
    return [*counts, *(regret(found, runs, n) for n in AT), *joules, float(any(near))]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("table", "pack", "replay"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("hpo-runs"))
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--arm", action="append", default=[], help="of `replay`; may be repeated")
    parser.add_argument("--write", action="store_true", help="of `replay`: put the table into the documentation")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.command == "table":
        table(given.folder, given.seconds)
    elif given.command == "pack":
        pack(given.folder)
    else:
        made = replay(given.cells, given.arm)
        if given.write:
            write_part(PAGE, "hyperparameters replay", made)


if __name__ == "__main__":
    main(sys.argv[1:])
