"""Number formats in which a model can be run, measured on this machine: fp32, bfloat16, INT8.

A format is that of the weights of projections, as the server keeps them: bfloat16, or 8 bits with a scale for each
output; sums are fp32 always. Which is fastest depends on the processor, so nothing is assumed: speed and quality are
measured once for a machine and an architecture, by the functions that serve, and the choice is read from the table.
Models of another build than Llama are served in fp32 only.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.lake import write_atomic
from tasks.model.causal import load_model
from tasks.model.generation.llama import LlamaSteps, in_form, supports
from tasks.model.recipe import Form
from tasks.model.score import bits_per_byte
from tasks.model.windows import Windows

FORMS: tuple[Form, ...] = ("fp32", "bf16", "int8")
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
DECODED = 8  # tokens of one measured continuation


def measure_forms(folder: Path, text: Windows, seconds: float, kept: Path) -> dict[str, Any]:
    """Return speed, energy, size and quality of every format; speeds measured before on this machine are reused.

    Args:
        folder: the model.
        text: held-out windows.
        seconds: CPU seconds of each measurement of speed.
        kept: folder of earlier measurements.

    Returns:
        `rows`, by format: `read_tokens_per_cpu_s`, `written_tokens_per_cpu_s`, `j_per_1000_read` and
        `j_per_1000_written` (modelled: p5, p50, p95), `bits_per_byte`, `bytes`; `machine`; `reused`.
    """
    machine = machine_key()
    shape = hashlib.sha256((folder / "config.json").read_bytes() + str(text.context).encode()).hexdigest()[:12]
    path = kept / f"{machine}-{shape}-served.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    rows = {}
    for form in FORMS if supports(load_model(folder)) else FORMS[:1]:
        speed = known.get(form) or _speeds(load_model(folder), form, text, seconds)
        model = load_form(folder, form)
        known[form] = speed
        quality = bits_per_byte(model, text)
        rows[form] = {**speed, "bits_per_byte": quality, "bytes": weights_bytes(folder, form)}
    reused = path.is_file()
    if not reused:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(known, indent=1))
    return {"rows": rows, "machine": machine, "reused": reused}


def choose_form(rows: Mapping[str, Mapping[str, Any]], allowed_loss: float) -> str:
    """Return the format with the least energy for reading and writing among those that keep the quality of fp32.

    Args:
        rows: by format, as `measure_forms` returns them.
        allowed_loss: bits per byte that may be lost against fp32.
    """
    limit = rows["fp32"]["bits_per_byte"] + allowed_loss
    good = [name for name, row in rows.items() if row["bits_per_byte"] <= limit]
    return min(good, key=lambda name: (sum(rows[name][f"j_per_1000_{k}"][1] for k in ("read", "written")), name))


def load_form(folder: Path, form: str) -> Any:
    """Load a model whose projections have the values that they have in a format.

    Raises:
        ValueError: there is no such format.
    """
    if form not in FORMS:
        raise ValueError(f"the formats are {', '.join(FORMS)}, not {form!r}")
    model: Any = load_model(folder)
    for module in model.modules():
        if isinstance(module, nn.Linear):  # a tied head becomes one of its own, as the embedding keeps its numbers
            module.weight = nn.Parameter(_rounded(module.weight, form), requires_grad=False)
    return model


def _rounded(weights: torch.Tensor, form: Form) -> torch.Tensor:
    numbers, scales = in_form(weights, form)
    if form == "int8":
        return torch.from_numpy(numbers).float() * torch.from_numpy(scales)[:, None]
    return weights.bfloat16().float() if form == "bf16" else weights.detach()


def weights_bytes(folder: Path, form: str) -> int:
    """Return the bytes of the weights in a format; in INT8 each output of a projection has a scale, too."""
    model: Any = load_model(folder)
    total = sum(int(p.numel()) for p in model.parameters())
    if form == "fp32":
        return 4 * total
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    embedded = {id(model.get_input_embeddings().weight)}
    inside = sum(int(w.numel()) for w in linear)
    shared = sum(int(w.numel()) for w in linear if id(w) in embedded)  # a tied head is also kept as the embedding
    scales = 4 * sum(len(w) for w in linear) if form == "int8" else 0
    return WEIGHT_BYTES[form] * inside + scales + 4 * (total - inside + shared)


def machine_key() -> str:
    """Return an identifier of this processor and of the instructions it offers."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor(), platform.machine()]
    about = [line for line in lines if line.startswith(("model name", "flags", "Features"))] or lines
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]


def _speeds(model: Any, form: Form, text: Windows, seconds: float) -> dict[str, Any]:
    tokens = text.take(slice(0, 1)).inputs()["input_ids"]
    coefficients = Coefficients.load()
    read, write = _served(model, form, tokens) if supports(model) else _general(model, tokens)
    with torch.inference_mode():
        speeds = {"read": _rate(read, seconds), "written": _rate(write, seconds)}
    row: dict[str, Any] = {f"{name}_tokens_per_cpu_s": speed for name, speed in speeds.items()}
    for name, speed in speeds.items():
        band = coefficients.cpu_energy_j(Usage(cpu_s=1000 / speed), source="modelled")
        row[f"j_per_1000_{name}"] = [band.p5, band.p50, band.p95]
    return row


def _served(model: Any, form: Form, tokens: torch.Tensor) -> tuple[Callable[[], int], Callable[[], int]]:
    """Return what reads a window, and what continues a text, by the functions that serve; each returns its tokens."""
    ids = tokens[0].tolist()
    steps = LlamaSteps(model, max(len(ids), DECODED), form=form)
    steps.add()

    def read() -> int:
        steps.clear(0)
        steps.read(ids, scored=0)
        return len(ids)

    def write() -> int:
        steps.clear(0)
        token = ids[0]
        for _ in range(DECODED):
            token = int(steps.step([token])[0].argmax())
        return DECODED

    return read, write


def _general(model: Any, tokens: torch.Tensor) -> tuple[Callable[[], int], Callable[[], int]]:
    """Return the same by the model's own code."""

    def read() -> int:
        model(input_ids=tokens, use_cache=False)
        return int(tokens.numel())

    def write() -> int:
        found = model(input_ids=tokens[:, :1], use_cache=True)
        for _ in range(DECODED - 1):
            following = found.logits[:, -1:].argmax(dim=-1)
            found = model(input_ids=following, past_key_values=found.past_key_values, use_cache=True)
        return DECODED

    return read, write


def _rate(run: Callable[[], int], seconds: float) -> float:
    """Return tokens per CPU second over at least `seconds`; the first run warms the caches."""
    run()
    done, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds or not done:
        done += run()
    return done / max(spent, 1e-9)
