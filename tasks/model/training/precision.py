"""bfloat16 for matrix products where the processor has instructions for it; everything else stays fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tasks.model.recipe import Precision
from tasks.model.training.loss import find_llama

FP32_ATTENTION = "fp32_attention"


def use_bf16(precision: Precision, device: str = "cpu") -> bool:
    """Return whether matrix products are made in bfloat16 on a type of device.

    A processor without AVX512-BF16 or AMX emulates bfloat16: training was measured at a tenth of the speed of fp32.
    """
    if precision == "auto" and device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if precision == "auto":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return precision == "bf16"


@contextmanager
def fp32_attention(model: torch.nn.Module, bf16: bool) -> Iterator[None]:
    """Keep the attention of a Llama model in fp32 inside the block if its other products are made in bfloat16.

    On a CPU the backward pass of attention alone is slower in bfloat16 than that of all other layers together.
    """
    if not bf16:
        yield
        return
    llama = find_llama(model)
    before = str(llama.config._attn_implementation) if llama else ""  # noqa: SLF001  (there is no public way to read it)
    if llama:
        register_fp32_attention()
        llama.set_attn_implementation(FP32_ATTENTION)
    try:
        yield
    finally:
        if llama:
            llama.set_attn_implementation(before)


def _fp32_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of (batch, heads, tokens, width) inputs as (batch, tokens, heads, width), in fp32."""
    with torch.autocast("cpu", enabled=False):
        mixed = scaled_dot_product_attention(
            query.float(),
            key.float(),
            value.float(),
            attn_mask=attention_mask,
            dropout_p=dropout if module.training else 0.0,
            is_causal=attention_mask is None,
            scale=scaling,
            enable_gqa=query.size(1) != key.size(1),
        )
    return mixed.transpose(1, 2).contiguous(), None


def register_fp32_attention() -> None:
    """Make `FP32_ATTENTION` known to transformers, with the masks of its scaled dot product."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(FP32_ATTENTION, _fp32_attention)
    AttentionMaskInterface.register(FP32_ATTENTION, sdpa_mask)
