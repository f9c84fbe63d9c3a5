"""The training loop: Muon for matrices, AdamW for other weights; a resumed run gives bit-identical results.

Used for training from scratch, full fine-tuning, adapters and recovery after pruning, by one process or by several
that share every batch (`tasks.model.training.peers`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import dropout

from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.training.checkpoint import Checkpoints, Place, Progress
from tasks.model.training.device import describe, find_device, placed
from tasks.model.training.loss import next_token_loss
from tasks.model.training.muon import Muon
from tasks.model.training.peers import Alone, Peers
from tasks.model.training.precision import fp32_attention, use_bf16

if TYPE_CHECKING:
    from tasks.model.windows import TrainingText, Windows

TIMED = 5  # steps after which a budget in time becomes a number of steps; the first one warms up and does not count
AGAIN = 4  # times as many steps after which that number is corrected, until half of it is done
SAID_S = 2.0  # seconds between two messages

Optimizers = dict[str, torch.optim.Optimizer]
Row = dict[str, float]


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
        tokens_per_cpu_s: the same for each CPU second of this process.
        bf16: whether matrix products were made in bfloat16.
        device: name of the card, or `cpu`.
        stopped: why training ended before its budget, or an empty text.
    """

    history: tuple[Mapping[str, float], ...]
    samples: Mapping[int, str]
    tokens: int
    resumed_at: int | None
    tokens_per_s: float
    tokens_per_cpu_s: float = 0.0
    bf16: bool = False
    device: str = "cpu"
    stopped: str = ""


@dataclass(frozen=True)
class Watch:
    """Evaluation and reporting during training.

    Attributes:
        held_out: windows for the bits per byte at each evaluation.
        sample: function that generates a text with the current model, at each evaluation.
        stop: is called after each step with the number of steps done; true ends the training.
        log: receives progress messages.
        publish: receives the new rows of the training curve every few seconds.
        joules_per_cpu_s: modelled joules of a CPU second, for the watts in messages; 0 = not known.
    """

    held_out: Windows | None = None
    sample: Callable[[], str] | None = None
    stop: Callable[[int], bool] | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("ketcycle.model"))
    publish: Callable[[Sequence[Row]], None] | None = None
    joules_per_cpu_s: float = 0.0


