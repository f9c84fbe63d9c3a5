from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler

from tasks.bench import make_bench
from tasks.contract import Kind, NothingToGain, content_key
from tasks.monitoring.drift.arms import (
    BIAS,
    kernel_states,
    linear_quadruples,
    solve_always_ok,
    solve_coin,
    solve_ks,
    solve_linear_twin,
    solve_mmd_rbf,
    solve_pool,
    solve_quantum,
    solve_quantum_linear,
    solve_twin,
)
from tasks.monitoring.drift.bank import example, probes
from tasks.monitoring.drift.iqp_arms import solve_hamming, solve_iqp, solve_iqp_twin, solve_projected
from tasks.monitoring.drift.mmd import kernel_pairs
from tasks.monitoring.drift.problem import Drift, quality
from tasks.monitoring.drift.subtask import DRIFT
from tasks.monitoring.two_sample import memberships, mmd_statistics
from tasks.quantum.kernels import exact_fidelities
from tasks.text.embeddings import embed
from tasks.text.samples import sample_passages


class Counting:
    """Passes on to a sampler and remembers the jobs."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, int]] = []

    def run(self, pubs: Any, *, shots: int) -> Any:
        pubs = list(pubs)
        self.jobs.append((len(pubs), sum(len(values) for _, values in pubs)))
        return StatevectorSampler(seed=0).run(pubs, shots=shots)


@pytest.fixture(scope="module")
def base() -> np.ndarray:
    return embed([text for _, text in sample_passages("base", per_label=4)])


@pytest.fixture(scope="module")
def second() -> np.ndarray:
    return embed([text for _, text in sample_passages("second")])


CLASSICAL = (solve_pool, solve_twin, solve_linear_twin, solve_iqp_twin, solve_mmd_rbf, solve_ks)


def test_the_false_alarm_rate_of_every_detector_is_the_level(base: np.ndarray) -> None:
    """600 windows of real text without drift: the rate lies in [.02, .09], where 2 standard errors are .018."""
    rng = np.random.default_rng(11)
    alarms = np.zeros(len(CLASSICAL) + 1)
    for trial in range(600):
        shuffled = rng.permutation(base)
        problem = Drift(shuffled[:20], (shuffled[20:40],), shuffled[40:100], (False,), permutations=99)
        tools = make_bench(trial)
        alarms += [solve(problem, tools).alerts[0] for solve in (*CLASSICAL, solve_coin)]
    rates = dict(zip([solve.__name__ for solve in (*CLASSICAL, solve_coin)], alarms / 600, strict=True))
    assert all(0.02 <= rate <= 0.09 for rate in rates.values()), rates


def shifts(base: np.ndarray, second: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three kinds of drift in real text: an alien domain mixed in, another manual, other (shorter) requests."""
    labels = np.array([label.split("/")[0] for label, _ in sample_passages("base", per_label=4)])
    short = embed([text for _, text in sample_passages("base", words=10, per_label=4)])
    library = base[labels == "library"]
    return {
        "half licences": (base, np.vstack([base[:300], second[:300]])),
        "another manual": (library, base[labels != "library"]),
        "short requests": (base, short),
    }


def test_the_pool_detects_three_kinds_of_drift(base: np.ndarray, second: np.ndarray) -> None:
    rng = np.random.default_rng(12)
    for name, (normal, drifted) in shifts(base, second).items():
        found = []
        for trial in range(30):
            shuffled = rng.permutation(normal)
            window = rng.permutation(drifted)[:40]
            problem = Drift(shuffled[:40], (window,), shuffled[40:240], (True,), permutations=99)
            found.append(solve_pool(problem, make_bench(trial)).alerts[0])
        assert np.mean(found) >= 0.8, (name, np.mean(found))


def test_the_twin_is_the_inhomogeneous_quadratic_kernel(base: np.ndarray) -> None:
    problem = Drift(base[:6], (base[6:10],), base[20:120])
    states = kernel_states(problem)
    assert states.shape == (10, 256)  # the constant took a coordinate's place: still 8 qubits
    centred = base[:10].astype(float) - base[20:120].astype(float).mean(axis=0)
    kept = np.delete(centred, base[20:120].astype(float).var(axis=0).argmin(), axis=1)
    cosines = kept @ kept.T / np.outer(np.linalg.norm(kept, axis=1), np.linalg.norm(kept, axis=1))
    np.testing.assert_allclose(exact_fidelities(states, states), ((BIAS + cosines) / (BIAS + 1)) ** 2, atol=1e-9)


def test_no_coordinate_is_left_out_where_there_is_room() -> None:
    problem = Drift(np.random.default_rng(0).normal(size=(4, 5)), ())
    assert kernel_states(problem).shape == (4, 6)


