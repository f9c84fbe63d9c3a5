"""Logical counts of published subroutines, and what they take on a surface code.

The physical estimate follows Beverland et al., "Assessing requirements to scale to practical quantum advantage"
(arXiv 2211.07629): layout, depth, distance and cycle time in closed form. T factories are left out; where `qdk` is
installed, its estimator adds them (`with_factories`). Tests compare both with published estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STEPS_OF_A_CYCLE = (4, 2)  # two-qubit gates and measurements of a syndrome cycle
THRESHOLD, PREFACTOR = 0.01, 0.03
QUBITS_OF_A_PATCH = 2
BITS = 24  # of a floating point mantissa
TOFFOLI_OF_A_PRODUCT = 2 * BITS**2 / 4  # half of the schoolbook's BITS^2 full adders, rounded to what is reported
COUNTABLE = 10**11  # gates; beyond about this many the estimator in qdk 1.33 overflows its 64-bit nanoseconds
TOMOGRAPHY = 0.1  # error of a vector that is read out


@dataclass(frozen=True)
class Counts:
    """Logical resources of a computation.

    Attributes:
        qubits: logical qubits before the layout.
        toffoli: Toffoli (CCZ) gates.
        t: T gates.
        rotations: rotations by arbitrary angles.
        rotation_depth: layers of rotations.
        measurements: measurements.
        qram_cells: classical numbers that circuits read at each query.
        flops: floating point operations of the classical method for the same task.
        about: what is counted, with its assumptions.
    """

    qubits: float
    toffoli: float = 0.0
    t: float = 0.0
    rotations: float = 0.0
    rotation_depth: float = 0.0
    measurements: float = 0.0
    qram_cells: float = 0.0
    flops: float = 0.0
    about: str = ""


@dataclass(frozen=True)
class Physical:
    """What a computation takes on a machine.

    Attributes:
        logical_qubits: after the layout.
        depth: logical cycles.
        t_states: T states used.
        distance: code distance.
        cycle_s: seconds of a logical cycle.
        runtime_s: seconds in all.
        physical_qubits: of the layout, factories left out.
    """

    logical_qubits: float
    depth: float
    t_states: float
    distance: int
    cycle_s: float
    runtime_s: float
    physical_qubits: float


def layout_qubits(qubits: float) -> float:
    """Return the logical qubits of the planar layout: 2 Q + ceil(sqrt(8 Q)) + 1."""
    return 2 * qubits + math.ceil(math.sqrt(8 * qubits)) + 1


def t_of_a_rotation(counts: Counts, budget: float) -> int:
    """Return the T gates of a rotation: ceil(.53 log2(rotations / error of all rotations) + 5.3)."""
    if counts.rotations <= 0:
        return 0
    return math.ceil(0.53 * math.log2(counts.rotations / _share(counts, budget)) + 5.3)


def _share(counts: Counts, budget: float) -> float:
    return budget / (1 + (counts.t + counts.toffoli > 0) + (counts.rotations > 0))


def estimate(counts: Counts, error: float, gate_s: float, measurement_s: float, budget: float) -> Physical:
    """Return the physical estimate.

    Args:
        counts: the logical resources.
        error: error of a physical operation.
        gate_s: seconds of a physical two-qubit gate.
        measurement_s: seconds of a physical measurement.
        budget: probability that the whole computation may fail, in equal shares for cycles, gates that need T states
            and rotations, as far as there are any.
    """
    per_rotation = t_of_a_rotation(counts, budget)
    logical = layout_qubits(math.ceil(counts.qubits))
    depth = counts.measurements + counts.rotations + counts.t + 3 * counts.toffoli
    depth = max(1.0, depth + per_rotation * counts.rotation_depth)
    allowed = _share(counts, budget) / (logical * depth)
    exponent = math.log(allowed / PREFACTOR) / math.log(error / THRESHOLD)
    distance = max(1, 2 * math.ceil(exponent - 1e-12) - 1)
    cycle_s = (STEPS_OF_A_CYCLE[0] * gate_s + STEPS_OF_A_CYCLE[1] * measurement_s) * distance
    return Physical(
        logical_qubits=logical,
        depth=depth,
        t_states=4 * counts.toffoli + counts.t + per_rotation * counts.rotations,
        distance=distance,
        cycle_s=cycle_s,
        runtime_s=cycle_s * depth,
        physical_qubits=logical * QUBITS_OF_A_PATCH * distance**2,
    )


def with_factories(counts: Counts, preset: str, budget: float) -> Mapping[str, Any] | None:
    """Return the result of the estimator in `qdk`, T factories included; None where it cannot be had.

    That is where `qdk` is not installed (`pip install ketcycle[estimator]`), or there are more gates than it counts.
    """
    try:  # its telemetry is off, see infra/settings.py
        from qdk.estimator import LogicalCounts
    except ImportError:
        return None
    given = {
        "numQubits": math.ceil(counts.qubits),
        "tCount": math.ceil(counts.t),
        "rotationCount": math.ceil(counts.rotations),
        "rotationDepth": math.ceil(counts.rotation_depth),
        "cczCount": math.ceil(counts.toffoli),
        "measurementCount": math.ceil(counts.measurements),
    }
    if given["cczCount"] > COUNTABLE:
        return None
    found: Mapping[str, Any] = LogicalCounts(given).estimate(
        {"qubitParams": {"name": preset}, "qecScheme": {"name": "surface_code"}, "errorBudget": budget}
    )
    return found


def grover_iterations(n: float) -> float:
    """Return pi/4 sqrt(N), the iterations to find one of N entries."""
    return math.pi / 4 * math.sqrt(n)


def amplitude_queries(error: float) -> float:
    """Return pi / (2 error), the queries that estimate an amplitude to that error (Brassard et al., 2000)."""
    return math.pi / (2 * error)


def duplicate_search(log2_documents: float = 20, signature_bits: float = 128) -> Counts:
    """Count Grover's search for one duplicate of a document among N signatures in a table."""
    n = 2.0**log2_documents
    return Counts(
        qubits=2 * log2_documents + 3 * signature_bits + 1,
        toffoli=grover_iterations(n) * (n + 2 * signature_bits),
        qram_cells=n,
        flops=n * signature_bits / 64,
        about=f"Grover over 2^{log2_documents:g} signatures of {signature_bits:g} bits; each query reads the "
        "whole table (N Toffoli by unary iteration, Babbush et al., PRX 8, 041015); classical: one scan",
    )


