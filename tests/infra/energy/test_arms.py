import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from infra.energy.arms import measure_arms
from infra.energy.meter import Meter
from infra.energy.usage import Usage
from infra.errors import MeterBusy


def work(times: int) -> Callable[[], int]:
    return lambda: sum(i * i for i in range(times))


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_every_arm_runs_once_cold_and_returns_its_value() -> None:
    calls = {"a": 0, "b": 0}

    def run(name: str) -> str:
        calls[name] += 1
        return name.upper()

    measured = measure_arms({name: partial(run, name) for name in calls}, rng())
    assert calls == {"a": 1, "b": 1}
    assert {name: m.value for name, m in measured.items()} == {"a": "A", "b": "B"}
    assert all(m.warm is None and m.per_run == m.cold for m in measured.values())


def test_looping_resolves_what_one_run_cannot() -> None:
    arms = {"one": work(2000), "ten": work(20_000)}
    measured = measure_arms(arms, rng(), minimum_s=0.3, loopable=arms.keys())
    one, ten = measured["one"].warm, measured["ten"].warm
    assert one is not None
    assert ten is not None
    assert 5 < ten.cpu_s / one.cpu_s < 20  # 10, on a machine that does nothing else
    assert one.wall_s * measured["one"].loops > 0.25  # elapsed, less the empty loop


def test_the_empty_loop_is_subtracted() -> None:
    measured = measure_arms({"nothing": lambda: None}, rng(), minimum_s=0.2, loopable=["nothing"])["nothing"]
    assert measured.warm is not None
    assert measured.warm.cpu_s < 3e-8  # one turn of the loop itself takes more


def test_what_was_spent_is_all_there() -> None:
    def measure() -> Usage:
        measured = measure_arms(arms, rng(), minimum_s=0.4, loopable=arms.keys())
        return sum((m.total for m in measured.values()), Usage())

    arms = {"a": work(3000), "b": work(9000)}
    start = time.process_time()
    total = measure()
    assert total.cpu_s == pytest.approx(time.process_time() - start, rel=0.3, abs=0.05)


def test_an_arm_that_may_not_run_again_is_not_looped() -> None:
    calls = []
    measured = measure_arms({"a": lambda: calls.append(1), "b": work(10)}, rng(), minimum_s=0.05, loopable=["b"])
    assert (len(calls), measured["a"].loops) == (1, 0)
    assert measured["b"].loops > 1


def test_a_long_arm_is_not_looped_but_runs_a_second_time() -> None:
    measured = measure_arms({"a": lambda: time.sleep(0.55)}, rng(), loopable=["a"])["a"]
    assert measured.loops == 1
    assert measured.cold.wall_s >= 0.55
    assert 0.55 <= measured.per_run.wall_s < 0.65


def test_what_an_arm_loads_the_first_time_is_not_its_price() -> None:
    loaded: list[bool] = []

    def solve() -> None:
        if not loaded:
            time.sleep(0.6)
            loaded.append(True)
        sum(range(100))

    measured = measure_arms({"a": solve}, rng(), minimum_s=0.05, loopable=["a"])["a"]
    assert measured.cold.wall_s >= 0.6
    assert measured.loops > 1
    assert measured.per_run.wall_s < 0.01


def test_blocks_come_in_a_new_random_order() -> None:
    order: list[str] = []

    def note(name: str) -> None:
        time.sleep(0.002)
        if not order or order[-1] != name:
            order.append(name)

    arms = {name: lambda name=name: note(name) for name in "abcd"}
    measure_arms(arms, rng(), blocks=4, minimum_s=0.008, loopable=arms.keys())
    assert len({tuple(order[i : i + 4]) for i in range(0, 20, 4)}) > 1
    assert sorted(order[:4]) == list("abcd")


def test_an_arm_that_fails_is_a_result() -> None:
    measured = measure_arms({"bad": lambda: 1 / 0, "good": lambda: 1.0}, rng(), loopable=["bad"])
    assert isinstance(measured["bad"].error, ZeroDivisionError)
    assert measured["bad"].value is None
    assert measured["good"].value == 1.0


def test_an_arm_that_fails_in_the_loop_keeps_its_cold_run() -> None:
    calls = []

    def second_fails() -> int:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("once only")
        return 5

    measured = measure_arms({"a": second_fails}, rng(), minimum_s=0.01, loopable=["a"])["a"]
    assert (measured.value, measured.error, measured.warm) == (5, None, None)
    assert measured.note == "not looped: RuntimeError: once only"
    assert len(calls) == 2


def test_work_done_for_others_is_taken_out() -> None:
    done = Usage()

    def arm() -> None:
        nonlocal done
        start = time.process_time()
        work(400_000)()
        done += Usage(cpu_s=time.process_time() - start)  # as a dispatcher's thread would book it

    start = time.process_time()
    measured = measure_arms({"a": arm}, rng(), foreign=lambda: done)["a"]
    assert time.process_time() - start > 0.01
    assert measured.cold.cpu_s < 0.3 * done.cpu_s
    assert measured.total.cpu_s < 0.3 * done.cpu_s


def test_arms_inside_a_metered_block_are_refused() -> None:
    with Meter(), pytest.raises(MeterBusy):
        measure_arms({"a": work(1)}, rng())
