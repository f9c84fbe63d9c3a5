"""PUBs as the ledger keeps them: a table of parameter sets that can be cut into ranges, and results put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.primitives import BitArray, DataBin, PubResult, SamplerPubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from infra.errors import BadInput
from infra.runtime.circuits.observables import encode_observables, group_terms
from infra.runtime.circuits.payload import Arrays, decode_arrays, encode_arrays


class Request(Protocol):
    """One PUB of a call.

    Attributes:
        circuit: its circuit.
        circuits: number of parameter sets.
        shots: shots for each of them.
        arrays: what the fingerprint counts, beside the circuit.
        settings: plain values that it counts.
    """

    circuit: QuantumCircuit
    circuits: int
    shots: int
    arrays: Arrays
    settings: Mapping[str, Any]

    def encode(self, start: int, stop: int) -> bytes:
        """Write a range of parameter sets."""
        ...

    def assemble(self, results: Sequence[bytes], metadata: Mapping[str, Any]) -> PubResult:
        """Put the results of all ranges together."""
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
        self._shape = pub.shape
        # The caller may go on changing its circuit before the result is there.
        self._sizes = {register.name: register.size for register in self.circuit.cregs}
        self._metadata = copy(self.circuit.metadata)
        sets = _table(pub)
        self.circuits = len(sets)
        self.arrays: Arrays = {"sets": sets}
        self.settings: Mapping[str, Any] = {"shots": self.shots, "shape": list(self._shape)}

    def encode(self, start: int, stop: int) -> bytes:
        """Write a range of parameter sets."""
        return encode_arrays({"sets": self.arrays["sets"][start:stop]})

    def assemble(self, results: Sequence[bytes], metadata: Mapping[str, Any]) -> SamplerPubResult:
        """Put the results of all ranges together."""
        pieces = [decode_arrays(data) for data in results]
        registers = {}
        for name, size in self._sizes.items():
            packed = np.concatenate([piece[name] for piece in pieces])
            registers[name] = BitArray(packed.reshape(*self._shape, *packed.shape[1:]), size)
        facts = {"shots": self.shots, "circuit_metadata": self._metadata, **metadata}
        return SamplerPubResult(DataBin(**registers, shape=self._shape), metadata=facts)


class EstimatorRequest:
    """A PUB of an estimator.

    Raises:
        BadInput: an observable is not Hermitian.
    """

    def __init__(self, pub: EstimatorPub) -> None:
        self.circuit: QuantumCircuit = pub.circuit
        self._precision, self._shape = float(pub.precision), pub.shape
        self._metadata = copy(self.circuit.metadata)
        sets = _table(pub)
        self.circuits = len(sets)
        indices = np.arange(self.circuits).reshape(pub.parameter_values.shape)
        places = np.arange(pub.observables.size).reshape(pub.observables.shape)
        of_set, of_observable = (np.ravel(array) for array in np.broadcast_arrays(indices, places))
        order = np.argsort(of_set, kind="stable")  # so that a range of sets is a range of values
        self._pairs = np.stack([of_set[order], of_observable[order]], axis=1)
        self._order = order
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
        return max(map(len, by_set.values())) * ceil(1 / self._precision**2)

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

    def assemble(self, results: Sequence[bytes], metadata: Mapping[str, Any]) -> PubResult:
        """Put the results of all ranges together."""
        pieces = [decode_arrays(data) for data in results]
        values = {}
        for name in ("evs", "stds"):
            values[name] = np.empty(len(self._order))
            values[name][self._order] = np.concatenate([piece[name] for piece in pieces])
            values[name] = values[name].reshape(self._shape)
        facts = {"target_precision": self._precision, "exact": self._precision == 0, "circuit_metadata": self._metadata}
        return PubResult(DataBin(**values, shape=self._shape), metadata={**facts, **metadata})


def _table(pub: SamplerPub | EstimatorPub) -> NDArray[np.float64]:
    """Return the parameter sets of a PUB as a table (m, p)."""
    values = np.asarray(pub.parameter_values.as_array(pub.circuit.parameters), np.float64)
    return np.ascontiguousarray(values.reshape(pub.parameter_values.size, pub.circuit.num_parameters))