def load_vector(dimension: float = 384) -> Counts:
    """Count the amplitude encoding of one vector."""
    width = 2 ** math.ceil(math.log2(dimension))
    return Counts(
        qubits=math.log2(width) + 1,
        rotations=width - 1,
        rotation_depth=width - 1,
        qram_cells=dimension,
        flops=2 * dimension,
        about=f"{width - 1} rotations load {dimension:g} amplitudes once (Mottonen et al., 2005); the state is "
        "gone when it is measured; classical: a read from memory and a norm",
    )


def settings_search(settings: float = 1024, training_flops: float = 1e13, parameters: float = 1.4e6) -> Counts:
    """Count Grover's search over settings with the training of a model inside the oracle."""
    queries = 2 * grover_iterations(settings)
    return Counts(
        qubits=parameters * BITS,
        toffoli=queries * training_flops * TOFFOLI_OF_A_PRODUCT / 2,
        qram_cells=parameters,
        flops=settings * training_flops,
        about=f"Grover over {settings:g} settings, each query a reversible training of {training_flops:.0e} operations "
        f"({BITS} bit), computed and uncomputed; memory for the weights alone; classical: every setting trained once",
    )


def gradient(parameters: float = 126, qubits: float = 8, error: float = 0.01) -> Counts:
    """Count a gradient by amplitude estimation of both shifts of each parameter."""
    queries = 2 * parameters * amplitude_queries(error)
    return Counts(
        qubits=qubits + math.ceil(math.log2(amplitude_queries(error))) + 1,
        rotations=queries * parameters,
        rotation_depth=queries * parameters,
        measurements=2 * parameters * math.ceil(math.log2(amplitude_queries(error))),
        flops=parameters * 2**qubits * 28 * 3,
        about=f"{parameters:g} parameters on {qubits:g} qubits, both shifts, error {error:g}, pi / (2 error) "
        "queries each; classical: adjoint differentiation of the statevector",
    )


def kernel_matrix(points: float = 512, dimension: float = 512, error: float = 0.01) -> Counts:
    """Count all entries of a fidelity kernel by amplitude estimation."""
    pairs = points * (points - 1) / 2
    queries = pairs * amplitude_queries(error)
    return Counts(
        qubits=math.log2(dimension) + math.ceil(math.log2(amplitude_queries(error))) + 1,
        rotations=queries * 2 * (dimension - 1),
        rotation_depth=queries * 2 * (dimension - 1),
        qram_cells=points * dimension,
        flops=2 * points**2 * dimension,
        about=f"{pairs:.0f} overlaps of {dimension:g}-dimensional states to {error:g}, two preparations a query; "
        "classical: one matrix product",
    )


