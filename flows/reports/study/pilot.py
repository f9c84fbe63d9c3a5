"""The page of a pilot as Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from flows.reports import charts
from flows.reports.html import templates
from flows.reports.study.cells import TABLES, Row, notes, spread, title
from flows.reports.study.page import forest
from flows.reports.text import band, number, pipes, section_cells
from infra.lake import write_atomic

Cells = list[tuple[str, ...]]
Table = tuple[Sequence[str], Cells]

NUMBER_HEADER = ("number", "published", "ours [95 %]", "met", "bar", "arm", "n (units)")  # a phone shows the first
CLASSICAL_HEADER = ("which", "arm", "quality [95 %]", "n", "J a solve")
COST_HEADER = ("arm", "kind", "circuits", "shots", "QPU s, projected", "USD a solve here", "gCO2e here",
               "USD on a QPU, projected")  # fmt: skip
PREDICTED_HEADER = ("verdict", "predicted", "came out", "score", "score of equal probabilities")


def number_cells(found: Row) -> Cells:
    """Return the cells of the published numbers and ours."""
    return [
        (
            entry["name"],
            number(entry["published"], 4),
            spread(entry["ours"], entry["interval"]),
            {True: "yes", False: "no", None: "-"}[entry["met"]] + ("" if entry["judged"] else ", not judged"),
            entry["bar"],
            entry["arm"],
            f"{entry['n']} ({entry['units']})",
        )
        for entry in found["numbers"]
    ]


def classical_cells(found: Row) -> Cells:
    """Return the best classical arm on the same features and on all, and the controls."""
    named = [
        *((f"best on {which}", arm) for which, arm in found["classical"].items()),
        *(("control", control) for control in found["controls"]),
    ]
    return [
        (name, arm["arm"], spread(arm["quality"], arm["interval"]), str(arm["n"]), number(arm["energy_j"]))
        for name, arm in named
        if arm
    ]


def cost_cells(found: Row) -> Cells:
    """Return circuits, shots, QPU seconds and cost of a mean solve of each arm."""
    return [
        (
            row["arm"],
            row["kind"],
            str(row["circuits"]),
            str(row["shots"]),
            number(row["qpu_s_projected"]),
            number(row["cost_usd"]),
            number(row["gco2"]),
            band(found["qpu_usd"].get(row["arm"])),
        )
        for row in found["study"]["arms"]
    ]


def predicted_cells(found: Row) -> Cells:
    """Return the cells of the predicted verdicts and the outcomes."""
    return [
        (
            {"reproduced": "reproduced", "better": "better than the best classical"}[entry["verdict"]],
            ", ".join(f"{answer} {probability:g}" for answer, probability in entry["predicted"].items()),
            entry["answer"],
            number(entry["score"]),
            number(entry["uniform"]),
        )
        for entry in found["predicted"]
    ]


def opening(found: Row) -> dict[str, Table]:
    """Return the tables behind the verdicts, by heading."""
    return _filled(
        {
            "Published numbers beside ours": (NUMBER_HEADER, number_cells(found)),
            "The best classical method, and the controls": (CLASSICAL_HEADER, classical_cells(found)),
            "Predictions committed before": (PREDICTED_HEADER, predicted_cells(found)),
        }
    )


def tables(found: Row) -> dict[str, Table]:
    """Return the tables of all arms by heading."""
    study = found["study"]
    return _filled(
        {
            **_of_study(study, "arms"),
            "Circuits, shots, QPU seconds and cost of a mean solve": (COST_HEADER, cost_cells(found)),
            **_of_study(study, "energies"),
            **_of_study(study, "noise"),
        }
    )


def _of_study(study: Row, name: str) -> dict[str, Table]:
    table = TABLES[name]
    return {table.heading: (table.header, table.cells(study))}


def _filled(every: dict[str, Table]) -> dict[str, Table]:
    return {name: table for name, table in every.items() if table[1]}


def lists(found: Row) -> dict[str, list[str]]:
    """Return the lists of the page, by heading."""
    data = [
        f"{d['name']} ({d['licence']}; {d['origin']})" + (f"; left out: {d['left_out']}" if d["left_out"] else "")
        for d in found["data"]
    ]
    return {
        "What was published about the set-up": list(found["stated"]),
        "What was not published, and what stands in for it": list(found["unstated"]),
        "What the published comparison left out": list(found["omitted"]),
        "Data": data,
    }


def answers(found: Row) -> list[tuple[str, str, str]]:
    """Return question, answer and reason of both verdicts."""
    asked = {"reproduced": "Is the claim reproduced?", "better": "Is it better than the best classical method?"}
    return [(asked[name], found["verdicts"][name]["answer"], found["verdicts"][name]["reason"]) for name in asked]


def markdown(found: Row) -> str:
    """Return the page as Markdown."""
    parts = [f"# {found['title']}", f"> {found['claim']}", f"{found['source']} <{found['url']}>"]
    parts += [f"**{question}** {answer} ({reason})" for question, answer, reason in answers(found)]
    for heading, (header, cells) in opening(found).items():
        parts += [f"## {heading}", pipes(header, cells)]
    for heading, lines in lists(found).items():
        parts += [f"## {heading}", "\n".join(f"* {line}" for line in lines)]
    for heading, (header, cells) in tables(found).items():
        parts += [f"## {heading}", pipes(header, cells)]
    for section in found["sections"]:
        parts += [f"## {section['title']}", section["sentence"]]
        parts += [pipes(section["header"], section_cells(section))] if section["rows"] else []
    parts += ["## What it means", "\n".join(f"* {line}" for line in notes(found["study"])), title(found["study"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def html(found: Row) -> str:
    """Return the page as self-contained HTML."""
    with charts.style():
        sections = [
            {
                **section,
                "cells": section_cells(section),
                "svg": charts.drawn(section["title"], section["chart"]) if section["chart"] else None,
            }
            for section in found["sections"]
        ]
    return (
        templates()
        .get_template("pilot.html")
        .render(
            found=found,
            answers=answers(found),
            lists=lists(found),
            opening=opening(found),
            tables=tables(found),
            sections=sections,
            plot=forest(found["study"]),
            notes=notes(found["study"]),
            about=title(found["study"]),
        )
    )


def write_pilot(folder: Path, found: Row) -> None:
    """Write `pilot.json`, `pilot.md` and `pilot.html` into the folder of the study."""
    write_atomic(folder / "pilot.json", json.dumps(found, indent=1, default=str))
    write_atomic(folder / "pilot.md", markdown(found))
    write_atomic(folder / "pilot.html", html(found))
