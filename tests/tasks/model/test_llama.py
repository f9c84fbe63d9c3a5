from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from tasks.model.llama import LlamaSteps, supports

Make = Callable[..., LlamaForCausalLM]


@pytest.mark.parametrize(
    "change",
    [{}, {"num_key_value_heads": 1}, {"tie_word_embeddings": False}, {"num_attention_heads": 4, "head_dim": 16}],
)
def test_logits_are_those_of_transformers(tiny: Make, change: dict[str, object]) -> None:
    model = tiny(**{"num_key_value_heads": 2, **change})
    ids = torch.randint(0, 64, (14,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    steps = LlamaSteps(model, 16)
    assert supports(model)
    assert torch.allclose(steps.read(ids[:6].tolist()), expected[5], atol=1e-4)
    assert torch.allclose(steps.read(ids[6:9].tolist()), expected[8], atol=1e-4)
    for at in range(9, 14):
        assert torch.allclose(steps.read([int(ids[at])]), expected[at], atol=1e-4)


def test_blocks_of_different_widths_are_computed_as_they_are(tiny: Make) -> None:
    model = tiny()
    mlp = model.model.layers[1].mlp
    for name in ("gate_proj", "up_proj"):
        layer = torch.nn.Linear(32, 24, bias=False)
        layer.weight.data = getattr(mlp, name).weight.data[:24].clone()
        setattr(mlp, name, layer)
    down = torch.nn.Linear(24, 32, bias=False)
    down.weight.data = mlp.down_proj.weight.data[:, :24].clone()
    mlp.down_proj = down
    ids = [1, 2, 3]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(LlamaSteps(model, 8).read(ids), expected, atol=1e-4)


def test_what_is_not_a_plain_llama_is_left_to_the_general_road(tiny: Make) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert not supports(tiny(rope_parameters=scaled))
    assert not supports(tiny(attention_bias=True))
    wrapped = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert not supports(wrapped)
    assert not supports(wrapped.base_model.model)


def test_a_full_cache_is_an_error(tiny: Make) -> None:
    steps = LlamaSteps(tiny(), 4)
    steps.read([1, 2, 3, 4])
    with pytest.raises(ValueError, match="5 tokens do not fit the cache of 4"):
        steps.read([5])
