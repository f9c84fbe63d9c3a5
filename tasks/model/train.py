"""The training loop: Muon for matrices, AdamW for other weights; a resumed run gives bit-identical results.

Used for training from scratch, full fine-tuning, adapters and recovery after pruning. The budget is a number of
tokens, so the result does not depend on the speed of the machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tasks.model.checkpoint import Checkpoints, Progress
from tasks.model.muon import Muon
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads

if TYPE_CHECKING:
    from tasks.model.windows import Windows

Optimizers = dict[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        tokens: budget: number of tokens predicted in training.
        batch: windows per step.
        matrix_lr: learning rate of Muon (two-dimensional weights inside the blocks).
        other_lr: learning rate of AdamW (embeddings, norms, head; every weight where `muon` is off).
        muon: use Muon for the matrices; off for adapters, whose thin factors AdamW trains better.
        weight_decay: decoupled weight decay of matrices.
        warmup: share of the steps with rising learning rate.
        final: learning rate at the end, as a share of the peak; the decay is linear.
        clip: maximum norm of the whole gradient.
        seed: seed of the order of the windows and of dropout.
        threads: number of torch threads.
        evaluate_every: steps between evaluations on held-out windows, 0 = only at the start and the end.
        checkpoint_every: steps between checkpoints, 0 = none.
        keep: number of latest checkpoints that are kept.
    """

    tokens: int
    batch: int = 8
    matrix_lr: float = 0.02
    other_lr: float = 0.03
    muon: bool = True
    weight_decay: float = 0.0
    warmup: float = 0.05
    final: float = 0.05
    clip: float = 1.0
    seed: int = 0
    threads: int = 1
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 2

    def steps(self, windows: Windows) -> int:
        """Return the number of steps of the budget, at least one."""
        return self.reach(windows.context) // self.batch

    def reach(self, context: int) -> int:
        """Return the number of windows of `context` tokens that the budget covers: no more are read from disk."""
        return self.batch * max(1, round(self.tokens / (self.batch * context)))

    def rate(self, step: int, steps: int) -> float:
        """Return the share of the peak learning rate at a step: linear warm-up, then linear decay."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        return 1.0 - (1.0 - self.final) * (step - rising) / max(1, steps - 1 - rising)


@dataclass(frozen=True)
class Run:
    """The result of a training run.

    Attributes:
        history: one row per step or evaluation: `step`, `tokens`, and `loss` (nats per token, training batch),
            `gradient_norm`, `rate`, or `bits_per_byte` (held-out).
        samples: text at each evaluation, by step, where a sampler was given.
        tokens: tokens trained on, the part before a resume included.
        resumed_at: step of the checkpoint that was continued, or None.
        tokens_per_s: throughput of this process, evaluation excluded.
    """

    history: tuple[Mapping[str, float], ...]
    samples: Mapping[int, str]
    tokens: int
    resumed_at: int | None
    tokens_per_s: float


@dataclass
class _Clock:
    seconds: float = 0.0
    tokens: int = 0

    @contextmanager
    def running(self, tokens: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.tokens += tokens


@dataclass(frozen=True)
class Watch:
    """What is observed during training.

    Attributes:
        held_out: windows for the bits per byte at each evaluation.
        sample: function that generates a text with the current model, at each evaluation.
        stop: function that is called after each step with the number of steps done; true ends the training.
        log: function that receives progress messages.
    """

    held_out: Windows | None = None
    sample: Callable[[], str] | None = None
    stop: Callable[[int], bool] | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("ketcycle.model"))


def train(
    model: torch.nn.Module,
    windows: Windows,
    recipe: Recipe,
    watch: Watch | None = None,
    checkpoint: Path | None = None,
) -> Run:
    """Train a model in place, from the last checkpoint of the same recipe and data if there is one.

    Args:
        model: a causal language model of transformers; parameters that need no gradient stay as they are.
        windows: training windows; each epoch reads them in a new seeded order.
        recipe: settings of the training.
        watch: evaluation and logging during training.
        checkpoint: folder of the checkpoints; a killed run continues from them and ends with the same bits as an
            uninterrupted run.

    Raises:
        ValueError: there are no windows.
        FloatingPointError: the loss is no longer finite.
    """
    if not len(windows):
        raise ValueError("training needs at least one window of text, found none")
    watch = watch or Watch()
    steps = recipe.steps(windows)
    optimizers = make_optimizers(model, recipe)
    checkpoints = Checkpoints(checkpoint, fingerprint(model, windows, recipe), recipe.keep) if checkpoint else None
    clock = _Clock()
    with torch_threads(recipe.threads), _torch_seed(recipe.seed):
        progress = checkpoints.restore(model, optimizers) if checkpoints else None
        resumed_at = progress.step if progress else None
        if resumed_at is not None:
            watch.log.info("resuming at step %d of %d from %s", resumed_at, steps, checkpoint)
        progress = progress or Progress()
        for step in range(progress.step, steps):
            if _due(step, recipe.evaluate_every):
                _evaluate(model, watch, progress, step, step * recipe.batch * windows.context)
            batch = batch_rows(len(windows), recipe.batch, step, recipe.seed)
            with clock.running(recipe.batch * windows.context):
                row = _step(model, optimizers, windows.take(batch), recipe, recipe.rate(step, steps))
            progress.step = step + 1
            progress.history.append({"step": step + 1, "tokens": (step + 1) * recipe.batch * windows.context} | row)
            _report(watch.log, progress, steps, clock)
            if checkpoints and (progress.step == steps or _due(progress.step, recipe.checkpoint_every)):
                checkpoints.save(model, optimizers, progress)
            if watch.stop is not None and watch.stop(progress.step):
                break
        tokens = progress.step * recipe.batch * windows.context
        _evaluate(model, watch, progress, progress.step, tokens)
    model.eval()
    return Run(
        history=tuple(progress.history),
        samples=dict(progress.samples),
        tokens=tokens,
        resumed_at=resumed_at,
        tokens_per_s=clock.tokens / clock.seconds if clock.seconds else 0.0,
    )


def make_optimizers(model: torch.nn.Module, recipe: Recipe) -> Optimizers:
    """Give the matrices inside the blocks to Muon and everything else that needs a gradient to AdamW."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = parameter.ndim == 2 and id(parameter) not in embeddings and not name.startswith("lm_head")
        (matrices if inside and recipe.muon else others).append(parameter)
    optimizers: Optimizers = {}
    if matrices:
        optimizers["muon"] = Muon(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay)
    if others:
        optimizers["adamw"] = torch.optim.AdamW(
            others, lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def batch_rows(n: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Return the windows of a step: consecutive pieces of an endless sequence of seeded permutations.

    The step alone determines the position in the data, so nothing else is stored to continue.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // n
    orders = {epoch: np.random.default_rng([seed, int(epoch)]).permutation(n) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % n] for epoch, position in zip(epochs, positions, strict=True)])


