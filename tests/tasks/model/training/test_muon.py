from typing import Any

import pytest
import torch

from tasks.model.training.muon import Muon, orthogonalise


def with_singular_values(values: list[float], rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator))[0][:, : len(values)]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0][:, : len(values)]
    result: torch.Tensor = left @ torch.diag(torch.tensor(values)) @ right.T
    return result


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (12, 6), (6, 12)])
def test_singular_values_become_about_one_and_the_directions_stay(rows: int, columns: int) -> None:
    matrix = with_singular_values([5.0, 3.0, 1.0, 0.5, 0.2, 0.1], rows, columns)
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.65
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    # In the basis of the matrix's singular vectors the result is diagonal.
    turned = left.T @ result @ right.T
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-3)


def test_the_polynomial_is_the_published_one() -> None:
    # One iteration on a diagonal matrix acts on each singular value by itself: x -> a x + b x^3 + c x^5.
    values = torch.tensor([0.8, 0.6])
    expected = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert torch.allclose(orthogonalise(torch.diag(values), iterations=1).diagonal(), expected, atol=1e-5)


def test_scale_does_not_matter_and_a_batch_equals_its_members() -> None:
    a, b = (with_singular_values([3.0, 1.0, 0.4], 3, 5, seed) for seed in (0, 1))
    both = orthogonalise(torch.stack([a, b]))
    assert torch.allclose(both[0], orthogonalise(a), atol=1e-5)
    assert torch.allclose(both[1], orthogonalise(1000 * b), atol=1e-4)
    assert torch.equal(orthogonalise(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_steps_are_those_of_torch_up_to_its_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((8, 4), (4, 8), (8, 4))]
    ours = [torch.nn.Parameter(value.clone()) for value in start]
    theirs = [torch.nn.Parameter(value.clone()) for value in start]
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.05, "momentum": 0.9}
    optimizers = [Muon(ours, **settings), torch.optim.Muon(theirs, **settings)]
    for _ in range(3):
        gradients = [torch.randn(value.shape, generator=generator) for value in start]
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=0.02)
    assert all(float((a - s).detach().abs().max()) > 0.1 for a, s in zip(ours, start, strict=True))


def test_bfloat16_gives_the_same_directions() -> None:
    matrix = with_singular_values([5.0, 3.0, 1.0, 0.5, 0.4, 0.3], 12, 6)
    rounded = orthogonalise(matrix, dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, orthogonalise(matrix), atol=0.1)
