"""What a device would have to be: putting the need back in gives equality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.outlook import needs
from tasks.outlook.ownership import Plan

ONE = np.ones(4)
WORK = needs.Work(
    left=5000.0 * ONE, jobs=2 * ONE, shots=1000 * ONE, gates=50 * ONE, job_s=0.05 * ONE, shot_s=3e-4 * ONE,
    rate=1000.0 * ONE, failed=1.25 * ONE,
)  # fmt: skip


def test_a_device_of_the_needed_power_breaks_even():
    assert needs.needed_rate(WORK) * WORK.seconds == pytest.approx(WORK.left)


def test_shots_and_jobs_of_the_needed_length_break_even():
    short = replace(WORK, shot_s=needs.needed_shot_s(WORK))
    assert short.seconds * WORK.rate == pytest.approx(WORK.left)
    assert needs.needed_gate_s(WORK) * 50 == pytest.approx(needs.needed_shot_s(WORK))
    quick = replace(WORK, shot_s=0 * ONE, job_s=needs.needed_job_s(WORK))
    assert quick.seconds * WORK.rate == pytest.approx(WORK.left)


def test_shots_repeated_for_the_needed_error_break_even():
    survival = (1 - needs.needed_error(WORK)) ** WORK.gates
    assert replace(WORK, shots=WORK.shots / survival).seconds * WORK.rate == pytest.approx(WORK.left)
    assert not needs.needed_error(replace(WORK, left=1.0 * ONE)).any()  # not even without errors


def test_no_device_does_where_the_classical_part_alone_takes_more():
    assert needs.possible(WORK)
    assert not needs.possible(replace(WORK, left=-1.0 * ONE))


def plan(**changed: float) -> Plan:
    values = {"volume": 1000.0, "years": 3.0, "adoption": 6000.0, "upkeep": 500.0, "classical": 4.0, "own": 1.0,
              "device": 1.0, "device_s": 2.0, "subscription": 800.0, "subscription_s": 1500.0}  # fmt: skip
    return Plan(lambda name: (values | changed)[name] * ONE)


def test_both_roads_cost_the_same_at_the_break_even_volume():
    volume = plan().break_even_volume
    assert volume == pytest.approx(np.full(4, (6000 / 3 + 500) / 2))
    there = plan(volume=float(volume[0]))
    assert there.total_as_you_go == pytest.approx(there.total_classical)
    assert np.isinf(plan(device=4.0).break_even_volume).all()


def test_what_does_not_fit_into_the_plan_is_paid_at_the_list_price():
    # 2,000 s are needed, 1,500 are in the plan: a quarter is paid as it goes
    assert plan().total_subscribed == pytest.approx(np.full(4, 6000 + 3 * (500 + 1000 * 1.0 + 800 + 1000 * 0.25)))
    assert plan(subscription_s=1e9).total_subscribed == pytest.approx(np.full(4, 6000 + 3 * (500 + 1000 + 800)))