def test_all_overlaps_of_all_windows_are_one_job_and_the_reference_is_taken_once(base: np.ndarray) -> None:
    cut = base[:, :6]
    problem = Drift(cut[:5], (cut[5:9], cut[9:12]), cut[20:40], permutations=19, shots=8)
    sampler = Counting()
    verdicts = solve_quantum(problem, make_bench(0, sampler=sampler))
    assert sampler.jobs == [(1, 10 + (5 * 4 + 6) + (5 * 3 + 3))]
    assert len(verdicts.p_values) == 2
    pairs = kernel_pairs(problem)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert not ((pairs[:, 0] >= 5) & (pairs[:, 0] < 9) & (pairs[:, 1] >= 9)).any()  # windows are not compared


def test_the_quantum_kernel_comes_to_its_twin_with_shots() -> None:
    problem = example(np.random.default_rng(3))
    one = Drift(problem.reference, problem.windows[1:2], problem.background, (True,), shots=4096)
    quantum, twin = solve_quantum(one, make_bench(5)), solve_twin(one, make_bench(5))
    np.testing.assert_allclose(quantum.statistics, twin.statistics, atol=0.02)
    np.testing.assert_allclose(quantum.p_values, twin.p_values, atol=0.1)
    assert quantum.alerts == twin.alerts


@pytest.mark.parametrize(
    ("name", "shots"), [("iqp-kernel", 4096), ("hamming-kernel", 4096), ("projected-kernel", 2**16)]
)
def test_kernels_of_iqp_states_come_to_their_twins_with_shots(name: str, shots: int) -> None:
    problem = example(np.random.default_rng(3))
    reference, window = problem.reference[:6], problem.windows[1][:6]
    one = replace(problem, reference=reference, windows=(window,), truth=(True,), shots=shots)
    found, twin = (DRIFT.arm(arm).solve(one, make_bench(5)) for arm in (name, f"{name}-exact"))
    np.testing.assert_allclose(found.statistics, twin.statistics, atol=0.03)
    np.testing.assert_allclose(found.p_values, twin.p_values, atol=0.15)


def test_the_hamming_kernel_runs_no_circuits_of_its_own_and_the_projected_one_three_a_text() -> None:
    problem = example(np.random.default_rng(3))
    problem = replace(problem, windows=problem.windows[:1], truth=(False,), permutations=19, shots=8)
    sampler = Counting()
    tools = make_bench(0, sampler=sampler)
    for solve in (solve_iqp, solve_hamming):
        solve(problem, tools)
    assert sampler.jobs == [(1, len(kernel_pairs(problem)))]
    solve_projected(problem, tools)
    assert sampler.jobs[1:] == [(3, 3 * 24)]


def test_a_kernel_that_can_gain_nothing_is_skipped_before_it_runs_a_circuit() -> None:
    problem, sampler = example(np.random.default_rng(3)), Counting()
    for solve in (solve_quantum, solve_quantum_linear, solve_iqp, solve_hamming, solve_projected):
        with pytest.raises(NothingToGain, match=r"geometric difference of the \w+ kernel .* would be needed"):
            solve(replace(problem, least_gain=1.0), make_bench(0, sampler=sampler))
    assert not sampler.jobs


def test_the_example_is_decided_by_every_kernel_and_by_no_control() -> None:
    for seed in range(5):
        problem = example(np.random.default_rng(seed))
        assert problem.reference.shape == (12, 8)
        assert np.mean(quality(problem, solve_pool(problem, make_bench(seed)))) >= DRIFT.floor
        assert np.mean(quality(problem, solve_always_ok(problem, make_bench(seed)))) < DRIFT.floor


def test_every_arm_is_deterministic_by_the_seed_and_returns_the_same_type() -> None:
    problem = example(np.random.default_rng(0))
    small = replace(problem, windows=problem.windows[:1], truth=(False,), permutations=49, shots=16)
    for arm in DRIFT.arms:
        first, second = arm.solve(small, make_bench(9)), arm.solve(small, make_bench(9))
        assert first == second
        assert len(quality(small, first)) == 1
    assert {arm.kind for arm in DRIFT.arms} >= {Kind.CONTROL, Kind.CLASSICAL, Kind.TWIN, Kind.QUANTUM}
    assert content_key(small) == content_key(small)


