from dataclasses import replace

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from qiskit_aer.primitives import SamplerV2
from sklearn.metrics import roc_auc_score

from tasks.bench import make_bench
from tasks.monitoring.anomaly.arms import (
    compressed_states,
    solve_one_class_svm,
    solve_quantum_svm,
    solve_quantum_svm_twin,
    solve_subspace,
)
from tasks.monitoring.anomaly.bank import KINDS, example
from tasks.monitoring.anomaly.problem import Anomaly, Scores, quality
from tasks.monitoring.anomaly.subtask import ANOMALY
from tasks.quantum.autoencoder import best_loss, exact_trash_rates, train_autoencoder, trash_rates
from tasks.text.embeddings import embed
from tasks.text.samples import sample_passages


def test_quality_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    truth, scores = rng.random(40) < 0.3, np.round(rng.normal(size=40), 1)
    problem = Anomaly(np.eye(8, 4), np.zeros((40, 4)), tuple(map(bool, truth)))
    (found,) = quality(problem, Scores(tuple(scores)))
    assert found == pytest.approx(roc_auc_score(truth, scores))
    assert quality(Anomaly(np.eye(8, 4), np.zeros((2, 4)), (True, True)), Scores((1.0, 2.0))) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_the_incumbent_finds_every_kind_of_strange_request(kind: str) -> None:
    rng = np.random.default_rng(4)
    own = [str(t) for t in rng.permutation([text for _, text in sample_passages("base", per_label=4)])]
    other = [text for _, text in sample_passages("second")]
    found: list[float] = []
    for k in range(4):
        mine = own[100 * k : 100 * (k + 1)]
        window = [*KINDS[kind](mine[60:68], other, rng), *mine[68:]]
        problem = Anomaly(embed(mine[:60]), embed(window), tuple(i < 8 for i in range(40)))
        found += quality(problem, solve_one_class_svm(problem, make_bench(0)))
    assert np.mean(found) > 0.8, (kind, found)


def test_the_quantum_machine_comes_to_its_twin_with_shots() -> None:
    problem = example(np.random.default_rng(1))
    tools = make_bench(0)
    many = Anomaly(problem.reference, problem.requests, problem.truth, shots=4096)
    noisy, exact = solve_quantum_svm(many, tools).values, solve_quantum_svm_twin(problem, tools).values
    assert np.corrcoef(noisy, exact)[0, 1] > 0.98


def test_no_vector_loses_weight_on_the_way_into_sixteen_amplitudes() -> None:
    texts = [text for _, text in sample_passages("base")][:40]
    reference, requests = compressed_states(Anomaly(embed(texts[:30]), embed(texts[30:])))
    for states in (reference, requests):
        assert states.shape[1] == 16
        np.testing.assert_allclose(np.linalg.norm(states, axis=1), 1.0, atol=1e-9)


def test_no_encoder_undercuts_the_subspace_and_a_trained_one_comes_near() -> None:
    """States of two dimensions in two qubits, one of them trash: the least loss is the weight outside the plane."""
    rng = np.random.default_rng(2)
    plane = np.linalg.qr(rng.normal(size=(4, 2)))[0]
    states = rng.normal(size=(24, 2)) @ plane.T + 0.05 * rng.normal(size=(24, 4))
    least = best_loss(states, 1)[1]
    sampler = SamplerV2(seed=1)
    start = trash_rates(states, np.zeros((1, 6)), 1, 2, sampler, 512).mean()

    def rates(some: np.ndarray, angles: np.ndarray) -> np.ndarray:
        return trash_rates(some, angles, 1, 2, sampler, 128)

    angles = train_autoencoder(states, 2, rates, rng, steps=120, batch=16)
    loss = trash_rates(states, angles[None], 1, 2, sampler, 4096).mean()
    assert exact_trash_rates(states, angles[None], 1, 2).mean() == pytest.approx(loss, abs=0.02)
    assert least - 0.02 < loss < 0.5 * start
    assert loss < least + 0.12


def test_exact_trash_rates_are_those_of_the_circuit_at_three_qubits_and_two_of_trash() -> None:
    rng = np.random.default_rng(5)
    states, angles = rng.normal(size=(5, 8)), rng.uniform(-2, 2, size=(2, 9))
    found = trash_rates(states, angles, 2, 2, StatevectorSampler(seed=0), 20_000)
    np.testing.assert_allclose(exact_trash_rates(states, angles, 2, 2), found, atol=0.02)


def test_machines_on_circuits_come_to_their_twins() -> None:
    problem = replace(example(np.random.default_rng(1)), shots=32_768)
    for name in ("projected-one-class-svm",):
        found = [ANOMALY.arm(arm).solve(problem, make_bench(0)).values for arm in (name, f"{name}-exact")]
        assert np.corrcoef(found[0], found[1])[0, 1] > 0.98


def test_the_subspace_scores_are_the_weights_that_are_left_out() -> None:
    problem = example(np.random.default_rng(3))
    values = np.array(solve_subspace(problem, make_bench(0)).values)
    assert ((values > -1e-9) & (values < 1)).all()
    assert len(ANOMALY.arms) == 12


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 reference vectors"):
        Anomaly(np.eye(4), np.eye(4))
    with pytest.raises(ValueError, match="should be as many"):
        Anomaly(np.eye(8), np.eye(8), (True,))