def fingerprint(model: torch.nn.Module, windows: Windows, recipe: Recipe) -> str:
    """Return an identifier of a training run made of its recipe, its data and the initial model."""
    settings = {name: value for name, value in asdict(recipe).items() if name not in ("checkpoint_every", "keep")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for given in (windows.tokens, windows.scored, windows.positions):
        if given is not None:
            digest.update(str(given.shape).encode() + given.tobytes())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.requires_grad}".encode())
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _step(
    model: torch.nn.Module, optimizers: Optimizers, batch: Windows, recipe: Recipe, rate: float
) -> dict[str, float]:
    model.train()
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate
        optimizer.zero_grad(set_to_none=True)
    logits = model(**batch.inputs(), use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), batch.labels().flatten())
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the training loss is {float(loss.detach())}; "
            f"lower the learning rates (now {recipe.matrix_lr} and {recipe.other_lr})"
        )
    loss.backward()
    trained = [p for optimizer in optimizers.values() for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip)
    for optimizer in optimizers.values():
        optimizer.step()
    return {"loss": float(loss.detach()), "gradient_norm": float(norm), "rate": rate}


def _due(step: int, every: int) -> bool:
    return step == 0 or (every > 0 and step % every == 0)


def _evaluate(model: torch.nn.Module, watch: Watch, progress: Progress, step: int, tokens: int) -> None:
    if any(row["step"] == step and "bits_per_byte" in row for row in progress.history):
        return  # evaluated before the interruption
    if watch.held_out is not None:
        value = bits_per_byte(model, watch.held_out)
        progress.history.append({"step": step, "tokens": tokens, "bits_per_byte": value})
        watch.log.info("step %d: held-out %.3f bits per byte", step, value)
    if watch.sample is not None:
        progress.samples[step] = watch.sample()


def _report(log: logging.Logger, progress: Progress, steps: int, clock: _Clock) -> None:
    if progress.step % 10 == 0 or progress.step == steps:
        row = progress.history[-1]
        speed = clock.tokens / clock.seconds if clock.seconds else 0.0
        bar = {"bar": ("training steps", progress.step, steps)}
        log.info("step %d/%d: loss %.3f, %.0f tokens/s", progress.step, steps, row["loss"], speed, extra=bar)


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
