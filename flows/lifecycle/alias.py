"""Moves the alias of the served model to a validated version, once for each version."""

from __future__ import annotations

from infra.claims import Claims
from infra.events import ModelValidated
from infra.tracking import open_tracking

SCOPE = "promote-on-validation"


def move_alias(claims: Claims, holder: str, model: ModelValidated, alias: str) -> tuple[bool, str]:
    """Move an alias to a validated version, never back to an older one; the replaced version becomes `previous`.

    Args:
        claims: idempotency keys of `SCOPE`.
        holder: who moves it, e.g. a flow run.
        model: the version.
        alias: the alias.

    Returns:
        Whether it moved, and what was done or why nothing was.

    Raises:
        BadInput: the registry has no such version.
    """
    what = f"{model.name} {model.version} as {alias}"
    if other := claims.claim(what, holder, model.name):
        return False, f"{model.name} version {model.version}: {other.said}"
    tracking = open_tracking()
    before = tracking.version_at(model.name, alias)
    if before and before >= model.version:
        claims.release(what, holder)
        return False, f"{alias} of {model.name} is version {before} already, not older than {model.version}"
    tracking.promote(model.name, model.version, alias)
    claims.finish(what, holder)
    was = f"version {before}" if before else "none"
    return True, f"{alias} of {model.name}: {was} -> version {model.version} ({model.by}: {model.reason})"
