"""Arms of the search for hyperparameters; all have the same start design, number of runs and rule to stop a run early.

Only the minimiser of a surrogate is quantum, so each surrogate is minimised exactly, by annealing and by QAOA, and by
uniform samples with the same choice of the best: what differs between these arms is what exchanging it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tasks.architecture.hyperparameters.fourier import rank_by_circuit, rank_by_ridge
from tasks.architecture.hyperparameters.problem import Found, Ledger, Search, sobol_sequence
from tasks.architecture.hyperparameters.space import SETTINGS, SPACE, bits, levels, setting_of
from tasks.architecture.hyperparameters.surrogates import (
    Fit,
    Minimise,
    fit_factorisation_machine,
    fit_quadratic,
    minimise_by_annealing,
    minimise_by_exact_samples,
    minimise_by_qaoa,
    minimise_by_uniform_samples,
    minimise_exactly,
    ranked,
)
from tasks.contract import Arm, Bench, Kind
from tasks.quantum.grover import draw_from_table, measure, minimise_by_rotations, with_integers

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

VALUE_BITS = 6  # of the energies that the oracle of the rotations computes
QUERIES = 16  # oracle queries of a minimisation, the square root of the number of settings


def take_default(problem: Search, bench: Bench) -> Found:
    """Search nothing: one run with the setting that the dial chooses."""
    ledger = Ledger(problem, bench, start=False)
    ledger.evaluate([problem.runs.default], at_most=1)
    return ledger.found()


def search_at_random(problem: Search, bench: Bench) -> Found:
    """Draw settings uniformly, without replacement."""
    ledger = Ledger(problem, bench)
    order = bench.rng.permutation(SETTINGS)
    while ledger.left:
        ledger.evaluate(order)
    return ledger.found()


def search_by_sobol(problem: Search, bench: Bench) -> Found:
    """Follow a scrambled Sobol sequence."""
    ledger = Ledger(problem, bench)
    order = sobol_sequence(bench.rng)
    while ledger.left:
        ledger.evaluate(order)
    return ledger.found()


def search_by_optuna(make: Callable[[int, Ledger], BaseSampler], problem: Search, bench: Bench) -> Found:
    """Let a sampler of Optuna propose settings (ask and tell); the start design is added as finished trials."""
    import optuna
    from optuna.distributions import IntDistribution
    from optuna.trial import create_trial

    ledger = Ledger(problem, bench)
    spaces = {dimension.name: IntDistribution(0, len(dimension.levels) - 1) for dimension in SPACE}

    def known(setting: int, loss: float) -> optuna.trial.FrozenTrial:
        params = dict(zip(spaces, levels()[setting].tolist(), strict=True))
        return create_trial(params=params, distributions=dict(spaces), value=loss)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=make(int(bench.rng.integers(2**31)), ledger))
    study.add_trials([known(trial.setting, trial.validation) for trial in ledger.trials])
    while ledger.left:
        asked = [study.ask(dict(spaces)) for _ in range(min(problem.parallel, ledger.left))]
        proposed = [int(setting_of(np.array([trial.params[name] for name in spaces]))) for trial in asked]
        for new in ledger.evaluate(proposed):
            if new.setting not in proposed:
                study.add_trial(known(new.setting, new.validation))
        losses = {trial.setting: trial.validation for trial in ledger.trials}
        for trial, setting in zip(asked, proposed, strict=True):
            study.tell(trial, losses[setting])
    return ledger.found()


def _tpe(seed: int, ledger: Ledger) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(n_startup_trials=ledger.problem.start, seed=seed)


def _gaussian_process(seed: int, ledger: Ledger) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(n_startup_trials=ledger.problem.start, seed=seed)


def search_by_cma_es(problem: Search, bench: Bench) -> Found:
    """Evolve a normal distribution over the levels, from the best setting of the start design.

    CMA-ES with a margin for integers (Hamano et al., GECCO 2022), with the default population of six dimensions, nine.
    """
    from cmaes import CMAwM

    ledger = Ledger(problem, bench)
    highest = np.array([len(dimension.levels) - 1 for dimension in SPACE], float)
    best = min(ledger.trials, key=lambda trial: trial.validation)
    optimizer = CMAwM(
        mean=levels()[best.setting] / highest,
        sigma=0.3,
        bounds=np.stack([np.zeros_like(highest), np.ones_like(highest)], axis=1),
        steps=1 / highest,
        seed=int(bench.rng.integers(2**31)),
    )
    generation: list[tuple[np.ndarray, float]] = []
    while ledger.left:
        wanted = min(problem.parallel, ledger.left, optimizer.population_size - len(generation))
        asked = [optimizer.ask() for _ in range(wanted)]
        proposed = [int(setting_of(np.rint(point * highest).astype(np.int64))) for point, _ in asked]
        ledger.evaluate(proposed, at_most=wanted)
        losses = {trial.setting: trial.validation for trial in ledger.trials}
        generation += [(told, losses[setting]) for (_, told), setting in zip(asked, proposed, strict=True)]
        if len(generation) == optimizer.population_size:
            optimizer.tell(generation)
            generation = []
    return ledger.found()


def search_by_surrogate(fit: Fit, minimise: Minimise, quantum: bool, problem: Search, bench: Bench) -> Found:
    """Fit a quadratic model to the runs so far, train its best new settings, and repeat; one minimisation a round."""
    ledger, rounds = Ledger(problem, bench), 0
    while ledger.left:
        qubo = fit(ledger.settings, ledger.losses, bench)
        ledger.evaluate(minimise(qubo, bench))
        rounds += 1
    return ledger.found(circuits=rounds if quantum else 0)


def search_by_rotations(tabulated: bool, problem: Search, bench: Bench) -> Found:
    """Minimise the quadratic model by Grover rotations below a threshold (Durr and Hoyer), rounded to integers.

    Args:
        tabulated: draw from the known law of the rotations, for which every energy is computed: a table of the oracle,
            whose making is counted. Otherwise the oracle is a circuit that computes the energies.
        problem: the search.
        bench: what the arm works with.
    """
    ledger = Ledger(problem, bench)
    queries = circuits = 0
    rounds = 0
    while ledger.left:
        qubo = with_integers(fit_quadratic(ledger.settings, ledger.losses, bench), VALUE_BITS)
        start = bits()[min(ledger.settings.tolist(), key=lambda setting: float(qubo.energies(bits()[setting])[0]))]
        draw = draw_from_table(qubo, bits(), bench.rng) if tabulated else measure(qubo, VALUE_BITS, bench.sampler)
        made = minimise_by_rotations(qubo, start, draw, QUERIES, bench.rng)
        ledger.evaluate(ranked(qubo, made.samples))
        queries, circuits, rounds = queries + made.queries, circuits + made.circuits, rounds + 1
    if tabulated:
        return ledger.found(queries, tabulated=rounds * SETTINGS)
    return ledger.found(queries, circuits)


def search_by_fourier_circuit(exact: bool, problem: Search, bench: Bench) -> Found:
    """Train a circuit on the runs so far, then train the settings with its lowest predictions, and repeat."""
    ledger, rounds = Ledger(problem, bench), 0
    while ledger.left:
        ledger.evaluate(rank_by_circuit(ledger.settings, ledger.losses, bench, exact=exact))
        rounds += 1
    return ledger.found(circuits=0 if exact else rounds * SETTINGS)


def search_by_fourier_ridge(problem: Search, bench: Bench) -> Found:
    """Fit a ridge regression with the circuit's frequencies, train its best new settings, and repeat."""
    ledger = Ledger(problem, bench)
    while ledger.left:
        ledger.evaluate(rank_by_ridge(ledger.settings, ledger.losses))
    return ledger.found()


