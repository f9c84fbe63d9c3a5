"""Quantum k-means: what an iteration takes in each of its forms, and what comes out of it.

`python -m benchmarks kmeans`. Instances are groups of 128 documents of the bank of `curation/semantic_clusters`, four
clusters, 256 dimensions, all forms from one start. The labels of whole runs are drawn from the outcome probabilities in
closed form, shot by shot what an ideal device would give; the circuits themselves run on one instance beside them.
Gates and seconds are projected: compiled for the projection device, the vendor's formula for the time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit_aer.primitives import SamplerV2
from sklearn.metrics import adjusted_rand_score

from flows.study.bank import gather_material
from infra import settings
from infra.runtime.backends.projection import project
from infra.runtime.backends.usage import shannon_gates
from infra.runtime.circuits.payload import circuit_digest
from infra.runtime.ledger.ledger import Ledger
from tasks.curation.semantic_clusters.bank import ITERATIONS, bank
from tasks.curation.semantic_clusters.bank import project as onto_axes
from tasks.curation.semantic_clusters.problem import Clustering
from tasks.quantum.basis_change import basis_circuit
from tasks.quantum.encodings import amplitude_circuit, overlap_circuit, qubits_for
from tasks.quantum.kmeans import (
    FloatArray,
    Labels,
    classical_kmeans,
    estimate_inner_products,
    lloyd,
    loewdin,
    nearest,
    overlap_inner_products,
    start_centroids,
    swap_circuit,
    swap_inner_products,
    with_constant,
)
from tasks.text.embeddings import embed

INSTANCES, DOCUMENTS = 20, 128
SHOTS = (64, 256, 1024, 4096, 16384)
CHECKED = 16  # points on which the circuits themselves run
DEVICE = "fake_torino"

Draw = Callable[[FloatArray, FloatArray, int, np.random.Generator], FloatArray]


def unit(rows: NDArray[np.floating[Any]]) -> FloatArray:
    """Scale to unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float64)


def draw_basis(points: FloatArray, centroids: FloatArray, shots: int, rng: np.random.Generator) -> FloatArray:
    """One circuit a point, measured in the orthonormalised basis of the centroids."""
    basis, root = loewdin(centroids)
    chances = np.square(points @ basis.T)
    rest = np.clip(1 - chances.sum(axis=1, keepdims=True), 0, 1)
    counts = rng.multinomial(shots, (both := np.hstack([chances, rest])) / both.sum(axis=1, keepdims=True))
    return np.asarray(np.sqrt(counts[:, :-1] / shots) @ root)


def draw_overlaps(points: FloatArray, centroids: FloatArray, shots: int, rng: np.random.Generator) -> FloatArray:
    """One circuit a pair, compute-uncompute."""
    chances = np.clip(np.square(points @ unit(centroids).T), 0, 1)
    return np.asarray(np.sqrt(rng.binomial(shots, chances) / shots))


def draw_swaps(points: FloatArray, centroids: FloatArray, shots: int, rng: np.random.Generator) -> FloatArray:
    """One circuit a pair, swap test of the distance."""
    quarter = np.clip((1 - points @ unit(centroids).T) / 2, 0, 1)
    return np.asarray(1 - 2 * (1 - 2 * rng.binomial(shots, (1 - quarter) / 2) / shots))


@dataclass(frozen=True)
class Form:
    """One way to get the inner products of points and centroids from circuits."""

    name: str
    draw: Draw
    circuit: QuantumCircuit
    per_point: bool
    constant: bool
    run: Callable[..., FloatArray]
    dense_gates: int = 0  # of a unitary that no template replaces


def forms(qubits: int, clusters: int) -> list[Form]:
    """Return the forms, with the circuits for this size."""
    basis = basis_circuit(qubits, clusters)
    return [
        Form("basis, one template", draw_basis, basis, True, True, estimate_inner_products),
        Form(
            "basis, dense unitary",
            draw_basis,
            amplitude_circuit(qubits),
            True,
            True,
            estimate_inner_products,
            shannon_gates(qubits),
        ),
        Form("compute-uncompute", draw_overlaps, overlap_circuit(qubits), False, False, overlap_inner_products),
        Form("swap test", draw_swaps, swap_circuit(qubits), False, False, swap_inner_products),
    ]


def cluster(problem: Clustering, form: Form, shots: int, rng: np.random.Generator) -> Labels:
    """Run Lloyd's algorithm with drawn inner products."""
    points = problem.points.astype(np.float64)
    start = start_centroids(points, problem.clusters, np.random.default_rng(problem.start))
    rows, first = with_constant(points, start) if form.constant else (points, start)
    rows = unit(rows)
    return lloyd(rows, first, ITERATIONS, lambda c: nearest(form.draw(rows, c, shots, rng), c))


