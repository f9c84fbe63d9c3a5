"""Number formats of a model on this machine: speed, energy, quality, size.

    python -m benchmarks.quantised MODEL TEXT [--seconds 2] [--windows 4]

Prints tokens read and written per CPU second (measured), joules per 1,000 tokens with their 5 % and 95 % points
(modelled), bits per byte (measured) of fp32, bfloat16 and PyTorch's dynamic INT8, and the format that `ketcycle run`
would choose.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from tasks.inference.card import form_rows
from tasks.inference.forms import choose_form, measure_forms
from tasks.model.causal import load_tokenizer
from tasks.model.windows import Windows, token_bytes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of each measurement")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--loss", type=float, default=0.01, help="bits per byte that a format may lose")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = given.text.read_text(encoding="utf-8")[: 12 * given.windows * (given.context + 1)]
    encoded = load_tokenizer(given.model).backend_tokenizer.encode(text, add_special_tokens=False)
    count = given.windows * (given.context + 1)
    tokens = np.array(encoded.ids[:count], np.int64).reshape(given.windows, -1)
    sizes = token_bytes(text, [end for _, end in encoded.offsets])[:count].reshape(given.windows, -1)
    windows = Windows(tokens, sizes[:, 1:].sum(axis=1))
    with tempfile.TemporaryDirectory() as kept:
        rows = measure_forms(given.model, windows, given.seconds, Path(kept))["rows"]
    table = form_rows({"rows": rows})
    print(" | ".join(table[0]))
    for row in table:
        print(" | ".join(row.values()))
    print(f"chosen, losing at most {given.loss} bits per byte: {choose_form(rows, given.loss)}")


if __name__ == "__main__":
    main()
