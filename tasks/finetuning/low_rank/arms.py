"""Arms of the low-rank decision. All store at most as many values as the factors of the given rank.

The quantum arm decomposes blocks of the matrix by variational circuits, trained exactly on a computer, and reads the
singular vectors by shots; its twin reads them exactly, and `block-svd` is what both can reach at best. A singular value
is the product of the matrix with the vectors that were read.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from sklearn.utils.extmath import randomized_svd

from tasks.contract import Arm, Bench, Kind
from tasks.finetuning.low_rank.problem import Approximation, FloatArray, Matrix
from tasks.model.threads import torch_threads
from tasks.quantum.rotations import rotate_by_circuits
from tasks.quantum.variational_svd import train_vectors

RIDGE = 1e-4  # of the mean variance of the inputs


def by_weighted_svd(problem: Matrix, _bench: Bench) -> Approximation:
    """Truncate the singular values of `W C^(1/2)`, C the covariance of the inputs: best for those outputs."""
    covariance = problem.inputs.T @ problem.inputs / len(problem.inputs)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = eigh(covariance)
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    u, s, v = np.linalg.svd(problem.weight @ root, full_matrices=False)
    return _factored(u[:, : problem.rank] * s[: problem.rank], v[: problem.rank] @ inverse)


def by_scaled_svd(problem: Matrix, _bench: Bench) -> Approximation:
    """Truncate the singular values with columns scaled by the size of their input (ASVD, arXiv 2312.05821)."""
    scales = np.sqrt(np.square(problem.inputs).mean(axis=0)) + 1e-6
    u, s, v = np.linalg.svd(problem.weight * scales, full_matrices=False)
    return _factored(u[:, : problem.rank] * s[: problem.rank], v[: problem.rank] / scales)


def by_svd(problem: Matrix, _bench: Bench) -> Approximation:
    """Truncate the singular values: the least error of the weights (Eckart and Young 1936)."""
    u, s, v = np.linalg.svd(problem.weight, full_matrices=False)
    return _factored(u[:, : problem.rank] * s[: problem.rank], v[: problem.rank])


def by_randomised_svd(problem: Matrix, bench: Bench) -> Approximation:
    """Truncate by the randomised range finder (Halko, Martinsson, Tropp 2011)."""
    u, s, v = randomized_svd(problem.weight, problem.rank, random_state=int(bench.rng.integers(2**31)))
    return _factored(u * s, v)


def by_random_basis(problem: Matrix, bench: Bench) -> Approximation:
    """Project the rows on a random subspace."""
    basis = np.linalg.qr(bench.rng.standard_normal((problem.weight.shape[1], problem.rank)))[0]
    return _factored(problem.weight @ basis, basis.T)


def by_block_svd(problem: Matrix, _bench: Bench) -> Approximation:
    """Truncate the singular values of every block."""
    u, _, v = np.linalg.svd(_blocks(problem))
    rank = problem.block_rank
    return _assembled(problem, u[:, :, :rank], v[:, :rank].transpose(0, 2, 1))


def by_exact_circuits(problem: Matrix, bench: Bench) -> Approximation:
    """Decompose every block by variational circuits whose vectors are read exactly."""
    first, second = _trained(problem, bench)
    rank = problem.block_rank
    return _assembled(problem, first[:, :, :rank], second[:, :, :rank])


def by_circuits(problem: Matrix, bench: Bench) -> Approximation:
    """Decompose every block by variational circuits whose vectors are read by shots, signs by a reference qubit."""
    rank, read = problem.block_rank, []
    for circuits in _trained(problem, bench):
        basis = np.tile(np.eye(problem.block)[:rank], (1, len(circuits)))
        columns = rotate_by_circuits(circuits, basis, bench.sampler, problem.shots, signed=True)
        vectors = columns.reshape(rank, len(circuits), problem.block).transpose(1, 2, 0)
        # Shots make the columns neither of unit length nor orthogonal.
        read.append(np.linalg.qr(vectors)[0])
    return _assembled(problem, read[0], read[1])


def _trained(problem: Matrix, bench: Bench) -> tuple[FloatArray, FloatArray]:
    with torch_threads(1):
        seed = int(bench.rng.integers(2**31))
        return train_vectors(_blocks(problem), problem.block_rank, problem.layers, problem.steps, seed)


def _blocks(problem: Matrix) -> FloatArray:
    """Return the blocks (m, b, b), row by row."""
    size, (rows, columns) = problem.block, problem.weight.shape
    cut = problem.weight.reshape(rows // size, size, columns // size, size)
    return np.asarray(cut.transpose(0, 2, 1, 3).reshape(-1, size, size), np.float64)


def _assembled(problem: Matrix, left: FloatArray, right: FloatArray) -> Approximation:
    """Return the matrix whose blocks are `L L^T M R R^T`."""
    middle = np.einsum("mij,mik,mkl->mjl", left, _blocks(problem), right)
    blocks = np.einsum("mij,mjk,mlk->mil", left, middle, right)
    size, (rows, columns) = problem.block, problem.weight.shape
    weight = blocks.reshape(rows // size, columns // size, size, size).transpose(0, 2, 1, 3).reshape(rows, columns)
    return Approximation(weight, int(left.size + right.size))


def _factored(left: FloatArray, right: FloatArray) -> Approximation:
    return Approximation(np.asarray(left @ right, np.float64), int(left.size + right.size))


INCUMBENT: Arm[Matrix, Approximation] = Arm("weighted-svd", Kind.CLASSICAL, by_weighted_svd)
CHALLENGER: Arm[Matrix, Approximation] = Arm("variational", Kind.QUANTUM, by_circuits, twin="variational-exact")
OTHERS: tuple[Arm[Matrix, Approximation], ...] = (
    Arm("random-basis", Kind.CONTROL, by_random_basis),
    Arm("variational-exact", Kind.TWIN, by_exact_circuits),
    Arm("svd", Kind.CLASSICAL, by_svd),
    Arm("randomised-svd", Kind.CLASSICAL, by_randomised_svd),
    Arm("scaled-svd", Kind.CLASSICAL, by_scaled_svd),
    Arm("block-svd", Kind.CLASSICAL, by_block_svd),
)