@dataclass
class _Clock:
    """Seconds, CPU seconds and tokens of the steps of this process, and CPU seconds of its evaluations."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    tokens: int = 0
    steps: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    said_at: float = 0.0
    published: int = 0

    @contextmanager
    def step(self, tokens: int) -> Iterator[None]:
        start, cpu = time.perf_counter(), time.process_time()
        yield
        self.steps.append(time.process_time() - cpu)
        self.seconds += time.perf_counter() - start
        self.cpu_s += self.steps[-1]
        self.tokens += tokens

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        cpu = time.process_time()
        yield
        self.evaluations.append(time.process_time() - cpu)

    def affordable(self, limit_s: float, recipe: Recipe) -> int:
        """Return how many steps, those done included, CPU seconds pay for."""
        evaluation_s = max(self.evaluations, default=0.0)
        latest = self.steps[max(1, len(self.steps) // AGAIN) :]
        step_s = float(np.median(latest)) + evaluation_s / (recipe.evaluate_every or np.inf)
        spent_s = sum(self.steps) + sum(self.evaluations) + evaluation_s  # one evaluation comes at the end
        return len(self.steps) + max(0, int((limit_s - spent_s) / step_s))


def train(
    model: torch.nn.Module,
    windows: TrainingText,
    recipe: Recipe,
    watch: Watch | None = None,
    checkpoint: Place | None = None,
    peers: Peers | None = None,
) -> Run:
    """Train a model in place, from the last checkpoint of the same recipe and data if there is one.

    Args:
        model: a causal language model of transformers; parameters that need no gradient stay as they are.
        windows: training windows; each epoch reads them in a new seeded order.
        recipe: settings of the training.
        watch: evaluation and reporting during training.
        checkpoint: where checkpoints are kept; a killed run continues from them and ends with the same bits as an
            uninterrupted run.
        peers: the processes that share each batch; None = this one alone.

    Raises:
        ValueError: there are no windows, or no card where the recipe asks for one.
        FloatingPointError: the loss is no longer finite.
    """
    if not len(windows):
        raise ValueError("training needs at least one window of text, found none")
    device = find_device(recipe.device)
    checkpoints = Checkpoints(checkpoint, fingerprint(model, windows, recipe), recipe.keep) if checkpoint else None
    with ExitStack() as stack:
        stack.enter_context(placed(model, device))
        loop = _Loop(model, windows, recipe, watch or Watch(), peers or Alone(), device)
        stack.enter_context(torch_threads(recipe.threads))
        stack.enter_context(_torch_seed(recipe.seed))
        stack.enter_context(fp32_attention(model, loop.bf16 and device.type == "cpu"))
        stack.enter_context(_dropout(model, recipe.dropout))
        return loop.run(checkpoints)


class _Loop:
    """One training run."""

    def __init__(
        self,
        model: torch.nn.Module,
        windows: TrainingText,
        recipe: Recipe,
        watch: Watch,
        peers: Peers,
        device: torch.device,
    ) -> None:
        self.model, self.windows, self.recipe, self.watch, self.peers = model, windows, recipe, watch, peers
        self.device, self.bf16 = device, use_bf16(recipe.precision, device.type)
        alike = peers if peers.every == 1 else None
        self.optimizers = make_optimizers(model, recipe, bf16=self.bf16, peers=alike)
        self.trained = [p for o in self.optimizers.values() for group in o.param_groups for p in group["params"]]
        self.clock, self.progress = _Clock(), Progress()
        self.most = recipe.most_steps(windows.context)
        self.limit_s = None if recipe.core_minutes is None else 60 * recipe.core_minutes

    @property
    def steps(self) -> int:
        """Steps of the whole run as far as known."""
        return self.progress.steps or self.most

    def run(self, checkpoints: Checkpoints | None) -> Run:
        recipe, stopped = self.recipe, ""
        resumed_at: int | None = None
        if checkpoints and (found := checkpoints.restore(self.model, self.optimizers)):
            self.progress, resumed_at = found, found.step
            self.clock.published = len(found.history)
            self.watch.log.info("resuming at step %d of %d", found.step, self.steps)
        timed = 0 if self.limit_s is None or self.progress.steps else TIMED
        while self.progress.step < self.steps:
            if _due(self.progress.step, recipe.evaluate_every):
                self.evaluate()
                if stopped := self.hopeless():
                    break
            self.step()
            if len(self.clock.steps) == timed and (timed == TIMED or 2 * self.progress.step <= self.steps):
                self.progress.steps = max(self.progress.step, min(self.most, self.affordable_steps()))
                timed *= AGAIN
            self.report()
            at_end = self.progress.step == self.steps
            if checkpoints and not self.peers.rank and (at_end or _due(self.progress.step, recipe.checkpoint_every)):
                checkpoints.save(self.model, self.optimizers, self.progress)
            if self.watch.stop is not None and self.watch.stop(self.progress.step):
                stopped = "stopped from outside"
                break
        self.evaluate()
        self.report(last=True)
        self.model.eval()
        return Run(
            history=tuple(self.progress.history),
            samples=dict(self.progress.samples),
            tokens=self.progress.step * recipe.batch * self.windows.context,
            resumed_at=resumed_at,
            tokens_per_s=self.clock.tokens / self.clock.seconds if self.clock.seconds else 0.0,
            tokens_per_cpu_s=self.clock.tokens / self.clock.cpu_s if self.clock.cpu_s else 0.0,
            bf16=self.bf16,
            device=describe(self.device),
            stopped=stopped,
        )

    def step(self) -> None:
        recipe, progress = self.recipe, self.progress
        numbers = batch_rows(len(self.windows), recipe.batch, progress.step, recipe.seed)
        tokens = recipe.batch * self.windows.context
        with self.clock.step(tokens):
            rate = recipe.rate(progress.step, self.steps)
            row = _step(self, self.windows.take(numbers), rate)
        progress.step += 1
        progress.history.append({"step": progress.step, "tokens": progress.step * tokens} | row)

    def affordable_steps(self) -> int:
        """Return the number of steps that the budget in time covers, the same in every process."""
        assert self.limit_s is not None  # noqa: S101  (for mypy)
        mine = torch.tensor([float(self.clock.affordable(self.limit_s, self.recipe))])
        self.peers.sum([mine])
        return int(mine.item() / self.peers.world)

    def evaluate(self) -> None:
        progress, step = self.progress, self.progress.step
        if self.peers.rank or any(row["step"] == step and "bits_per_byte" in row for row in progress.history):
            return  # another process evaluates, or it was done before the interruption
        with self.clock.evaluation():
            if self.watch.held_out is not None:
                value = bits_per_byte(self.model, self.watch.held_out)
                tokens = step * self.recipe.batch * self.windows.context
                progress.history.append({"step": step, "tokens": tokens, "bits_per_byte": value})
                self.watch.log.info("step %d: held-out %.3f bits per byte", step, value)
            if self.watch.sample is not None:
                with placed(self.model, torch.device("cpu")):
                    progress.samples[step] = self.watch.sample()

    def hopeless(self) -> str:
        """Return why training ends early: the last `patience` evaluations brought no new lowest value."""
        values = [row["bits_per_byte"] for row in self.progress.history if "bits_per_byte" in row]
        patience, stopped = self.recipe.patience, ""
        if patience and len(values) > patience and min(values[-patience:]) >= min(values[:-patience]):
            stopped = f"no new lowest bits per byte in {patience} evaluations"
        flag = torch.tensor([float(bool(stopped))])
        if patience:
            self.peers.sum([flag])
        return stopped or ("process 0 stopped" if flag.item() else "")

    def report(self, *, last: bool = False) -> None:
        """Log loss, speed, power and time left, and publish the new rows, every few seconds."""
        progress, clock, now = self.progress, self.clock, time.monotonic()
        if self.peers.rank or not clock.steps or (now - clock.said_at < SAID_S and not last):
            return
        loss = next(row["loss"] for row in reversed(progress.history) if "loss" in row)
        watts = self.watch.joules_per_cpu_s * clock.cpu_s / clock.seconds
        self.watch.log.info(
            "step %d/%d: loss %.3f, %.0f tokens/s, %s%.0f s left",
            progress.step,
            self.steps,
            loss,
            clock.tokens / clock.seconds,
            f"{watts:.1f} W (modelled), " if watts else "",
            (self.steps - progress.step) * clock.seconds / len(clock.steps),
            extra={"bar": ("training steps", progress.step, self.steps)},
        )
        if self.watch.publish is not None:
            self.watch.publish(progress.history[clock.published :])
        clock.said_at, clock.published = now, len(progress.history)


def make_optimizers(
    model: torch.nn.Module, recipe: Recipe, *, bf16: bool = False, peers: Peers | None = None
) -> Optimizers:
    """Give the matrices inside the blocks to Muon and everything else that needs a gradient to AdamW.

    Args:
        model: its parameters are trained where they need a gradient.
        recipe: rates and weight decay.
        bf16: Muon iterates in bfloat16.
        peers: processes that have the same gradients and divide Muon's matrices among them.
    """
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
        optimizers["muon"] = Muon(
            matrices, bf16=bf16, peers=peers, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay
        )
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


def fingerprint(model: torch.nn.Module, windows: TrainingText, recipe: Recipe) -> str:
    """Return an identifier of a training run made of its recipe, its data and the initial model."""
    settings = {name: value for name, value in asdict(recipe).items() if name not in ("checkpoint_every", "keep")}
    settings["device"] = find_device(recipe.device).type
    settings["precision"] = use_bf16(recipe.precision, settings["device"])
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(windows.digest().encode())
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.requires_grad}".encode())
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _step(loop: _Loop, batch: Windows, rate: float) -> Row:
    """Make one optimiser step on the parts of a batch that are this process' share."""
    recipe, peers = loop.recipe, loop.peers
    loop.model.train()
    for optimizer in loop.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate
        optimizer.zero_grad(set_to_none=True)
    if recipe.separator is not None:
        batch = batch.split_at(recipe.separator)
    parts = [batch.take(slice(first, None, recipe.parts)) for first in range(recipe.parts)][peers.rank :: peers.world]
    scored = sum(part.n_scored for part in parts) if peers.every > 1 else batch.n_scored
    total = torch.zeros(1, device=loop.device)
    for part in parts:
        loss = next_token_loss(loop.model, part, bf16=loop.bf16) * (part.n_scored / scored)
        loss.backward()
        total += loss.detach()
    if peers.every == 1:
        peers.sum([total, *(p.grad for p in loop.trained if p.grad is not None)])
    if not torch.isfinite(total):
        raise FloatingPointError(
            f"the training loss is {total.item()}; "
            f"lower the learning rates (now {recipe.matrix_lr} and {recipe.other_lr})"
        )
    norm = torch.nn.utils.clip_grad_norm_(loop.trained, recipe.clip)
    for optimizer in loop.optimizers.values():
        optimizer.step()
    if peers.every > 1 and ((loop.progress.step + 1) % peers.every == 0 or loop.progress.step + 1 == loop.steps):
        with torch.no_grad():
            weights = [p.data for p in loop.trained]
            peers.sum(weights)
            for weight in weights:
                weight /= peers.world
    return {"loss": total.item(), "gradient_norm": float(norm), "rate": rate}


def _due(step: int, every: int) -> bool:
    return step == 0 or (every > 0 and step % every == 0)


@contextmanager
def _dropout(model: torch.nn.Module, share: float) -> Iterator[None]:
    """Drop a share of the outputs of every attention and feed-forward part while the model trains."""
    parts = [m for name, m in model.named_modules() if name.rpartition(".")[2] in ("self_attn", "mlp")] if share else []

    def drop(module: torch.nn.Module, _: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (dropout(output[0], share, module.training), *output[1:])
        return dropout(output, share, module.training)

    handles = [part.register_forward_hook(drop) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
