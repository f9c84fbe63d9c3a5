"""QAOA with fixed, instance-independent angles: every batch of problems is one job.

Conventions: H is minimised, a layer is `exp(-i gamma H)` then the mixer `exp(-i beta B)`. Unconstrained problems use
`B = -sum X` (`RX(-2 beta)`) from |+>, its ground state; problems with a fixed number of ones use the complete-graph
`B = -(2/n) sum_{i<j} (X_i X_j + Y_i Y_j) / 2` from the Dicke state, its ground state in that sector.

H is scaled in closed form from its Ising coefficients to a standard deviation of `sqrt(n) / 2` over the bit strings of
the start state, uniformly distributed, so that one linear ramp (Montanez-Barrera and Michielsen, "Towards a universal
QAOA protocol", arXiv 2405.09169) fits every instance. The peaks of the ramps that arms use are tuned on problems that
no study has (`tasks.quantum.angles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from qiskit import QuantumCircuit

from tasks.quantum.dicke import prepare_dicke

if TYPE_CHECKING:
    from qiskit.primitives import BaseSamplerV2

    from tasks.combinatorial.qubo import Bits, Floats, Qubo

Angles = tuple["Floats", "Floats"]  # gammas and betas of the layers


def linear_ramp(layers: int, gamma: float = 1.0, beta: float = 0.6) -> Angles:
    """Return the angles of a linear ramp: gamma rises to its peak, beta falls from its peak.

    Raises:
        ValueError: `layers` is less than 1.
    """
    if layers < 1:
        raise ValueError(f"a ramp has at least 1 layer, not {layers}")
    step = np.arange(1, layers + 1)
    return gamma * step / layers, beta * (1 - (step - 1) / layers)


def scale(qubo: Qubo) -> float:
    """Return the standard deviation of E over uniform bits, `sqrt(sum h^2 + sum_{i<j} J^2)`."""
    h, J, _ = qubo.ising()
    return float(np.sqrt(np.sum(h**2) + np.sum(J**2) / 2))


def sector_scale(qubo: Qubo, k: int) -> float:
    """Return the standard deviation of E over uniform k-subsets, in closed form.

    On a sector E splits into orthogonal harmonic parts of degree 0, 1 and 2 (the Johnson scheme; Delsarte 1973): with
    `sum a_i = 0` the part `a . x` has variance `k(n-k) / (n(n-1)) sum a^2`, and with `sum_j B_ij = 0` the part
    `1/2 x^T B x` has `k(k-1)(n-k)(n-k-1) / (n(n-1)(n-2)(n-3)) sum_{i<j} B^2`.
    """
    n = qubo.size
    if k in (0, n):
        return 0.0
    linear, Q = qubo.linear.copy(), qubo.quadratic
    variance = 0.0
    if n >= 3:
        # B = Q - (u_i + u_j) off the diagonal, with u such that every row sums to zero.
        degree = Q.sum(axis=1)
        u = (degree - degree.sum() / (2 * (n - 1))) / (n - 2)
        B = Q - (u[:, None] + u[None, :])
        np.fill_diagonal(B, 0.0)
        # sum_{i<j} (u_i + u_j) x_i x_j = (k - 1) u . x where exactly k bits are set.
        linear += (k - 1) * u
        if n >= 4:
            variance += k * (k - 1) * (n - k) * (n - k - 1) / (n * (n - 1) * (n - 2) * (n - 3)) * np.sum(B**2) / 2
    variance += k * (n - k) / (n * (n - 1)) * np.sum((linear - linear.mean()) ** 2)
    return float(np.sqrt(variance))


def qaoa_circuit(
    qubo: Qubo,
    gammas: Sequence[float] | Floats,
    betas: Sequence[float] | Floats,
    start: Sequence[float] | Floats | None = None,
) -> QuantumCircuit:
    """Build the circuit, gates h, rz, rzz and rx with numbers for angles; qubit i is variable i, measured as `meas`.

    A warm start (Egger, Marecek, Woerner, Quantum 5, 479 (2021), arXiv 2009.10095) begins in the product state in which
    variable i is 1 with probability `start[i]`; its mixer is the one whose ground state that is, in gates ry and rz.

    Raises:
        ValueError: the problem has no variable, the angles differ in number, or `start` has another length.
    """
    n = _check(qubo, gammas, betas)
    if start is not None and len(start) != n:
        raise ValueError(f"the start state is given for {len(start)} variables, the problem has {n}")
    tilts = None if start is None else 2 * np.arcsin(np.sqrt(np.asarray(start, np.float64)))
    circuit = QuantumCircuit(n)
    if tilts is None:
        circuit.h(range(n))
    else:
        _turn(circuit, tilts)
    for gamma, beta in zip(gammas, betas, strict=True):
        _phase(circuit, qubo, float(gamma), scale(qubo))
        if tilts is None:
            circuit.rx(-2 * float(beta), range(n))
        else:
            _turn(circuit, -tilts)
            circuit.rz(-2 * float(beta), range(n))
            _turn(circuit, tilts)
    circuit.measure_all()
    return circuit


def sample_qaoa(
    qubos: Sequence[Qubo],
    sampler: BaseSamplerV2,
    shots: int,
    angles: Angles,
    starts: Sequence[Floats] | None = None,
) -> list[Bits]:
    """Sample every problem with the same angles, all in one call of the sampler; one (shots, n) array each."""
    given: Sequence[Floats | None] = starts if starts is not None else [None] * len(qubos)
    circuits = [qaoa_circuit(qubo, *angles, start) for qubo, start in zip(qubos, given, strict=True)]
    return _run(circuits, sampler, shots)


def dicke_qaoa_circuit(
    qubo: Qubo, k: int, gammas: Sequence[float] | Floats, betas: Sequence[float] | Floats
) -> QuantumCircuit:
    """Build the circuit over k-subsets: Dicke start, complete-graph XY mixer; every noiseless sample has k ones.

    The mixer is one Trotter step: RXX and RYY of the pairs of a round-robin tournament, round after round, so that
    the n/2 pairs of a round are disjoint and the two-qubit depth of a layer is linear in n. The order is the same in
    every layer. Each factor keeps the number of ones, so only the evolution inside the sector is approximate.

    Raises:
        ValueError: the problem has no variable, the angles differ in number, or `k` is not between 0 and n.
    """
    n = _check(qubo, gammas, betas)
    circuit = prepare_dicke(n, k)
    for gamma, beta in zip(gammas, betas, strict=True):
        _phase(circuit, qubo, float(gamma), sector_scale(qubo, k))
        for i, j in round_robin(n):
            circuit.rxx(-2 * float(beta) / n, i, j)
            circuit.ryy(-2 * float(beta) / n, i, j)
    circuit.measure_all()
    return circuit


def sample_dicke_qaoa(qubo: Qubo, k: int, sampler: BaseSamplerV2, shots: int, angles: Angles) -> Bits:
    """Sample k-subsets of one problem, in one call of the sampler; (shots, n)."""
    return _run([dicke_qaoa_circuit(qubo, k, *angles)], sampler, shots)[0]


def round_robin(n: int) -> list[tuple[int, int]]:
    """Return all pairs of n players in the order of a round-robin tournament (circle method)."""
    players: list[int | None] = list(range(n)) + ([None] if n % 2 else [])
    pairs = []
    for _ in range(len(players) - 1):
        for a, b in zip(players[: len(players) // 2], reversed(players), strict=False):
            if a is not None and b is not None:
                pairs.append((min(a, b), max(a, b)))
        players = [players[0], players[-1], *players[1:-1]]
    return pairs


def _turn(circuit: QuantumCircuit, angles: Floats) -> None:
    for qubit, angle in enumerate(angles):
        circuit.ry(float(angle), qubit)


def _check(qubo: Qubo, gammas: Sequence[float] | Floats, betas: Sequence[float] | Floats) -> int:
    if qubo.size == 0:
        raise ValueError("a circuit needs at least one variable")
    if len(gammas) != len(betas):
        raise ValueError(f"gammas ({len(gammas)}) and betas ({len(betas)}) should be equally many")
    return qubo.size


def _phase(circuit: QuantumCircuit, qubo: Qubo, gamma: float, deviation: float) -> None:
    """Append `exp(-i gamma H)` with H scaled to a standard deviation of `sqrt(n) / 2`.

    The ZZ factors commute; in the order of a tournament they are as shallow as the mixer.
    """
    h, J, _ = qubo.ising()
    factor = gamma * np.sqrt(qubo.size) / (2 * deviation) if deviation > 0 else 0.0
    for qubit in np.flatnonzero(h):
        circuit.rz(float(2 * factor * h[qubit]), int(qubit))
    for i, j in round_robin(qubo.size):
        if J[i, j]:
            circuit.rzz(float(2 * factor * J[i, j]), i, j)


def _run(circuits: list[QuantumCircuit], sampler: BaseSamplerV2, shots: int) -> list[Bits]:
    if not circuits:
        return []
    results = sampler.run(circuits, shots=shots).result()
    return [result.data.meas.to_bool_array(order="little").astype(np.uint8) for result in results]
