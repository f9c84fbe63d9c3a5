"""State loading from 2 to 10 qubits: gates, bytes and the fidelity that arrives on a noisy device.

`python -m benchmarks loading`. Vectors are embeddings of real documents: up to 8 qubits their leading principal
components, scaled to unit length; 9 and 10 qubits the vectors of two and four parts of a document, side by side.
Every angle is a byte. `ideal` is the fidelity of the circuit without noise, exact. `arrives` goes through the runtime
queue to `noisy:<device>`: the loader and its inverse, with nothing of them cancelled, bring back the state with
probability S, readout included, and the fidelity behind the loader alone is `ideal * sqrt(S)`. Up to 5 qubits it stands
beside the fidelity of the density matrix of the loader alone under the same noise, without readout. The memory (qram)
is measured directly: given its flag, taken back to 0.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_aer import AerSimulator

from infra.runtime.backends.noisy import NoisySimulator
from infra.runtime.backends.projection import project
from infra.runtime.backends.snapshots import fake_device
from infra.runtime.backends.usage import LEVEL, REP_DELAY_S, SEED_TRANSPILER
from infra.runtime.circuits.payload import circuit_digest
from infra.runtime.queue import Runtime, Scope
from tasks.preprocessing.state_loading.codes import FloatArray, principal_axes, rounded
from tasks.quantum.encodings import amplitude_angles, amplitude_circuit, tree_angles, tree_states, unloading_angles
from tasks.quantum.qram import LARGEST, qram_angles, qram_circuit, qram_parameters, qram_values, success_probability
from tasks.quantum.staircase import fit_staircase, staircase_circuit, staircase_states
from tasks.text.embeddings import embed, normalised
from tasks.text.samples import sample_documents

DEVICE = "fake_torino"
QUBITS = range(2, 11)
LAYERS = (1, 2, 4)
VECTORS, LEARNT, PASSES = 8, 600, 100
PART = 1000  # characters
SHOTS, NOISY_SHOTS = 2048, 256
LOSS = 4.5e-3  # of the fidelity in a two-qubit gate, about; where the shots would see nothing none are run
DENSE = 5  # qubits up to which the density matrix is computed beside
LARGEST_NOISY_MEMORY = 8  # cells; 16 would be 21 qubits with noise
READ_TO = 0.01
FURTHER = (12, 16, 20)


@dataclass(frozen=True)
class Loader:
    """A loader at one size with the angles of some vectors."""

    name: str
    circuit: QuantumCircuit
    angles: FloatArray
    states: FloatArray
    n_bytes: int


def vectors_for(qubits: int) -> FloatArray:
    """Return some unit vectors of 2^n numbers and the ones that the axes are learnt from, the latter first."""
    parts = max(1, (1 << qubits) // 256)
    texts = [text for _, text in sample_documents("base") if len(text) >= 2 * parts * PART // 2]
    texts = texts[:: max(1, len(texts) // (VECTORS + LEARNT))][: VECTORS + LEARNT]
    pieces = [text[k * len(text) // parts :][:PART] for text in texts for k in range(parts)]
    rows = np.asarray(normalised(embed(pieces)), np.float64).reshape(len(texts), -1)
    turned = rows @ principal_axes(rows[VECTORS:])
    return np.asarray(normalised(turned[:VECTORS, : 1 << qubits]), np.float64)


def loaders(qubits: int, targets: FloatArray) -> Iterator[Loader]:
    """Yield the exact tree and the staircases for some vectors."""
    *upper, last = tree_angles(targets)
    levels = [*(rounded(angles, 0.0, np.pi) for angles in upper), rounded(last, -2 * np.pi, 2 * np.pi)]
    states = tree_states(levels)
    yield Loader("exact tree", amplitude_circuit(qubits), amplitude_angles(states), states, (1 << qubits) - 1)
    for layers in LAYERS:
        angles = fit_staircase(targets, layers, PASSES, np.random.default_rng(0))[0]
        angles = rounded((angles + np.pi) % (2 * np.pi) - np.pi, -np.pi, np.pi)
        states = staircase_states(angles, qubits, layers)
        yield Loader(f"staircase x {layers}", staircase_circuit(qubits, layers), angles, states, angles.shape[1])


def echo(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return loader and inverse with a barrier between, measured."""
    both = circuit.copy()
    both.barrier()
    both.compose(circuit.inverse(), inplace=True)
    both.measure_all()
    return both


