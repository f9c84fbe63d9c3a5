"""Meanings of the columns of the report's tables, one sentence each: tooltips, and a list at the end of the page."""

from __future__ import annotations

from collections.abc import Iterable

MEANINGS = {
    "wall s": "Elapsed seconds, measured.",
    "CPU s": "Seconds of processor time of all processes, measured; for an arm the mean of one solve.",
    "shared CPU s": "CPU seconds of what several arms of the decision use (measured); charged in full to each of them.",
    "peak MiB": "Largest memory of the processes of a step in MiB (1,048,576 bytes), measured.",
    "J [p5, p95]": "Joules of this machine's processor and memory: median [5 %, 95 %]. Measured where a counter can be "
    "read, else modelled from CPU seconds. A simulation of circuits is included.",
    "J to solution": "Joules until a best solution is found with 99 % probability, by the chance that one execution "
    "finds it; modelled. Instances that no execution solved are counted apart.",
    "circuits": "Quantum circuits that were run, on a simulator unless the backend says otherwise.",
    "shots": "Executions of circuits: each circuit times its repetitions.",
    "QPU s, projected": "Seconds that a device would take for these circuits, by the vendor's formula; none ran.",
    "QPU s": "Seconds of a quantum device: billed, or projected by the vendor's formula.",
    "QPU J": "Joules that a quantum device with its cryostat would draw in that time; modelled.",
    "simulation J": "Joules of the cheapest noiseless simulation of these circuits that was run.",
    "best classical J": "Joules of the cheapest classical arm whose quality is within the tolerance of the best one.",
    "calls": "Calls of samplers and estimators that the runtime queue recorded.",
    "jobs": "Jobs in which these calls were sent; several calls may share one.",
    "flagged": "Jobs whose bill is missing or not plausible; `ketcycle queue settle` lists them.",
    "call to result s, median": "Seconds from a call to its result, the median of all calls; measured.",
    "longest": "Seconds from a call to its result, the longest of all calls; measured.",
    "QPU s estimated": "Seconds of a device that were reserved before sending.",
    "QPU s billed": "Seconds of a device that the service billed.",
    "QPU s projected": "Seconds that a device would take for these circuits, by the vendor's formula; none ran.",
    "cost USD": "Price of the seconds billed, or, where none were, of those projected.",
    "QPU J [p5, p95]": "Joules of a device with its cryostat in these seconds: median [5 %, 95 %]; modelled.",
    "break-even": "Power that the whole device may draw for the quantum arm to cost as little as the best classical "
    "arm; none = its CPU work alone costs more.",
    "quality": "Quality of the arm's solution, higher is better; its unit is above the table.",
    "metric": "Name and unit of the quality.",
    "kind": "control = chance or nothing, classical, twin = the exact classical computation of what the quantum arm "
    "estimates, dequantised = a classical replacement of a quantum method, quantum.",
    "n": "Independent instances of the problem.",
    "difference to the incumbent": "Mean difference of quality, paired by instance, with its 95 % interval.",
    "rule": "Rule by which the arm was chosen.",
    "used": "The arm whose solution the run went on with.",
    "best classical": "The cheapest classical arm within the tolerance of the best classical quality; joules include "
    "everything that it did.",
    "quantum": "The quantum arm, on the run's backend; joules include the simulation of its circuits.",
    "decision and its quality": "Stage and decision; below it, what its quality measures.",
}


def used(headers: Iterable[Iterable[str]]) -> list[tuple[str, str]]:
    """Return the columns of some tables that have a meaning, each once, in the order of `MEANINGS`."""
    there = {name for header in headers for name in header}
    return [(name, text) for name, text in MEANINGS.items() if name in there]
