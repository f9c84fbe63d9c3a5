"""Tables and notes of a study as text: used by the console, its pages and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.reports.text import band, best_arm, break_even, number, pipes, qpu_joules, to_solution, too_easy

Row = Mapping[str, Any]

ARM_HEADER = ("arm", "kind", "n (sources)", "quality [95 %]", "difference [95 %]", "won/lost", "P hit", "J a solve",
              "J to solution", "verdict")  # fmt: skip
ENERGY_HEADER = ("arm", "QPU J, projected or billed", "simulation J", "best classical J", "circuits", "shots",
                 "QPU s, projected", "break-even")  # fmt: skip

DEVICE_HEADER = ("arm", "superconducting, projected", "trapped ion, swept", "neutral atom, swept", "qubits used",
                 "superconducting x qubits used", "two-qubit gates a circuit", "surviving fidelity",
                 "J over fidelity")  # fmt: skip
SWEPT = ("trapped_ion", "neutral_atom")
NOISY_HEADER = ("arm", "backend", "size", "quality with noise", "noiseless", "best", "circuits", "shots",
                "two-qubit gates a circuit", "surviving fidelity")  # fmt: skip


def noisy_cells(found: Row) -> list[tuple[str, ...]]:
    """Return the cells of the noisy rows: one for each quantum arm, on its smallest instance or an example."""
    return [
        (
            row["arm"],
            row["backend"],
            f"{row['size']}",
            spread(row["quality"], None) if row["status"] == "done" else f"{row['status']}: {row['reason']}",
            spread(row["quality_noiseless"], None),
            spread(row["best"], None),
            f"{row['circuits']}",
            f"{row['shots']}",
            number(row["two_qubit_gates"]),
            number(row["surviving_fidelity"]),
        )
        for row in found["noisy"]
    ]


def arm_cells(found: Row) -> list[tuple[str, ...]]:
    """Return the cells of the table of arms, the oracle first."""
    oracle = found["oracle"]
    said = "proven optimum" if oracle["proven"] else "best value that any arm reached"
    gap = spread(oracle["difference"], oracle["difference_interval"], "+")
    first = ("oracle", "-", str(oracle["n"]), spread(oracle["quality"], None), gap, "-", "1", "0", "0", said)
    return [first] + [
        (
            row["arm"],
            row["kind"],
            f"{row['n']} ({row['of_sources']})",
            spread(row["quality"], (row["quality_lo"], row["quality_hi"])),
            "-" if row["arm"] == found["incumbent"] else spread(row["difference"], row["difference_interval"], "+"),
            "-" if row["arm"] == found["incumbent"] else f"{row['wins']}/{row['losses']}",
            number(row["hit_rate"]),
            band(row["energy"]["spent"]["narrow"]),
            to_solution(row),
            row["verdict"] if row["status"] == "done" else f"{row['status']}: {row['reason']}",
        )
        for row in found["arms"]
    ]


def energy_cells(found: Row) -> list[tuple[str, ...]]:
    """Return the cells of the three energies: one row for each arm that ran circuits, a mean solve each."""
    cells: list[tuple[str, ...]] = []
    for row in found["arms"]:
        energy = row["energy"]
        if not energy["qpu"]:
            continue
        best = energy["best_classical"]
        cells.append(
            (
                f"{row['arm']} ({row['kind']}, {row['quality_backend']})",
                f"{qpu_joules(energy['qpu'])} {'projected' if energy['qpu']['projected'] else 'billed'}, modelled",
                f"{band(energy['simulation']['narrow'])} {energy['simulation']['by']}" if energy["simulation"] else "-",
                f"{band(best['narrow'])} {best_arm(best)}" if best else "-",
                f"{row['circuits']} ({row['total']['circuits']} in all)",
                f"{row['shots']}",
                number(row["qpu_s_projected"]),
                break_even(energy["break_even"]),
            )
        )
    return cells


def device_cells(found: Row) -> list[tuple[str, ...]]:
    """Return the cells of the joules by class of device: one row for each arm that ran circuits, a mean solve each.

    The classes besides the projected one are a sweep over powers and shot periods; nothing was compiled for them. The
    job is charged with the whole system, and in a further column with the share of the qubits that its circuits use.
    """
    cells: list[tuple[str, ...]] = []
    for row in found["arms"]:
        qpu = row["energy"]["qpu"]
        if not qpu:
            continue
        share, survives = qpu["qubit_share"], qpu["surviving_fidelity"]
        gates = row["two_qubit_gates"] / row["circuits"] if row["circuits"] else None
        over = qpu["narrow_over_fidelity"]
        cells.append(
            (
                f"{row['arm']} ({row['kind']})",
                band(qpu["narrow"]),
                *(band(qpu["classes"][name]) for name in SWEPT),
                "-" if share is None else number(share),
                "-" if share is None else number(share * qpu["narrow"][1]),
                "-" if gates is None else number(gates),
                "-" if survives is None else number(survives),
                band(over) if over else "nothing arrives" if not qpu["arrives"] else "-",
            )
        )
    return cells


@dataclass(frozen=True)
class StudyTable:
    """A table of a study, the same wherever it is shown.

    Attributes:
        heading: its title.
        header: names of the columns.
        cells: makes the rows from the values of `flows.study.table.build_study`.
        about: what a reader must know to read it.
        empty: text in place of a table without rows.
    """

    heading: str
    header: tuple[str, ...]
    cells: Callable[[Row], list[tuple[str, ...]]]
    about: str = ""
    empty: str = ""


TABLES = {
    "arms": StudyTable("Arms", ARM_HEADER, arm_cells),
    "energies": StudyTable(
        "Three energies of a mean solve",
        ENERGY_HEADER,
        energy_cells,
        "A projection is no measurement; the quality reached on an ideal simulator is that of a device without noise.",
        "no arm ran circuits",
    ),
    "noise": StudyTable(
        "With the noise of a device",
        NOISY_HEADER,
        noisy_cells,
        "Each quantum arm on its smallest instance with circuits, or where those take too long to simulate, on the "
        "decision's example; surviving fidelity is the chance that no two-qubit gate failed.",
        "no arm ran with noise",
    ),
    "devices": StudyTable(
        "Joules of a QPU by class of device, modelled",
        DEVICE_HEADER,
        device_cells,
        "Classes beside the projected one are a sweep over powers and shot periods; nothing was compiled for them.",
        "no arm ran circuits",
    ),
}


def filled_tables(found: Row) -> Iterator[tuple[StudyTable, list[tuple[str, ...]]]]:
    """Yield the tables of a study that have rows, with the rows."""
    made = ((table, table.cells(found)) for table in TABLES.values())
    return ((table, cells) for table, cells in made if cells)


def notes(found: Row) -> list[str]:
    """Return what did not end, headroom, inverse break-even, routing and predictions, a sentence each."""
    beside = [
        f"{a['arm']} against {a['other']}: {spread(a['difference'], a['interval'], '+')} (paired, n={a['n']})"
        for a in found["against"]
    ]
    return [
        *beside,
        *_unfinished_notes(found),
        *_measure_notes(found),
        *_unit_notes(found),
        *_bank_notes(found),
        *_headroom_notes(found),
        *_routing_notes(found),
        *_prediction_notes(found),
    ]


def _unfinished_notes(found: Row) -> list[str]:
    return [
        f"{end['status']} on {end['instances']} of {found['instances']} instances: {', '.join(end['arms'])} "
        f"({end['reason']})"
        for end in found["unfinished"]
    ]


def _measure_notes(found: Row) -> list[str]:
    """Return the further values of every arm, means over the instances; a pilot's page has its own tables of them."""
    if found["subtask"].startswith("pilots/"):
        return []
    return [f"{name}: {', '.join(f'{arm} {number(value)}' for arm, value in arms.items())}"
            for name, arms in found["measures"].items()]  # fmt: skip


