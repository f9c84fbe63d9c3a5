"""Break-even, energy to solution, simulation and best classical arm against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tasks.evaluation.classical import best_classical, matches, saturated_by
from tasks.evaluation.energy import break_even, cheapest_simulation, energy_to_solution, repeats_to_solution
from tasks.evaluation.figures import ArmFigures, Solved, Spending

ONE = np.ones(1)


def spending(own: float, simulation: float = 0.0, seconds: float = 0.0, fixed: float = 0.0) -> Spending:
    return Spending(own * ONE, simulation * ONE, fixed * ONE, seconds * ONE)


def arm(name: str, kind: str, joules: float, qualities: tuple[float, ...] = (1.0,), **values: Any) -> ArmFigures:
    its = spending(joules, values.pop("simulation", 0.0), values.pop("seconds", 0.0))
    solved = tuple(Solved(f"p{i}", q, f"p{i}", 1.0, float(q >= 1.0), joules) for i, q in enumerate(qualities))
    energy = {"narrow": its, "wide": its, "marginal": its}
    return ArmFigures(name, kind, "", "done", solved, energy, its, its, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decision", "own", "best"),
    [("representatives", 1.26, 0.0026), ("k-means", 1.07, 0.027), ("pruning", 291.6, 15.1), ("drift", 1.57, 0.018)],
)
def test_an_arm_whose_own_cpu_takes_more_has_no_break_even(decision: str, own: float, best: float) -> None:
    found = break_even(spending(own, simulation=0.7, seconds=2.1), spending(best))
    assert found is not None
    assert not found.exists  # not even a QPU of 0 W is enough
    assert found.to_save[0] == pytest.approx(own - best)
    assert found.without_own[0] == pytest.approx(best / 2.1)


def test_at_the_break_even_both_sides_cost_the_same() -> None:
    quantum, classical = spending(2.0, simulation=50.0, seconds=4.0, fixed=1.0), spending(10.0, simulation=3.0)
    found = break_even(quantum, classical)
    assert found is not None
    assert found.exists
    power = found.at[0]
    assert 2.0 + 1.0 + 4.0 * power == pytest.approx(13.0)  # simulating is no part of running on a device
    assert power == pytest.approx(2.5)
    assert break_even(spending(2.0), classical) is None  # no circuits


def test_the_break_even_is_taken_draw_by_draw() -> None:
    core = np.array([1.0, 2.0, 4.0])  # what a CPU second draws, shared by both arms
    quantum = Spending(1.0 * core, 0 * core, 0 * core, np.array([2.0, 2.0, 2.0]))
    found = break_even(quantum, Spending(3.0 * core, 0 * core, 0 * core, 0 * core))
    assert found is not None
    assert found.at == pytest.approx(core)


@pytest.mark.parametrize(("p", "repeats"), [(1.0, 1.0), (0.99, 1.0), (0.9, 2.0), (0.025, 181.9), (0.0, math.inf)])
def test_repeats_to_solution(p: float, repeats: float) -> None:
    assert repeats_to_solution(p) == pytest.approx(repeats, rel=1e-3)


def test_a_deterministic_method_is_never_repeated() -> None:
    # nine of ten instances solved: a share of .9 would have repeated it twice
    solved = [Solved(f"p{i}", 1.0, "u", 1.0, float(i > 0), 5.0) for i in range(10)]
    found = energy_to_solution(solved)
    assert (found.energy_j, found.solved, found.unsolved, found.hit_rate) == (5.0, 9, 1, pytest.approx(0.9))


def test_energies_to_solution_are_averaged_over_instances() -> None:
    solved = [
        Solved("a", 1, "a", 1.0, 0.9, 3.0),
        Solved("b", 1, "b", 1.0, 0.5, 3.0),
        Solved("c", 0, "c", 1.0, 0.0, 3.0),
    ]
    found = energy_to_solution(solved)
    assert found.energy_j == pytest.approx(3.0 * (2.0 + math.log(0.01) / math.log(0.5)) / 2)
    assert (found.solved, found.unsolved) == (2, 1)
    assert energy_to_solution([Solved("a", 1, "a")]).energy_j is None  # no best quality is known


def test_simulation_is_that_of_the_arm_s_own_twin() -> None:
    kernel = arm("kernel", "quantum", 1.0, simulation=13.0, twin="kernel-exact", circuits=7920)
    twin, other = arm("kernel-exact", "twin", 0.0188), arm("linear-exact", "twin", 0.0062)
    found = cheapest_simulation(kernel, [kernel, twin, other])
    assert found is not None
    assert (found.by, found.spending["narrow"][0]) == ("kernel-exact", 0.0188)
    alone = cheapest_simulation(kernel, [kernel, other])
    assert alone is not None
    assert (alone.by, alone.spending["narrow"][0]) == ("simulator", 13.0)
    noisy = arm("kernel", "quantum", 1.0, simulation=13.0, noiseless=False)
    assert cheapest_simulation(noisy, [noisy, other]) is None  # noisy trajectories are no noiseless samples


def test_best_classical_is_the_cheapest_within_the_tolerance_of_the_best() -> None:
    greedy = arm("greedy", "classical", 1.0, (0.90, 0.80))
    exact, dear = arm("exact", "classical", 5.0, (1.0, 0.9)), arm("dear", "classical", 50.0, (1.0, 0.91))
    near = arm("near", "dequantised", 2.0, (0.99, 0.89))
    twin, quantum = arm("twin", "twin", 0.1, (1.0, 0.9)), arm("qaoa", "quantum", 9.0, (1.0, 0.9))
    found = best_classical([greedy, exact, dear, near, twin, quantum], 0.02)
    assert found is not None
    assert (found.arm.arm, found.reference.arm, found.is_control) == ("near", "dear", False)
    assert matches(found, quantum, 0.02)
    assert not matches(found, arm("better", "quantum", 9.0, (1.0, 1.0)), 0.02)
    assert saturated_by([greedy, exact, near], 0.02) == ()
    assert best_classical([quantum, twin], 0.02) is None


def test_a_control_that_is_as_good_is_the_best_classical_arm_and_the_bank_is_saturated() -> None:
    greedy, random = arm("greedy", "classical", 8.5, (1.0, 0.9)), arm("random", "control", 1e-5, (0.99, 0.9))
    found = best_classical([greedy, random], 0.02)
    assert found is not None
    assert (found.arm.arm, found.is_control) == ("random", True)
    assert saturated_by([greedy, random, arm("empty", "control", 0, (0.1, 0.1))], 0.02) == ("random",)


def test_an_arm_that_left_instances_out_is_not_the_best() -> None:
    greedy, partial = arm("greedy", "classical", 8.5, (1.0, 0.9)), arm("partial", "classical", 1.0, (1.0,))
    found = best_classical([greedy, partial], 0.02)
    assert found is not None
    assert found.arm.arm == "greedy"
