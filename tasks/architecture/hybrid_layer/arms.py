"""Arms: what fills a layer of a small transformer that is trained from scratch; all train on the same tokens.

The circuit is trained by the statevector layer and then runs on the sampler for the predictions (`circuit`); its twin
predicts with exact expectations. `plain` is the ordinary layer of Llama, which has many times the parameters.
"""

from __future__ import annotations

from functools import partial

from tasks.architecture.hybrid_layer.problem import (
    LEFT_OUT,
    PLAIN,
    Layer,
    Predictions,
    predict,
    train_filled,
)
from tasks.contract import Arm, Bench, Kind


def with_filling(filling: str, problem: Layer, bench: Bench) -> Predictions:
    """Train with the filling, then predict."""
    weights = bench.once(f"weights of {filling}", partial(train_filled, problem, filling, bench))
    return predict(problem, filling, weights)


def with_circuit(filling: str, problem: Layer, bench: Bench) -> Predictions:
    """Train with the simulated circuit, then predict with its expectations estimated from shots; one job."""
    weights = bench.once(f"weights of {filling}", partial(train_filled, problem, filling, bench))
    return predict(problem, filling, weights, bench.sampler)


INCUMBENT: Arm[Layer, Predictions] = Arm("plain", Kind.CLASSICAL, partial(with_filling, PLAIN))
CHALLENGER: Arm[Layer, Predictions] = Arm(
    "circuit", Kind.QUANTUM, partial(with_circuit, "circuit"), twin="circuit-exact"
)
OTHERS: tuple[Arm[Layer, Predictions], ...] = (
    Arm("left-out", Kind.CONTROL, partial(with_filling, LEFT_OUT)),
    Arm("random-features", Kind.CONTROL, partial(with_filling, "random-features")),
    Arm("same-width", Kind.CLASSICAL, partial(with_filling, "same-width")),
    Arm("same-parameters", Kind.CLASSICAL, partial(with_filling, "same-parameters")),
    Arm("circuit-exact", Kind.TWIN, partial(with_filling, "circuit")),
    Arm("reservoir", Kind.QUANTUM, partial(with_circuit, "reservoir"), twin="reservoir-exact"),
    Arm("reservoir-exact", Kind.TWIN, partial(with_filling, "reservoir")),
)