def block_selection(blocks: float = 30, bits: float = 16) -> Counts:
    """Count Grover's search for the best subset under a quadratic loss."""
    terms = blocks * (blocks - 1) / 2
    return Counts(
        qubits=blocks + 3 * bits + math.ceil(math.log2(terms)) + blocks,
        toffoli=grover_iterations(2.0**blocks) * 2 * terms * bits,
        flops=2.0**blocks * 2 * blocks,
        about=f"Grover over 2^{blocks:g} subsets, {terms:.0f} controlled {bits:g}-bit additions a query, computed and "
        "uncomputed; classical: enumeration in Gray order",
    )


def singular_vectors(rows: float = 576, columns: float = 1536, rank: float = 256, gap: float = 1e-3) -> Counts:
    """Count a truncated singular value decomposition by singular value transformation, its vectors read out."""
    cells = rows * columns
    queries = rank * rows / TOMOGRAPHY / gap
    return Counts(
        qubits=2 * math.ceil(math.log2(columns)) + 2 * math.sqrt(cells),
        toffoli=queries * cells,
        qram_cells=cells,
        flops=4 * cells * rank,
        about=f"{rows:g} x {columns:g}, rank {rank:g}: polynomial of degree 1/gap = {1 / gap:.0f}, block encoding by a "
        "table of all cells, d/error queries a vector (van Apeldoorn et al., arXiv 2207.08800; error "
        f"{TOMOGRAPHY:g}); classical: randomised decomposition",
    )


def mean_discrepancy(points: float = 400, dimension: float = 384, bits: float = 10, error: float = 0.01) -> Counts:
    """Count the distance of two sample means by amplitude estimation, data loaded by select-swap."""
    cells = points * dimension
    load = 2 * math.sqrt(cells * bits)
    queries = amplitude_queries(error)
    return Counts(
        qubits=2 * math.ceil(math.log2(cells)) + 2 * math.sqrt(cells * bits) / 2 + bits,
        toffoli=queries * 2 * load,
        measurements=queries,
        qram_cells=cells,
        flops=2 * cells,
        about=f"{points:g} vectors of {dimension:g}, {bits:g} bits, loaded by select-swap with about 2 "
        f"sqrt(cells x bits) Toffoli (Low, Kliuchnikov, Schaeffer, arXiv 1812.00954), error {error:g}; classical: "
        "two means and a difference",
    )


def q_means(points: float = 384, dimension: float = 384, clusters: float = 4, error: float = 0.01) -> Counts:
    """Count one iteration of q-means: all distances by amplitude estimation, centroids read out."""
    one = mean_discrepancy(points + clusters, dimension, 10, error)
    queries = math.pi / (4 * error)
    distances = points * clusters
    readout = clusters * dimension / TOMOGRAPHY
    return Counts(
        qubits=one.qubits,
        toffoli=one.toffoli / amplitude_queries(error) * (queries * distances + readout),
        qram_cells=one.qram_cells,
        flops=2 * points * clusters * dimension,
        about=f"{points:g} points, {clusters:g} clusters: loading as above x pi / (4 error) for each distance, "
        "centroids by tomography (Kerenidis et al., arXiv 1812.03584, without free QRAM); classical: one pass of "
        "Lloyd",
    )


def attention(tokens: float = 1024, width: float = 64, degree: float = 20) -> Counts:
    """Count one attention head by quantum linear algebra: softmax as a polynomial, outputs read out."""
    cells = 3 * tokens * width
    load = 2 * math.sqrt(cells * 16)
    queries = tokens * width / TOMOGRAPHY * degree
    return Counts(
        qubits=2 * math.ceil(math.log2(cells)) + math.sqrt(cells * 16),
        toffoli=queries * load,
        qram_cells=cells,
        flops=4 * tokens**2 * width,
        about=f"{tokens:g} tokens, head of {width:g}: block encodings by select-swap, softmax as a polynomial "
        f"of degree {degree:g}, every output read out to {TOMOGRAPHY:g} (after Guo et al., arXiv 2402.16714); "
        "classical: two products",
    )


SUBROUTINES: dict[str, Callable[[], Counts]] = {
    "duplicate_search": duplicate_search,
    "q_means": q_means,
    "load_vector": load_vector,
    "settings_search": settings_search,
    "gradient": gradient,
    "kernel_matrix": kernel_matrix,
    "singular_vectors": singular_vectors,
    "block_selection": block_selection,
    "attention": attention,
    "mean_discrepancy": mean_discrepancy,
}
