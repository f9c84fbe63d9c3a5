"""Choice of the blocks of a deep model that become variables of the pruning problem: the least harmful ones.

A quantum circuit has a dozen variables, a model thirty blocks. The loss without each single block is measured on the
calibration text; the least harmful blocks become variables, the others are kept. Intermediate results are saved, so
that a killed run continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.inference.pruning.units import whole_blocks
from tasks.inference.pruning.walk import Job, evaluate
from tasks.model.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("ketcycle.inference")


def leave_one_out(model: Path, depth: int, text: Windows, threads: int, notes: Path) -> NDArray[np.float64]:
    """Return the loss in bits per byte of the whole model, then without each block.

    Args:
        model: folder of the model; its name identifies its content.
        depth: blocks of the model.
        text: windows of text on which the loss is measured.
        threads: number of torch threads.
        notes: folder of the intermediate results.
    """
    units, began = whole_blocks(range(depth)), time.monotonic()
    sums, fresh = np.zeros(1 + depth), 0
    for row in range(len(text)):
        window = Windows(text.tokens[row : row + 1], text.n_bytes[row : row + 1])
        name = hashlib.sha256(f"{model.parent.name}/{model.name}:{depth}:".encode() + window.tokens.tobytes())
        note = notes / f"{name.hexdigest()[:16]}.json"
        if note.exists():
            sums += np.array(json.loads(note.read_text()))
            continue
        found = evaluate(Job(model, units, window, (), tuple(range(depth)), threads=threads))
        sums += found
        notes.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(".partial")
        partial.write_text(json.dumps(found.tolist()))
        partial.replace(note)
        fresh += 1
        left = (time.monotonic() - began) / fresh * (len(text) - row - 1)
        said, bar = "leaving out each of %d blocks: window %d of %d, about %.0f s left", ("windows", row + 1, len(text))
        log.info(said, depth, row + 1, len(text), left, extra={"bar": bar})
    losses: NDArray[np.float64] = sums / (math.log(2) * text.n_bytes.sum())
    return losses


def least_harmful(losses: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """Return the blocks without which the loss is lowest, in order of depth."""
    return tuple(sorted(int(i) for i in np.argsort(losses[1:], kind="stable")[:count]))