def _unit_notes(found: Row) -> list[str]:
    """Return the joules of every arm per million units of size, the cheapest first."""
    if not found["counts"]:
        return []
    joules = {a["arm"]: a["energy"]["spent"]["narrow"][1] * 1e6 / found["mean_size"] for a in found["arms"]}
    said = ", ".join(f"{arm} {number(j)}" for arm, j in sorted(joules.items(), key=lambda item: item[1]))
    return [f"J per million {found['counts']}: {said}"]


def _headroom_notes(found: Row) -> list[str]:
    head, lines = found["headroom"], []
    share = head["share"]
    if head["gap"] is not None:
        relative = f", {head['effect']:.2%} of it" if head["effect"] is not None else ""
        lines.append(
            f"headroom: oracle {number(head['oracle'], 4)} at zero joules; {found['incumbent']} is "
            f"{number(head['gap'])} below{relative}"
        )
    if share:
        lines.append(
            f"headroom: the decision took {number(100 * share['share'])} % of the energy of run {share['run']} "
            f"({share['profile']}): the most that any solver on any hardware could save by deciding for nothing; "
            f"effect x share = {number(100 * head['bound'])} %"
        )
    else:
        lines.append("headroom: share of the lifecycle's energy unknown, no complete run in this home: ketcycle run")
    return [*lines, *_inverse_notes(head["inverse_break_even"])]


