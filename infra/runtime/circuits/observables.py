"""Observables as sums of Pauli strings: how they are written down and measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
