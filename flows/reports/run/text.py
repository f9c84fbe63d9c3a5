"""The report of a run as tables for the console and as Markdown; imports little, so it starts at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from rich.console import Group
from rich.text import Text

from flows.reports.text import (
    band,
    best_arm,
    break_even,
    cell_text,
    difference,
    number,
    pipes,
    qpu_joules,
    section_cells,
    table,
    to_solution,
    too_easy,
)

Row = Mapping[str, Any]


DECISION_HEADER = ("stage", "decision", "chosen", "metric", "incumbent", "best class.", "twin", "quantum", "control")


RECORD_HEADER = ("decision", "chosen", "rule", "n", "difference to the incumbent", "reason")


ENERGY_HEADER = (
    "decision",
    "arm",
    "spent J [p5, p95]",
    "QPU J",
    "simulation J",
    "best classical J",
    "QPU s",
    "break-even",
)


QUEUE_HEADER = (
    "backend",
    "calls",
    "jobs",
    "flagged",
    "call to result s, median",
    "longest",
    "QPU s estimated",
    "QPU s billed",
    "QPU s projected",
    "cost USD",
    "QPU J [p5, p95]",
)


STEPS_HEADER = ("step", "part", "amount", "up to here")


POINTS_HEADER = ("series", "points", "first x", "first y", "last x", "last y")


STAGE_HEADER = ("stage", "status", "wall s", "CPU s", "peak MiB", "J [p5, p95]", "circuits", "shots", "result")


def _decisions(report: Row) -> Iterable[tuple[Row, Row]]:
    for stage in report["stages"]:
        for subtask in stage["subtasks"]:
            yield stage, subtask


def _quality(row: Row | None) -> str:
    if row is None:
        return "-"
    if row["quality"] is None:
        return row["status"] if row["status"] != "done" else "no truth"
    spread = (
        f" [{number(row['quality_lo'], 4)}, {number(row['quality_hi'], 4)}]" if row["quality_lo"] is not None else ""
    )
    return f"{number(row['quality'], 4)}{spread} {row['arm']}"


def _best(rows: Iterable[Row]) -> Row | None:
    scored = [row for row in rows if row["quality"] is not None]
    return max(scored, key=lambda row: (row["quality"], -row["cpu_s"]), default=None)


def _of_kind(subtask: Row, *kinds: str) -> list[Row]:
    return [row for row in subtask["rows"] if row["kind"] in kinds]


def decision_rows(report: Row) -> list[tuple[str, ...]]:
    """Return the cells of the table of decisions."""
    cells: list[tuple[str, ...]] = []
    for stage, subtask in _decisions(report):
        incumbent = next((r for r in _of_kind(subtask, "classical") if r["role"] == "incumbent"), None)
        cells.append(
            (
                stage["stage"],
                f"{subtask['name']} (n={max((r['n'] for r in subtask['rows']), default=0)}, size {subtask['size']})",
                f"{subtask['chosen'] or '-'}",
                subtask["metric"],
                _quality(incumbent),
                _quality(_best(_of_kind(subtask, "classical", "dequantised"))),
                _quality(_best(_of_kind(subtask, "twin"))),
                _quality(next((r for r in _of_kind(subtask, "quantum") if r["role"] == "challenger"), None)),
                _quality(_best(_of_kind(subtask, "control"))),
            )
        )
    return cells


def record_rows(report: Row) -> list[tuple[str, ...]]:
    """Return the cells of the decision records: chosen arm, rule, number of instances."""
    return [
        (
            subtask["name"],
            str(subtask["chosen"] or "-"),
            str(subtask["rule"] or "-"),
            str(subtask["n"] or "-"),
            difference(subtask["difference"], subtask["interval"]),
            subtask["reason"],
        )
        for _, subtask in _decisions(report)
    ]


def energy_rows(report: Row) -> list[tuple[str, ...]]:
    """Return the cells of the table of the three energies, one row for each quantum arm and each incumbent."""
    cells: list[tuple[str, ...]] = []
    for _, subtask in _decisions(report):
        for row in subtask["rows"]:
            if row["kind"] != "quantum" and row["role"] != "incumbent":
                continue
            energy = row["energy"]
            qpu, simulation, best = energy["qpu"], energy["simulation"], energy["best_classical"]
            cells.append(
                (
                    subtask["name"],
                    f"{row['arm']} ({row['kind']}, {row['quality_backend']})",
                    f"{band(energy['spent']['narrow'])} {energy['spent']['source']}",
                    f"{qpu_joules(qpu)} modelled, {_time(qpu)} time" if qpu else "-",
                    f"{band(simulation['narrow'])} {simulation['source']}, {simulation['by']}" if simulation else "-",
                    f"{band(best['narrow'])} {best['source']}, {best_arm(best)}" if best else "-",
                    f"{number(row['qpu_s_projected'] if qpu['projected'] else row['qpu_s_billed'])} {_time(qpu)}"
                    if qpu
                    else "-",
                    break_even(energy["break_even"]),
                )
            )
    return cells


def _time(qpu: Row) -> str:
    return "projected" if qpu["projected"] else "billed"


def _mixed(subtask: Row) -> str:
    sources = subtask["sources"]
    return f" Energies of different sources ({', '.join(sources)}) do not compare." if len(sources) > 1 else ""


def stage_rows(report: Row) -> list[tuple[str, ...]]:
    """Return the cells of the table of stages."""
    return [
        (
            stage["stage"],
            f"{stage['status']} before" if stage["reused"] else stage["status"],
            number(stage["wall_s"]),
            number(stage["cpu_s"]),
            number(stage["peak_rss_mb"], 4),
            f"{band(stage['spent']['narrow'])} {stage['spent']['source']}" if stage["spent"] else "-",
            str(stage["circuits"]),
            str(stage["shots"]),
            str(stage["facts"].get("headline", stage["reason"])),
        )
        for stage in report["stages"]
    ]


def queue_rows(report: Row) -> list[tuple[str, ...]]:
    """Return the cells of the table of the runtime queue, one row for each backend."""
    return [
        (
            entry["backend"],
            ", ".join(f"{count} {state}" for state, count in entry["calls"].items()),
            str(entry["jobs"]),
            str(entry["flagged"]),
            number(entry["wait_median_s"]),
            number(entry["wait_longest_s"]),
            number(entry["qpu_s_estimated"]),
            number(entry["qpu_s_billed"]),
            number(entry["qpu_s_projected"]),
            number(entry["cost_usd"][1]) if entry["billed"] else f"{band(entry['cost_usd'])} projected, not spent",
            f"{band(entry['qpu_energy_j'])} modelled, {'billed' if entry['qpu_s_billed'] else 'projected'} time",
        )
        for entry in report["queue"]
    ]


def arm_rows(subtask: Row) -> list[tuple[str, ...]]:
    """Return the cells of one decision's table of arms."""
    return [
        (
            row["arm"],
            row["kind"],
            row["status"],
            number(row["quality"], 4),
            number(row["cpu_s"]),
            number(row["prepare_cpu_s"]),
            band(row["energy"]["spent"]["narrow"]),
            to_solution(row),
            str(row["circuits"]),
            str(row["shots"]),
            number(row["qpu_s_projected"]) if row["circuits"] else "-",
        )
        for row in subtask["rows"]
    ]