def dense_fidelity(loader: Loader, row: int, device: NoisySimulator) -> float:
    """Return the fidelity of the noisy density matrix of the loader alone with its own noiseless state."""
    qubits = loader.circuit.num_qubits
    region = device.region(qubits)
    compiler = generate_preset_pass_manager(LEVEL, target=region.target, seed_transpiler=SEED_TRANSPILER)
    isa = compiler.run(loader.circuit.assign_parameters(loader.angles[row]))
    layout = isa.layout.final_index_layout()
    isa.save_density_matrix(qubits=layout)
    found = AerSimulator(noise_model=region.noise, method="density_matrix", max_parallel_threads=1).run(isa).result()
    matrix = np.asarray(found.data()["density_matrix"])
    state = loader.states[row]
    return float(np.real(state @ matrix @ state))


def curve(runtime: Runtime, device: NoisySimulator) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    """Print a row for each loader and size.

    Returns:
        (two-qubit gates on the device, share that arrives), and (qubits, two-qubit gates on the device) of exact trees.
    """
    write, number = sys.stdout.write, count()
    seen: list[tuple[float, float]] = []
    trees: list[tuple[int, int]] = []
    write(
        "qubits | loader | bytes | two-qubit gates | their depth | on the device | ideal | arrives | density matrix\n"
    )
    for qubits in QUBITS:
        targets = vectors_for(qubits)
        noisy = 4 if qubits <= 6 else 2 if qubits <= 8 else 1
        for loader in loaders(qubits, targets):
            plain = loader.circuit
            ideal = np.square((loader.states * targets).sum(axis=1))
            found = project(plain, circuit_digest(plain), DEVICE, runtime.open())
            arrives = f"below {NOISY_SHOTS**-0.5:.2f}"
            if np.exp(-2 * LOSS * found.two_qubit_gates) > 1 / NOISY_SHOTS:
                both = echo(plain)
                order = {str(p): k for k, p in enumerate(plain.parameters)}
                table = loader.angles[:noisy, [order[str(p)] for p in both.parameters]]
                scope = Scope("bench", "preprocessing", "state_loading", str(next(number)), "echo", 0, 0)
                bits = runtime.sampler(scope).run([(both, table)], shots=NOISY_SHOTS).result()[0].data.meas.array
                share = np.sqrt((bits == 0).all(axis=-1).mean(axis=-1))
                seen.append((found.two_qubit_gates, float(share.mean())))
                arrives = f"{ideal.mean() * share.mean():.3f}"
            if loader.name == "exact tree":
                trees.append((qubits, found.two_qubit_gates))
            dense = ""
            if qubits <= DENSE:
                kept = np.mean([dense_fidelity(loader, row, device) for row in range(noisy)])
                dense = f"{ideal.mean() * kept:.3f}"
            depth = plain.depth(lambda item: item.operation.num_qubits == 2)
            write(
                f"{qubits} | {loader.name} | {loader.n_bytes} | {plain.num_nonlocal_gates()} | {depth} | "
                f"{found.two_qubit_gates} | {ideal.mean():.3f} | {arrives} | {dense}\n"
            )
            sys.stdout.flush()
    return seen, trees