def _inverse_notes(inverse: Row | None) -> list[str]:
    if not inverse:
        return []
    against = f"inverse break-even against {inverse['against']}"
    error = inverse["two_qubit_error"]
    gates = f"; two-qubit error {number(error)} leaves half the shots without one" if error else ""
    if inverse["system_power_w"] is None:
        return [
            f"{against}: none at any power, price or speed of the device; own CPU takes {number(inverse['own_j'])} J, "
            f"all of {inverse['against']} {number(inverse['best_j'])} J; it would take "
            f"{number(inverse['own_j_to_save'])} J of own CPU less, and then a "
            f"system of at most {number(inverse['power_without_own_w'])} W{gates}"
        ]
    return [
        f"{against}: a QPU system of {number(inverse['system_power_w'])} W, or "
        f"{number(inverse['shots_per_s'])} shots/s at 25 kW (projected: "
        f"{number(inverse['shots_per_s_projected'])}){gates}"
    ]


def _bank_notes(found: Row) -> list[str]:
    best = found["best_classical"]
    lines = [f"smallest n at which an arm can be certified beside the others: {found['needed']} independent units"]
    if best:
        kind = ", a control" if best["control"] else ""
        lines.append(f"best classical arm at the quality of {best['reference']}: {best['arm']}{kind}")
    return [*lines, *([too_easy(found).strip()] if found["saturated_by"] else [])]


def _routing_notes(found: Row) -> list[str]:
    return [
        f"auto at sizes {r['sizes']} would now take {r['arm']}: {r['reason']}"
        + (f"; an installation that need not repay these trials takes {r['elsewhere']}" * (r["elsewhere"] != r["arm"]))
        for r in found["routing"]
    ]


def _prediction_notes(found: Row) -> list[str]:
    scored = found["predictions"]
    if not scored or scored["brier"] is None:
        return []
    misses = [
        f"{r['arm']} {r['probability']:g} -> {r['outcome']:g}"
        for r in scored["arms"]
        if r["outcome"] is not None and r["probability"] is not None and abs(r["probability"] - r["outcome"]) >= 0.5
    ]
    missed = f"; surprises: {', '.join(misses)}" if misses else "; no surprise beyond one half"
    return [
        f"predicted beforehand: {scored['verdict'].strip()}",
        f"Brier score of the predicted verdicts {number(scored['brier'])} (always one half: .25){missed}",
    ]


def spread(value: float | None, interval: Sequence[float | None] | None, sign: str = "") -> str:
    """Return a value with its interval; `sign` "+" shows the sign of both."""
    if value is None:
        return "-"
    text = f"{value:{sign}.4g}"
    if interval and interval[0] is not None and interval[1] is not None:
        text += f" [{interval[0]:{sign}.3g}, {interval[1]:{sign}.3g}]"
    return text


def title(found: Row) -> str:
    """Return the study in one line."""
    sources = ", ".join(f"{name} {n}" for name, n in found["sources"].items())
    sizes = ", ".join(f"{size}: {n}" for size, n in found["buckets"].items())
    return (
        f"study {found['study']}: {found['subtask']} on {found['backend']}, {found['instances']} instances ({sources}; "
        f"sizes {sizes}), {found['repeats']} execution(s) each, {number(found['record']['wall_s'])} s; "
        f"{found['metric']}, tolerance {found['tolerance']:g}"
    )


def markdown(found: Row) -> str:
    """Return the study as Markdown."""
    parts = [f"# {found['subtask']}", title(found)]
    for each, cells in filled_tables(found):
        parts += [f"## {each.heading}", each.about, pipes(each.header, cells)]
    parts += ["## What it means", "\n".join(f"* {line}" for line in notes(found)), found["statistics"]]
    return "\n\n".join(part for part in parts if part) + "\n"
