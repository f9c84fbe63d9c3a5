"""In which form dense document vectors are kept and loaded: codes of a few bytes, or circuits that prepare states.

Every form gets the same bytes for a vector, a sixteenth of its float32 values, and is judged by the fidelity of what
comes back: the squared cosine between the vector and its form. That is also what a quantum kernel or quantum k-means
of the loaded states sees, and both are blind to a common rotation, so all forms work on the principal axes of other
documents. A circuit does not store a vector, it prepares one, again for each shot: its bytes are its angles, a byte
each, and what it costs are two-qubit gates.

Quantum arms measure the fidelity: load, take the true vector back to 0 with the exact tree, count the zeros. On a noisy
backend both halves suffer, as they do in a kernel. `python -m benchmarks loading` tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from qiskit import QuantumCircuit

from tasks.contract import Arm, Bench, Instance, Kind, Material, Subtask, in_turns
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
from tasks.quantum.encodings import (
    amplitude_circuit,
    append_unloading,
    qubits_for,
    tree_angles,
    tree_states,
    unloading_angles,
)
from tasks.quantum.kernels import estimate_pairs
from tasks.quantum.qram import LARGEST, qram_angles, qram_circuit, qram_parameters, qram_values, success_probability
from tasks.quantum.staircase import fit_staircase, staircase_angles, staircase_circuit, staircase_states
from tasks.text.embeddings import embed, normalised
from tasks.text.samples import sample_passages

VECTORS, BACKGROUND = 16, 1024  # of an instance of the bank, as in a run of the default profile
PIECE = 2000  # characters
LONGEST = 12  # instances of a source

Codec = Callable[["Loading", FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Loading:
    """Document vectors that are to be loaded.

    Attributes:
        vectors: (n, d) embeddings; scaled to unit length here.
        background: (b, d) embeddings of other documents, from which axes and codebooks are learnt.
        size: bytes for each vector.
        cells: of the bucket-brigade memory.
        passes: in which the angles of the staircase are compiled.
        start: seed of what is drawn for all arms alike.
        shots: for each circuit.

    Raises:
        ValueError: vectors and background that do not fit, fewer bytes than qubits need angles, or a number of cells
            that no memory has.
    """

    vectors: NDArray[np.floating[Any]]
    background: NDArray[np.floating[Any]]
    size: int = 64
    cells: int = 8
    passes: int = 100
    start: int = 0
    shots: int = 1024

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not len(self.vectors) or self.vectors.shape[1] < 4:
            raise ValueError(f"vectors of at least 4 numbers expected, got {self.vectors.shape}")
        if self.background.shape[1:] != self.vectors.shape[1:] or len(self.background) < 2:
            raise ValueError(
                f"at least 2 other vectors of length {self.vectors.shape[1]} expected, got {self.background.shape}"
            )
        least = staircase_angles(self.qubits, 1)
        if not least <= self.size <= self.vectors.shape[1]:
            raise ValueError(f"between {least} and {self.vectors.shape[1]} bytes are possible, not {self.size}")
        if self.cells not in (2, 4, 8, LARGEST) or self.cells > self.size:
            raise ValueError(f"a memory has 2, 4, 8 or {LARGEST} cells and at most {self.size}, not {self.cells}")

    @property
    def qubits(self) -> int:
        """Qubits that the whole vector needs."""
        return qubits_for(self.vectors.shape[1])

    @property
    def layers(self) -> int:
        """Layers of the staircase whose angles fit into the bytes."""
        return (self.size - self.qubits) // (2 * (self.qubits - 1))


@dataclass(frozen=True)
class Loaded:
    """A form of the vectors.

    Attributes:
        vectors: (n, d) what the form stands for, unit vectors in the coordinates of the problem.
        fidelities: of each vector, computed or, for circuits, measured.
        size: bytes for each vector.
        two_qubit_gates: of one preparation, before any routing; 0 where nothing is prepared.
        depth: of these gates.
        preparations: circuits until one vector is loaded, on average.
    """

    vectors: NDArray[np.float32]
    fidelities: tuple[float, ...]
    size: int
    two_qubit_gates: int = 0
    depth: int = 0
    preparations: float = 1.0


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
    """Scale to unit length; nothing left is the first axis."""
    return np.asarray(normalised(rows), np.float64)


def _result(problem: Loading, turned: _Turned, decoded: FloatArray, **about: Any) -> Loaded:
    """Wrap what came back on the principal axes; its fidelities are computed unless they were measured."""
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
    """Round angles to a byte each; a whole turn more changes the sign of the state alone."""
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
    """Exact amplitude encoding of as many leading components as have angles, by the drift kernel's loader."""
    turned = _turned(problem, bench)
    head = 1 << ((problem.size + 1).bit_length() - 1)
    true = turned.vectors[:, :head]
    *upper, last = tree_angles(true)  # the last ones carry the signs
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
    """A bucket-brigade memory of the leading components; shots whose flag is 0 are lost."""
    turned, cells = _turned(problem, bench), problem.cells
    true = turned.vectors[:, :cells]
    angles = rounded(qram_angles(true), -np.pi, np.pi)  # a whole turn more would change the sign of one cell
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


