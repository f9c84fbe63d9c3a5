"""The list of all decisions: arms, tolerance, options; as rows and as the page docs/decisions.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.contract import PILOTS, STAGES
from tasks.options import listed
from tasks.registry import subtasks
from tasks.terms import terms


@dataclass(frozen=True)
class ListedDecision:
    """One decision in the list.

    Attributes:
        decision: `stage/name`.
        metric: what its quality measures.
        tolerance: quality that may be lost against the best classical arm.
        reason: why the tolerance is that large.
        design: what counts as one independent observation.
        arms: name, kind and role of each arm.
        options: defaults by dotted name, as `--set` takes them.
    """

    decision: str
    metric: str
    tolerance: float
    reason: str
    design: str
    arms: tuple[dict[str, str], ...]
    options: dict[str, Any]


def list_decisions() -> list[ListedDecision]:
    """Return all decisions in the order of the stages."""
    found = []
    for key, subtask in subtasks().items():
        named = {subtask.incumbent.name: "incumbent"}
        named |= {subtask.challenger.name: "challenger"} if subtask.challenger else {}
        prefix = f"{subtask.stage}.{subtask.name}."
        design, offered = subtask.design, listed(subtask.stage) if subtask.stage in STAGES else ()
        found.append(
            ListedDecision(
                decision=key,
                metric=subtask.metric,
                tolerance=subtask.tolerance,
                reason=terms(key).reason,
                design=f"{design.unit}, at least {design.least} from {design.sources} sources",
                arms=tuple({"name": a.name, "kind": str(a.kind), "role": named.get(a.name, "")} for a in subtask.arms),
                options={name: value for name, value in offered if name.startswith(prefix)},
            )
        )
    return found


def markdown(decisions: Sequence[ListedDecision]) -> str:
    """Return the page docs/decisions.md."""
    lines = [
        "# Decisions",
        "",
        "Made by `ketcycle decisions --markdown > docs/decisions.md`. The options are set by `--set NAME=VALUE`, in a",
        "profile, or in `ketcycle.toml` below `[options]`.",
    ]
    for item in decisions:
        lines += [
            "",
            f"## {item.decision}",
            "",
            f"Quality: {item.metric}. Tolerance {item.tolerance:g}: {item.reason}.",
        ]
        lines += [f"Evidence: {item.design}.", "", "| arm | kind | role |", "|---|---|---|"]
        lines += [f"| `{arm['name']}` | {arm['kind']} | {arm['role']} |" for arm in item.arms]
        if item.options or not item.decision.startswith(f"{PILOTS}/"):
            lines += ["", "| option | default |", "|---|---|"]
        lines += [f"| `{name}` | {value} |" for name, value in item.options.items()]
    return "\n".join(lines) + "\n"