ARM_HEADER = ("arm", "kind", "status", "quality", "CPU s", "shared CPU s", "J [p5, p95]", "J to solution", "circuits",
              "shots", "QPU s, projected")  # fmt: skip


def full_tables(report: Row) -> Group:
    """Return all tables of a run for a wide console."""
    parts: list[Any] = [table("Stages", STAGE_HEADER, stage_rows(report))]
    if decisions := decision_rows(report):
        parts += [
            table("Decisions: quality, higher is better", DECISION_HEADER, decisions),
            table("Why", RECORD_HEADER, record_rows(report)),
            table("Three energies", ENERGY_HEADER, energy_rows(report)),
        ]
        parts += [Text(f"{s['name']}:{mixed}") for _, s in _decisions(report) if (mixed := _mixed(s))]
        parts += [Text(report["break_even"])]
    return Group(*parts, *(Text(line) for line in (gate(report), summary(report)) if line))


def gate(report: Row) -> str:
    """Return whether the run's model may serve, in one line; empty where it registered none."""
    found = report.get("gate")
    return f"gate: {found['said']}" if found else ""


def summary(report: Row) -> str:
    """Return the run in one line."""
    orchestration = report["orchestration"]
    beside = f", of them orchestration {number(orchestration['cpu_s'])} CPU s" if orchestration else ""
    return (
        f"run {report['run_id']}: {report['status']}, {number(report['wall_s'])} s, "
        f"{number(report['cpu_s'])} CPU s{beside}, peak {number(report['peak_mb'], 4)} MiB; "
        f"energy is modelled unless a source says measured (coefficients {report['coefficients']})"
    )


