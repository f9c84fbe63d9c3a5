"""Scores of the verdicts that were predicted before a study ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks import policy


def score(
    predicted: Mapping[str, Any],
    values: Mapping[str, Mapping[str, float]],
    incumbent: str,
    verdicts: Mapping[str, policy.Verdict],
) -> dict[str, Any] | None:
    """Score what was predicted before the study: Brier score of the verdicts, error of the differences.

    Args:
        predicted: the predictions of the decision's `decision.yaml`.
        values: quality by arm and instance.
        incumbent: name of the incumbent.
        verdicts: what the study's rule says of each arm.
    """
    if not predicted or incumbent not in values:
        return None
    rows = []
    for arm, entry in predicted["arms"].items():
        both = sorted(values.get(arm, {}).keys() & values[incumbent].keys())
        if not both:
            continue
        seen = float(np.mean([values[arm][p] - values[incumbent][p] for p in both]))
        outcome = float(verdicts[arm].holds) if arm in verdicts else None
        rows.append({"arm": arm, "probability": entry.get("certified"), "outcome": outcome,
                     "predicted": entry["difference"], "difference": seen})  # fmt: skip
    judged = [(r["probability"], r["outcome"]) for r in rows if None not in (r["probability"], r["outcome"])]
    return {
        "verdict": predicted["verdict"],
        "brier": float(np.mean([(p - o) ** 2 for p, o in judged])) if judged else None,
        "brier_of_a_half": 0.25,
        "arms": rows,
    }
