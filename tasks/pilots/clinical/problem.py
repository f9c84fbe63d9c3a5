"""The problem of `clinical`: patients whose outcome is known, and others for whom it is to be predicted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.preprocessing import normalize

from tasks.quantum.gain import geometric_difference
from tasks.quantum.kernels import exact_fidelities

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """The predicted label of each tested patient, and a score by which they can be ranked."""

    labels: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Clinical:
    """Patients of one table.

    Attributes:
        train: (m, d) values of the patients whose outcome is known; a missing value is nan.
        labels: their outcomes, 0 or 1.
        test: (t, d) values of the others.
        truth: their outcomes.
        features: number of features that circuits see, the best by the F test among `train`.
        shots: samples of each circuit.
        circuits: circuits above which an arm is not simulated.

    Raises:
        ValueError: shapes that do not match, or an outcome that no row of `train` or `test` has.
    """

    train: FloatArray
    labels: NDArray[np.int64]
    test: FloatArray
    truth: NDArray[np.int64]
    features: int
    shots: int = 1024
    circuits: int = 2000

    def __post_init__(self) -> None:
        for name, rows, labels in (("train", self.train, self.labels), ("test", self.test, self.truth)):
            if len(rows) != len(labels) or set(labels.tolist()) != {0, 1}:
                raise ValueError(f"{name}: {len(rows)} rows need as many outcomes, both 0 and 1, not {len(labels)}")
        if not 1 <= self.features <= self.train.shape[1] or self.train.shape[1] != self.test.shape[1]:
            raise ValueError(f"1 to {self.train.shape[1]} features are possible, not {self.features}")

    @cached_property
    def filled(self) -> tuple[FloatArray, FloatArray]:
        """All features of both, missing values replaced by the median of `train`."""
        median = np.nanmedian(self.train, axis=0)
        return np.where(np.isnan(self.train), median, self.train), np.where(np.isnan(self.test), median, self.test)

    @cached_property
    def selected(self) -> tuple[FloatArray, FloatArray]:
        """The selected features of both."""
        train, test = self.filled
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a feature without variance has no F and is never selected
            chosen = SelectKBest(f_classif, k=self.features).fit(train, self.labels)
        kept = np.argsort(-np.nan_to_num(chosen.scores_, nan=-1.0), kind="stable")[: self.features]
        return train[:, np.sort(kept)], test[:, np.sort(kept)]

    @cached_property
    def encoded(self) -> tuple[FloatArray, FloatArray]:
        """What is loaded: columns, then rows scaled to unit length, train and test each on their own, as published."""
        scaled = [normalize(normalize(rows, axis=0), axis=1) for rows in self.selected]
        for rows in scaled:
            rows[~rows.any(axis=1), 0] = 1e-9  # a row of zeros is no state
        return scaled[0], scaled[1]

    @cached_property
    def differences(self) -> tuple[float, float]:
        """Geometric difference of the fidelity kernel against the linear and the Gaussian one on the same features."""
        rows = self.encoded[0]
        quantum = exact_fidelities(rows, rows)
        spread = self.selected[0]
        spread = (spread - spread.mean(axis=0)) / np.maximum(spread.std(axis=0), 1e-12)
        return geometric_difference(quantum, linear_kernel(rows)), geometric_difference(quantum, rbf_kernel(spread))


def quality(problem: Clinical, solution: Predictions) -> tuple[float, ...]:
    """Return the area under the ROC curve of the scores."""
    return (float(roc_auc_score(problem.truth, solution.scores)),)


def measures(problem: Clinical, solution: Predictions) -> dict[str, tuple[float, ...]]:
    """Return the published figure, the area under the curve of hard labels, and the geometric differences.

    The last one is in units of the square root of the number of rows, the scale at which a gain is possible.
    """
    linear, gaussian = problem.differences
    return {
        "auc_labels": (float(balanced_accuracy_score(problem.truth, solution.labels)),),
        "difference_linear": (linear,),
        "difference_gaussian": (gaussian,),
        "difference_share": (gaussian / len(problem.labels) ** 0.5,),
    }