def _surrogate(name: str, kind: Kind, fit: Fit, minimise: Minimise, twin: str = "") -> Arm[Search, Found]:
    return Arm(name, kind, partial(search_by_surrogate, fit, minimise, kind is Kind.QUANTUM), twin=twin)


INCUMBENT: Arm[Search, Found] = Arm("tpe", Kind.CLASSICAL, partial(search_by_optuna, _tpe))
CHALLENGER = _surrogate("quadratic-qaoa", Kind.QUANTUM, fit_quadratic, minimise_by_qaoa, "quadratic-qaoa-sampled")
OTHERS: tuple[Arm[Search, Found], ...] = (
    Arm("random", Kind.CONTROL, search_at_random),
    Arm("default", Kind.CONTROL, take_default, version="2", does_nothing=True),
    _surrogate("quadratic-uniform", Kind.CONTROL, fit_quadratic, minimise_by_uniform_samples),
    Arm("sobol", Kind.CLASSICAL, search_by_sobol),
    Arm("cma-es", Kind.CLASSICAL, search_by_cma_es),
    Arm("gaussian-process", Kind.CLASSICAL, partial(search_by_optuna, _gaussian_process)),
    _surrogate("quadratic-exact", Kind.CLASSICAL, fit_quadratic, minimise_exactly),
    _surrogate("quadratic-annealing", Kind.CLASSICAL, fit_quadratic, minimise_by_annealing),
    _surrogate("quadratic-qaoa-sampled", Kind.TWIN, fit_quadratic, minimise_by_exact_samples),
    _surrogate("machine-exact", Kind.CLASSICAL, fit_factorisation_machine, minimise_exactly),
    _surrogate("machine-annealing", Kind.CLASSICAL, fit_factorisation_machine, minimise_by_annealing),
    _surrogate("machine-qaoa", Kind.QUANTUM, fit_factorisation_machine, minimise_by_qaoa, "machine-qaoa-sampled"),
    _surrogate("machine-qaoa-sampled", Kind.TWIN, fit_factorisation_machine, minimise_by_exact_samples),
    Arm("quadratic-grover", Kind.QUANTUM, partial(search_by_rotations, False), twin="quadratic-grover-tabulated"),
    Arm("quadratic-grover-tabulated", Kind.TWIN, partial(search_by_rotations, True)),
    Arm("fourier-circuit", Kind.QUANTUM, partial(search_by_fourier_circuit, False), twin="fourier-circuit-exact"),
    Arm("fourier-circuit-exact", Kind.TWIN, partial(search_by_fourier_circuit, True)),
    Arm("fourier-ridge", Kind.DEQUANTISED, search_by_fourier_ridge),
)
