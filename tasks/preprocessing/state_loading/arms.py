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

from dataclasses import dataclass
from typing import Any

import numpy as np
from qiskit import QuantumCircuit

from tasks.contract import Arm, Bench, Kind
from tasks.preprocessing.state_loading.codes import (
    FloatArray,
    bond_for,
    codebooks,
    component_bounds,
    leading_components,
    matrix_product_coded,
    principal_axes,
    product_quantised,
    rounded,
    transform_coded,
    transform_levels,
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


@dataclass(frozen=True)
class _Turned:
    """Unit vectors on the principal axes of the background."""

    axes: FloatArray
    vectors: FloatArray


def _learnt(problem: Loading, bench: Bench) -> tuple[FloatArray, FloatArray]:
    """Return the principal axes of the background and the background on them; they serve every vector that follows."""

    def make() -> tuple[FloatArray, FloatArray]:
        background = np.asarray(normalised(problem.background), np.float64)
        axes = principal_axes(background)
        return axes, background @ axes

    return bench.once("principal axes", make)


def _turned(problem: Loading, bench: Bench) -> _Turned:
    axes, _ = _learnt(problem, bench)
    return _Turned(axes, np.asarray(normalised(problem.vectors), np.float64) @ axes)


def _unit(rows: FloatArray) -> FloatArray:
    """Scale to unit length; a zero vector becomes the first axis."""
    return np.asarray(normalised(rows), np.float64)


def _result(problem: Loading, turned: _Turned, decoded: FloatArray, **about: Any) -> Loaded:
    """Return the result for vectors on the principal axes; fidelities are computed unless they were measured."""
    unit = _unit(decoded)
    fidelities = about.pop("fidelities", np.square((unit * turned.vectors).sum(axis=1)))
    back = (unit @ turned.axes.T).astype(np.float32)
    return Loaded(back, tuple(map(float, np.minimum(fidelities, 1.0))), **{"size": problem.size, **about})


def solve_product(problem: Loading, bench: Bench) -> Loaded:
    """Product quantisation; the codebooks are learnt once."""
    _, background = _learnt(problem, bench)
    books = bench.once("codebooks", lambda: codebooks(background, problem.size, problem.start))
    turned = _turned(problem, bench)
    return _result(problem, turned, product_quantised(turned.vectors, books))


def solve_transform(problem: Loading, bench: Bench) -> Loaded:
    """Transform coding: bits by variance, levels by component, learnt once."""
    _, background = _learnt(problem, bench)
    levels = bench.once("transform levels", lambda: transform_levels(background, problem.size))
    turned = _turned(problem, bench)
    return _result(problem, turned, transform_coded(turned.vectors, levels))


def solve_components(problem: Loading, bench: Bench) -> Loaded:
    """The leading principal components, a byte each."""
    _, background = _learnt(problem, bench)
    bounds = bench.once("component bounds", lambda: component_bounds(background, problem.size))
    turned = _turned(problem, bench)
    return _result(problem, turned, leading_components(turned.vectors, bounds))


def solve_matrix_product(problem: Loading, bench: Bench) -> Loaded:
    """Truncated matrix products, each vector by itself."""
    turned = _turned(problem, bench)
    vectors = turned.vectors
    padded = np.zeros((len(vectors), 1 << problem.qubits))
    padded[:, : vectors.shape[1]] = vectors
    decoded = matrix_product_coded(padded, bond_for(problem.qubits, problem.size))[:, : vectors.shape[1]]
    return _result(problem, turned, decoded)


def _byte_angles(angles: FloatArray) -> FloatArray:
    """Round angles to a byte each; another full turn changes only the sign of the state."""
    return rounded((angles + np.pi) % (2 * np.pi) - np.pi, -np.pi, np.pi)


def _staircase(problem: Loading, bench: Bench) -> FloatArray:
    """Angles of the staircases, compiled for each vector; nothing of that serves another one."""
    rng = np.random.default_rng(problem.start)
    padded = np.zeros((len(problem.vectors), 1 << problem.qubits))
    padded[:, : problem.vectors.shape[1]] = _turned(problem, bench).vectors
    return _byte_angles(fit_staircase(padded, problem.layers, problem.passes, rng)[0])


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


def _tree(problem: Loading, bench: Bench) -> tuple[_Turned, FloatArray, int]:
    """Return the turned vectors, what the tree with an angle in a byte prepares, and its number of components."""
    turned = _turned(problem, bench)
    head = 1 << ((problem.size + 1).bit_length() - 1)
    *upper, last = tree_angles(turned.vectors[:, :head])  # the last angles carry the signs
    levels = [*(rounded(angles, 0.0, np.pi) for angles in upper), rounded(last, -2 * np.pi, 2 * np.pi)]
    kept = np.zeros_like(turned.vectors)
    kept[:, :head] = tree_states(levels)
    return turned, kept, head


def solve_amplitude_exact(problem: Loading, bench: Bench) -> Loaded:
    """The states that exact amplitude encoding prepares, without device and shots: products of cosines and sines."""
    turned, kept, head = _tree(problem, bench)
    fidelities = np.square((kept * turned.vectors).sum(axis=1))
    return _result(problem, turned, kept, fidelities=fidelities, size=head - 1)


def solve_amplitude(problem: Loading, bench: Bench) -> Loaded:
    """Exact amplitude encoding of the leading components, as many as the bytes have angles for."""
    turned, kept, head = _tree(problem, bench)
    true = turned.vectors[:, :head]
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
    fidelities = measured * np.square(true).sum(axis=1)
    return _of_memory(problem, turned, angles, fidelities, **_gates(circuit))


def solve_qram_exact(problem: Loading, bench: Bench) -> Loaded:
    """The states that the memory of the leading components prepares, in closed form: no device, no shots."""
    turned = _turned(problem, bench)
    true = turned.vectors[:, : problem.cells]
    angles = rounded(qram_angles(true), -np.pi, np.pi)
    fidelities = np.square((qram_values(angles) * true).sum(axis=1))
    return _of_memory(problem, turned, angles, fidelities)


def _of_memory(problem: Loading, turned: _Turned, angles: FloatArray, fidelities: FloatArray, **gates: int) -> Loaded:
    kept = np.zeros_like(turned.vectors)
    kept[:, : problem.cells] = qram_values(angles)
    preparations = float(np.mean(1 / success_probability(angles)))
    about = {"fidelities": fidelities, "size": problem.cells, "preparations": preparations}
    return _result(problem, turned, kept, **about, **gates)


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
    return _result(problem, _Turned(same, vectors), kept)


INCUMBENT: Arm[Loading, Loaded] = Arm("product-quantisation", Kind.CLASSICAL, solve_product, version="2")
CHALLENGER: Arm[Loading, Loaded] = Arm("staircase", Kind.QUANTUM, solve_staircase, version="2", twin="staircase-exact")
OTHERS: tuple[Arm[Loading, Loaded], ...] = (
    Arm("staircase-exact", Kind.TWIN, solve_staircase_exact, version="2"),
    Arm("matrix-product", Kind.DEQUANTISED, solve_matrix_product, version="2"),
    Arm("amplitude", Kind.QUANTUM, solve_amplitude, version="2", twin="amplitude-exact"),
    Arm("amplitude-exact", Kind.TWIN, solve_amplitude_exact),
    Arm("qram", Kind.QUANTUM, solve_qram, version="3", twin="qram-exact"),
    Arm("qram-exact", Kind.TWIN, solve_qram_exact),
    Arm("pca", Kind.CLASSICAL, solve_components, version="2"),
    Arm("transform-coding", Kind.CLASSICAL, solve_transform, version="2"),
    Arm("first-axis", Kind.CONTROL, solve_first_axis, version="2"),
    Arm("random-components", Kind.CONTROL, solve_random_components),
)
