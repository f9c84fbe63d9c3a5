"""Handles the event `model.validated`: it moves the alias that the server follows to the validated version."""

from __future__ import annotations

from typing import Any

from prefect import State, flow

from flows.lifecycle.answers import claims_of, done, me, named_by, skipped, taken
from infra import settings
from infra.events import ModelValidated
from infra.tracking import open_tracking

SCOPE = "promote-on-validation"


@flow(name="promote-on-validation", flow_run_name=lambda: named_by("model", "name", "version"))
def promote_on_validation(model: ModelValidated, alias: str = "champion") -> State[Any]:
    """Move the alias to a validated version, never back to an older one; the replaced version becomes `previous`.

    Args:
        model: The version that was validated.
        alias: The alias that moves.

    Raises:
        BadInput: the registry has no such version.
    """
    claims, what = claims_of(settings.load(), SCOPE), f"{model.name} {model.version} as {alias}"
    if other := claims.claim(what, me(), model.name):
        return taken(f"{model.name} version {model.version}", other)
    tracking = open_tracking()
    before = tracking.version_at(model.name, alias)
    if before and before >= model.version:
        claims.release(what, me())
        return skipped(f"{alias} of {model.name} is version {before} already, not older than {model.version}")
    tracking.promote(model.name, model.version, alias)
    claims.finish(what, me())
    was = f"version {before}" if before else "nothing"
    return done(f"{alias} of {model.name}: {was} -> version {model.version} ({model.by}: {model.reason})")
