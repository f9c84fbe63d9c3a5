"""`ketcycle drift`: any two tables, every arm; or one table walked in windows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from infra.energy.model import Coefficients
from infra.errors import BadInput
from infra.settings import Settings
from tasks.contract import Arm, Kind, content_key
from tasks.monitoring.drift.arms import kernel_pairs, linear_quadruples
from tasks.monitoring.drift.problem import Drift, Verdicts
from tasks.monitoring.drift.subtask import DRIFT
from tasks.monitoring.states import Rules, average_run_length
from tasks.monitoring.tables import Reader, choose_columns
from tasks.monitoring.watch import Step, split_reference, walk
from tasks.settle import run_arms
from tasks.workbench import Workbench

CIRCUITS = 5_000  # an arm that needs more runs only when it is asked for by name
LOOP_S, BLOCKS = 0.1, 2
DETECTORS = tuple(arm for arm in DRIFT.arms if arm.kind is not Kind.CONTROL)

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What is asked of the two tables.

    Attributes:
        columns: to be compared; empty = all that can be.
        arms: names; empty = every detector whose circuits are few.
        level: p-value at or below which an arm says drift, over all views.
        rows: of each table that are compared at most.
        permutations: of each test.
        shots: for each circuit.
        minimum: rows that each table has at least.
        backend: of the circuits.
        seed: of sampling and permutations.
    """

    columns: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    level: float = 0.05
    rows: int = 200
    permutations: int = 499
    shots: int = 256
    minimum: int = 20
    backend: str = "aer"
    seed: int = 0


def read_table(path: Path) -> pa.Table:
    """Read a Parquet or CSV file.

    Raises:
        BadInput: it is not there or cannot be read.
    """
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise BadInput(f"there is no file {path}; give a Parquet or CSV file")
    try:
        return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is neither Parquet nor (by its name) CSV: {str(error).splitlines()[0]}") from None


def compare_tables(loaded: Settings, reference: pa.Table, current: pa.Table, asked: Asked) -> Row:
    """Run every arm on two tables, append the evidence and return what each said and spent.

    Raises:
        BadInput: tables that cannot be compared, or an unknown arm.
    """
    arms = _arms(asked.arms)
    for name, table in (("reference", reference), ("current table", current)):
        if table.num_rows < asked.minimum:
            raise BadInput(f"the {name} has {table.num_rows} rows; at least {asked.minimum} are needed (--minimum)")
    columns, notes = _clear(lambda: choose_columns(reference, current, asked.columns))
    problems, features = _clear(lambda: _pose(reference, current, columns, asked))
    run_id = f"drift-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    bench = Workbench(
        run_id=run_id,
        home=loaded.home,
        ledger=loaded.ledger,
        backend=asked.backend,
        seed=asked.seed,
        country=loaded.country,
        projection_device=loaded.projection_device,
        simulation_limit_s=loaded.simulation_limit_s,
        minimum_s=LOOP_S,
        blocks=BLOCKS,
    )
    views, skipped = [], []
    for name, problem in problems.items():
        chosen = [arm for arm in arms if asked.arms or _circuits(arm, problem) <= CIRCUITS]
        skipped += [
            f"{name}: {arm.name} would take {_circuits(arm, problem):,} circuits; ask for it with --arms {arm.name}"
            for arm in arms
            if arm not in chosen
        ]
        views.append(_judge(name, problem, chosen, len(problems), bench))
    verdicts = {
        arm.name: min(len(views) * row["p_value"] for view in views for row in view["arms"] if row["arm"] == arm.name)
        for arm in arms
        if all(any(row["arm"] == arm.name and row["status"] == "done" for row in view["arms"]) for view in views)
    }
    return {
        "run_id": run_id,
        "level": asked.level,
        "rows": {"reference": reference.num_rows, "current": current.num_rows},
        "columns": [{"name": c.name, "kind": str(c.kind)} for c in columns],
        "notes": [*notes, *skipped],
        "views": views,
        "moved": features,
        "arms": {
            name: {"p_value": min(1.0, p), "verdict": "drift" if p <= asked.level else "no drift"}
            for name, p in verdicts.items()
        },
        "verdict": "drift" if verdicts.get(DRIFT.incumbent.name, 1.0) <= asked.level else "no drift",
    }


