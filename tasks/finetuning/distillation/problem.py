"""The problem of `distillation`: a teacher, the shape of a student, text, and an amount of arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.model.causal import load_model
from tasks.model.score import nll
from tasks.model.small import new_model
from tasks.model.threads import torch_threads
from tasks.model.windows import Windows

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Distillation:
    """A student to be trained.

    Attributes:
        teacher: folder of a Llama model.
        width: of the student; its feed-forward part and heads keep the teacher's proportions.
        depth: blocks of the student.
        train: training windows.
        test: windows whose loss is the quality.
        tokens: tokens that a student without a teacher trains on; others stop earlier, for reading the teacher counts.
        batch: windows of a step.
        draws: tokens drawn from the teacher for each position.
        shots: samples of each circuit.
        threads: torch threads.
    """

    teacher: Path
    width: int
    depth: int
    train: Windows
    test: Windows
    tokens: int
    batch: int = 8
    draws: int = 12
    shots: int = 256
    threads: int = 1

    def steps(self, teacher_tokens: int = 0, config: LlamaConfig | None = None) -> int:
        """Return the training steps that are left after the teacher has read some tokens.

        A forward pass counts 2 operations for each weight and token, a training step 6.

        Args:
            teacher_tokens: tokens that the teacher has read.
            config: of the model that is trained, None = the student's.
        """
        left = self._arithmetic - 2 * _weights(_config(self.teacher)) * teacher_tokens
        return max(1, left // (6 * _weights(config or self.config) * self.batch * self.train.context))

    def taught(self, share: float) -> int:
        """Return how many windows the teacher reads for a share of the arithmetic: a batch at least, all at most."""
        paid = share * self._arithmetic / (2 * _weights(_config(self.teacher)) * self.train.context)
        return min(len(self.train), max(self.batch, int(paid)))

    @property
    def _arithmetic(self) -> int:
        return 6 * _weights(self.config) * self.tokens

    @property
    def config(self) -> LlamaConfig:
        """Configuration of the student: heads about as wide as the teacher's, of an even width that fits."""
        config = _config(self.teacher)
        most = config.num_attention_heads * self.width // config.hidden_size
        heads = next((count for count in range(most, 0, -1) if self.width % (2 * count) == 0), 1)
        values = config.to_dict() | {
            "hidden_size": self.width,
            "intermediate_size": max(1, config.intermediate_size * self.width // config.hidden_size),
            "num_hidden_layers": self.depth,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": self.width // heads,
        }
        return LlamaConfig(**values)

    def student(self, seed: int) -> LlamaForCausalLM:
        """Return the student with random weights."""
        return new_model(self.config, seed)


@dataclass(frozen=True, eq=False)
class Student:
    """Weights of a trained student by name; the number of its blocks follows from them."""

    weights: Mapping[str, Floats]
    depth: int
    width: int


def restored(problem: Distillation, solution: Student) -> Any:
    """Return the student as a model."""
    config = _config(problem.teacher) if solution.width != problem.width else problem.config
    config.num_hidden_layers = solution.depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: solution.depth]
    model: Any = LlamaForCausalLM(config)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in solution.weights.items()})
    model.train(False)
    return model


def quality(problem: Distillation, solution: Student) -> tuple[float, ...]:
    """Return minus the bits per byte of the test text."""
    with torch_threads(problem.threads):
        nats = nll(restored(problem, solution), problem.test).sum()
    return (-float(nats / (math.log(2) * problem.test.n_bytes.sum())),)


def load_teacher(problem: Distillation) -> Any:
    """Return the teacher."""
    return load_model(problem.teacher)


def _config(folder: Path) -> LlamaConfig:
    return LlamaConfig.from_pretrained(folder, local_files_only=True)


def _weights(config: LlamaConfig) -> int:
    """Return the weights that take part in the arithmetic of a token: those of the blocks and of the output."""
    width, ffn = config.hidden_size, config.intermediate_size
    return int(config.num_hidden_layers * (4 * width * width + 3 * width * ffn) + config.vocab_size * width)
