"""Paired differences, headroom and scores of predictions against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.evaluation.figures import ArmFigures, Solved, Spending
from tasks.evaluation.headroom import Share, best_values, headroom, two_qubit_error
from tasks.evaluation.paired import paired, quality_interval
from tasks.evaluation.predictions import Predicted, brier, score
from tasks.statistics import mean_error, mean_interval

NOTHING = Spending(*(np.zeros(1),) * 4)


def arm(name: str, qualities: dict[str, float], units: dict[str, str] | None = None) -> ArmFigures:
    solved = tuple(Solved(p, q, (units or {}).get(p, p)) for p, q in qualities.items())
    return ArmFigures(name, "classical", "", "done", solved, {"narrow": NOTHING}, NOTHING, NOTHING)


def test_only_shared_instances_are_paired_and_the_interval_is_student_s() -> None:
    rng = np.random.default_rng(3)
    first = {f"p{i}": float(q) for i, q in enumerate(rng.normal(0.3, 1, 17))}
    second = {f"p{i}": float(q) for i, q in enumerate(rng.normal(0, 1, 16))} | {"other": 1.0}
    found = paired(arm("a", first), arm("b", second), tolerance=0.5)
    difference = np.array([first[p] - second[p] for p in second if p in first])
    assert (found.n, found.units, found.mean) == (16, 16, pytest.approx(difference.mean()))
    assert found.interval == pytest.approx(stats.t.interval(0.95, 15, difference.mean(), stats.sem(difference)))
    assert (found.wins, found.losses) == (int((difference > 0.5).sum()), int((difference < -0.5).sum()))
    assert paired(arm("a", {"p": 1.0}), arm("b", {"q": 1.0})).mean is None


def test_copies_do_not_narrow_an_interval() -> None:
    values = np.array([0.1, 0.4, -0.2, 0.3, 0.0])
    once = mean_interval(values)
    copied = mean_interval(np.repeat(values, 8), [str(i) for i in range(5) for _ in range(8)])
    assert copied == pytest.approx(once)
    assert mean_interval(np.repeat(values, 8)) != pytest.approx(once)
    assert mean_interval(values, ["one"] * 5) is None


def test_the_clustered_error_covers_the_mean_where_instances_share_their_source() -> None:
    rng, hits, plain = np.random.default_rng(4), 0, 0
    units = [str(i // 20) for i in range(200)]
    for _ in range(400):
        values = np.repeat(rng.normal(0, 1, 10), 20) + rng.normal(0, 0.3, 200)
        low, high = mean_interval(values, units) or (0.0, 0.0)
        hits += low <= 0 <= high
        low, high = mean_interval(values) or (0.0, 0.0)
        plain += low <= 0 <= high
    assert hits / 400 > 0.92
    assert plain / 400 < 0.6
    assert mean_error(values, units)[1] == 9


def test_a_quality_has_an_interval_by_unit() -> None:
    found = arm("a", {"p0": 1.0, "p1": 0.5, "p2": 0.9}, {"p0": "x", "p1": "x", "p2": "y"})
    assert quality_interval(found) == mean_interval(np.array([1.0, 0.5, 0.9]), ["x", "x", "y"])


def test_headroom_is_effect_times_share() -> None:
    share = Share("r1", "demo", joules=20.0, whole=100.0)
    found = headroom(arm("greedy", {"p0": 0.9, "p1": 0.7}), {"p0": 1.0, "p1": 1.0}, share)
    assert (found.oracle, found.gap, found.effect, found.bound) == pytest.approx((1.0, 0.2, 0.2, 0.04))
    assert headroom(None, {}, share).bound is None


def test_the_best_value_is_the_proven_one_or_the_best_seen() -> None:
    proven = ArmFigures("a", "classical", "", "done", (Solved("p", 0.8, "p", best=1.0), Solved("q", 0.6, "q")),
                        {"narrow": NOTHING}, NOTHING, NOTHING)  # fmt: skip
    assert best_values({"a": proven, "b": arm("b", {"p": 0.9, "q": 0.7})}) == {"p": 1.0, "q": 0.7}


def test_predictions_are_scored_by_brier() -> None:
    arms = {
        "greedy": arm("greedy", {"p": 0.5}),
        "exact": arm("exact", {"p": 1.0}),
        "qaoa": arm("qaoa", {"p": 0.1}),
        "random": arm("random", {"p": 0.0}),
    }
    predicted = {
        "exact": Predicted("exact", 0.1, 0.8),
        "qaoa": Predicted("qaoa", 0.0, 0.1),
        "random": Predicted("random", -1.0),
        "gone": Predicted("gone", 0.0, 0.5),
    }
    scored = score(predicted, arms, "greedy", {"exact": True, "qaoa": False})
    assert [s.difference for s in scored] == pytest.approx([0.5, -0.4, -0.5])
    assert brier(scored) == pytest.approx((0.2**2 + 0.1**2) / 2)
    assert score(predicted, {}, "greedy", {}) == ()
    assert brier(()) is None


def test_half_the_shots_survive_at_the_error_of_the_inverse_break_even() -> None:
    error = two_qubit_error(10.0)
    assert error is not None
    assert (1 - error) ** 10 == pytest.approx(0.5)
    assert two_qubit_error(0) is None
