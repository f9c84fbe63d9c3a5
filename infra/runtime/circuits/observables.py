"""Observables as sums of Pauli strings: how they are written down and measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives.containers.observables_array import ObservablesArray

from infra.errors import BadInput


def encode_observables(observables: ObservablesArray) -> str:
    """Write observables as JSON: shape and one mapping of Pauli label to coefficient each."""
    flat = [observables[index] for index in np.ndindex(observables.shape)]
    return json.dumps({"shape": list(observables.shape), "items": [_plain(item) for item in flat]})


def _plain(observable: Mapping[str, Any]) -> dict[str, float]:
    if any(np.iscomplex(value) for value in observable.values()):
        raise BadInput("an observable has complex coefficients; expectation values need a Hermitian one")
    return {str(label): float(np.real(value)) for label, value in observable.items()}


def decode_observables(text: str) -> list[dict[str, float]]:
    """Read the observables, flattened."""
    items: list[dict[str, float]] = json.loads(text)["items"]
    return items


def group_terms(observable: Mapping[str, float]) -> list[tuple[str, float, str]]:
    """Return label, coefficient and measurement basis of each term; qubit-wise commuting terms share a basis."""
    groups: list[list[str]] = []
    placed: list[tuple[str, float, int]] = []
    for label, weight in sorted(observable.items()):
        for number, group in enumerate(groups):
            if all(a == b or "I" in (a, b) for a, b in zip(group, label, strict=True)):
                groups[number] = [b if a == "I" else a for a, b in zip(group, label, strict=True)]
                break
        else:
            number = len(groups)
            groups.append(list(label))
        placed.append((label, weight, number))
    return [(label, weight, "".join(groups[number])) for label, weight, number in placed]


def parity(bits: NDArray[np.uint8], label: str) -> NDArray[np.float64]:
    """Return +1 or -1 of a Pauli string for each shot of bits (shots, n) measured in its basis."""
    involved = [qubit for qubit, pauli in enumerate(reversed(label)) if pauli != "I"]
    return np.asarray(1.0 - 2.0 * (bits[:, involved].sum(axis=1) % 2))


@dataclass(frozen=True)
class Measurements:
    """What is measured for expectation values: a circuit for each parameter set and basis, with the same shots.

    Attributes:
        sets: by basis the parameter sets that are measured in it.
        terms: for each value its set, and weight, label and basis of each term.
    """

    sets: Mapping[str, Sequence[int]]
    terms: Sequence[tuple[int, Sequence[tuple[str, float, str]]]]

    @classmethod
    def plan(cls, pairs: Sequence[tuple[int, Mapping[str, float]]]) -> Measurements:
        """Return the measurements for pairs of a parameter set and an observable."""
        sets: dict[str, list[int]] = {}
        terms = []
        for index, observable in pairs:
            terms.append((index, group_terms(observable)))
            for _, _, basis in terms[-1][1]:
                if index not in sets.setdefault(basis, []):
                    sets[basis].append(index)
        return cls(sets, terms)

    def values(self, bits: Mapping[tuple[str, int], NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        """Return expectation values and their standard errors (`evs`, `stds`).

        Args:
            bits: by basis and set the measured bits (shots, n), qubit 0 first.

        Raises:
            KeyError: a measurement is missing.
        """
        evs, variances = np.zeros(len(self.terms)), np.zeros(len(self.terms))
        for row, (index, items) in enumerate(self.terms):
            for basis in dict.fromkeys(basis for *_, basis in items):
                found = bits[basis, index]
                values = sum(weight * parity(found, label) for label, weight, its in items if its == basis)
                evs[row] += np.mean(values)
                variances[row] += np.var(values) / len(found)
        return {"evs": evs, "stds": np.sqrt(variances)}


def shots_for(precision: float) -> int:
    """Return the shots of each measurement for a target standard error, as Qiskit's `BackendEstimatorV2` chooses."""
    return ceil(1 / precision**2)


def measured_in(circuit: QuantumCircuit, basis: str) -> QuantumCircuit:
    """Return the circuit with a measurement of all qubits in a Pauli basis, in the register `meas`."""
    turned = circuit.copy()
    turned.remove_final_measurements()
    for qubit, pauli in enumerate(reversed(basis)):
        if pauli == "Y":
            turned.sdg(qubit)
        if pauli in "XY":
            turned.h(qubit)
    turned.measure_all()
    return turned
