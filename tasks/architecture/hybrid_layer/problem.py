"""A small transformer with one layer in question: training with each filling, and what it predicts of unseen text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tasks.architecture.config import Shape, build_model
from tasks.architecture.hybrid_layer.fillings import FILLINGS, Bottleneck, Nothing, Sampled, fill, of_place
from tasks.model.recipe import Recipe
from tasks.model.training.loop import Watch, train
from tasks.model.windows import Windows
from tasks.quantum.layer import CircuitLayer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from qiskit.primitives import BaseSamplerV2

    from tasks.contract import Bench, Budget

MATRIX_LR, OTHER_LR = 0.05, 0.03  # of all fillings; small models want a larger rate than the model of a run

Weights = Mapping[str, "NDArray[np.float32]"]
PLAIN, LEFT_OUT = "plain", "left-out"


@dataclass(frozen=True)
class Layer:
    """Choose what fills one layer of a small model, trained from scratch on a number of tokens.

    Attributes:
        training: windows that are trained on.
        test: windows whose next tokens are predicted; the contexts are given, the loss is the score.
        vocab_size: number of tokens in the vocabulary.
        place: `feed-forward` or `attention`, of the last block.
        width: numbers between the two linear maps, qubits of the circuit.
        layers: input blocks of the circuit, an even number so that a classical layer of as many parameters exists.
        shots: samples of each circuit in inference.
        hidden: hidden size of the model, which has two blocks.
        tokens: training tokens.
        batch: windows per training step.
        seed: seed of weights and order.
        budget: limits of each arm.
    """

    training: Windows
    test: Windows
    vocab_size: int
    place: str
    width: int
    layers: int
    shots: int
    hidden: int
    tokens: int
    batch: int
    seed: int
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if self.layers < 2 or self.layers % 2:
            raise ValueError(f"layers ({self.layers}) should be an even number, at least 2")


@dataclass(frozen=True)
class Predictions:
    """What a trained model predicts of the test windows.

    Attributes:
        bits: (windows, context), surprisal of every token in bits.
        parameters: weights of the model that were trained.
        layer_parameters: those of them in the layer in question.
    """

    bits: NDArray[np.float32] = field(repr=False)
    parameters: int
    layer_parameters: int


def train_filled(problem: Layer, filling: str, bench: Bench) -> Weights:
    """Train the model with a filling and return its weights by name."""
    model = make_model(problem, filling)
    recipe = Recipe(
        tokens=problem.tokens,
        batch=problem.batch,
        matrix_lr=MATRIX_LR,
        other_lr=OTHER_LR,
        seed=problem.seed,
    )
    step = problem.batch * problem.training.context

    def spent(_: int) -> bool:
        bench.spend(tokens=step)
        return False

    train(model, problem.training, recipe, Watch(stop=spent))
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def predict(problem: Layer, filling: str, weights: Weights, sampler: BaseSamplerV2 | None = None) -> Predictions:
    """Return the surprisal of the test tokens.

    Args:
        problem: the problem.
        filling: what fills the layer.
        weights: trained weights.
        sampler: if given, the expectations of the circuit are estimated from shots instead of computed; one job.
    """
    model = make_model(problem, filling)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    inside = of_place(model, problem.place)
    layer_parameters = sum(p.numel() for p in inside.parameters() if p.requires_grad)
    if sampler is not None and isinstance(inside, Bottleneck) and isinstance(inside.function, CircuitLayer):
        inside.function = Sampled(inside.function, sampler, problem.shots)
    tokens = torch.from_numpy(problem.test.tokens)
    with torch.inference_mode():
        logits = model.eval()(input_ids=tokens[:, :-1], use_cache=False).logits
        nats = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    bits = (nats.view(tokens.shape[0], -1) / np.log(2)).numpy().astype(np.float32)
    return Predictions(bits, trained, layer_parameters)


def make_model(problem: Layer, filling: str) -> torch.nn.Module:
    """Return the untrained model; everything outside the layer has the same weights whatever fills it."""
    hidden = problem.hidden
    shape = Shape(2, hidden, max(1, hidden // 16), 3 * hidden, problem.vocab_size, problem.training.context)
    model: torch.nn.Module = build_model(shape, 0, problem.seed)
    if filling == PLAIN:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(problem.seed)
        module: torch.nn.Module = (
            Nothing()
            if filling == LEFT_OUT
            else Bottleneck(hidden, problem.width, FILLINGS[filling](problem.width, problem.layers))
        )
    fill(model, problem.place, module)
    return model


def quality(problem: Layer, found: Predictions) -> tuple[float, ...]:
    """Return minus the bits per byte on the test windows."""
    return (-float(found.bits.sum(dtype=np.float64)) / float(problem.test.n_bytes.sum()),)
