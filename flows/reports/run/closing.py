"""Closing screen of a run: products, chosen arms, cost, surprising results, next commands.

Reads only the report's dictionary, so that `ketcycle report` starts at once. The wide tables are in
`flows.reports.run.text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.reports.text import joules, number, plain

Row = Mapping[str, Any]

WIDTH = 100
NARROWEST = 8  # column of the table of decisions
BETWEEN = 3  # columns between two of its columns
HEADER = ("decision and its quality", "used", "best classical", "quantum")
NAMED = 5  # arms that were left out
LEFT_OUT = "the shadow budget is used up"
TWICE = 2.0  # energies that differ by less are not called surprising: their bands are wider
HALF = 0.5
BETTER, EQUAL, WORSE = "better", "as good within the tolerance", "worse"
LAMP_W = 10.0  # a familiar energy


@dataclass(frozen=True)
class Verdict:
    """Comparison of a decision's quantum arm with the best classical arm.

    Attributes:
        decision: its name.
        word: `BETTER`, `EQUAL`, `WORSE`, or why it was not judged.
        times: its energy as a multiple of that of the best classical arm.
        circuits: whether it ran any.
    """

    decision: str
    word: str
    times: float | None = None
    circuits: bool = True


@dataclass(frozen=True)
class Closing:
    """Contents of the closing screen, as sentences and one table.

    Attributes:
        title: run, status and method.
        answer: whether quantum methods helped, in one sentence.
        because: quality and energy behind the answer.
        verdicts: the verdict on each decision.
        made: stage and result.
        decisions: cells under `HEADER`.
        legend: what the cells of the table mean.
        cost: time, energy with its source, money.
        surprising: unexpected results.
        then: next pages and commands, with their purpose.
    """

    title: str
    answer: str
    because: str
    verdicts: tuple[Verdict, ...]
    made: tuple[tuple[str, str], ...]
    decisions: tuple[tuple[str, ...], ...]
    legend: str
    cost: tuple[str, ...]
    surprising: tuple[str, ...]
    then: tuple[tuple[str, str], ...]


def summarise(report: Row, page: Path | str = "report.html") -> Closing:
    """Return the closing screen of a run.

    Args:
        report: the run's report, as `flows.reports.run.report.build_report` makes it.
        page: where the HTML report is.
    """
    found = [(stage["stage"], subtask) for stage in report["stages"] for subtask in stage["subtasks"]]
    subtasks = [subtask for _, subtask in found]
    verdicts = tuple(verdict for subtask in subtasks if (verdict := _verdict(subtask)))
    answer, because = _answer(verdicts)
    return Closing(
        title=f"Run {report['run_id']}: {report['status']} (profile {report['profile']}, method {report['method']}, "
        f"backend {report['backend']}, seed {report['seed']})",
        answer=answer,
        because=because,
        verdicts=verdicts,
        made=tuple(_made(report)),
        decisions=tuple(_cells(stage, subtask) for stage, subtask in found),
        legend=_legend(subtasks),
        cost=tuple(_cost(report)),
        surprising=tuple(_surprising(report, subtasks, verdicts)),
        then=tuple(_then(report, found, page)),
    )


def render(closing: Closing) -> RenderableType:
    """Return the screen for a console, at most 100 columns wide."""
    parts: list[RenderableType] = [Text(closing.title, style="bold")]
    parts += _section("What was made", [f"{stage}: {result}" for stage, result in closing.made])
    if closing.decisions:
        parts += _section("What each decision chose", [])
        parts += [_Decisions(closing.decisions), Padding(Text(closing.legend, style="dim"), (0, 0, 0, 2))]
        parts += _section("Did a quantum method help?", [f"{closing.answer} {closing.because}"])
    parts += _section("What it cost", closing.cost)
    if closing.surprising:
        parts += _section("What is surprising", closing.surprising)
    parts += _section("What next", [])
    steps = Table.grid(padding=(0, 2, 0, 0))
    steps.add_column(no_wrap=True)
    for typed, what in closing.then:
        steps.add_row(Text(typed, style="bold"), Text(what))
    parts.append(Padding(steps, (0, 0, 0, 2)))
    return Constrain(Group(*parts), WIDTH)


class _Decisions:
    """The table of decisions: one line for each name where the console is wide enough, else broken between words."""

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header = (HEADER[0], *(f"{name}\nquality, energy" for name in HEADER[1:]))
        widths = [max(map(len, "\n".join(cells).split("\n"))) for cells in zip(header, *self._rows, strict=True)]
        widths[0] = max(len(row[0].split("\n")[0]) for row in self._rows)  # what a quality measures takes several lines
        while sum(widths) + BETWEEN * (len(widths) - 1) > options.max_width and max(widths) > NARROWEST:
            widths[widths.index(max(widths))] -= 1
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for name, width in zip(header, widths, strict=True):
            table.add_column(_broken(name, width), width=width, no_wrap=True)
        for cells in self._rows:
            table.add_row(*(Text(_broken(cell, width)) for cell, width in zip(cells, widths, strict=True)))
        yield table


def _broken(cell: str, width: int) -> str:
    """Return a cell wrapped to a width, broken at spaces, hyphens and after the name of a stage."""
    lines = (re.sub(r"\b/\b", "/ ", line) if len(line) > width else line for line in cell.split("\n"))
    return "\n".join(part for line in lines for part in wrap(line, width))


def _section(title: str, lines: Iterable[str]) -> list[RenderableType]:
    return [Text(f"\n{title}", style="bold"), *(Padding(Text(line), (0, 0, 0, 2)) for line in lines)]


def spent_j(row: Row) -> float:
    """Return the joules of an arm on this machine, narrow boundary, a simulation included."""
    return float(row["energy"]["spent"]["narrow"][1])


def best_arm(subtask: Row) -> Row | None:
    """Return the row of the cheapest classical arm at matched quality; None where no arm could be scored."""
    found = subtask["best_classical"]
    return _named(subtask, found["arm"]) if found else None


def quantum_arm(subtask: Row) -> Row | None:
    """Return the challenger's row where it is a quantum arm, else the first quantum arm's; None without one."""
    rows = [row for row in subtask["rows"] if row["kind"] == "quantum"]
    return next((row for row in rows if row["role"] == "challenger"), rows[0] if rows else None)


def gained(subtask: Row) -> float | None:
    """Return the mean quality of the quantum arm minus that of the best classical arm; None where one is missing."""
    best, quantum = subtask["best_classical"], quantum_arm(subtask)
    reference = _named(subtask, best["reference"]) if best else None
    if reference is None or quantum is None or quantum["quality"] is None or reference["n"] != quantum["n"]:
        return None
    return float(quantum["quality"] - reference["quality"])


def _named(subtask: Row, arm: str | None) -> Row | None:
    return next((row for row in subtask["rows"] if row["arm"] == arm), None)


def _verdict(subtask: Row) -> Verdict | None:
    """Return how the quantum arm of a decision compares with the best classical arm; None without a quantum arm."""
    quantum, best, gain = quantum_arm(subtask), best_arm(subtask), gained(subtask)
    if quantum is None:
        return None
    if gain is None:
        lacking = "no known truth" if best is None else "it solved other instances"
        return Verdict(subtask["name"], f"not judged ({quantum['status'] if quantum['status'] != 'done' else lacking})")
    tolerance = subtask["tolerance"]
    word = BETTER if gain > tolerance else WORSE if gain < -tolerance else EQUAL
    times = spent_j(quantum) / spent_j(best) if best and spent_j(best) > 0 else None
    return Verdict(subtask["name"], word, times, circuits=bool(quantum["circuits"]))


def _answer(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """Return whether a quantum arm was better than the best classical one in this run, and the reason."""
    judged = [verdict for verdict in verdicts if verdict.word in (BETTER, EQUAL, WORSE)]
    if not judged:
        return "This run compared no quantum arm with a classical one.", "`--method shadow` runs both."
    named = {word: [v.decision for v in judged if v.word == word] for word in (BETTER, EQUAL, WORSE)}
    better = len(named[BETTER])
    answer = (
        f"{'Yes' if better else 'No'}: it was better than the best classical method in {better or 'none'} of "
        f"{len(judged)} decisions."
    )
    parts = [f"{word} in {len(names)} ({', '.join(names)})" for word, names in named.items() if names]
    said = [f"Its quality was {_listed(parts)}."]
    others = {v.word: [o.decision for o in verdicts if o.word == v.word] for v in verdicts if v not in judged}
    said += [f"{word[0].upper()}{word[1:]}: {', '.join(names)}." for word, names in others.items()]
    if times := [verdict.times for verdict in judged if verdict.times is not None]:
        span = " to ".join(dict.fromkeys(plain(end, 2) for end in (min(times), max(times))))
        said.append(f"It took {span} times the energy of the best classical method, simulation included.")
    return answer, " ".join([*said, "One run is an observation; `ketcycle study` gives intervals."])


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _made(report: Row) -> Iterator[tuple[str, str]]:
    for stage in report["stages"]:
        headline = str(stage["facts"].get("headline", "done"))
        if stage["status"] == "done":
            yield stage["stage"], headline + (" (from an earlier attempt)" if stage["reused"] else "")
        else:
            yield stage["stage"], f"{stage['status']}, {stage['reason']}"
    if gate := report.get("gate"):
        if "passed" not in gate:  # the model could not be judged
            yield "gate", gate["said"]
            return
        verdict = "passed" if gate["passed"] else "did not pass"
        yield "gate", f"{gate['name']} version {gate['version']} {verdict}: {gate['reason']}"


def _cells(stage: str, subtask: Row) -> tuple[str, ...]:
    best, used = best_arm(subtask), _named(subtask, subtask["chosen"])
    control = bool(best and subtask["best_classical"]["control"])
    return (
        f"{stage}/{subtask['name']}\n{subtask['metric']}",
        _cell(used),
        "no known truth" if best is None else _cell(best, " (control)" if control else ""),
        _cell(quantum_arm(subtask)),
    )


def _cell(row: Row | None, note: str = "") -> str:
    if row is None:
        return "none"
    if row["status"] != "done":
        return f"{row['arm']}\n{row['status']}"
    return f"{row['arm']}{note}\n{_quality(row['quality'])}, {joules(spent_j(row))}"


def _quality(value: float | None) -> str:
    """Return a quality with three decimals, small ones in significant digits."""
    if value is None:
        return "not known"
    return f"{value:.3f}" if value == 0 or 0.1 <= abs(value) < 1000 else number(value, 3)


def _legend(subtasks: Sequence[Row]) -> str:
    sources = sorted({source for subtask in subtasks for source in subtask["sources"]})
    mixed = " Energies from different sources do not compare." if len(sources) > 1 else ""
    return (
        "Each cell: arm, its quality (higher is better), and the energy of this machine's CPU and memory "
        f"({', '.join(sources) or 'not known'}; simulation included). Best classical: the cheapest arm within the "
        f"tolerance of the best classical quality; a control decides by chance or does nothing.{mixed}"
    )


def _cost(report: Row) -> Iterator[str]:
    time = []
    if report["wall_s"] is not None:
        time.append(_duration(report["wall_s"]))
    time.append(f"{number(report['cpu_s'])} CPU seconds")
    overhead = report["orchestration"]
    share = f", {number(overhead['cpu_s'])} of them orchestration" if overhead else ""
    yield f"{' and '.join(time)} (measured{share})."
    if spent := report["spent"]:
        low, middle, high = spent["narrow"]
        carbon = f"; {number(report['gco2'][1], 2)} g CO2e ({report['carbon']['source']})" if report["gco2"] else ""
        yield (
            f"{joules(middle)}, between {joules(low)} and {joules(high)} ({spent['source']}): what a lamp of "
            f"{LAMP_W:.0f} W draws in {_duration(middle / LAMP_W)}{carbon}."
        )
    billed = [entry for entry in report["queue"] if entry["billed"]]
    if qpu := report["qpu"]:
        yield f"QPU: {number(qpu['billed_s'])} s billed; {number(report['cost_usd'])} USD in all."
    elif paid := sum(entry["cost_usd"][1] for entry in billed):
        yield f"Provider: {number(paid)} USD billed; {number(report['cost_usd'])} USD in all."
    projected = sum(entry["qpu_s_projected"] for entry in report["queue"] if not entry["billed"])
    if projected:
        usd = sum(entry["cost_usd"][1] for entry in report["queue"] if not entry["billed"])
        drawn = sum(entry["qpu_energy_j"][1] for entry in report["queue"] if not entry["billed"])
        yield (
            f"{'The other' if report['qpu'] or billed else 'All'} circuits were simulated. On a device they would take "
            f"{_duration(projected)} and {plain(usd)} USD (projected), and {joules(drawn)} (modelled)."
        )


def _duration(seconds: float) -> str:
    sizes = ((7200, 3600, "hours"), (120, 60, "minutes"))
    size, unit = next(((size, unit) for least, size, unit in sizes if seconds >= least), (1, "s"))
    return f"{number(seconds / size, 2)} {unit}"


def _surprising(report: Row, subtasks: Sequence[Row], verdicts: Sequence[Verdict]) -> Iterator[str]:
    if bare := [verdict.decision for verdict in verdicts if not verdict.circuits]:
        yield f"The quantum arm of {', '.join(bare)} ran no circuit: classical reductions had solved its problems."
    if own := [found for subtask in subtasks if (found := _own(subtask))]:
        yield (
            "Even with a QPU that draws no power, the quantum arm would use more energy than the best classical arm: "
            f"its own CPU work alone exceeds it in {', '.join(own)}."
        )
    if lost := [subtask["name"] for subtask in subtasks if _lost(subtask)]:
        yield f"On the projected device noise would leave no usable shot of the circuits of {', '.join(lost)}."
    if easy := [subtask["name"] for subtask in subtasks if subtask["saturated_by"]]:
        yield f"A control (chance or no action) is as good as any method in {', '.join(easy)}: these are too easy."
    if cheaper := [found for subtask in subtasks if (found := _cheaper(subtask))]:
        yield f"As good within the tolerance and cheaper than the arm that was used: {'; '.join(cheaper)}."
    left = [row for subtask in subtasks for row in subtask["rows"] if row["reason"].startswith(LEFT_OUT)]
    if left:
        some = list(dict.fromkeys(row["arm"] for row in left))
        names = ", ".join(some[:NAMED] + (["..."] if len(some) > NAMED else []))
        arms = f"{len(left)} arm{'s' if len(left) > 1 else ''}"
        yield f"The shadow budget left out {arms} ({names}); `--set settle.shadow_share=1` runs more."
    yield from (
        f"{subtask['name']}/{row['arm']} {row['status']}: {row['reason']}"
        for subtask in subtasks
        for row in subtask["rows"]
        if row["status"] not in {"done", "skipped"}
    )
    overhead = report["orchestration"]
    if overhead and report["cpu_s"] and overhead["cpu_s"] > HALF * report["cpu_s"]:
        yield f"Orchestration took {100 * overhead['cpu_s'] / report['cpu_s']:.0f} % of the CPU time of this small run."


def _own(subtask: Row) -> str:
    quantum = quantum_arm(subtask)
    found = quantum["energy"]["break_even"] if quantum else None
    if not found or found["narrow"]["at"] is not None:
        return ""
    return f"{subtask['name']} ({joules(found['narrow']['own'])} against {joules(found['narrow']['best'])})"


def _cheaper(subtask: Row) -> str:
    best, used = best_arm(subtask), _named(subtask, subtask["chosen"])
    if best is None or used is None or best["kind"] == "control" or spent_j(used) < TWICE * spent_j(best):
        return ""
    times = spent_j(used) / spent_j(best)
    return f"{best['arm']} for {subtask['name']}, at 1/{times:.0f} of the energy of {used['arm']}"


def _lost(subtask: Row) -> bool:
    """Return whether noise would leave no usable shot of the quantum arm on the projected device."""
    quantum = quantum_arm(subtask)
    qpu = quantum["energy"]["qpu"] if quantum else None
    return bool(qpu and not qpu["arrives"])


def _then(report: Row, found: Sequence[tuple[str, Row]], page: Path | str) -> Iterator[tuple[str, str]]:
    yield f"open {_from_here(Path(page))}", "pictures and all figures"
    yield f"ketcycle report {report['run_id']} --full", "all tables here"
    if report["status"] != "done":
        yield f"ketcycle run --resume {report['run_id']}", "go on where it stopped"
    if (gate := report.get("gate")) and gate.get("passed"):
        yield "ketcycle serve", "serve the model, OpenAI-compatible"
    if found:
        stage, subtask = found[0]
        yield f"ketcycle study {stage}/{subtask['name']}", "the same arms on many instances, with intervals"


def _from_here(page: Path) -> Path:
    """Return a path relative to the current folder if it is below it."""
    return page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page