def markdown(report: Row) -> str:
    """Return the report as Markdown."""
    parts = [f"# Run {report['run_id']}", *(line for line in (summary(report), gate(report)) if line)]
    parts += ["## Stages", pipes(STAGE_HEADER, stage_rows(report))]
    parts += _decided(report) if any(_decisions(report)) else ["No decision was made."]
    if report["queue"]:
        parts += ["## Runtime queue", pipes(QUEUE_HEADER, queue_rows(report))]
    for stage, subtask in _decisions(report):
        parts += [
            f"## {stage['stage']} / {subtask['name']}",
            f"{subtask['metric']}; oracle {number(subtask['oracle'], 4)}; tolerance {number(subtask['tolerance'])}. "
            f"Chosen: **{subtask['chosen']}**, {subtask['reason']}." + _mixed(subtask) + too_easy(subtask),
            pipes(ARM_HEADER, arm_rows(subtask)),
        ]
    for name, sections in stored_sections(report):
        for section in sections:
            parts += _section(name, section)
    for stage in report["stages"]:
        facts = list(fact_rows(stage["facts"]))
        if facts:
            parts += [f"## Facts: {stage['stage']}", pipes(("fact", "value"), facts)]
    return "\n\n".join(parts) + "\n"


def stored_sections(report: Row) -> Iterator[tuple[str, Sequence[Row]]]:
    """Yield each stage that stored sections, with them; reports before version 3 hold none."""
    yield from ((stage["stage"], stage["sections"]) for stage in report["stages"] if stage.get("sections"))


def _section(stage: str, section: Row) -> list[str]:
    """Return a section as Markdown; of a chart, the ends of its series."""
    parts = [f"## {stage}: {section['title']}", section["sentence"]]
    if section["rows"]:
        parts.append(pipes(section["header"], section_cells(section)))
    if (chart := section["chart"]) and "steps" in chart:
        heights = accumulate(step["amount"] for step in chart["steps"])
        steps = zip(chart["steps"], heights, strict=True)
        cells = [(step["name"], step["part"], cell_text(step["amount"]), cell_text(height)) for step, height in steps]
        parts += [f"{chart['axis']}:", pipes(STEPS_HEADER, cells)]
    elif chart:
        ends = [
            (s["name"], *map(cell_text, (len(s["points"]), *s["points"][0], *s["points"][-1]))) for s in chart["series"]
        ]
        parts += [f"{chart['y']} over {chart['x']}:", pipes(POINTS_HEADER, ends)]
    return [part for part in parts if part]


def _decided(report: Row) -> list[str]:
    return [
        "## Decisions",
        "Quality, higher is better; intervals are 95 % Student intervals, clustered by the unit of independence.",
        pipes(DECISION_HEADER, decision_rows(report)),
        pipes(RECORD_HEADER, record_rows(report)),
        "## Three energies",
        "Narrow boundary: what was spent here (CPU and DRAM), what a QPU would draw for the same circuits (cryostat "
        "and control, modelled from projected QPU seconds), the cheapest noiseless simulation of the circuits that "
        "was run (the simulator's or the arm's own twin's), and the cheapest classical arm of the same quality. "
        "A projection is no measurement, and quality reached on an ideal simulator is that of a hypothetical "
        "noiseless device. Break-even is the power of the QPU system, its price and the share of its projected time at "
        "which the quantum arm would cost as little as the best classical one, its own CPU included; none where its "
        "own CPU alone takes more.",
        pipes(ENERGY_HEADER, energy_rows(report)),
        report["break_even"],
    ]


def fact_rows(facts: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the facts of a stage, nested ones under dotted names, without the headline and long lists."""
    for name, value in facts.items():
        if name == "headline":
            continue
        if isinstance(value, Mapping):
            yield from fact_rows(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", number(value, 4)
        elif isinstance(value, list):
            if len(value) <= 8:
                yield f"{prefix}{name}", ", ".join(number(v, 4) if isinstance(v, float) else str(v) for v in value)
        elif value is not None:
            yield f"{prefix}{name}", str(value)
