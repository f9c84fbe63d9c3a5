"""Arms of the clinical pilot: the published kernel methods on both encodings, their twins, and classical classifiers.

Published (Moradi et al., Scientific Reports 12, 1851, 2022, and the scripts of its authors): `qdc`, the class of the
patient with the largest overlap; `qksvm`, a support vector machine on fidelities, cost 1, classes balanced; `sqksvm`,
the side of the centroids in the space of the kernel. Encodings: N features as the amplitudes of log2 N qubits, or as
angles of N qubits, `RZ` between Hadamards. The CNOTs that the second has after the rotations cancel when the
preparation is undone, which leaves a product kernel.

`qksvm-tuned` is the same machine with its cost chosen by cross-validation, with as many trials as its opponents had.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tasks.contract import Arm, Bench, Kind, NothingToGain
from tasks.pilots.clinical.problem import Clinical, FloatArray, Predictions
from tasks.quantum.kernels import estimate_overlaps, exact_fidelities, gram

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 3
Kernel = Callable[[Clinical, Bench], tuple[FloatArray, FloatArray]]
Rule = Callable[[FloatArray, FloatArray, Clinical], Predictions]


def angle_fidelities(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the fidelities (l, r) of states with one feature a qubit: products of `cos^2((x - y) / 2)`."""
    return np.asarray(np.prod(np.square(np.cos((left[:, None] - right[None]) / 2)), axis=2))


@cache
def angle_circuit(qubits: int) -> QuantumCircuit:
    """Return the measured template whose outcome 0 has that probability; its parameters are `x - y`."""
    circuit = QuantumCircuit(qubits, name=f"angles{qubits}")
    angles = ParameterVector("d", qubits)
    circuit.h(range(qubits))
    for qubit, angle in enumerate(angles):
        circuit.rz(angle, qubit)
    circuit.h(range(qubits))
    circuit.measure_all()
    return circuit


def estimate_angle_fidelities(left: FloatArray, right: FloatArray, bench: Bench, shots: int) -> FloatArray:
    """Estimate them: a circuit for each pair, one job."""
    pairs = (left[:, None] - right[None]).reshape(-1, left.shape[1])
    found = bench.sampler.run([(angle_circuit(left.shape[1]), pairs)], shots=shots).result()[0].data.meas.array
    return np.asarray((found == 0).all(axis=-1).mean(axis=-1).reshape(len(left), len(right)))


def _check(problem: Clinical, circuits: int) -> None:
    if circuits > problem.circuits:
        raise NothingToGain(
            f"{circuits:,} circuits would be simulated, {problem.circuits:,} are allowed here; the exact twin stands "
            "for them on all rows"
        )


def amplitudes(problem: Clinical, bench: Bench) -> tuple[FloatArray, FloatArray]:
    """Fidelities of amplitude-encoded patients by compute-uncompute: among the known, and of the tested with them."""
    train, test = problem.encoded
    _check(problem, len(train) * (len(train) - 1) // 2 + len(test) * len(train))
    among = bench.once("amplitudes, known", lambda: gram(train, bench.sampler, problem.shots))
    across = bench.once("amplitudes", lambda: estimate_overlaps(test, train, bench.sampler, problem.shots))
    return among, across


def exact_amplitudes(problem: Clinical, _bench: Bench) -> tuple[FloatArray, FloatArray]:
    """The same without circuits."""
    train, test = problem.encoded
    return exact_fidelities(train, train), exact_fidelities(test, train)


def angles(problem: Clinical, bench: Bench) -> tuple[FloatArray, FloatArray]:
    """Fidelities of angle-encoded patients by compute-uncompute."""
    train, test = problem.encoded
    _check(problem, len(train) ** 2 + len(test) * len(train))
    among = bench.once(
        "angles, known", lambda: estimate_angle_fidelities(train, train, bench, problem.shots)
    )  # the diagonal comes out as 1
    across = bench.once("angles", lambda: estimate_angle_fidelities(test, train, bench, problem.shots))
    return (among + among.T) / 2, across


def exact_angles(problem: Clinical, _bench: Bench) -> tuple[FloatArray, FloatArray]:
    """The same without circuits."""
    train, test = problem.encoded
    return angle_fidelities(train, train), angle_fidelities(test, train)


def by_largest(_: FloatArray, across: FloatArray, problem: Clinical) -> Predictions:
    """`qdc`: the label of the known patient with the largest overlap; score, by how much it exceeds the other's."""
    best = [across[:, problem.labels == label].max(axis=1) for label in (0, 1)]
    return _predicted(best[1] > best[0], best[1] - best[0])


def by_centroids(_: FloatArray, across: FloatArray, problem: Clinical) -> Predictions:
    """`sqksvm`: kernel values weighted by label, 1 - r for outcome 1 and -r for outcome 0, r the share of outcome 1."""
    share = problem.labels.mean()
    found = across @ np.where(problem.labels == 1, 1 - share, -share)
    return _predicted(found > 0, found)


def by_machine(among: FloatArray, across: FloatArray, problem: Clinical) -> Predictions:
    """`qksvm`: a support vector machine of cost 1, classes balanced."""
    model = SVC(kernel="precomputed", class_weight="balanced").fit(among, problem.labels)
    return _predicted(model.predict(across), model.decision_function(across))


def by_tuned_machine(among: FloatArray, across: FloatArray, problem: Clinical) -> Predictions:
    """The same with its cost chosen by cross-validation."""
    return _searched(SVC(kernel="precomputed", class_weight="balanced"), {"C": COSTS}, among, across, problem)


def predict_by(kernel: Kernel, rule: Rule, problem: Clinical, bench: Bench) -> Predictions:
    """Predict by a kernel and a rule."""
    return rule(*kernel(problem, bench), problem)


def predict_by_model(
    make: Callable[[], Any], grid: dict[str, Any], everything: bool, problem: Clinical, _: Bench
) -> Predictions:
    """Fit a classifier of scikit-learn, its settings chosen by cross-validation among the known patients."""
    train, test = problem.filled if everything else problem.selected
    return _searched(make(), grid, train, test, problem)


def predict_at_random(problem: Clinical, bench: Bench) -> Predictions:
    """Labels and scores at random."""
    scores = bench.rng.uniform(size=len(problem.test))
    return _predicted(scores < problem.labels.mean(), scores)


def predict_nothing(problem: Clinical, _: Bench) -> Predictions:
    """The more frequent outcome for everybody."""
    label = int(problem.labels.mean() > 0.5)
    return _predicted(np.full(len(problem.test), label), np.zeros(len(problem.test)))


def _searched(model: Any, grid: dict[str, Any], train: FloatArray, test: FloatArray, problem: Clinical) -> Predictions:
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(model, grid, scoring="roc_auc", cv=folds).fit(train, problem.labels)
    best = search.best_estimator_
    scores = best.decision_function(test)
    return _predicted(best.predict(test), scores)


def _predicted(labels: NDArray[Any], scores: NDArray[Any]) -> Predictions:
    return Predictions(tuple(int(v) for v in labels), tuple(float(v) for v in scores))


def _logistic() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))


