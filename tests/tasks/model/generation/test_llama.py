from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from tasks.model.generation.llama import LlamaSteps, supports

Make = Callable[..., LlamaForCausalLM]


def opened(steps: LlamaSteps) -> LlamaSteps:
    steps.add()
    return steps


@pytest.mark.parametrize(
    "change",
    [{}, {"num_key_value_heads": 1}, {"tie_word_embeddings": False}, {"num_attention_heads": 4, "head_dim": 16}],
)
def test_logits_are_those_of_transformers(tiny: Make, change: dict[str, object]) -> None:
    model = tiny(**{"num_key_value_heads": 2, **change})
    ids = torch.randint(0, 64, (14,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids[None]).logits[0]
    steps = opened(LlamaSteps(model, 16))
    assert supports(model)
    assert torch.allclose(steps.read(ids[:6].tolist()).last, expected[5], atol=1e-4)
    assert torch.allclose(steps.read(ids[6:9].tolist()).last, expected[8], atol=1e-4)
    for at in range(9, 14):
        assert torch.allclose(steps.read([int(ids[at])]).last, expected[at], atol=1e-4)


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
    assert torch.allclose(opened(LlamaSteps(model, 8)).read(ids).last, expected, atol=1e-4)


def test_what_is_not_a_plain_llama_is_left_to_the_general_road(tiny: Make) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert not supports(tiny(rope_parameters=scaled))
    assert not supports(tiny(attention_bias=True))
    wrapped = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert not supports(wrapped)
    assert not supports(wrapped.base_model.model)


def test_a_full_cache_is_an_error(tiny: Make) -> None:
    steps = opened(LlamaSteps(tiny(), 4))
    steps.read([1, 2, 3, 4])
    with pytest.raises(ValueError, match="5 tokens do not fit the cache of 4"):
        steps.read([5])


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_texts_in_rows_get_the_logits_that_each_gets_alone(tiny: Make, heads: int) -> None:
    model = tiny(num_attention_heads=4, num_key_value_heads=heads)
    texts = [torch.randint(0, 64, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (4, 9, 6, 1)]
    with torch.no_grad():
        expected = [model(torch.tensor([ids])).logits[0] for ids in texts]
    steps, at = LlamaSteps(model, 12, rows=4), [2, 5, 3, 0]
    for ids, size in zip(texts, at, strict=True):
        row = steps.add()
        if size:
            steps.read(ids[:size], row)
    rows = [0, 1, 2, 3]
    steps.drop(0)  # the last one takes its place
    rows = [3, 1, 2]
    while True:
        for row, text in reversed(list(enumerate(rows))):
            if at[text] == len(texts[text]):
                steps.drop(row)
                rows[row] = rows[-1]
                rows.pop()
        if not rows:
            break
        logits = steps.step([texts[text][at[text]] for text in rows])
        for row, text in enumerate(rows):
            assert torch.allclose(logits[row], expected[text][at[text]], atol=1e-4)
            at[text] += 1
    assert at == [2, 9, 6, 1]


def test_the_probability_of_what_was_read_is_the_models(tiny: Make) -> None:
    model, ids = tiny(), [5, 9, 1, 33, 2]
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
    wanted = torch.tensor([float(row[token]) for row, token in zip(expected, ids[1:], strict=True)])
    reading = opened(LlamaSteps(model, 8)).read(ids)
    assert torch.allclose(reading.scores(0).logprobs, wanted, atol=1e-4)
    assert torch.allclose(opened(LlamaSteps(model, 8)).read(ids, scored=2).scores(0).logprobs, wanted[-2:], atol=1e-4)
    assert opened(LlamaSteps(model, 8)).read([3]).scores(3).logprobs.numel() == 0


def test_a_text_that_begins_as_another_reads_only_its_rest(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = tiny(), []
    shared = torch.randint(0, 64, (30,), generator=torch.Generator().manual_seed(2)).tolist()
    forward = LlamaSteps._forward

    def counted(self: LlamaSteps, ids: Any, *where: Any) -> Any:
        read.append(len(ids))
        return forward(self, ids, *where)

    monkeypatch.setattr(LlamaSteps, "_forward", counted)
    steps = LlamaSteps(model, 64, rows=3, remembered=1 << 20)
    texts = [shared, [*shared, 7, 8], shared[:20] + [9] * 4, [5, *shared]]
    for ids, rest in zip(texts, [30, 2, 4, 31], strict=True):
        row = steps.add()
        reading = steps.read(ids, row)
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0]
        assert read.pop() == rest
        assert torch.allclose(reading.last, expected[-1], atol=1e-4)
        wanted = torch.log_softmax(expected[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert torch.allclose(reading.scores(0).logprobs, wanted, atol=1e-4), "states are remembered, too"
        if row:
            steps.drop(row)
    steps.drop(0)
    steps.read([*shared, 7, 8], steps.add())
    assert not read, "all of it is known"
    steps.step([3])
    steps.drop(0)
    assert [len(kept.ids) for kept in steps._memory] == [24, 31, 33], "a text takes the place of its beginnings"


def test_memory_is_bounded_and_the_oldest_text_leaves(tiny: Make) -> None:
    steps = LlamaSteps(tiny(), 64, remembered=40_000)
    for first in range(9):
        steps.read([first] * 20, steps.add())
        steps.drop(0)
    assert sum(kept.bytes for kept in steps._memory) <= 40_000
    assert int(steps._memory[-1].ids[0]) == 8
    assert len(steps._memory) < 9


def test_texts_split_among_threads_get_the_same_logits(tiny: Make) -> None:
    model, texts = tiny(), [[i + 1, 5, i + 2] for i in range(11)]
    said = []
    for threads in (1, 2):
        steps = LlamaSteps(model, 8, rows=11, threads=threads)
        for ids in texts:
            steps.read(ids, steps.add())
        said.append(steps.step(list(range(11))))
    assert torch.equal(*said)