def spread(values: list[float]) -> str:
    """Return a mean with its 95 % bootstrap interval over instances."""
    sample = np.asarray(values)
    draws = np.random.default_rng(0).choice(sample, (2000, len(sample))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{sample.mean():.3f} [{low:.3f}, {high:.3f}]"


def inertia(points: FloatArray, labels: Labels) -> float:
    """Return the sum of squared distances to the means."""
    return sum(
        float(np.square(points[labels == k] - points[labels == k].mean(axis=0)).sum()) for k in np.unique(labels)
    )


def table(problems: list[Clustering], dimensions: int, ledger: Ledger) -> None:
    """Print a row for each form and number of shots."""
    qubits, clusters, n = qubits_for(dimensions), problems[0].clusters, DOCUMENTS
    write = sys.stdout.write
    write(f"\n{dimensions} dimensions, {n} points, {clusters} clusters, {len(problems)} instances, one iteration:\n")
    write("form | qubits | two-qubit gates, as written | on the device | circuits | jobs\n")
    known = {}
    for form in forms(qubits, clusters):
        found = project(form.circuit, circuit_digest(form.circuit), DEVICE, ledger)
        plain = form.circuit.decompose(["cswap", "ccx"], reps=3).num_nonlocal_gates() + form.dense_gates
        device = found.two_qubit_gates + form.dense_gates
        circuits = n if form.per_point else n * clusters
        known[form.name] = (found, circuits)
        bound = "at least " if form.dense_gates else ""
        write(f"{form.name} | {form.circuit.num_qubits} | {plain:,} | {bound}{device:,} | {circuits} | 1\n")
    write("form | shots a circuit | shots | QPU s, projected | agreement with exact Lloyd (ARI) | inertia ratio\n")
    exact = []
    for problem in problems:
        points = problem.points.astype(np.float64)
        start = start_centroids(points, clusters, np.random.default_rng(problem.start))
        exact.append(classical_kmeans(points, start, ITERATIONS))
    for form in forms(qubits, clusters):
        if form.dense_gates:
            continue  # the labels are those of the template
        found, circuits = known[form.name]
        for shots in SHOTS:
            rng = np.random.default_rng(shots)
            labels = [cluster(problem, form, shots, rng) for problem in problems]
            agreement = [float(adjusted_rand_score(a, b)) for a, b in zip(exact, labels, strict=True)]
            ratio = [
                inertia(p.points.astype(np.float64), b) / inertia(p.points.astype(np.float64), a)
                for p, a, b in zip(problems, exact, labels, strict=True)
            ]
            seconds = found.qpu_s(circuits * shots, circuits * shots)
            write(
                f"{form.name} | {shots:,} | {circuits * shots:,} | {seconds:,.0f} | {spread(agreement)} | "
                f"{np.mean(ratio):.4f}\n"
            )


def check(problem: Clustering, shots: int = 1024) -> None:
    """Run the circuits of each form on some points and print how far they are from the closed form."""
    points = problem.points.astype(np.float64)[:CHECKED]
    start = start_centroids(problem.points, problem.clusters, np.random.default_rng(problem.start))
    for form in forms(qubits_for(points.shape[1]), problem.clusters):
        if form.dense_gates:
            continue
        rows, first = with_constant(points, start) if form.constant else (points, start)
        rows = unit(rows)
        measured = form.run(rows, first, SamplerV2(seed=1), shots)
        drawn = np.stack([form.draw(rows, first, shots, np.random.default_rng(s)) for s in range(400)])
        error = drawn.std(axis=0)  # none where the point is the centroid
        away = (measured - drawn.mean(axis=0))[error > 1e-9] / error[error > 1e-9]
        sys.stdout.write(
            f"circuits of {form.name}, {away.size} inner products against the closed form: root mean square "
            f"{np.sqrt(np.square(away).mean()):.2f} standard errors, largest {np.abs(away).max():.1f}\n"
        )


def energy(texts: list[str]) -> None:
    """Print how the CPU time of a semantic deduplication divides."""
    embed(texts[:8])
    began = time.process_time()
    vectors = embed(texts)
    embedded = time.process_time() - began
    problem = Clustering(vectors, clusters=4)
    points = problem.points.astype(np.float64)
    start = start_centroids(points, 4, np.random.default_rng(0))
    began, rounds = time.process_time(), 50
    for _ in range(rounds):
        classical_kmeans(points, start, ITERATIONS)
    clustered = (time.process_time() - began) / rounds
    sys.stdout.write(
        f"\nCPU of {len(texts)} documents: static embedding {embedded * 1e3:.0f} ms, k-means {clustered * 1e3:.1f} ms: "
        f"embedding is {embedded / (embedded + clustered):.1%} of both\n"
    )


def main() -> None:
    """Print resources and agreement of each form."""
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
        drawn = (i for i in bank(material, np.random.default_rng([0, 7])) if i.size == DOCUMENTS)
        problems = [instance.pose() for instance in islice(drawn, INSTANCES)]
        ledger = Ledger(Path(folder) / "ledger.db")
        check(problems[0])
        table(problems, 256, ledger)
        small = [Clustering(onto_axes(p.vectors, 15), p.threshold, p.clusters, p.iterations, p.start) for p in problems]
        table(small, 15, ledger)
        texts = [text[:2000] for texts in material.texts.values() for text in texts[:96]]
        energy(texts)
