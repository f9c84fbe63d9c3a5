"""How fast a processor trains: measured by two short trainings, or projected for a card that is not here."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from tasks.architecture.config import build_model, shape_of_dial
from tasks.model.recipe import DeviceName, Recipe
from tasks.model.training.device import describe, find_device
from tasks.model.training.loop import Watch, train
from tasks.model.windows import Windows

SILENT = logging.getLogger("ketcycle.architecture.rate")
SILENT.setLevel(logging.ERROR)

VOCABULARY, CONTEXT, DEPTHS, STEPS = 4096, 128, (1, 4), 6
BATCH = {"cpu": 8, "cuda": 64}  # windows of a step
# NVIDIA's datasheet of the H100 SXM: 989e12 dense bfloat16 FLOPs a second. The training of Llama 3 405B reached 38 to
# 43 % of them (arXiv 2407.21783, table 4); a small model reaches less.
CARD, CARD_FLOPS, UTILISATION = "H100 SXM", 989e12, 0.4


@dataclass(frozen=True)
class Rate:
    """Seconds of a training on a processor.

    Attributes:
        seconds: of a token, whatever the model.
        seconds_per_flop: of a training FLOP.
        source: how it was found, in words; `measured` or `projected` and the name of the processor.
        measured: whether it was measured.
    """

    seconds: float
    seconds_per_flop: float
    source: str
    measured: bool = True

    def each(self, flops_per_token: float) -> float:
        """Return the seconds of a token."""
        return self.seconds + flops_per_token * self.seconds_per_flop

    def tokens(self, flops_per_token: float, seconds: float) -> float:
        """Return the tokens of a training of some seconds."""
        return seconds / self.each(flops_per_token)


def measure_rate(device: DeviceName) -> Rate:
    """Train two small models for some steps, in the precision that a run would use; takes a second or two.

    CPU seconds count on a CPU, the clock on a card.
    """
    found, rng = find_device(device), np.random.default_rng(0)
    batch = BATCH[found.type]
    windows = Windows(rng.integers(0, VOCABULARY, (batch, CONTEXT + 1)), np.full(batch, CONTEXT))
    each, flops = [], []
    for depth in DEPTHS:
        shape = shape_of_dial(depth, VOCABULARY, CONTEXT)
        model = build_model(shape, 0, 0)
        recipe = Recipe(tokens=10**9, batch=batch, precision="auto", device=device, steps=STEPS)
        for _ in range(2):  # the first one warms up
            run = train(model, windows, recipe, Watch(log=SILENT))
        each.append(1 / (run.tokens_per_s if found.type == "cuda" else run.tokens_per_cpu_s))
        flops.append(shape.training_flops_per_token)
    per_flop = max((each[1] - each[0]) / (flops[1] - flops[0]), 0.1 * each[1] / flops[1])
    seconds = max(each[0] - per_flop * flops[0], 0.0)
    return Rate(seconds, per_flop, f"measured on this machine, {describe(found)}")


def card_rate() -> Rate:
    """Return the rate of the card of this machine, or of an H100 if there is none."""
    if find_device("auto").type == "cuda":
        return measure_rate("cuda")
    source = f"projected, no card here: {CARD} at {UTILISATION:.0%} of its peak"
    return Rate(0.0, 1 / (CARD_FLOPS * UTILISATION), source, measured=False)
