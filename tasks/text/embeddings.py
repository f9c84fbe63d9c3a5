"""Static sentence embeddings: the mean of the word-piece vectors of a text (`wordllama`, shipped in its wheel).

An embedding has 256 numbers, so amplitude encoding takes 8 qubits. Nothing is downloaded, and the vector of a text does
not depend on the other texts of the call.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSION = 256
BATCH = 256


@cache
def _load() -> Any:
    """Load the embedding table and the tokenizer of the installed wheel once a process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    import wordllama  # imported here so that this module imports fast

    # The package configures the root logger on import; a library must not.
    root.handlers[:] = handlers
    root.setLevel(level)
    folder = Path(wordllama.__file__).parent
    # The plain call queries the network first.
    model = wordllama.WordLlama.load(cache_dir=folder, dim=DIMENSION, disable_download=True)
    model.tokenizer.no_padding()
    return model


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts as float32 (n, 256), not normalised; a text without a token gives zeros."""
    model = _load()
    table: NDArray[np.float32] = model.embedding
    result = np.zeros((len(texts), DIMENSION), np.float32)
    for start in range(0, len(texts), BATCH):
        encodings = model.tokenizer.encode_batch(list(texts[start : start + BATCH]), add_special_tokens=False)
        for row, encoding in enumerate(encodings, start):
            if encoding.ids:
                tokens = np.clip(encoding.ids, 0, len(table) - 1)
                result[row] = table[tokens].mean(axis=0, dtype=np.float64)
    return result


def normalised(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the rows scaled to unit length; a zero row becomes the first unit vector, so that it can be a state."""
    rows = np.array(vectors, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    empty = lengths[:, 0] == 0
    rows[empty, 0], lengths[empty] = 1.0, 1.0
    result: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return result
