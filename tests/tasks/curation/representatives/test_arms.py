from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler

from tasks.bench import make_bench
from tasks.combinatorial.exact import all_bits
from tasks.combinatorial.independent_set import Graph, independent_set_qubo
from tasks.combinatorial.kernel import kernelise
from tasks.combinatorial.published import PUBLISHED
from tasks.contract import Bench, Kind, content_key
from tasks.curation.representatives.bank import example, sample_components
from tasks.curation.representatives.problem import Components, oracle, quality
from tasks.curation.representatives.subtask import REPRESENTATIVES
from tasks.quantum.angles import tuned_ramp
from tasks.quantum.qaoa import Angles, linear_ramp
from tasks.quantum.statevector import qaoa_probabilities


class CountingSampler(StatevectorSampler):
    """Counts the jobs and remembers the sizes of the circuits."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.jobs: list[list[int]] = []

    def run(self, pubs: Any, *, shots: int | None = None) -> Any:
        pubs = list(pubs)
        self.jobs.append([(pub[0] if isinstance(pub, tuple) else pub).num_qubits for pub in pubs])
        return super().run(pubs, shots=shots)


def counted(seed: int = 1) -> Bench:
    return make_bench(seed, sampler=CountingSampler(seed))


def solve(name: str, problem: Components, seed: int = 1) -> tuple[float, ...]:
    return quality(problem, REPRESENTATIVES.arm(name).solve(problem, counted(seed)))


@pytest.fixture(scope="module")
def small() -> Components:
    return example(np.random.default_rng(0))


@pytest.fixture(scope="module")
def everything() -> Components:
    return sample_components(3, 40)


def published(*names: str, **settings: int) -> Components:
    graphs = tuple(PUBLISHED[name][1]() for name in names)
    documents = tuple(tuple(f"{k}/{v}" for v in range(graph.size)) for k, graph in enumerate(graphs))
    return Components(graphs, documents, **settings)


def path_graph(n: int) -> Graph:
    return Graph.of([1.0] * n, np.array([(k, k + 1) for k in range(n - 1)]))


def test_the_example_is_real_and_solved_by_the_exact_arm(small: Components) -> None:
    assert len(small.graphs) == 8
    assert all(3 <= graph.size <= 8 and not graph.is_clique for graph in small.graphs)
    assert solve("exact", small) == oracle(small) == (1.0,) * 8


def test_every_arm_gives_maximal_independent_sets_but_the_naive_control(small: Components) -> None:
    for arm in REPRESENTATIVES.arms:
        solution = arm.solve(small, counted())
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


def test_what_reductions_solve_needs_no_circuit(everything: Components) -> None:
    # all 107 components of shipped licences at Jaccard .7, of up to 31 documents
    used = counted()
    found = REPRESENTATIVES.arm("qaoa").solve(everything, used)
    assert used.sampler.jobs == []  # type: ignore[attr-defined]
    assert quality(everything, found) == pytest.approx(oracle(everything))
    assert oracle(everything) == (1.0,) * len(everything.graphs)


def test_all_kernels_are_one_job_within_the_qubit_limit() -> None:
    problem = published("1dc.64", "2dc.128", "karate", qubit_limit=8, shots=64)
    used = counted()
    REPRESENTATIVES.arm("qaoa").solve(problem, used)
    (sizes,) = used.sampler.jobs  # type: ignore[attr-defined]
    assert max(sizes) <= 8
    assert sum(sizes) == sum(kernelise(graph).size for graph in problem.graphs) == 44 + 16 + 0


def test_the_marginals_control_shares_the_samples_of_the_circuit() -> None:
    used, problem = counted(), published("johnson8-2-4")
    REPRESENTATIVES.arm("qaoa").solve(problem, used)
    REPRESENTATIVES.arm("marginals-repair").solve(problem, used)
    assert len(used.sampler.jobs) == 1  # type: ignore[attr-defined]


def test_the_recursive_arm_takes_a_job_for_each_round_and_the_others_one() -> None:
    problem = published("johnson8-2-4", qubit_limit=5, shots=16)
    jobs = {}
    for name in ("recursive-qaoa", "greedy-by-qaoa", "warm-start-qaoa"):
        used = counted()
        REPRESENTATIVES.arm(name).solve(problem, used)
        jobs[name] = len(used.sampler.jobs)  # type: ignore[attr-defined]
    assert jobs["greedy-by-qaoa"] == jobs["warm-start-qaoa"] == 1
    assert 1 < jobs["recursive-qaoa"] <= max(graph.size for graph in problem.graphs)


def test_tuned_circuits_find_optima_more_often_than_untuned_ones_and_uniform_bits() -> None:
    graphs = [graph for graph in sample_components(6, 10).graphs if graph.size <= 9][:12]
    ramp = tuned_ramp("curation/representatives", "qaoa")

    def gain(angles: Angles) -> float:
        gains = []
        for graph in graphs:
            qubo = independent_set_qubo(graph)
            energies = qubo.energies(all_bits(graph.size))
            optimal = np.isclose(energies, energies.min())
            gains.append(qaoa_probabilities(qubo, *angles)[optimal].sum() / optimal.mean())
        return float(np.exp(np.mean(np.log(gains))))

    assert gain(ramp.angles()) > 1.5 * gain(linear_ramp(3)) > 6


def test_a_split_kernel_is_stitched_to_a_legal_set() -> None:
    problem = published("1dc.64", qubit_limit=5, shots=64)
    for name in ("qaoa", "uniform-repair", "marginals-repair", "exact-on-split", "warm-start-qaoa"):
        (value,) = solve(name, problem)
        assert 0.6 <= value <= 1.0, name


def test_two_kept_near_duplicates_score_nothing() -> None:
    problem = Components((path_graph(3),), (("a", "b", "c"),))
    assert quality(problem, ((0, 2),)) == (1.0,)
    assert quality(problem, ((1,),)) == (0.5,)
    assert quality(problem, ((0, 1),)) == (0.0,)


def test_the_same_seed_gives_the_same_sets(small: Components) -> None:
    for arm in REPRESENTATIVES.arms:
        assert arm.solve(small, counted(5)) == arm.solve(small, counted(5)), arm.name


def test_content_names_the_problem(small: Components) -> None:
    assert content_key(small) == content_key(example(np.random.default_rng(0)))
    assert content_key(small) != content_key(Components(small.graphs, small.documents, shots=1))


def test_the_subtask_names_its_champion_challenger_and_controls() -> None:
    kinds = {arm.name: arm.kind for arm in REPRESENTATIVES.arms}
    assert REPRESENTATIVES.incumbent.name == "greedy"
    assert REPRESENTATIVES.challenger.kind is Kind.QUANTUM
    assert [name for name, kind in kinds.items() if kind is Kind.QUANTUM] == [
        "qaoa", "recursive-qaoa", "greedy-by-qaoa", "warm-start-qaoa",
    ]  # fmt: skip
    assert {name for name, kind in kinds.items() if kind is Kind.CONTROL} == {
        "keep-one", "empty-repair", "uniform-repair", "marginals-repair", "warm-bits-repair", "coin-recursion",
    }  # fmt: skip
