import numpy as np
import pytest
import torch

from tasks.model.generation.kernel import FEW, pack, panelled, project
from tasks.model.generation.llama import in_form
from tasks.model.recipe import Form


def product(x: np.ndarray, weights: np.ndarray, form: Form) -> np.ndarray:
    stored, scales = in_form(torch.from_numpy(weights), form)
    out = np.full((len(x), panelled(len(weights))), np.nan, np.float32)
    project(x, pack(stored), scales, out)
    return out[:, : len(weights)]


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 64, 48), (FEW, 37, 13), (2 * FEW + 3, 5, 7), (3, 1, 1)])
def test_products_are_those_of_numpy(form: Form, tokens: int, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    x, weights = (rng.standard_normal(shape).astype(np.float32) for shape in ((tokens, inputs), (outputs, inputs)))
    stored, scales = in_form(torch.from_numpy(weights), form)
    wide = stored.astype(np.float64)
    if form == "bf16":
        wide = (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    expected = x @ wide.T * (scales if len(scales) else 1)
    assert np.allclose(product(x, weights, form), expected, atol=1e-4 * np.abs(expected).max())


def test_int8_gives_a_token_the_same_bits_in_any_company() -> None:
    rng = np.random.default_rng(0)
    x, weights = (rng.standard_normal((rows, 40)).astype(np.float32) for rows in (9, 50))
    together = product(x, weights, "int8")
    for token, row in zip(x, together, strict=True):
        assert (product(token[None], weights, "int8")[0] == row).all()


def test_the_longest_sums_of_int8_do_not_overflow() -> None:
    inputs = 1 << 18
    x, weights = np.full((1, inputs), 2.0, np.float32), np.ones((3, inputs), np.float32)
    assert product(x, weights, "int8")[0] == pytest.approx(np.full(3, 2.0 * inputs), rel=0.02)
    assert not product(np.zeros((1, 4), np.float32), np.ones((2, 4), np.float32), "int8").any()
