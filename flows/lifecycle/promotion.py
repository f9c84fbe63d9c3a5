"""Handles the event `model.validated`: it moves the alias that the server follows to the validated version."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.lifecycle.alias import SCOPE, move_alias
from flows.lifecycle.answers import claims_of, done, named_by, own_id, skipped
from infra import settings
from infra.events import ModelValidated


@flow(name="promote-on-validation", flow_run_name=lambda: named_by("model", "name", "version"))
def promote_on_validation(model: ModelValidated, alias: str = "champion") -> State[Any]:
    """Move the alias to a validated version, never back to an older one; the replaced version becomes `previous`.

    Args:
        model: The version that was validated.
        alias: The alias that moves.

    Raises:
        BadInput: the registry has no such version.
    """
    moved, said = move_alias(claims_of(settings.load(), SCOPE), own_id(), model, alias)
    return done(said) if moved else skipped(said)
