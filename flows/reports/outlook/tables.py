"""Tables of the outlook, for console, Markdown, HTML and the generated parts of README and docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.reports.outlook.build import Outlook, assumption_rows
from flows.reports.outlook.growth import GROWTH, QUALITY
from flows.reports.text import number, pipes
from tasks.outlook.cells import Cell
from tasks.outlook.fault_tolerant import SUBROUTINES
from tasks.outlook.risks import load_risks
from tasks.outlook.roadmap import RULE, WINDOWS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """A cell of a table: its text, the evidence rows and the assumptions behind it."""

    text: str
    rows: str = ""
    depends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with its heading and the sentence that explains it."""

    name: str
    title: str
    sentence: str
    header: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]

    def markdown(self) -> str:
        """Return the table alone as Markdown."""
        return pipes(self.header, [[cell.text for cell in row] for row in self.rows])


def shown(cell: Cell | None, form: str = "{}") -> Shown:
    """Return a cell as text: its own text, else its band, else its number, a dash for none."""
    if cell is None:
        return Shown("-")
    if cell.text:
        text = cell.text
    elif cell.band:
        low, middle, high = cell.band
        text = number(middle) if low == high else f"{number(middle)} [{number(low, 2)}, {number(high, 2)}]"
    else:
        text = number(cell.value)
    return Shown(form.format(text), cell.rows, cell.depends)


def tables(outlook: Outlook) -> list[Table]:
    """Return all tables in the order of the page; those without rows are left out."""
    return [table for table in (make(outlook) for make in MAKERS.values()) if table.rows]


def _arms(outlook: Outlook) -> Iterator[tuple[Row, Row, str]]:
    for decision in outlook.decisions:
        for arm in decision["arms"]:
            yield decision, arm, f"{decision['decision']}/{arm['arm']}"


def _named(decision: Row, arm: Row) -> tuple[Shown, ...]:
    return Shown(decision["decision"], decision["decision"]), Shown(arm["arm"], f"{decision['decision']}/{arm['arm']}")


def _texts(values: Iterable[str]) -> tuple[Shown, ...]:
    return tuple(Shown(value) for value in values)


def roadmap(outlook: Outlook) -> Table:
    """Return the published roadmap with our evidence and verdict."""
    energy = outlook.energy
    rows = [
        (
            *_texts((row["stage"], f"{row['idea']}; {WINDOWS[row['window']]}, {row['potential']} potential")),
            Shown(row["evidence"], row["rows"].partition(",")[0]),
            *_texts((row["verdict"], row["reason"], row["change"])),
        )
        for row in outlook.roadmap
    ]
    last = _texts(("energy", energy["claim"], "all decisions", energy["verdict"], energy["reason"], energy["change"]))
    return Table(
        "roadmap", "The published roadmap, judged", f"Claims of arXiv 2508.20720. {RULE}",
        ("stage", "claim", "our evidence", "verdict", "reason", "what would change it"), (*rows, last),
    )  # fmt: skip


def break_even(outlook: Outlook) -> Table:
    """Return the size from which each quantum arm would cost less than its rivals, on the default device."""
    device, get = outlook.assumptions.hardware.default, outlook.cells.get
    rows = []
    for decision, arm, base in _arms(outlook):
        at = f"{base}/{device}"
        rows.append(
            (
                *_named(decision, arm),
                Shown(_quality(decision, arm), decision["decision"]),
                Shown(_sizes(decision["sizes"]), base),
                shown(get(f"{at}/energy/narrow/best classical")),
                shown(get(f"{at}/energy/wide/best classical")),
                shown(get(f"{at}/money/narrow/best classical")),
                shown(get(f"{at}/time/narrow/best classical")),
                shown(get(f"{at}/energy/narrow/simulation")),
                shown(get(f"{at}/energy/narrow/hypothetical")),
            )
        )
    return Table(
        "break-even", "Break-even sizes",
        f"First size n* at which the arm on a {device} device takes less than the cheapest classical arm of matched "
        "quality at that size, median [5 %, 95 %] of the draws; gate errors are paid for by more shots. None at any "
        "size: what the arm needs beside the device alone takes more and grows no slower. Not below N: not within the "
        "sizes looked at. P: share of the draws that say so.",
        ("decision", "arm", "quality against best classical", "sizes seen", "energy, narrow", "energy, wide", "money",
         "time", "energy against simulation", "energy without gate errors (hypothetical)"),
        tuple(rows),
    )  # fmt: skip


