"""Forms in which dense document vectors are stored and loaded: codes of a few bytes, or circuits that prepare states.

Every form has the same number of bytes for a vector, a sixteenth of its float32 values, and is scored by fidelity: the
squared cosine between a vector and its restored form. Quantum kernels and quantum k-means of the loaded states use the
same quantity. Both are invariant under a common rotation, so all forms work on the principal axes of other documents.
A circuit does not store a vector; it prepares the vector again for each shot. Its bytes are its angles, a byte each,
and its cost is the number of two-qubit gates.

Quantum arms measure the fidelity: they load the vector, apply the inverse of the exact preparation of the true vector,
and count the zeros. On a noisy backend both halves add errors, as they do in a kernel; `python -m benchmarks loading`
separates the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit import QuantumCircuit

from tasks.contract import Arm, Bench, Kind
from tasks.preprocessing.state_loading.codes import (
    FloatArray,
    bond_for,
    leading_components,
    matrix_product_coded,
    principal_axes,
    product_quantised,
    rounded,
    transform_coded,
)
from tasks.preprocessing.state_loading.problem import Loaded, Loading
from tasks.quantum.encodings import (
    amplitude_circuit,
    append_unloading,
    qubits_for,
    tree_angles,
    tree_states,
    unloading_angles,
)
from tasks.quantum.kernels import estimate_pairs
from tasks.quantum.qram import qram_angles, qram_circuit, qram_parameters, qram_values, success_probability
from tasks.quantum.staircase import fit_staircase, staircase_circuit, staircase_states
from tasks.text.embeddings import normalised

Codec = Callable[["Loading", FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class _Turned:
    """Unit vectors and background on the principal axes of the background."""

    axes: FloatArray
    vectors: FloatArray
    background: FloatArray


def _turned(problem: Loading, bench: Bench) -> _Turned:
    def make() -> _Turned:
        background = np.asarray(normalised(problem.background), np.float64)
        axes = principal_axes(background)
        return _Turned(axes, np.asarray(normalised(problem.vectors), np.float64) @ axes, background @ axes)

    return bench.once("principal axes", make)


def _unit(rows: FloatArray) -> FloatArray:
    """Scale to unit length; a zero vector becomes the first axis."""
    return np.asarray(normalised(rows), np.float64)


def _result(problem: Loading, turned: _Turned, decoded: FloatArray, **about: Any) -> Loaded:
    """Return the result for vectors on the principal axes; fidelities are computed unless they were measured."""
    unit = _unit(decoded)
    fidelities = about.pop("fidelities", np.square((unit * turned.vectors).sum(axis=1)))
    back = (unit @ turned.axes.T).astype(np.float32)
    return Loaded(back, tuple(map(float, np.minimum(fidelities, 1.0))), **{"size": problem.size, **about})


def _coded(codec: Codec) -> Callable[[Loading, Bench], Loaded]:
    def arm(problem: Loading, bench: Bench) -> Loaded:
        turned = _turned(problem, bench)
        return _result(problem, turned, codec(problem, turned.vectors, turned.background))

    return arm


def _matrix_product(problem: Loading, vectors: FloatArray, _: FloatArray) -> FloatArray:
    padded = np.zeros((len(vectors), 1 << problem.qubits))
    padded[:, : vectors.shape[1]] = vectors
    return matrix_product_coded(padded, bond_for(problem.qubits, problem.size))[:, : vectors.shape[1]]


def _byte_angles(angles: FloatArray) -> FloatArray:
    """Round angles to a byte each; another full turn changes only the sign of the state."""
    return rounded((angles + np.pi) % (2 * np.pi) - np.pi, -np.pi, np.pi)


def _staircase(problem: Loading, bench: Bench) -> FloatArray:
    """Angles of the staircases, compiled once for the circuits and their twin."""

    def make() -> FloatArray:
        rng = np.random.default_rng(problem.start)
        padded = np.zeros((len(problem.vectors), 1 << problem.qubits))
        padded[:, : problem.vectors.shape[1]] = _turned(problem, bench).vectors
        return _byte_angles(fit_staircase(padded, problem.layers, problem.passes, rng)[0])

    return bench.once("staircase angles", make)


def solve_staircase(problem: Loading, bench: Bench) -> Loaded:
    """Staircase circuits over all qubits, their angles compiled for each vector."""
    turned, angles = _turned(problem, bench), _staircase(problem, bench)
    loader = staircase_circuit(problem.qubits, problem.layers)
    circuit = loader.copy()
    append_unloading(circuit, problem.qubits)
    circuit.measure_all()
    values = np.hstack([angles, unloading_angles(turned.vectors)])
    outcomes = bench.sampler.run([(circuit, values)], shots=problem.shots).result()[0].data.meas.array
    zeros = (outcomes == 0).all(axis=-1).mean(axis=-1)
    states = _staircase_vectors(problem, angles)
    return _result(problem, turned, states, fidelities=zeros, size=angles.shape[1], **_gates(loader))


def solve_staircase_exact(problem: Loading, bench: Bench) -> Loaded:
    """The same circuits as matrix-product states of the same bytes: no device, no shots."""
    turned, angles = _turned(problem, bench), _staircase(problem, bench)
    states = _staircase_vectors(problem, angles)
    fidelities = np.square((states * turned.vectors).sum(axis=1))
    return _result(problem, turned, states, fidelities=fidelities, size=angles.shape[1])


def _staircase_vectors(problem: Loading, angles: FloatArray) -> FloatArray:
    """Return the states without their padding."""
    return staircase_states(angles, problem.qubits, problem.layers)[:, : problem.vectors.shape[1]]


def solve_amplitude(problem: Loading, bench: Bench) -> Loaded:
    """Exact amplitude encoding of the leading components, as many as the bytes have angles for."""
    turned = _turned(problem, bench)
    head = 1 << ((problem.size + 1).bit_length() - 1)
    true = turned.vectors[:, :head]
    *upper, last = tree_angles(true)  # the last angles carry the signs
    levels = [*(rounded(angles, 0.0, np.pi) for angles in upper), rounded(last, -2 * np.pi, 2 * np.pi)]
    kept = np.zeros_like(turned.vectors)
    kept[:, :head] = tree_states(levels)
    n = len(true)
    pairs = np.stack([np.arange(n), n + np.arange(n)], axis=1)
    measured = estimate_pairs(np.vstack([kept[:, :head], true]), pairs, bench.sampler, problem.shots)
    fidelities = measured * np.square(true).sum(axis=1)
    gates = _gates(amplitude_circuit(qubits_for(head)))
    return _result(problem, turned, kept, fidelities=fidelities, size=head - 1, **gates)


def solve_qram(problem: Loading, bench: Bench) -> Loaded:
    """A bucket-brigade memory of the leading components; shots with flag 0 are discarded."""
    turned, cells = _turned(problem, bench), problem.cells
    true = turned.vectors[:, :cells]
    angles = rounded(qram_angles(true), -np.pi, np.pi)  # another full turn would change the sign of one cell
    circuit = qram_circuit(cells)
    values = np.hstack([qram_parameters(angles), unloading_angles(true)])
    data = bench.sampler.run([(circuit, values)], shots=problem.shots).result()[0].data
    loaded = (data.flag.array == 1).all(axis=-1) & (data.tree.array == 0).all(axis=-1)
    zeros = loaded & (data.address.array == 0).all(axis=-1)
    measured = zeros.sum(axis=-1) / np.maximum(1, loaded.sum(axis=-1))
    kept = np.zeros_like(turned.vectors)
    kept[:, :cells] = qram_values(angles)
    preparations = float(np.mean(1 / success_probability(angles)))
    fidelities = measured * np.square(true).sum(axis=1)
    return _result(
        problem, turned, kept, fidelities=fidelities, size=cells, preparations=preparations, **_gates(circuit)
    )


def _gates(circuit: QuantumCircuit) -> dict[str, int]:
    """Count the two-qubit gates and their depth, in CX and CZ."""
    plain = circuit.decompose(["ccx"])
    return {
        "two_qubit_gates": int(plain.num_nonlocal_gates()),
        "depth": int(plain.depth(lambda item: item.operation.num_qubits == 2)),
    }


def solve_first_axis(problem: Loading, bench: Bench) -> Loaded:
    """The same vector for every document: the first principal axis."""
    turned = _turned(problem, bench)
    kept = np.zeros_like(turned.vectors)
    kept[:, 0] = 1.0
    return _result(problem, turned, kept, size=0)


def solve_random_components(problem: Loading, bench: Bench) -> Loaded:
    """As many coordinates as there are bytes, chosen at random, without learning any axes."""
    vectors = np.asarray(normalised(problem.vectors), np.float64)
    chosen = bench.rng.permutation(vectors.shape[1])[: problem.size]
    kept = np.zeros_like(vectors)
    kept[:, chosen] = rounded(vectors[:, chosen], -1.0, 1.0)
    same = np.eye(vectors.shape[1])
    return _result(problem, _Turned(same, vectors, vectors[:0]), kept)


INCUMBENT: Arm[Loading, Loaded] = Arm(
    "product-quantisation",
    Kind.CLASSICAL,
    _coded(lambda problem, vectors, learnt: product_quantised(vectors, learnt, problem.size, problem.start)),
)
CHALLENGER: Arm[Loading, Loaded] = Arm("staircase", Kind.QUANTUM, solve_staircase, twin="staircase-exact")
OTHERS: tuple[Arm[Loading, Loaded], ...] = (
    Arm("staircase-exact", Kind.TWIN, solve_staircase_exact),
    Arm("matrix-product", Kind.DEQUANTISED, _coded(_matrix_product)),
    Arm("amplitude", Kind.QUANTUM, solve_amplitude),
    Arm("qram", Kind.QUANTUM, solve_qram, version="2"),
    Arm(
        "pca",
        Kind.CLASSICAL,
        _coded(lambda problem, vectors, learnt: leading_components(vectors, learnt, problem.size)),
    ),
    Arm(
        "transform-coding",
        Kind.CLASSICAL,
        _coded(lambda problem, vectors, learnt: transform_coded(vectors, learnt, problem.size)),
    ),
    Arm("first-axis", Kind.CONTROL, solve_first_axis),
    Arm("random-components", Kind.CONTROL, solve_random_components),
)
