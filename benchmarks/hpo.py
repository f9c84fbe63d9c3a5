"""The hyperparameter search: makes the stored table of real training runs, and replays every arm on it.

    python -m benchmarks.hpo table FOLDER [--seconds 280]   # as many runs as fit in the time; call it until it is done
    python -m benchmarks.hpo pack FOLDER                    # writes the package resource

A table has every setting of the grid, trained once on each of the two shipped domains, with the validation loss after
each quarter, the test loss and the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tasks.architecture.hyperparameters.runs import Real
from tasks.architecture.hyperparameters.space import SETTINGS
from tasks.model.windows import Windows
from tasks.text.samples import sample_documents

CONTEXT, TOKENS, SEED = 64, 16_384, 0
PARTS = {"training": 512, "validation": 64, "test": 64}  # windows
DOMAINS = {"documentation": "base", "licences": "second"}


def texts(source: str) -> Real:
    """Return the training run on a source: its windows are drawn from all of its text, without overlap."""
    joined = "\n\n".join(text for _, text in sample_documents(DOMAINS[source])).encode()
    rows = np.frombuffer(joined, np.uint8)[: len(joined) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    chosen = rows[np.random.default_rng(SEED).permutation(len(rows))[: sum(PARTS.values())]].astype(np.int64)
    ends = np.cumsum(list(PARTS.values()))[:-1]
    parts = [Windows(part, np.full(len(part), CONTEXT, np.int64)) for part in np.split(chosen, ends)]
    return Real(*parts, vocab_size=256, tokens=TOKENS, seed=SEED)


def done(folder: Path, source: str) -> dict[int, dict[str, object]]:
    """Return the stored runs of a source by setting; a line that a kill cut short is left out."""
    path = folder / f"{source}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["setting"]: row for row in (json.loads(line) for line in lines if line.endswith("}"))}


def table(folder: Path, seconds: float) -> None:
    """Train settings in a random order until the time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    left = 0
    for source in DOMAINS:
        runs, finished = texts(source), done(folder, source)
        with (folder / f"{source}.jsonl").open("a") as stream:
            for setting in np.random.default_rng(SEED).permutation(SETTINGS).tolist():
                if setting in finished:
                    continue
                if time.monotonic() - began > seconds:
                    left += 1
                    continue
                curve = runs.curve(setting, ())
                row = {"setting": setting, "validation": curve.validation, "test": curve.test, "cpu_s": curve.cpu_s}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
    sys.stdout.write(f"{left} runs are left\n")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("table",))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=280.0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table(given.folder, given.seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
