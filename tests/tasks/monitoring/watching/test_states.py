from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.monitoring.watching.states import Level, Rules, Watch, average_run_length, follow, step

Q, D = (40, 0.5), (40, 0.01)
FEW = (5, 0.001)
RULES = Rules(level=0.05, minimum=20, debounce=2, recovery=2, cool_down=3)


def levels(*windows: tuple[int, float], rules: Rules = RULES) -> list[str]:
    return [str(watch.level) for watch in follow(windows, rules)]


def announced(*windows: tuple[int, float], rules: Rules = RULES) -> list[str | None]:
    return [watch.announced for watch in follow(windows, rules)]


def test_quiet_traffic_is_ok() -> None:
    assert levels(Q, Q, Q) == ["ok"] * 3
    assert announced(Q, Q, Q) == [None] * 3


def test_one_drifted_window_is_a_warning_that_passes() -> None:
    assert levels(Q, D, Q, D, Q) == ["ok", "warning", "ok", "warning", "ok"]
    assert announced(Q, D, Q) == [None, "drift.warning", None]


def test_drift_in_a_row_is_an_alert_announced_once() -> None:
    assert levels(Q, D, D, D) == ["ok", "warning", "alert", "alert"]
    assert announced(Q, D, D, D, D, D, D, D) == [None, "drift.warning", "drift.detected"] + [None] * 5


def test_an_alert_ends_after_the_recovery_only() -> None:
    assert levels(D, D, Q, D, Q, Q) == ["warning", "alert", "alert", "alert", "alert", "ok"]
    assert announced(D, D, Q, Q) == ["drift.warning", "drift.detected", None, "drift.cleared"]


def test_too_few_requests_say_nothing_and_change_nothing() -> None:
    assert levels(FEW, FEW) == ["insufficient"] * 2
    assert levels(D, FEW, D) == ["warning", "insufficient", "alert"]
    assert levels(D, D, FEW, Q, Q) == ["warning", "alert", "insufficient", "alert", "ok"]
    assert announced(FEW, D) == [None, "drift.warning"]


def test_within_the_cool_down_a_new_alert_waits() -> None:
    rules = Rules(debounce=1, recovery=1, cool_down=4)
    assert announced(D, Q, D, D, D, D, D, rules=rules) == [
        "drift.detected",
        "drift.cleared",
        None,
        None,
        None,
        "drift.detected",
        None,
    ]
    assert levels(D, Q, D, rules=rules) == ["alert", "ok", "alert"]


def test_an_alert_that_was_kept_silent_is_cleared_silently() -> None:
    rules = Rules(debounce=1, recovery=1, cool_down=9)
    assert announced(D, Q, D, Q, rules=rules) == ["drift.detected", "drift.cleared", None, None]


def test_the_level_itself_counts_as_drift_and_nonsense_is_refused() -> None:
    assert step(Watch(), 20, 0.05, RULES).level is Level.WARNING
    with pytest.raises(ValueError, match="between 0 and 1"):
        step(Watch(), 20, 1.5, RULES)
    with pytest.raises(ValueError, match="at least 1"):
        Rules(debounce=0)
    with pytest.raises(ValueError, match="probability"):
        Rules(level=0)


windows = st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=40)


@settings(deadline=None, derandomize=True)
@given(windows, st.integers(1, 4), st.integers(1, 4), st.integers(0, 6))
def test_whatever_comes_the_rules_hold(
    stream: list[tuple[int, float]], debounce: int, recovery: int, cool: int
) -> None:
    rules = Rules(debounce=debounce, recovery=recovery, cool_down=cool)
    watches = follow(stream, rules)
    detections = [i for i, watch in enumerate(watches) if watch.announced == "drift.detected"]
    assert all(later - earlier > cool for earlier, later in pairwise(detections))
    for i, watch in enumerate(watches):
        requests = stream[i][0]
        assert (watch.level is Level.INSUFFICIENT) == (requests < rules.minimum)
        before = watches[i - 1].standing if i else Level.OK
        if watch.standing is Level.ALERT and before is not Level.ALERT:
            judged = [p for n, p in stream[: i + 1] if n >= rules.minimum]
            assert len(judged) >= debounce
            assert all(p <= rules.level for p in judged[-debounce:])
        if watch.announced == "drift.detected":
            assert watch.standing is Level.ALERT
            assert stream[i][1] <= rules.level


def test_the_average_run_length_is_that_of_a_simulation() -> None:
    rules = Rules(level=0.2, debounce=3, recovery=1, cool_down=0)
    rng, lengths = np.random.default_rng(0), []
    for _ in range(600):
        watch, n = Watch(), 0
        while watch.announced != "drift.detected":
            watch, n = step(watch, 40, float(rng.uniform()), rules), n + 1
        lengths.append(n)
    assert average_run_length(rules) == pytest.approx((1 - 0.2**3) / (0.8 * 0.2**3))
    assert abs(np.mean(lengths) - average_run_length(rules)) < 3 * np.std(lengths) / np.sqrt(600)
