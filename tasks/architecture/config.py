"""Shape of a Llama-style model from its depth, with its weights, FLOPs and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

HEAD_WIDTH = 32
FFN_MULTIPLE = 128  # so that the feed-forward units divide into equal groups of many sizes
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022 (Chinchilla), compute-optimal


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Attributes:
        depth: blocks.
        width: hidden size.
        heads: attention heads in each block.
        ffn: feed-forward units in each block.
        vocab_size: number of tokens in the vocabulary.
        context: context length in tokens.
    """

    depth: int
    width: int
    heads: int
    ffn: int
    vocab_size: int
    context: int

    @property
    def block_parameters(self) -> int:
        """Weights in all blocks: four attention and three feed-forward matrices and two norms in each."""
        return self.depth * (4 * self.width**2 + 3 * self.width * self.ffn + 2 * self.width)

    @property
    def parameters(self) -> int:
        """Number of all weights; the embedding is also the output head."""
        return self.block_parameters + self.width + self.vocab_size * self.width

    @property
    def forward_flops_per_token(self) -> int:
        """Floating-point operations of one token at full context: 2 per weight used, and attention scores.

        Attention scores and their use are 4 * context * width in each block (Kaplan et al. 2020, table 1, counts the
        causal half; the kernels here compute the whole square).
        """
        matrices = self.block_parameters - 2 * self.width * self.depth + self.vocab_size * self.width
        return 2 * matrices + 4 * self.depth * self.context * self.width

    @property
    def training_flops_per_token(self) -> int:
        """Three times the forward pass: the backward pass costs two."""
        return 3 * self.forward_flops_per_token

    def training_bytes(self, batch: int) -> int:
        """Estimate the memory of training in fp32: weights, gradients, optimiser states, activations, logits.

        Activations follow Korthikanti et al. 2022, eq. 1 (34 s b h bytes for each block with 16-bit values, so about
        twice in fp32), with the attention scores not stored.
        """
        matrices = self.block_parameters - 2 * self.width * self.depth
        states = matrices + 2 * (self.parameters - matrices)  # one momentum under Muon, two moments under AdamW
        tokens = batch * self.context
        activations = 2 * 34 * tokens * self.width * self.depth
        logits = 3 * 4 * tokens * self.vocab_size
        return 4 * (2 * self.parameters + states) + activations + logits


def shape_of_dial(depth: int, vocab_size: int, context: int) -> Shape:
    """Return the shape for a depth: width 32 for each block, heads of width 32, feed-forward 8/3 of the width."""
    width = HEAD_WIDTH * depth
    return Shape(depth, width, depth, ffn_of_width(width), vocab_size, context)


def widened(shape: Shape) -> Shape:
    """Return half the blocks, each 1.5 times as wide, which have about as many weights; one block stays as it is."""
    if shape.depth < 2:
        return shape
    width = HEAD_WIDTH * round(1.5 * shape.width / HEAD_WIDTH)
    return Shape(shape.depth // 2, width, width // HEAD_WIDTH, ffn_of_width(width), shape.vocab_size, shape.context)


def ffn_of_width(width: int) -> int:
    """Return 8/3 of the width, rounded up to whole groups."""
    return -(-8 * width // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE


def build_model(shape: Shape, end_of_text: int, seed: int) -> LlamaForCausalLM:
    """Return a model with weights drawn from the seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
