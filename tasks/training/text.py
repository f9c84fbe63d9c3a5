"""The training text of a run, as the steps and decisions of the stage read it."""

from __future__ import annotations

from infra.errors import BadInput
from tasks.model.windows import StoredWindows, Windows, count_windows, read_windows, store_windows
from tasks.stage import Context, State
from tasks.training.options import Options


def options_of(context: Context) -> Options:
    """Return the options of the stage; what they leave open is taken from the recipe that came with the model."""
    given = context.parsed(Options)
    model = context.inputs.get("architecture/model")
    recipe = context.lake.meta(model).get("recipe", {}) if model else {}
    offered = {n: v for n, v in recipe.items() if n in Options.model_fields and n not in given.model_fields_set}
    return Options.model_validate({**given.model_dump(exclude_unset=True), **offered}) if offered else given


def context_length(context: Context) -> int:
    """Return the number of tokens that a model reads for one window."""
    return int(context.lake.meta(context.require("preprocessing/shards"))["context"])


def vocabulary(context: Context) -> int:
    """Return the number of tokens in the vocabulary."""
    return int(context.lake.meta(context.require("preprocessing/shards"))["vocab_size"])


def counts(context: Context) -> dict[tuple[str, str], int]:
    """Return the number of windows of each (domain, split)."""
    return count_windows(context.lake, context.require("preprocessing/shards"))


def count_training(context: Context, options: Options) -> int:
    """Return the number of different windows that a training of this budget reads."""
    reach = options.recipe(context.seed).reach(context_length(context))
    return min(reach, counts(context).get((options.domain, "train"), 0))


def read_split(context: Context, domain: str, split: str, limit: int | None) -> Windows:
    """Read windows of a domain and split, all or `limit` evenly spaced ones.

    Raises:
        BadInput: there are none.
    """
    try:
        return read_windows(context.lake, context.require("preprocessing/shards"), domain, split, limit)
    except ValueError as error:
        raise BadInput(f"{error}; give more text of domain {domain}, or choose another training.domain") from error


def read_training(context: Context, options: Options, limit: int) -> Windows:
    """Read at most `limit` of the windows that the budget covers."""
    reach = options.recipe(context.seed).reach(context_length(context))
    return read_split(context, options.domain, "train", min(reach, limit))


def store_training(context: Context, state: State, options: Options) -> StoredWindows:
    """Copy the windows that the budget covers, or those selected, to a file that the training reads step by step.

    Raises:
        BadInput: there are none.
    """
    shards, limit = context.require("preprocessing/shards"), count_training(context, options)
    chosen = state.refs.get("training/selection")
    rows = None
    if chosen:
        rows = context.lake.read(chosen)["row"].to_numpy()
        limit = int(context.lake.meta(chosen)["pool"])
    try:
        return store_windows(context.lake, shards, options.domain, "train", context.scratch / "windows", limit, rows)
    except ValueError as error:
        raise BadInput(f"{error}; give more text of domain {options.domain}, or set training.domain") from error
