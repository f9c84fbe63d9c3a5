"""Converts a batch to PUBs of the vendor's primitives, each with its position in the batch, and results back.

The note travels in the circuit's metadata and comes back with the result, so a leader that never saw the batch reads
the job as well as the one that sent it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import PrimitiveResult
from qiskit.quantum_info import SparsePauliOp

from infra.errors import BadInput
from infra.runtime.backends.contract import Executed, Task
from infra.runtime.backends.ibm.options import ESTIMATOR_ONLY
from infra.runtime.backends.isa import Isa

Pub = tuple[Any, ...]


def make_pubs(isa: Isa, task: Task, slot: int) -> list[Pub]:
    """Return the PUBs of one task.

    Raises:
        BadInput: there is nothing to measure.
    """
    return (_sampler_pubs if task.primitive == "sampler" else _estimator_pubs)(isa, task, slot)


def add_note(pubs: list[Pub], **facts: Any) -> None:
    """Note something about the whole job."""
    pubs[0][0].metadata["ketcycle"].update(facts)


def _note(isa: Isa, task: Task, slot: int) -> dict[str, Any]:
    applied = dict(task.options)
    if task.primitive == "sampler":
        applied = {name: value for name, value in applied.items() if name not in ESTIMATOR_ONLY}
    weight = max(1, len(task.sets)) * max(1, task.shots)
    return {
        "slot": slot,
        "shots": task.shots,
        "executions": weight,
        "qubits": isa.qubits,
        "two_qubit_gates": isa.compiled.num_nonlocal_gates(),
        "duration_s": isa.duration_s,
        "options": applied,
        "compile": [task.digest, isa.cpu_s],
    }


def _bound(isa: Isa, task: Task, slot: int) -> tuple[QuantumCircuit, NDArray[np.float64]]:
    """Return the template under its note, and the values of its parameters (m, p)."""
    circuit = isa.template.circuit.copy()
    circuit.metadata = {"ketcycle": _note(isa, task, slot)}
    binds = isa.template.binds(task.sets)
    columns = [np.asarray(binds[parameter], np.float64) for parameter in circuit.parameters]
    return circuit, np.stack(columns, axis=-1) if columns else np.empty((len(task.sets), 0))


def _sampler_pubs(isa: Isa, task: Task, slot: int) -> list[Pub]:
    if not task.circuit.cregs:
        raise BadInput("a circuit without classical bits has nothing to sample; add measurements")
    circuit, values = _bound(isa, task, slot)
    if values.shape[1] == 0:  # the client has no parameter sets without parameters
        return [(circuit,)] * len(values)
    return [(circuit, values)]


def _estimator_pubs(isa: Isa, task: Task, slot: int) -> list[Pub]:
    """One PUB of all sets by all observables where every set asks for the same ones, else value by value."""
    circuit, values = _bound(isa, task, slot)
    layout = isa.compiled.layout
    asked: list[list[SparsePauliOp]] = [[] for _ in task.sets]
    for index, observable in task.pairs:
        asked[index].append(SparsePauliOp.from_list(list(observable.items())).apply_layout(layout))
    if values.shape[1] == 0:
        return [(circuit, row) for row in asked]
    if all(row == asked[0] for row in asked):
        return [(circuit, asked[0], values[:, None, :])]
    rows = [index for index, _ in task.pairs]
    return [(circuit, [item for row in asked for item in row], values[rows])]


def read_outcomes(job_id: str, result: PrimitiveResult) -> Iterator[tuple[int, Executed | Exception]]:
    """Put the PUBs of a job back in their places, each with its share of the job's executions.

    Raises:
        KeyError, TypeError, ValueError: the result lacks what was noted in the circuits when they were sent.
    """
    notes = [pub.metadata["circuit_metadata"]["ketcycle"] for pub in result]
    slots: dict[int, list[int]] = {}
    for position, note in enumerate(notes):
        slots.setdefault(note["slot"], []).append(position)
    whole = sum(notes[positions[0]]["executions"] for positions in slots.values())
    for slot, reason in notes[0]["refused"].items():
        yield int(slot), BadInput(reason)
    dry, tag = notes[0].get("service_estimate_s"), str(notes[0]["tag"])
    for slot, positions in slots.items():
        note = notes[positions[0]]
        arrays = [_arrays(result[position], note["shots"]) for position in positions]
        facts = {name: note[name] for name in ("qubits", "two_qubit_gates", "duration_s", "options")}
        digest, cpu_s = note["compile"]
        yield (
            slot,
            Executed(
                {name: np.concatenate([piece[name] for piece in arrays]) for name in arrays[0]},
                cpu_s=0.0,
                wall_s=0.0,
                prepare_cpu_s={f"isa|{digest}": cpu_s},
                share=note["executions"] / whole,
                facts={"job": job_id, "service_estimate_s": dry, **facts},
                origin=(tag, str(digest)),
            ),
        )


def _arrays(pub: Any, shots: int) -> dict[str, NDArray[Any]]:
    if "evs" in pub.data:
        return {name: np.ravel(pub.data[name]) for name in ("evs", "stds")}
    found = {}
    for name, bits in pub.data.items():
        packed = bits.array
        # Twirling rounds the shots up to whole randomisations.
        found[name] = packed.reshape(-1, *packed.shape[-2:])[:, :shots]
    return found