def memory(runtime: Runtime, ideal: Runtime) -> None:
    """Print a row for each number of cells."""
    write = sys.stdout.write
    write("cells | qubits | bytes | two-qubit gates | preparations | ideal, measured | arrives\n")
    for bits in range(1, LARGEST.bit_length()):
        cells = 1 << bits
        targets = vectors_for(max(2, bits))[:, :cells]
        targets = np.asarray(normalised(targets), np.float64)
        angles = rounded(qram_angles(targets), -np.pi, np.pi)
        circuit = qram_circuit(cells)
        values = np.hstack([qram_parameters(angles), unloading_angles(targets)])
        text = []
        for used, vectors, shots in ((ideal, VECTORS if bits < 4 else 2, SHOTS), (runtime, 1, NOISY_SHOTS)):
            if used is runtime and cells > LARGEST_NOISY_MEMORY:
                text.append("not simulated")
                continue
            scope = Scope("bench", "preprocessing", "state_loading", f"memory {cells}", "qram", 0, 0)
            data = used.sampler(scope).run([(circuit, values[:vectors])], shots=shots).result()[0].data
            loaded = (data.flag.array == 1).all(axis=-1) & (data.tree.array == 0).all(axis=-1)
            zeros = loaded & (data.address.array == 0).all(axis=-1)
            fidelity = zeros.sum(axis=-1) / np.maximum(1, loaded.sum(axis=-1))
            text.append(f"{fidelity.mean():.3f} of {loaded.mean():.3f} of the shots")
        exact = np.square((qram_values(angles) * targets).sum(axis=1)).mean()
        write(
            f"{cells} | {circuit.num_qubits} | {cells} | {circuit.decompose(['ccx']).num_nonlocal_gates()} | "
            f"{np.mean(1 / success_probability(angles)):.1f} | {text[0]}, exact {exact:.3f} | {text[1]}\n"
        )
        sys.stdout.flush()


def read_vector_s(rows: NDArray[np.floating[Any]]) -> float:
    """Return the seconds in which a vector of a large table is read from memory."""
    rows.sum()
    began, rounds = time.perf_counter(), 5
    for _ in range(rounds):
        rows.sum()
    return (time.perf_counter() - began) / rounds / len(rows)


def main() -> None:
    """Print the curve, the memory, and what lies beyond."""
    write = sys.stdout.write
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        runtime = Runtime(home / "noisy.db", f"noisy:{DEVICE}", simulation_limit_s=1e5)
        device = NoisySimulator(DEVICE, fake_device(DEVICE))
        seen, trees = curve(runtime, device)
        memory(runtime, Runtime(home / "ideal.db", "aer"))
        tree = amplitude_circuit(8)
        found = project(tree, circuit_digest(tree), DEVICE, runtime.open())
    gates, shares = (np.array(column, float) for column in zip(*seen, strict=True))
    use = shares > 0.2  # below it what comes back is mostly chance
    rate = float((-np.log(shares[use]) @ gates[use]) / (gates[use] @ gates[use]))
    write(f"each two-qubit gate of the device keeps {np.exp(-rate):.5f} of the fidelity (fit through the origin)\n")
    per_tree = float(np.mean([g / ((1 << n) - n - 1) for n, g in trees if n > 4]))
    for qubits in FURTHER:
        plain = (1 << qubits) - qubits - 1
        write(
            f"extrapolated, not measured: exact tree of {qubits} qubits, {plain:,} two-qubit gates, about "
            f"{plain * per_tree:,.0f} on the device, {np.exp(-rate * plain * per_tree):.1e} arrives\n"
        )
    read_s = read_vector_s(np.zeros((1 << 16, 256), np.float32))
    shots = 256 / READ_TO**2
    write(
        f"256 numbers as float32: read from memory in {read_s * 1e9:.0f} ns (measured); prepared once on the device in "
        f"{(REP_DELAY_S + found.duration_s) * 1e6:.0f} us (projected), and read back to {READ_TO} by about d / eps^2 = "
        f"{shots:,.0f} preparations, {shots * (REP_DELAY_S + found.duration_s):,.0f} s\n"
    )