def _svm() -> Any:
    return make_pipeline(StandardScaler(), SVC(class_weight="balanced"))


def _boosting() -> Any:
    return GradientBoostingClassifier(random_state=0, subsample=0.8, max_features="sqrt")


LOGISTIC = {"logisticregression__C": COSTS}
SVMS = {"svc__C": (0.1, 1.0, 10.0, 100.0), "svc__gamma": ("scale", 0.01)}
BOOSTING = {"n_estimators": (30, 100), "max_depth": (1, 3)}

ClinicalArm = Arm[Clinical, Predictions]


def _quantum(name: str, kernel: Kernel, rule: Rule) -> ClinicalArm:
    return Arm(name, Kind.QUANTUM, partial(predict_by, kernel, rule), twin=f"{name}-exact")


def _twin(name: str, kernel: Kernel, rule: Rule) -> ClinicalArm:
    return Arm(f"{name}-exact", Kind.TWIN, partial(predict_by, kernel, rule))


INCUMBENT: ClinicalArm = Arm("logistic", Kind.CLASSICAL, partial(predict_by_model, _logistic, LOGISTIC, False))
CHALLENGER: ClinicalArm = _quantum("qksvm-tuned", amplitudes, by_tuned_machine)
OTHERS: tuple[ClinicalArm, ...] = (
    Arm("prevalence", Kind.CONTROL, predict_nothing),
    Arm("random", Kind.CONTROL, predict_at_random),
    _twin("qksvm-tuned", exact_amplitudes, by_tuned_machine),
    _quantum("qdc", amplitudes, by_largest),
    _twin("qdc", exact_amplitudes, by_largest),
    _quantum("qksvm", amplitudes, by_machine),
    _twin("qksvm", exact_amplitudes, by_machine),
    _quantum("sqksvm", amplitudes, by_centroids),
    _twin("sqksvm", exact_amplitudes, by_centroids),
    _quantum("qdc-angles", angles, by_largest),
    _twin("qdc-angles", exact_angles, by_largest),
    _quantum("qksvm-angles", angles, by_machine),
    _twin("qksvm-angles", exact_angles, by_machine),
    _quantum("sqksvm-angles", angles, by_centroids),
    _twin("sqksvm-angles", exact_angles, by_centroids),
    Arm("svm", Kind.CLASSICAL, partial(predict_by_model, _svm, SVMS, False)),
    Arm("boosting", Kind.CLASSICAL, partial(predict_by_model, _boosting, BOOSTING, False)),
    Arm("logistic-all", Kind.CLASSICAL, partial(predict_by_model, _logistic, LOGISTIC, True)),
    Arm("svm-all", Kind.CLASSICAL, partial(predict_by_model, _svm, SVMS, True)),
    Arm("boosting-all", Kind.CLASSICAL, partial(predict_by_model, _boosting, BOOSTING, True)),
)
