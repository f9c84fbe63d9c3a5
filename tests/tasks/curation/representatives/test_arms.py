from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorEstimator, StatevectorSampler

from tasks.combinatorial.independent_set import Graph, independent_set_qubo
from tasks.contract import Bench, Kind, content_key
from tasks.curation.representatives.bank import example, sample_components
from tasks.curation.representatives.problem import Components, best_known, oracle, quality
from tasks.curation.representatives.subtask import REPRESENTATIVES
from tasks.quantum.qaoa import sample_qaoa


class CountingSampler(StatevectorSampler):
    """Counts the jobs and remembers the sizes of the circuits."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.jobs: list[list[int]] = []

    def run(self, pubs: Any, *, shots: int | None = None) -> Any:
        pubs = list(pubs)
        self.jobs.append([(pub[0] if isinstance(pub, tuple) else pub).num_qubits for pub in pubs])
        return super().run(pubs, shots=shots)


def bench(seed: int = 1) -> Bench:
    cache: dict[str, Any] = {}

    def once(key: str, make: Any, /) -> Any:
        if key not in cache:
            cache[key] = make()
        return cache[key]

    return Bench(
        np.random.default_rng(seed),
        CountingSampler(seed),
        StatevectorEstimator(),
        lambda function, items: [function(item) for item in items],
        once,
        Path(),
    )


def solve(name: str, problem: Components, seed: int = 1) -> tuple[float, ...]:
    return quality(problem, REPRESENTATIVES.arm(name).solve(problem, bench(seed)))


@pytest.fixture(scope="module")
def small() -> Components:
    return example(np.random.default_rng(0))


@pytest.fixture(scope="module")
def everything() -> Components:
    return sample_components(3, 40)


def path_graph(n: int) -> Graph:
    return Graph.of([1.0] * n, np.array([(k, k + 1) for k in range(n - 1)]))


def test_the_example_is_real_and_solved_by_the_exact_arm(small: Components) -> None:
    assert len(small.graphs) == 8
    assert all(3 <= graph.size <= 8 and not graph.is_clique for graph in small.graphs)
    assert solve("exact", small) == oracle(small) == (1.0,) * 8


def test_every_arm_gives_maximal_independent_sets_but_the_naive_control(small: Components) -> None:
    for arm in REPRESENTATIVES.arms:
        solution = arm.solve(small, bench())
        for graph, nodes in zip(small.graphs, solution, strict=True):
            assert graph.is_independent(nodes)
            inside = sum(1 << v for v in nodes)
            witnessed = all(v in nodes or graph.neighbours[v] & inside for v in range(graph.size))
            assert witnessed or arm.name == "keep-one"


def test_keeping_one_document_wastes_half_of_what_could_stay(everything: Components) -> None:
    # research on the same texts: keep-one keeps 9 to 49 per cent of the optimum, greedy is within 2 per cent
    assert np.mean(solve("keep-one", everything)) < 0.5
    assert np.mean(solve("greedy", everything)) > 0.99


def test_annealers_come_within_a_hundredth_of_the_optimum(everything: Components) -> None:
    for name in ("simulated-annealing", "path-integral-annealing"):
        assert np.mean(solve(name, everything)) > 0.99


def test_all_components_are_one_job_within_the_qubit_limit(everything: Components) -> None:
    few = Components(everything.graphs[:30], everything.documents[:30], qubit_limit=6, shots=64)
    used = bench()
    REPRESENTATIVES.challenger.solve(few, used)
    jobs = used.sampler.jobs  # type: ignore[attr-defined]
    assert len(jobs) == 1
    assert max(jobs[0]) <= 6
    assert sum(jobs[0]) == sum(graph.size for graph in few.graphs)


def test_the_marginals_control_shares_the_samples_of_the_circuit(small: Components) -> None:
    used = bench()
    REPRESENTATIVES.challenger.solve(small, used)
    REPRESENTATIVES.arm("marginals-repair").solve(small, used)
    assert len(used.sampler.jobs) == 1  # type: ignore[attr-defined]


def test_circuits_find_optima_more_often_than_uniform_bits_before_repair(small: Components) -> None:
    graphs = [graph for graph in small.graphs if graph.size >= 5]
    samples = sample_qaoa([independent_set_qubo(graph) for graph in graphs], StatevectorSampler(seed=3), 1024, 3)
    gains = []
    for graph, bits in zip(graphs, samples, strict=True):
        weights = [
            graph.weight(nodes) if graph.is_independent(nodes) else 0.0
            for nodes in (np.flatnonzero(row).tolist() for row in bits)
        ]
        hits = np.mean(np.isclose(weights, best_known(graph).weight))
        gains.append(hits * 2**graph.size)  # uniform bits hit one optimum with probability 2^-n
    assert np.mean(gains) > 4


def test_a_split_component_is_stitched_to_a_legal_set() -> None:
    problem = Components((path_graph(14),), (tuple(f"d{k}" for k in range(14)),), qubit_limit=5, shots=64)
    for name in ("qaoa", "uniform-repair", "marginals-repair", "exact-on-split"):
        (value,) = solve(name, problem)
        assert 5 / 7 <= value <= 1.0, name


def test_two_kept_near_duplicates_score_nothing() -> None:
    problem = Components((path_graph(3),), (("a", "b", "c"),))
    assert quality(problem, ((0, 2),)) == (1.0,)
    assert quality(problem, ((1,),)) == (0.5,)
    assert quality(problem, ((0, 1),)) == (0.0,)


def test_the_same_seed_gives_the_same_sets(small: Components) -> None:
    for arm in REPRESENTATIVES.arms:
        assert arm.solve(small, bench(5)) == arm.solve(small, bench(5)), arm.name


def test_content_names_the_problem(small: Components) -> None:
    assert content_key(small) == content_key(example(np.random.default_rng(0)))
    assert content_key(small) != content_key(Components(small.graphs, small.documents, shots=1))


def test_the_subtask_names_its_champion_challenger_and_controls() -> None:
    kinds = {arm.name: arm.kind for arm in REPRESENTATIVES.arms}
    assert REPRESENTATIVES.incumbent.name == "greedy"
    assert REPRESENTATIVES.challenger.kind is Kind.QUANTUM
    assert [name for name, kind in kinds.items() if kind is Kind.QUANTUM] == ["qaoa"]
    assert {"keep-one", "empty-repair", "uniform-repair", "marginals-repair"} == {
        name for name, kind in kinds.items() if kind is Kind.CONTROL
    }
