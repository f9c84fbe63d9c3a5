"""One row for each studied decision: quality and cost of incumbent, quantum arm and best classical arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flows.reports.study.cells import spread
from flows.reports.text import band, break_even, number, pipes, qpu_joules

Row = Mapping[str, Any]

ARMS_HEADER = ("decision, quality", "n (units)", "incumbent", "quantum", "its twin", "best control", "best classical",
               "certified")  # fmt: skip
DEVICES_HEADER = ("decision, quantum arm", "circuits", "shots", "QPU s, projected", "QPU J, modelled", "simulation J",
                  "two-qubit gates a circuit", "surviving fidelity", "quality with noise (noiseless)",
                  "break-even")  # fmt: skip


def results(studies: Iterable[Row]) -> str:
    """Return quality and joules of the main arms of every study, as a Markdown table.

    Qualities of arms other than the incumbent are paired differences to it, with 95 % intervals; joules are those of a
    mean solve, narrow boundary, the simulation of circuits included.

    Args:
        studies: tables of studies, as `flows.study.table.build_study` returns them.
    """
    return pipes(ARMS_HEADER, [_arms(found) for found in studies])


def devices(studies: Iterable[Row]) -> str:
    """Return circuits, projected QPU use, noise and break-even of every quantum arm of every study, as Markdown."""
    return pipes(DEVICES_HEADER, [cells for found in studies for cells in _devices(found)])


MAKERS: Mapping[str, Callable[[Iterable[Row]], str]] = {"results": results, "devices": devices}


def _arms(found: Row) -> tuple[str, ...]:
    by_name = {row["arm"]: row for row in found["arms"]}
    incumbent, challenger = by_name[found["incumbent"]], by_name.get(found["challenger"] or "")
    twins = [row for row in found["arms"] if row["arm"] == found["twin"]]
    controls = [row for row in found["arms"] if row["kind"] == "control" and row["quality"] is not None]
    best = by_name.get((found["best_classical"] or {}).get("arm", ""))
    certified = [row["arm"] for row in found["arms"] if row["certified"]]
    return (
        f"`{found['subtask']}`, {found['metric']}",
        f"{found['instances']} ({found['units']})",
        f"{incumbent['arm']} {spread(incumbent['quality'], None)}, {_joules(incumbent)}",
        _against(challenger) if challenger else "none runs on a device",
        _against(twins[0]) if twins else "-",
        _against(max(controls, key=lambda row: row["quality"])) if controls else "-",
        "the incumbent" if best is incumbent else _against(best) if best else "-",
        ", ".join(certified)
        or ("none" if found["units"] >= found["needed"] else f"none; needs {found['needed']} units"),
    )


def _against(row: Row) -> str:
    if row["status"] != "done":
        return f"{row['arm']}: {row['status']}"
    return f"{row['arm']} {spread(row['difference'], row['difference_interval'], '+')}, {_joules(row)}"


def _joules(row: Row) -> str:
    return f"{number(row['energy']['spent']['narrow'][1])} J"


def _devices(found: Row) -> Iterable[tuple[str, ...]]:
    noisy = {row["arm"]: row for row in found["noisy"]}
    for row in found["arms"]:
        qpu = row["energy"]["qpu"]
        if row["kind"] != "quantum" or not qpu:
            continue
        simulated, survives = row["energy"]["simulation"], qpu["surviving_fidelity"]
        yield (
            f"`{found['subtask']}`, {row['arm']}",
            f"{row['circuits']}",
            f"{row['shots']:,}",
            number(row["qpu_s_projected"]),
            qpu_joules(qpu),
            band(simulated["narrow"]) if simulated else "-",
            number(row["two_qubit_gates"] / row["circuits"]) if row["circuits"] else "-",
            "-" if survives is None else number(survives),
            _with_noise(noisy.get(row["arm"])),
            break_even(row["energy"]["break_even"]),
        )


def _with_noise(row: Row | None) -> str:
    if row is None:
        return "-"
    if row["status"] != "done":
        return f"{row['status']}, see the study"
    return f"{number(row['quality'])} ({number(row['quality_noiseless'])}), size {row['size']}"


def in_order(studies: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Return the studies in the order of the decisions `keys`; others last, by name."""
    place = {key: i for i, key in enumerate(keys)}
    return sorted(studies, key=lambda found: (place.get(found["subtask"], len(place)), found["subtask"]))