def quality(problem: Loading, solution: Loaded) -> tuple[float, ...]:
    """Return the mean fidelity of the vectors: they share axes and codebooks and are one instance."""
    if len(solution.fidelities) != len(problem.vectors):
        raise ValueError(f"{len(solution.fidelities)} fidelities should be as many as {len(problem.vectors)} vectors")
    return (float(np.mean(solution.fidelities)),)


def bank(material: Material, rng: Generator) -> Iterator[Instance[Loading]]:
    """Yield groups of documents of each source, no document twice, posed as a run of the default profile poses them.

    Long texts are cut to the head that is embedded, and what follows is a document of its own. The background of a
    source is the same for all its groups and holds none of their documents.
    """
    yield from in_turns([_of_source(name, texts, rng) for name, texts in sorted(material.texts.items())])


def _of_source(source: str, texts: Sequence[str], rng: Generator) -> list[Instance[Loading]]:
    pieces = [
        text[start : start + PIECE] for text in texts for start in range(0, max(1, len(text) - PIECE // 2), PIECE)
    ]
    dealt = [pieces[k] for k in rng.permutation(len(pieces))]
    background, rest = tuple(dealt[:BACKGROUND]), dealt[BACKGROUND:]
    instances = []
    for number in range(min(LONGEST, len(rest) // VECTORS)):
        mine = tuple(rest[number * VECTORS : (number + 1) * VECTORS])
        pose = partial(_posed, mine, background, int(rng.integers(2**31)))
        instances.append(Instance(source, f"{number}: {VECTORS} pieces at random", VECTORS, pose))
    return instances


def _posed(texts: tuple[str, ...], background: tuple[str, ...], start: int) -> Loading:
    return Loading(embed(texts), embed(background), start=start)


def example(rng: Generator) -> Loading:
    """Return 6 passages of licences, learnt from 90 others, on the 16 leading axes (4 qubits)."""
    passages = [text for _, text in sample_passages("second", per_label=2)]
    vectors = np.asarray(normalised(embed([passages[k] for k in rng.permutation(len(passages))[:96]])), np.float64)
    leading = (vectors @ principal_axes(vectors)[:, :16]).astype(np.float32)
    return Loading(leading[:6], leading[6:], size=10, cells=4, passes=30, start=int(rng.integers(2**31)))


STATE_LOADING: Subtask[Loading, Loaded] = Subtask(
    stage="preprocessing",
    name="state_loading",
    incumbent=Arm(
        "product-quantisation",
        Kind.CLASSICAL,
        _coded(lambda problem, vectors, learnt: product_quantised(vectors, learnt, problem.size, problem.start)),
    ),
    challenger=Arm("staircase", Kind.QUANTUM, solve_staircase),
    others=(
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
    ),
    quality=quality,
    metric="mean fidelity",
    size=lambda problem: len(problem.vectors),
    tolerance=0.02,
    bank=bank,
    example=example,
    oracle=lambda _: (1.0,),
    floor=0.8,
)
