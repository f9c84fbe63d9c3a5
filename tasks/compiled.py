"""Compile what numba compiles and keep it on disk, so that no run waits for it: `python -m tasks.compiled`.

`make setup` does this; otherwise each function is compiled when it is first called.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pyarrow as pa

from tasks.curation.deduplicate import deduplicate
from tasks.curation.index.crowds import CROWD
from tasks.model.generation.llama import LlamaSteps
from tasks.model.generation.plain import PlainLlama
from tasks.model.recipe import Form

TEXT = "one two three four five six seven eight nine ten eleven twelve"
SMALLEST = SimpleNamespace(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=4, rms_norm_eps=1e-5, rope_parameters={"rope_theta": 1e4},
)  # fmt: skip


def compile_all() -> None:
    """Call each compiled function with the types of arguments that it has in a run."""
    crowd = [f"{TEXT} {number}" for number in range(2 * CROWD)]
    chain = [" ".join(f"word{k}" for k in range(start, start + 24)) for start in (0, 2, 4)]
    deduplicate(pa.table({"text": [TEXT, *crowd, *chain, "another text of a few words that is like none of them"]}))
    model = PlainLlama(SMALLEST).requires_grad_(False)
    for weights in model.parameters():
        weights.fill_(0.1)
    for form in get_args(Form):
        steps = LlamaSteps(model, 16, rows=2, form=form)
        for _ in range(2):
            steps.read([1, 2, 3], steps.add()).scores(1)
        steps.step([1, 2])


if __name__ == "__main__":
    compile_all()
