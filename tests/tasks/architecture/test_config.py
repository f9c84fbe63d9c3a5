import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.architecture.config import Shape, build_model, shape_of_dial


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
def test_the_counted_weights_are_those_of_the_formula(depth: int) -> None:
    shape = shape_of_dial(depth, vocab_size=300, context=16)
    model = build_model(shape, end_of_text=0, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_demo_is_a_model_of_about_a_million_weights() -> None:
    shape = shape_of_dial(4, vocab_size=4096, context=128)
    assert (shape.width, shape.heads, shape.ffn) == (128, 4, 384)
    assert shape.parameters == 1_377_408


def test_feed_forward_units_divide_into_equal_groups() -> None:
    for depth in range(1, 13):
        shape = shape_of_dial(depth, 300, 16)
        assert shape.ffn % 128 == 0
        assert 0 <= shape.ffn - 8 * shape.width / 3 < 128
        assert shape.width == 32 * shape.heads


def test_the_counted_operations_are_those_of_the_formula() -> None:
    shape = Shape(depth=2, width=64, heads=2, ffn=128, vocab_size=300, context=16)
    model = build_model(shape, end_of_text=0, seed=0)
    model.set_attn_implementation("eager")
    ids = torch.zeros(3, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(ids)
    assert forward.get_total_flops() == 3 * 16 * shape.forward_flops_per_token
    with FlopCounterMode(display=False) as training:
        model(ids).logits.sum().backward()
    assert training.get_total_flops() == pytest.approx(3 * 16 * shape.training_flops_per_token, rel=1e-6)


def test_memory_grows_with_the_batch_and_holds_at_least_the_states() -> None:
    shape = shape_of_dial(4, 4096, 128)
    states = 4 * 3 * shape.parameters
    assert states < shape.training_bytes(1) < shape.training_bytes(8)
    logits = 4 * 8 * 128 * 4096
    assert shape.training_bytes(8) - states > logits


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed() -> None:
    shape = shape_of_dial(1, 300, 16)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first, second, third = (build_model(shape, 0, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(2), expected)
    a, b, c = (m.model.layers[0].mlp.gate_proj.weight for m in (first, second, third))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
