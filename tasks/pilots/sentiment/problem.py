"""What is measured beside the share of right labels. Problem and solution are those of the head decision."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.finetuning.head.problem import FewShot, Labels, quality


def measures(problem: FewShot, solution: Labels) -> Mapping[str, tuple[float, ...]]:
    """Return the share of wrong labels, what the publication compares, and the labelled sentences."""
    return {"error": (1.0 - quality(problem, solution)[0],), "labelled": (float(len(problem.labels)),)}
