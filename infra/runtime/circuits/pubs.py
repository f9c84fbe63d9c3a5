"""PUBs as the ledger keeps them: a table of parameter sets that can be cut into ranges, and results put together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import BitArray, DataBin, PubResult, SamplerPubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from infra.errors import BadInput
from infra.runtime.circuits.observables import encode_observables, group_terms, shots_for
from infra.runtime.circuits.payload import Arrays, encode_arrays


class Outline(Protocol):
    """How the results of one PUB are put together from the results of its parts."""

    def plain(self) -> dict[str, Any]:
        """Return it as values for JSON."""
        ...

    def assemble(self, pieces: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> PubResult:
        """Put the results of all ranges together."""
        ...


@dataclass(frozen=True)
class SamplerOutline:
    """Outline of a sampler's PUB.

    Attributes:
        shape: of its parameter sets.
        sizes: bits of each classical register.
        shots: for each parameter set.
        metadata: of its circuit.
    """

    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    shots: int
    metadata: Any = None

    def plain(self) -> dict[str, Any]:
        """Return it as values for JSON."""
        return {**vars(self), "shape": list(self.shape), "sizes": dict(self.sizes)}

    def assemble(self, pieces: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> SamplerPubResult:
        """Put the results of all ranges together."""
        registers = {}
        for name, size in self.sizes.items():
            packed = np.concatenate([piece[name] for piece in pieces])
            registers[name] = BitArray(packed.reshape(*self.shape, *packed.shape[1:]), size)
        facts = {"shots": self.shots, "circuit_metadata": self.metadata, **metadata}
        return SamplerPubResult(DataBin(**registers, shape=self.shape), metadata=facts)


@dataclass(frozen=True)
class EstimatorOutline:
    """Outline of an estimator's PUB.

    Attributes:
        shape: of its expectation values.
        order: place of each value that comes back in the flattened array.
        precision: target standard error; 0 = exact.
        metadata: of its circuit.
    """

    shape: tuple[int, ...]
    order: Sequence[int]
    precision: float
    metadata: Any = None

    def plain(self) -> dict[str, Any]:
        """Return it as values for JSON."""
        return {**vars(self), "shape": list(self.shape), "order": [int(place) for place in self.order]}

    def assemble(self, pieces: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]) -> PubResult:
        """Put the results of all ranges together."""
        order, values = np.asarray(self.order, int), {}
        for name in ("evs", "stds"):
            values[name] = np.empty(len(order))
            values[name][order] = np.concatenate([piece[name] for piece in pieces])
            values[name] = values[name].reshape(self.shape)
        facts = {"target_precision": self.precision, "exact": self.precision == 0, "circuit_metadata": self.metadata}
        return PubResult(DataBin(**values, shape=self.shape), metadata={**facts, **metadata})


def encode_outlines(outlines: Sequence[Outline]) -> str:
    """Write the outlines of a call as JSON."""
    return json.dumps([outline.plain() for outline in outlines], default=str)


def decode_outlines(primitive: str, text: str) -> list[Outline]:
    """Read the outlines of a call of a sampler or an estimator."""
    kind = SamplerOutline if primitive == "sampler" else EstimatorOutline
    return [kind(**{**fields, "shape": tuple(fields["shape"])}) for fields in json.loads(text)]


class Request(Protocol):
    """One PUB of a call.

    Attributes:
        circuit: its circuit.
        circuits: number of parameter sets.
        shots: shots for each of them.
        arrays: what the fingerprint counts, beside the circuit.
        settings: plain values that it counts.
        outline: how its results are put together.
    """

    circuit: QuantumCircuit
    circuits: int
    shots: int
    arrays: Arrays
    settings: Mapping[str, Any]
    outline: Outline

    def encode(self, start: int, stop: int) -> bytes:
        """Write a range of parameter sets."""
        ...


class SamplerRequest:
    """A PUB of a sampler.

    Raises:
        BadInput: nothing is measured.
    """

    def __init__(self, pub: SamplerPub) -> None:
        self.circuit: QuantumCircuit = pub.circuit
        if not self.circuit.cregs:
            raise BadInput(f"circuit {self.circuit.name!r} has no classical register to sample; add measurements")
        self.shots = int(pub.shots)
        # The caller may go on changing its circuit before the result is there.
        sizes = {register.name: register.size for register in self.circuit.cregs}
        self.outline: Outline = SamplerOutline(pub.shape, sizes, self.shots, copy(self.circuit.metadata))
        sets = _table(pub)
        self.circuits = len(sets)
        self.arrays: Arrays = {"sets": sets}
        self.settings: Mapping[str, Any] = {"shots": self.shots, "shape": list(pub.shape)}

    def encode(self, start: int, stop: int) -> bytes:
        """Write a range of parameter sets."""
        return encode_arrays({"sets": self.arrays["sets"][start:stop]}, compressed=False)


class EstimatorRequest:
    """A PUB of an estimator.

    Raises:
        BadInput: an observable is not Hermitian.
    """

    def __init__(self, pub: EstimatorPub) -> None:
        self.circuit: QuantumCircuit = pub.circuit
        self._precision = float(pub.precision)
        sets = _table(pub)
        self.circuits = len(sets)
        indices = np.arange(self.circuits).reshape(pub.parameter_values.shape)
        places = np.arange(pub.observables.size).reshape(pub.observables.shape)
        of_set, of_observable = (np.ravel(array) for array in np.broadcast_arrays(indices, places))
        order = np.argsort(of_set, kind="stable")  # so that a range of sets is a range of values
        self._pairs = np.stack([of_set[order], of_observable[order]], axis=1)
        self.outline: Outline = EstimatorOutline(
            pub.shape, [int(place) for place in order], self._precision, copy(self.circuit.metadata)
        )
        self._observables = encode_observables(pub.observables)
        self.shots = self._shots(pub)
        self.arrays: Arrays = {"sets": sets, "pairs": self._pairs}
        self.settings: Mapping[str, Any] = {"precision": self._precision, "observables": self._observables}

    def _shots(self, pub: EstimatorPub) -> int:
        """Shots that the precision asks for: `1 / precision^2` for each group measured together; 0 = exact."""
        if self._precision == 0:
            return 0
        flat = [pub.observables[index] for index in np.ndindex(pub.observables.shape)]
        by_set: dict[int, set[str]] = {}
        for index, which in self._pairs:
            by_set.setdefault(int(index), set()).update(basis for *_, basis in group_terms(flat[which]))
        return max(map(len, by_set.values())) * shots_for(self._precision)

    def encode(self, start: int, stop: int) -> bytes:
        """Write a range of parameter sets."""
        inside = self._pairs[(self._pairs[:, 0] >= start) & (self._pairs[:, 0] < stop)]
        arrays: dict[str, NDArray[Any]] = {
            "sets": self.arrays["sets"][start:stop],
            "pairs": inside - np.array([start, 0]),
            "observables": np.frombuffer(self._observables.encode(), np.uint8),
            "precision": np.array(self._precision),
        }
        return encode_arrays(arrays)


def sampler_requests(pubs: Iterable[Any], shots: int) -> list[Request]:
    """Return the PUBs of a sampler as the ledger keeps them.

    Args:
        pubs: circuits, or tuples of circuit, parameter values, shots.
        shots: for PUBs that do not say.
    """
    return [SamplerRequest(SamplerPub.coerce(pub, shots)) for pub in pubs]


def estimator_requests(pubs: Iterable[Any], precision: float) -> list[Request]:
    """Return the PUBs of an estimator as the ledger keeps them.

    Args:
        pubs: tuples of circuit, observables, parameter values, precision.
        precision: target standard error for PUBs that do not say.
    """
    return [EstimatorRequest(EstimatorPub.coerce(pub, precision)) for pub in pubs]


def _table(pub: SamplerPub | EstimatorPub) -> NDArray[np.float64]:
    """Return the parameter sets of a PUB as a table (m, p)."""
    values = np.asarray(pub.parameter_values.as_array(pub.circuit.parameters), np.float64)
    return np.ascontiguousarray(values.reshape(pub.parameter_values.size, pub.circuit.num_parameters))