def break_even_all(outlook: Outlook) -> Table:
    """Return the break-even sizes of every currency, boundary and class of devices, against both rivals."""
    get, rows = outlook.cells.get, []
    for decision, arm, base in _arms(outlook):
        for device in outlook.assumptions.hardware.devices:
            for currency in ("energy", "money", "time"):
                for boundary in ("narrow", "wide"):
                    at = f"{base}/{device}/{currency}/{boundary}"
                    found = [get(f"{at}/{rival}") for rival in ("best classical", "simulation")]
                    if any(found):
                        about = _texts((device.replace("_", " "), currency, boundary))
                        rows.append((*_named(decision, arm), *about, *map(shown, found)))
    return Table(
        "break-even-all", "Break-even sizes, every currency, boundary and class of devices",
        "As above. Narrow money: CPU time and the device's list price; wide: with adoption and upkeep, shared by the "
        "decisions of the plan. Narrow time: processing; wide: with the wait in the queue.",
        ("decision", "arm", "device", "currency", "boundary", "against best classical", "against simulation"),
        tuple(rows),
    )  # fmt: skip


def _quality(decision: Row, arm: Row) -> str:
    best = f"{decision['best_classical']}{' (control)' if decision['control'] else ''}"
    if arm["difference"] is None:
        return "no classical arm was scored"
    return f"{arm['standing']}: {arm['difference']:+.3g} to {best}"


def _sizes(sizes: Sequence[int]) -> str:
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} ({len(sizes)})"


def chances(outlook: Outlook) -> Table:
    """Return P(cheaper), P(greener), P(faster) for each class of devices at the largest size of the evidence."""
    rows = []
    for decision, arm, base in _arms(outlook):
        for device in outlook.assumptions.hardware.devices:
            cell = {
                name: shown(outlook.cells.get(f"{base}/{device}/{name}"))
                for name in ("saves energy/narrow", "saves energy/wide", "greener", "cheaper", "faster", "energy/ratio",
                             "money/ratio", "time/ratio")
            }  # fmt: skip
            if any(entry.text != "-" for entry in cell.values()):
                rows.append((*_named(decision, arm), Shown(device.replace("_", " ")), *cell.values()))
    return Table(
        "chances", "How probably the quantum arm is cheaper, greener, faster",
        f"At the largest size of the evidence, over {outlook.assumptions.n:,} shared draws. Greener: g CO2e, wide "
        "boundary, embodied share included. Faster: the wait in the queue included. Ratios: times the best classical "
        "arm.",
        ("decision", "arm", "device", "P(less energy), narrow", "wide", "P(greener)", "P(cheaper)", "P(faster)",
         "energy ratio", "price ratio", "time ratio"),
        tuple(rows),
    )  # fmt: skip


def bills(outlook: Outlook) -> Table:
    """Return what quantum arms were billed where their evidence ran; empty where nothing was billed."""
    names = ("bill/usd", "bill/all", "bill/best classical", "bill/ratio", "bill/cheaper")
    rows = [
        (*_named(decision, arm), Shown(number(arm["largest"]), base),
         *(shown(outlook.cells.get(f"{base}/{name}")) for name in names))
        for decision, arm, base in _arms(outlook)
        if outlook.cells.get(f"{base}/bill/usd")
    ]  # fmt: skip
    return Table(
        "bills", "What a decision was billed",
        "At the largest size of the evidence, where it ran: dollars of a provider, or QPU seconds at their price. "
        "Every other table is of classes of devices at their list prices.",
        ("decision", "arm", "size", "billed USD", "with own CPU time", "best classical USD", "price ratio",
         "P(cheaper)"),
        tuple(rows),
    )  # fmt: skip


def today(outlook: Outlook) -> Table:
    """Return the cost of a mean solve at the largest size, by part."""
    device, get = outlook.assumptions.hardware.default, outlook.cells.get
    rows = []
    for decision, arm, base in _arms(outlook):
        names = ("circuits", "shots", "gates", "depth", "circuit_us", "qubits")
        rows.append(
            (
                *_named(decision, arm),
                Shown(number(arm["largest"]), base),
                *(shown(get(f"{base}/at largest/{name}")) for name in names),
                shown(get(f"{base}/{device}/survival")),
                shown(get(f"{base}/energy/own")),
                shown(get(f"{base}/{device}/energy/device")),
                shown(get(f"{base}/energy/best classical")),
            )
        )
    return Table(
        "today", "What one decision takes at the largest size of the evidence",
        "Counts and CPU time are measured, joules here modelled; seconds on the device are projected and its joules "
        "modelled. Gates, depth and duration are those of the circuit as compiled for the projection device; a depth "
        "of 0 beside gates was not recorded.",
        ("decision", "arm", "size", "circuits", "shots", "two-qubit gates", "two-qubit depth", "us of a circuit",
         "qubits",
         "surviving fidelity", "own CPU J", "device J", "best classical J"),
        tuple(rows),
    )  # fmt: skip


