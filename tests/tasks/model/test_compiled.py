from typing import Any

import pyarrow as pa
import torch
from numba.core.dispatcher import Dispatcher

from tasks import compiled
from tasks.curation.deduplicate import deduplicate
from tasks.curation.index import shingles
from tasks.model.generation import kernel
from tasks.model.generation.llama import LlamaSteps

FORMS = ("fp32", "bf16", "int8")


def signatures() -> dict[str, list[Any]]:
    functions = [f for module in (shingles, kernel) for f in vars(module).values() if isinstance(f, Dispatcher)]
    return {f.py_func.__qualname__: list(f.signatures) for f in functions}


def test_no_run_compiles_anything_after_it(tiny: Any) -> None:
    compiled.compile_all()
    before = signatures()
    texts = [f"text {number} of a handful of words, one of which is a number" for number in range(5)]
    for kind in (pa.string(), pa.large_string()):
        deduplicate(pa.table({"text": pa.array([*texts, *texts], kind)}), ignore_case=True, rules="prose")
    model = tiny(num_key_value_heads=2)
    for form in FORMS:
        steps = LlamaSteps(model, 16, rows=4, form=form, threads=2)
        for _ in range(3):
            steps.read([1, 2, 3, 4, 5], steps.add()).scores(2)
        assert torch.isfinite(steps.step([1, 2, 3])).all()
    assert before["read"]
    assert signatures() == before
