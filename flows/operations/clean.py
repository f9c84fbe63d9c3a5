"""Keeps the disk usage of a permanent installation bounded: removes data that only old runs use."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.lifecycle.answers import done, named_by_time, skipped
from infra import retention, settings
from infra.errors import BadInput


@flow(name="clean", flow_run_name=named_by_time)
def clean(keep: int = 60, versions: int = 20) -> State[Any]:
    """Remove old runs, the data that only they use, and old versions of models; evidence and ledger are kept.

    Args:
        keep: Number of newest runs and studies to keep.
        versions: Newest versions of each registered model to keep besides those with an alias.
    """
    try:
        gone = retention.clean(settings.load(), keep, versions)
    except BadInput as error:
        return skipped(str(error))
    return done(f"{len(gone)} items removed, {sum(item.n_bytes for item in gone) / 1e6:.1f} MB freed")