def test_probes_have_truth_disjoint_samples_and_both_kinds_of_shift(base: np.ndarray, second: np.ndarray) -> None:
    problem = Drift(base[:40], (base[40:80], second[:40]), base[80:280], (False, True))
    planted = probes(problem, np.random.default_rng(0))
    assert len(planted) == 4
    for probe in planted:
        assert probe.truth == (False, False, True, True, True, True)
        reference = {row.tobytes() for row in probe.reference}
        calm = {row.tobytes() for row in probe.background}
        assert not reference & calm
        for window in probe.windows:
            rows = {row.tobytes() for row in window}
            assert len(window) == 40
            assert not rows & reference
            assert not rows & calm
    right = [quality(probe, solve_pool(probe, make_bench(i))) for i, probe in enumerate(planted)]
    assert np.mean([values[-1] for values in right]) == 1.0  # a full shift is seen
    unlabelled = Drift(base[:20], (base[20:40],), base[40:140])
    assert all(probe.truth for probe in probes(unlabelled, np.random.default_rng(1)))


def test_without_truth_there_is_no_quality_and_the_controls_do_what_they_say(base: np.ndarray) -> None:
    problem = Drift(base[:10], (base[10:20],) * 400)
    assert quality(problem, solve_always_ok(problem, make_bench(0))) == ()
    assert not any(solve_always_ok(problem, make_bench(0)).alerts)
    assert 0.02 < np.mean(solve_coin(problem, make_bench(0)).alerts) < 0.09


def test_without_a_background_the_false_alarm_rate_stays_at_the_level(base: np.ndarray, second: np.ndarray) -> None:
    """Centred on the reference alone it would be about .1."""
    rng = np.random.default_rng(21)
    alarms = np.zeros(2)
    for trial in range(400):
        shuffled = rng.permutation(base)
        problem = Drift(shuffled[:40], (shuffled[40:80],), permutations=99)
        alarms += [solve(problem, make_bench(trial)).alerts[0] for solve in (solve_pool, solve_twin)]
    assert ((alarms / 400 >= 0.02) & (alarms / 400 <= 0.075)).all(), alarms / 400
    problem = Drift(base[:40], (second[:40],))
    assert solve_pool(problem, make_bench(0)).alerts == solve_twin(problem, make_bench(0)).alerts == (True,)


def test_samples_that_do_not_fit_are_refused() -> None:
    x = np.zeros((4, 3))
    with pytest.raises(ValueError, match="equally long"):
        Drift(x, (np.zeros((4, 2)),))
    with pytest.raises(ValueError, match="at least 2"):
        Drift(x, (x[:1],))
    with pytest.raises(ValueError, match="truths"):
        Drift(x, (x,), truth=(True, False))
    with pytest.raises(ValueError, match="level"):
        Drift(x, (x,), level=1.0)


def test_shot_noise_alone_is_not_drift() -> None:
    """Noise is independent between pairs, so it leaves the splits exchangeable: the rate stays at the level."""
    rng = np.random.default_rng(4)
    alarms = []
    for _ in range(400):
        noise = np.triu(rng.binomial(16, 0.02, size=(24, 24)) / 16, 1)
        statistics = mmd_statistics(noise + noise.T, memberships(12, 12, 99, rng))
        alarms.append((1 + np.sum(statistics[1:] >= statistics[0])) / 100 <= 0.05)
    assert 0.02 <= np.mean(alarms) <= 0.09


def test_the_linear_time_form_needs_2n_circuits_and_reads_the_reference_s_own_once(base: np.ndarray) -> None:
    problem = Drift(base[:8], (base[8:16], base[16:22]), base[30:130], shots=8)
    quadruples = linear_quadruples(problem)
    assert [len(q) for q in quadruples] == [4, 3]
    sampler = Counting()
    solve_quantum_linear(problem, make_bench(0, sampler=sampler))  # type: ignore[arg-type]
    assert sampler.jobs == [(1, 4 * 4 + 4 * 3 - 3)]


def test_the_linear_time_form_is_unbiased(base: np.ndarray, second: np.ndarray) -> None:
    """Its mean over random orders is the quadratic MMD: both are unbiased for the same squared distance."""
    rng = np.random.default_rng(3)
    normal, other, calm = base[:40], second[:40], base[100:300]
    found = []
    for _ in range(400):
        problem = Drift(rng.permutation(normal), (rng.permutation(other),), calm, permutations=1)
        found.append(solve_linear_twin(problem, make_bench(0)).statistics[0])
    quadratic = solve_twin(Drift(normal, (other,), calm), make_bench(0)).statistics[0]
    assert abs(np.mean(found) - quadratic) < 4 * np.std(found) / np.sqrt(len(found))


def test_a_few_columns_keep_every_dimension() -> None:
    """Of two columns none may be left out for the sake of a qubit."""
    rng = np.random.default_rng(0)
    problem = Drift(rng.normal(size=(5, 2)), (rng.normal(size=(5, 2)),), rng.normal(size=(9, 2)))
    assert kernel_states(problem).shape == (10, 3)
