"""The evidence of the outlook: executed arms by decision, and named sets of rows for references."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.study.noisy import EXAMPLE
from infra.evidence import EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence

SHIPPED = Path("docs") / "evidence"


@dataclass(frozen=True)
class Gathered:
    """Evidence of the decisions.

    Attributes:
        place: its location, as text.
        decisions: executed arms by `stage/name`.
        left_out: rows of each decision that were not used, with the reason.
        row_sets: ids of rows by name; cells refer to the names.
        skipped: executions that failed, by decision, for the share of failures.
    """

    place: str
    decisions: Mapping[str, tuple[EvidenceRow, ...]]
    left_out: Mapping[str, Mapping[str, int]]
    row_sets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)


def gather(loaded: Settings, root: Path) -> Gathered:
    """Return the evidence of the home, or the shipped evidence if the home has none.

    Of each decision only the backend with the most rows is used, and of each arm only its newest version.
    """
    for home, place in ((loaded.home, str(loaded.home)), (root / SHIPPED, "the evidence that ships")):
        rows = [row for row in open_evidence(home).scan() if row.subtask] if (home / "evidence").is_dir() else []
        if rows:
            return grouped(rows, place)
    return Gathered("no evidence", {}, {})


def grouped(rows: Iterable[EvidenceRow], place: str) -> Gathered:
    """Return rows by decision, used and unused."""
    by_decision: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_decision[f"{row.stage}/{row.subtask}"].append(row)
    used: dict[str, tuple[EvidenceRow, ...]] = {}
    left_out: dict[str, dict[str, int]] = {}
    skipped: dict[str, int] = {}
    for decision, its in sorted(by_decision.items()):
        found, reasons = _counted(its)
        left_out[decision] = reasons
        skipped[decision] = sum(row.status not in ("done", "pending", "skipped") for row in its)
        if found:
            used[decision] = tuple(found)
    sets: dict[str, list[str]] = defaultdict(list)
    for decision, counted in used.items():
        for row in counted:
            sets[decision].append(row.row_id)
            sets[f"{decision}/{row.arm}"].append(row.row_id)
    return Gathered(place, used, left_out, {name: tuple(ids) for name, ids in sets.items()}, skipped)


def _counted(rows: list[EvidenceRow]) -> tuple[list[EvidenceRow], dict[str, int]]:
    ended = [row for row in rows if row.status == "done"]
    done = [row for row in ended if row.data != EXAMPLE]
    backends = Counter(row.backend for row in done if row.kind == "quantum" and row.backend)
    backend = backends.most_common(1)[0][0] if backends else ""
    here = [row for row in done if not row.backend or not backend or row.backend == backend]
    newest = {row.arm: row.arm_version for row in here}  # rows come in the order of appending
    found = [row for row in here if row.arm_version == newest[row.arm]]
    reasons = {
        "not done": len(rows) - len(ended),
        "of an example": len(ended) - len(done),
        "another backend": len(done) - len(here),
        "an earlier version of the arm": len(here) - len(found),
    }
    return found, {reason: n for reason, n in reasons.items() if n}