def scaling(outlook: Outlook) -> Table:
    """Return the scaling of raw quantities with size."""
    rows = []
    for decision in outlook.decisions:
        arms = {
            cell.key.split("/")[2] for cell in outlook.cells.below(f"{decision['decision']}/") if "/growth/" in cell.key
        }
        for arm in sorted(arms):
            base = f"{decision['decision']}/{arm}"
            rows.append(
                (
                    Shown(decision["decision"], decision["decision"]),
                    Shown(arm, base),
                    *(shown(outlook.cells.get(f"{base}/growth/{name}")) for name in (QUALITY, *GROWTH)),
                )
            )
    return Table(
        "scaling", "How it grows with the size n",
        "Fitted to the logarithms of all instances, slope [95 %], errors clustered by the unit of independence; "
        "where both forms fit, draws use both by their Akaike weights. Beyond the largest size every fit is "
        "extrapolated.",
        ("decision", "arm", "quality, a doubling of n", *GROWTH.values()), tuple(rows),
    )  # fmt: skip


def needs(outlook: Outlook) -> Table:
    """Return the device figures at which each decision breaks even."""
    names = ("power", "price", "shot", "job", "gate", "error")
    rows = [
        (*_named(decision, arm), *_once([shown(outlook.cells.get(f"{base}/needs/{name}")) for name in names]))
        for decision, arm, base in _arms(outlook)
        if outlook.cells.get(f"{base}/needs/power")
    ]
    return Table(
        "needs", "What a device would have to be",
        "Each column alone, the rest as assumed, at the largest size of the evidence; 0 where the other assumptions "
        "already take too much. No device: the part on ordinary processors alone takes more than the best classical "
        "arm.",
        ("decision", "arm", "system W", "USD per second", "s of a shot", "s of a job", "s of a two-qubit gate",
         "two-qubit error"),
        tuple(rows),
    )  # fmt: skip


def _once(cells: Sequence[Shown]) -> tuple[Shown, ...]:
    """Return the cells; a reason why no device suffices stays only in the first."""
    first, *others = cells
    return first, *(replace(c, text="no device") if c.text.startswith("no device") else c for c in others)


def sensitivity(outlook: Outlook) -> Table:
    """Return the assumptions with the largest effect on the energy ratio, and whether knowing one changes it."""
    rows = []
    for decision, arm, base in _arms(outlook):
        bars = list(outlook.cells.below(f"{base}/tornado/"))[:3]
        if not bars:
            continue
        told = [cell for cell in outlook.cells.below(f"{base}/information/") if (cell.value or 0) > 0]
        moves = "; ".join(f"{_last(bar.key)} {_ends(bar)}" for bar in bars)
        change = "; ".join(f"{_last(cell.key)} ({cell.value:.0%}, {cell.text})" for cell in told[:3])
        rows.append(
            (
                *_named(decision, arm),
                Shown(moves, bars[0].rows, bars[0].depends),
                Shown(change or "no single measurement would change the answer", decision["decision"], bars[0].depends),
            )
        )
    return Table(
        "sensitivity", "What decides it",
        "Energy ratio to the best classical arm with one assumption at its 5 % and 95 % points, all others at the "
        "median; and the probability that knowing one assumption exactly would change which arm takes less.",
        ("decision", "arm", "moves the ratio most (from 5 % to 95 %)", "knowing it would change the answer"),
        tuple(rows),
    )  # fmt: skip


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _ends(bar: Cell) -> str:
    low, _, high = bar.band or (0.0, 0.0, 0.0)
    return f"{number(low, 2)} to {number(high, 2)}"


def subroutines(outlook: Outlook) -> Table:
    """Return the resource counts of each fault-tolerant subroutine."""
    rows = []
    for name in SUBROUTINES:
        about = outlook.cells.get(f"fault tolerant/{name}/qubits")
        if about is not None:
            fields = ("qubits", "toffoli", "rotations", "qram_cells")
            counted = (number(get_value(outlook.cells.get(f"fault tolerant/{name}/{field}"))) for field in fields)
            rows.append(_texts((name.replace("_", " "), about.text, *counted)))
    return Table(
        "subroutines", "What a fault-tolerant machine would run",
        "Logical counts in closed form with their assumptions. Cells: classical numbers that the circuits read at "
        "every query; reading them is counted, no memory is free.",
        ("subroutine", "counted", "qubits", "Toffoli", "rotations", "cells"), tuple(rows),
    )  # fmt: skip


MACHINE = {
    "logical_qubits": "logical qubits",
    "t_states": "T states",
    "distance": "distance",
    "physical_qubits": "physical qubits",
    "with_factories": "with factories (qdk)",
    "runtime_s": "s",
    "joules": "J",
    "classical": "classical J",
    "dearer": "P(dearer)",
}


