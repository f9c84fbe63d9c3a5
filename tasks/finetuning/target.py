"""What a model is adapted to: a domain of the run, or a file of rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import BadInput
from tasks.finetuning.conversations import Row, read_rows
from tasks.finetuning.examples import Encoder, Packed, pack
from tasks.finetuning.options import Options
from tasks.model.causal import load_tokenizer
from tasks.model.examples import DATA
from tasks.model.windows import Windows, read_windows
from tasks.stage import Context

log = logging.getLogger("ketcycle.finetuning")


@dataclass(frozen=True)
class Target:
    """Windows to train on and to measure the gain on.

    Attributes:
        name: the domain, or `data` for a file.
        train: training windows.
        validation: windows watched during training.
        test: windows of the reported gain.
        tokens: training budget.
        about: figures of the file for the report; empty for a domain.
    """

    name: str
    train: Windows
    validation: Windows
    test: Windows
    tokens: int
    about: dict[str, Any] = field(default_factory=dict)


def read_target(context: Context, options: Options) -> Target:
    """Return the target of a run.

    Raises:
        BadInput: the domain or the file does not exist, or the file has a malformed row or too few rows.
    """
    return _file(context, options) if options.data else _domain(context, options)


def domain_windows(context: Context, domain: str, split: str, limit: int | None = None) -> Windows:
    """Return windows of a domain of the run.

    Raises:
        BadInput: the run has no such text.
    """
    try:
        return read_windows(context.lake, context.require("preprocessing/shards"), domain, split, limit)
    except ValueError as error:
        raise BadInput(
            f"{error}; fine-tuning needs text of a second domain: give one, set finetuning.domain to an existing one, "
            "or give a file with finetuning.data"
        ) from error


def context_length(context: Context) -> int:
    """Return the number of tokens of a window of the run."""
    return int(context.lake.meta(context.require("preprocessing/shards"))["context"])


def _domain(context: Context, options: Options) -> Target:
    watched, measured = min(32, options.evaluation_windows or 32), options.evaluation_windows
    reach = options.recipe(0, "lora", options.tokens).reach(context_length(context))
    return Target(
        name=options.domain,
        train=domain_windows(context, options.domain, "train", reach),
        validation=domain_windows(context, options.domain, "validation", watched),
        test=domain_windows(context, options.domain, "test", measured),
        tokens=options.tokens,
    )


def read_file(options: Options) -> tuple[list[Row], str]:
    """Return the rows of the file to adapt to, and the chat template that was given, or an empty text.

    Raises:
        BadInput: a file cannot be read, has a malformed row, or too few rows.
    """
    path = Path(options.data).expanduser()
    rows = _read_once(path, path.stat().st_mtime_ns if path.exists() else 0)
    if len(rows) < _held_out(options, rows) + 1:
        raise BadInput(f"{path} has {len(rows)} row(s); at least 3 are needed to train, validate and test")
    return rows, _template(options)


def _held_out(options: Options, rows: Sequence[Row]) -> int:
    return max(2, round(options.held_out * len(rows)))


def _file(context: Context, options: Options) -> Target:
    path = Path(options.data).expanduser()
    rows, template = read_file(options)
    held = _held_out(options, rows)
    tokenizer = load_tokenizer(context.lake.folder(context.require("preprocessing/tokenizer")))
    encoder = Encoder(tokenizer, template)
    order = np.random.default_rng([context.seed, 5]).permutation(len(rows))
    length = context_length(context)

    def packed(chosen: Sequence[int]) -> Packed:
        examples = (encoder.encode(rows[i]) for i in chosen)
        try:
            return pack(examples, length, encoder.end, together=options.packing)
        except ValueError as error:
            raise BadInput(f"{path}: {error}; set preprocessing.context higher or give shorter prompts") from error

    validation, test, train = (packed(part.tolist()) for part in np.split(order, [held // 2, held]))
    left = {"cut": train.cut, "dropped": train.dropped}
    if any(left.values()):
        log.warning(
            "%d rows exceed %d tokens and lose their end, %d are left out because no answer fits; the first is %s",
            train.cut, length, train.dropped, train.first_left,
        )  # fmt: skip
    tokens = options.tokens if options.epochs is None else round(options.epochs * train.windows.n_predicted)
    sizes = {"filled": train.filled, "windows": len(train.windows)}
    about = {"rows": len(rows), "trained_rows": train.rows, **sizes, **left}
    limit = options.evaluation_windows
    return Target(
        DATA, train.windows, validation.windows.spread(min(32, limit or 32)), test.windows.spread(limit), tokens, about
    )


@lru_cache(maxsize=8)
def _read_once(path: Path, _modified_ns: int) -> list[Row]:
    return read_rows(path)


def _template(options: Options) -> str:
    if not options.template:
        return ""
    path = Path(options.template).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the chat template {path} cannot be read ({error}); give a Jinja file") from None