def _clear(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise BadInput(str(error)) from None


def _arms(names: Sequence[str]) -> tuple[Arm[Drift, Verdicts], ...]:
    if not names:
        return DETECTORS
    known = {arm.name: arm for arm in DRIFT.arms}
    for name in names:
        if name not in known:
            raise BadInput(f"there is no arm {name!r}; {DRIFT.key} has {', '.join(known)}")
    return tuple(arm for arm in DRIFT.arms if arm.name in {*names, DRIFT.incumbent.name})


def _pose(
    reference: pa.Table, current: pa.Table, columns: Sequence[Any], asked: Asked
) -> tuple[dict[str, Drift], list[Row]]:
    rng = np.random.default_rng([asked.seed, 11])
    sample, background = split_reference(reference, asked.rows, rng)
    window = current.take(pa.array(np.sort(rng.permutation(current.num_rows)[: asked.rows])))
    reader = Reader(columns, background)
    parts = [reader.views(table) for table in (sample, window, background)]
    problems = {
        name: Drift(
            parts[0][name],
            (parts[1][name],),
            parts[2][name],
            level=asked.level / len(parts[0]),
            permutations=asked.permutations,
            shots=asked.shots,
        )
        for name in parts[0]
    }
    return problems, reader.moved(sample, window)


def _circuits(arm: Arm[Drift, Verdicts], problem: Drift) -> int:
    if arm.kind is not Kind.QUANTUM:
        return 0
    return (
        len(kernel_pairs(problem)) if arm is DRIFT.challenger else sum(4 * len(q) for q in linear_quadruples(problem))
    )


def _judge(name: str, problem: Drift, arms: Sequence[Arm[Drift, Verdicts]], views: int, bench: Workbench) -> Row:
    """Run the arms on one view and join what they said with what their evidence holds."""
    solutions = run_arms(DRIFT, problem, [arm.name for arm in arms], bench)
    coefficients = Coefficients.load()
    kept = {row.arm: row for row in bench.evidence.read(run_id=bench.run_id, problem=content_key(problem))}
    rows = []
    for arm in arms:
        row, said = kept[arm.name], solutions.get(arm.name)
        used = row.usage + row.prepare
        band = coefficients.cpu_energy_j(used, "narrow", row.energy_source)
        p = said.p_values[0] if said else 1.0
        rows.append(
            {
                "arm": arm.name,
                "kind": str(arm.kind),
                "status": row.status,
                "reason": row.reason,
                "statistic": said.statistics[0] if said else None,
                "p_value": p if said else None,
                "verdict": ("drift" if p <= problem.level else "no drift") if said else row.status,
                "circuits": used.circuits,
                "shots": used.shots,
                "qpu_s_projected": used.qpu_s_projected,
                "cpu_s": used.cpu_s,
                "energy_j": [band.p5, band.p50, band.p95],
                "energy_source": row.energy_source,
            }
        )
    sizes = {"reference": len(problem.reference), "current": len(problem.windows[0])}
    about = {"compared": sizes, "background": len(problem.background), "dimensions": problem.reference.shape[1]}
    return {"view": name, **about, "level": problem.level, "arms": rows, "views": views}


def stream(
    table: pa.Table, window: int, rules: Rules, reference: pa.Table | None, columns: tuple[str, ...], seed: int
) -> Iterator[Step]:
    """Walk a table in windows, see `tasks.monitoring.watch.walk`.

    Raises:
        BadInput: a table or columns that cannot be walked.
    """
    steps = walk(table, window, rules, reference=reference, columns=columns, seed=seed)
    while True:
        try:
            yield next(steps)
        except StopIteration:
            return
        except ValueError as error:
            raise BadInput(str(error)) from None


def stream_report(steps: Sequence[Step], rules: Rules) -> Row:
    """Return a walk as plain values: its windows, its change points, and how seldom it alerts by chance."""
    return {
        "windows": [
            {
                "begin": s.begin,
                "end": s.end,
                "p_value": s.judged.p_value,
                "statistic": s.judged.statistic,
                "views": dict(s.judged.views),
                "state": str(s.watch.level),
                "change": s.change,
                "moved": [dict(row) for row in s.judged.moved[:3]],
            }
            for s in steps
        ],
        "change_points": [s.change for s in steps if s.change is not None],
        "rules": {"level": rules.level, "debounce": rules.debounce, "recovery": rules.recovery},
        "average_run_length": average_run_length(rules),
    }