def fault_tolerant(outlook: Outlook) -> Table:
    """Return the cost of each subroutine on each machine, and that of its classical method."""
    get, rows = outlook.cells.get, []
    fields = [name for name in MACHINE if any(cell.key.endswith(f"/{name}") for cell in outlook.cells)]
    for name in SUBROUTINES:
        for preset, machine in outlook.assumptions.hardware.presets.items():
            base = f"fault tolerant/{name}/{preset}"
            if get(f"{base}/joules") is not None:
                about = _texts((name.replace("_", " "), machine.about))
                rows.append((*about, *(shown(get(f"{base}/{field}")) for field in fields)))
    return Table(
        "fault-tolerant", "Fault-tolerant outlook",
        "Layout, depth, distance and cycle time in closed form (Beverland et al., arXiv 2211.07629), surface code, "
        "error budget .001; T factories are left out, except in a column that appears where `qdk` is installed. "
        "Joules: watts per logical qubit x runtime. A verdict is about these sizes.",
        ("subroutine", "machine", *(MACHINE[name] for name in fields)), tuple(rows),
    )  # fmt: skip


def get_value(cell: Cell | None) -> float | None:
    """Return the value of a cell, None where there is no cell."""
    return cell.value if cell else None


def published(outlook: Outlook) -> Table:
    """Return the published break-even, what it implies, ours, and the column that was left out."""
    base, get = "published break-even", outlook.cells.get
    said = (
        (
            "shape",
            "simulation over device at 30 and 40 qubits, from the published crossing at 34 and its two shapes alone",
        ),
        ("ours", "qubits from which simulating one shallow circuit takes more than the device, by our coefficients"),
        ("device", "J of one circuit of 1,000 shots on a trapped-ion device (projected, modelled)"),
        ("simulation", "J of simulating it at 34 qubits on CPUs (modelled)"),
        ("best classical", "J of the best classical head for the same task"),
        ("third column", "break-even against the best classical head"),
    )
    return Table(
        "published", "The published break-even, and its third column",
        "arXiv 2605.02798 measured a trapped-ion system against simulation of the same circuits and found a crossing "
        "at about 34 qubits. Its kilowatts, shots and joules could not be read; the crossing is derived from its two "
        "shapes, and anew from our coefficients. Against the classical method that solves the task it is another "
        "question.",
        ("figure", "value"),
        tuple((Shown(text), shown(get(f"{base}/{name}"))) for name, text in said),
    )  # fmt: skip


def ownership(outlook: Outlook) -> Table:
    """Return the total cost of ownership."""
    names = ("classical", "pay as you go", "subscription", "volume")
    rows = [
        (*_named(decision, arm), *(shown(outlook.cells.get(f"{base}/ownership/{name}")) for name in names))
        for decision, arm, base in _arms(outlook)
        if outlook.cells.get(f"{base}/ownership/classical")
    ]
    value = outlook.assumptions.value
    return Table(
        "ownership", "Cost of adopting, and cost of ownership",
        f"USD over {value('site.years'):g} years at {value('site.decisions'):,.0f} decisions a year of the largest "
        "size in the evidence. The quantum roads include integration, training and upkeep. Volume: decisions a year "
        "from which paying as you go is cheaper than the classical road.",
        ("decision", "arm", "classical road", "quantum, pay as you go", "quantum, reserved plan", "break-even volume"),
        tuple(rows),
    )  # fmt: skip


def risks(_: Outlook) -> Table:
    """Return the risk register."""
    return Table(
        "risks", "Risk register",
        "Likelihood and impact are judgements; change them in tasks/outlook/risks.yaml. A guard is what the software "
        "does by itself, shown by the named test.",
        ("risk", "what may happen", "likelihood", "impact", "owner", "guard", "test of the guard", "seen in"),
        tuple(
            _texts(
                (
                    *(r.name, r.risk, r.likelihood, r.impact, r.owner),
                    *(r.guard or "no guard", r.test.replace("::", " ") or "-", r.field),
                )
            )
            for r in load_risks()
        ),
    )  # fmt: skip


def assumptions(outlook: Outlook) -> Table:
    """Return every assumption with its band and source."""
    return Table(
        "assumptions", "Assumptions",
        "Change devices with --hardware FILE, the site and any coefficient with --site FILE.",
        ("name", "value", "5 % to 95 %", "unit", "source (year)"),
        tuple(_texts(row) for row in assumption_rows(outlook.assumptions)),
    )  # fmt: skip


MAKERS: dict[str, Callable[[Outlook], Table]] = {
    "roadmap": roadmap,
    "break-even": break_even,
    "break-even-all": break_even_all,
    "chances": chances,
    "bills": bills,
    "today": today,
    "scaling": scaling,
    "needs": needs,
    "sensitivity": sensitivity,
    "subroutines": subroutines,
    "fault-tolerant": fault_tolerant,
    "published": published,
    "ownership": ownership,
    "risks": risks,
    "assumptions": assumptions,
}
