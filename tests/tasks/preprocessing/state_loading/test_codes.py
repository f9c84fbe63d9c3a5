import numpy as np
import pytest

from tasks.preprocessing.state_loading.codes import (
    bond_for,
    codebooks,
    component_bounds,
    leading_components,
    matrix_product_coded,
    matrix_product_size,
    principal_axes,
    product_quantised,
    rounded,
    transform_coded,
    transform_levels,
)


def gaussian(count: int, seed: int = 0) -> np.ndarray:
    scales = 0.8 ** np.arange(16)
    return np.random.default_rng(seed).normal(size=(count, 16)) * scales


def error(rows: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.square(rows - decoded).sum(axis=1).mean())


def test_a_byte_rounds_to_half_a_step_and_clips() -> None:
    values = np.array([-5.0, -1.0, 0.3, 1.0, 7.0])
    np.testing.assert_allclose(rounded(values, -1.0, 1.0), np.clip(values, -1, 1), atol=1 / 256)


def test_the_axes_are_orthonormal_and_sorted_by_strength() -> None:
    rows = gaussian(400)
    axes = principal_axes(rows)
    np.testing.assert_allclose(axes.T @ axes, np.eye(16), atol=1e-12)
    strength = np.square(rows @ axes).mean(axis=0)
    assert (np.diff(strength) <= 1e-12).all()


def test_leading_components_lose_what_the_others_hold() -> None:
    learnt, rows = gaussian(2000), gaussian(500, 1)
    expected = np.square(rows[:, 8:]).sum(axis=1).mean()
    assert error(rows, leading_components(rows, component_bounds(learnt, 8))) == pytest.approx(expected, rel=0.02)


def test_transform_coding_comes_near_the_rate_of_a_gaussian_source() -> None:
    """Shannon's bound D = d 2^(-2 R / d) G, with G the geometric mean of the variances, at 4 bits a component.

    Optimal scalar levels lose up to a factor pi sqrt(3) / 2 = 2.72 to it (Panter and Dite 1951).
    """
    learnt, rows = gaussian(20_000), gaussian(4000, 1)
    variances = 0.8 ** (2 * np.arange(16))
    bound = 16 * np.exp(np.log(variances).mean()) * 2.0 ** (-2 * 4)
    assert bound < error(rows, transform_coded(rows, transform_levels(learnt, 8))) < 2.9 * bound


def test_product_quantisation_beats_leading_components_at_the_same_bytes() -> None:
    learnt, rows = gaussian(2000), gaussian(300, 1)
    quantised = product_quantised(rows, codebooks(learnt, 4, seed=0))
    assert error(rows, quantised) < 0.5 * error(rows, leading_components(rows, component_bounds(learnt, 4)))
    assert len(np.unique(quantised[:, :1])) <= 256


def test_matrix_products_hold_product_vectors_at_bond_one_and_everything_at_full_bond() -> None:
    rng = np.random.default_rng(0)
    a, b, c, d = rng.normal(size=(4, 2))
    product = np.asarray(np.kron(np.kron(a, b), np.kron(c, d)), np.float64)
    product /= np.linalg.norm(product)
    dense = rng.normal(size=16)
    dense /= np.linalg.norm(dense)
    for vector, bond in ((product, 1), (dense, 4)):
        (decoded,) = matrix_product_coded(vector[None], bond)
        assert (decoded @ vector) ** 2 / (decoded @ decoded) > 0.999


def test_the_bond_is_the_largest_whose_tensors_fit() -> None:
    assert matrix_product_size(8, 1) == 16
    assert matrix_product_size(8, 2) == 56
    assert bond_for(8, 64) == 2
    assert bond_for(8, 10_000) == 16
    assert bond_for(8, 3) == 1
