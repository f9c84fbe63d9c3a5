"""The arithmetic of a Llama for a few tokens at a time, compiled for the processor that it runs on.

At a hundred million weights and less, a token costs a framework mostly what it costs to call its operations, and its
matrix products are made for many rows. Here all blocks are one compiled function: weights are read once for up to four
tokens, which are texts side by side or the tokens of a prompt. Weights are fp32, bfloat16 (the upper halves of fp32
numbers, as uint16) or INT8 with a scale for each output; sums are fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import float32

F = TypeVar("F", bound=Callable[..., Any])
# Sums may be reordered, which lets them use wide registers; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}
STRIP = 64  # outputs that are computed together


def _compiled(function: F) -> F:
    """Compile without the interpreter's lock; kept on disk for the next process."""
    return cast("F", numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")(function))


def _inlined(function: F) -> F:
    return cast("F", numba.njit(inline="always", fastmath=FAST, error_model="numpy")(function))


def _wide(weight: Any) -> Any:
    """Return a weight as fp32."""
    raise NotImplementedError


@numba.extending.overload(_wide, inline="always")
def _wide_of(weight: Any) -> Any:
    def upper_half(weight: Any) -> Any:
        return np.uint32(np.uint32(weight) << np.uint32(16)).view(np.float32)

    def number(weight: Any) -> Any:
        return float32(weight)

    return upper_half if weight == numba.types.uint16 else number


@_compiled
def project(x: Any, weights: Any, scales: Any, out: Any) -> None:
    """Write x @ weights.T * scales into `out`.

    Args:
        x: (tokens, width) fp32.
        weights: (outputs, width).
        scales: (outputs,) fp32, or of length 0 where all are 1.
        out: (tokens, outputs) fp32.
    """
    tokens, width = x.shape
    outputs = len(weights)
    part = np.empty((4, STRIP), np.float32)
    for first in range(0, outputs, STRIP):
        some = min(STRIP, outputs - first)
        token = 0
        while token < tokens:
            if token + 4 <= tokens:
                x0, x1, x2, x3 = x[token], x[token + 1], x[token + 2], x[token + 3]
                at = 0
                while at + 4 <= some:
                    w0, w1 = weights[first + at], weights[first + at + 1]
                    w2, w3 = weights[first + at + 2], weights[first + at + 3]
                    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = float32(0)
                    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = float32(0)
                    for j in range(width):
                        u0, u1, u2, u3 = _wide(w0[j]), _wide(w1[j]), _wide(w2[j]), _wide(w3[j])
                        v0, v1, v2, v3 = x0[j], x1[j], x2[j], x3[j]
                        a0 += u0 * v0
                        a1 += u0 * v1
                        a2 += u0 * v2
                        a3 += u0 * v3
                        b0 += u1 * v0
                        b1 += u1 * v1
                        b2 += u1 * v2
                        b3 += u1 * v3
                        c0 += u2 * v0
                        c1 += u2 * v1
                        c2 += u2 * v2
                        c3 += u2 * v3
                        d0 += u3 * v0
                        d1 += u3 * v1
                        d2 += u3 * v2
                        d3 += u3 * v3
                    part[0, at], part[1, at], part[2, at], part[3, at] = a0, a1, a2, a3
                    part[0, at + 1], part[1, at + 1], part[2, at + 1], part[3, at + 1] = b0, b1, b2, b3
                    part[0, at + 2], part[1, at + 2], part[2, at + 2], part[3, at + 2] = c0, c1, c2, c3
                    part[0, at + 3], part[1, at + 3], part[2, at + 3], part[3, at + 3] = d0, d1, d2, d3
                    at += 4
                while at < some:
                    w0 = weights[first + at]
                    a0 = a1 = a2 = a3 = float32(0)
                    for j in range(width):
                        u0 = _wide(w0[j])
                        a0 += u0 * x0[j]
                        a1 += u0 * x1[j]
                        a2 += u0 * x2[j]
                        a3 += u0 * x3[j]
                    part[0, at], part[1, at], part[2, at], part[3, at] = a0, a1, a2, a3
                    at += 1
                step = 4
            else:
                x0 = x[token]
                at = 0
                while at + 4 <= some:
                    w0, w1 = weights[first + at], weights[first + at + 1]
                    w2, w3 = weights[first + at + 2], weights[first + at + 3]
                    a0 = a1 = a2 = a3 = float32(0)
                    for j in range(width):
                        v0 = x0[j]
                        a0 += _wide(w0[j]) * v0
                        a1 += _wide(w1[j]) * v0
                        a2 += _wide(w2[j]) * v0
                        a3 += _wide(w3[j]) * v0
                    part[0, at], part[0, at + 1], part[0, at + 2], part[0, at + 3] = a0, a1, a2, a3
                    at += 4
                while at < some:
                    w0 = weights[first + at]
                    a0 = float32(0)
                    for j in range(width):
                        a0 += _wide(w0[j]) * x0[j]
                    part[0, at] = a0
                    at += 1
                step = 1
            for r in range(step):
                for i in range(some):
                    out[token + r, first + i] = part[r, i]
            token += step
    if len(scales):
        for token in range(tokens):
            for i in range(outputs):
                out[token, i] *= scales[i]


@_compiled
def normed(x: Any, weight: Any, epsilon: float, out: Any) -> None:
    """Write the root-mean-square norm of each token into `out`, both (tokens, width)."""
    for token in range(len(x)):
        total = float32(0)
        for i in range(x.shape[1]):
            total += x[token, i] * x[token, i]
        factor = float32(1 / np.sqrt(total / x.shape[1] + epsilon))
        for i in range(x.shape[1]):
            out[token, i] = weight[i] * (x[token, i] * factor)


@_inlined
def _exp(x: Any) -> Any:
    """Return e^x to 2e-7, relatively; written out so that the compiler makes many at once."""
    x = min(max(x, float32(-87.0)), float32(88.0))
    n = np.floor(x * float32(1.4426950408889634) + float32(0.5))
    r = x - n * float32(0.693359375) + n * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    p = p * r * r + r + float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_compiled
def _turn(h: Any, heads: int, width: int, cos: Any, sin: Any) -> None:
    """Turn the first heads of each token by its position, in place; `sin` has the sign of the first half in it."""
    half = width // 2
    for token in range(len(h)):
        for head in range(heads):
            start = head * width
            for i in range(half):
                low, high = h[token, start + i], h[token, start + half + i]
                h[token, start + i] = low * cos[token, i] + high * sin[token, i]
                h[token, start + half + i] = high * cos[token, half + i] + low * sin[token, half + i]


@_compiled
def _keep(h: Any, queries: int, heads: int, first: int, rows: Any, places: Any, keys: Any, values: Any) -> None:
    """Write keys and values of each token into its place of its row; `first` is the block's first head in the cache."""
    width = keys.shape[-1]
    for token in range(len(h)):
        for head in range(heads):
            key = (queries + head) * width
            value = key + heads * width
            for i in range(width):
                keys[rows[token], first + head, places[token], i] = h[token, key + i]
                values[rows[token], first + head, places[token], i] = h[token, value + i]


@_compiled
def _gate(gates: Any, out: Any) -> None:
    """Write silu(gate) * up into `out`; `gates` are (tokens, 2 * channels), the gates first."""
    channels = out.shape[1]
    for token in range(len(out)):
        for i in range(channels):
            gate = gates[token, i]
            out[token, i] = gate / (float32(1) + _exp(-gate)) * gates[token, channels + i]


@_compiled
def _attend(
    h: Any, queries: int, heads: int, first: int, rows: Any, places: Any, keys: Any, values: Any, out: Any
) -> None:
    """Write the attention of each token over its row, up to its own place, into `out`, (tokens, queries * width).

    The caches are given whole: of a part of them the compiler would not know that a key lies in one piece.
    """
    width = keys.shape[-1]
    group = queries // heads
    scale = float32(1 / np.sqrt(width))
    most = 0
    for token in range(len(h)):
        most = max(most, places[token] + 1)
    weights = np.empty(most, np.float32)
    for token in range(len(h)):
        row, end = rows[token], places[token] + 1
        for query in range(queries):
            head = first + query // group
            asked = h[token, query * width : (query + 1) * width]
            highest = float32(-np.inf)
            for at in range(end):
                kept = keys[row, head, at]
                total = float32(0)
                for i in range(width):
                    total += asked[i] * kept[i]
                weights[at] = total * scale
                highest = max(highest, weights[at])
            total = float32(0)
            for at in range(end):
                weights[at] = _exp(weights[at] - highest)
                total += weights[at]
            mixed = out[token, query * width : (query + 1) * width]
            mixed[:] = float32(0)
            for at in range(end):
                share = weights[at] / total
                kept = values[row, head, at]
                for i in range(width):
                    mixed[i] += share * kept[i]


@_compiled
def read(
    x: Any,
    rows: Any,
    places: Any,
    cos: Any,
    sin: Any,
    sizes: Any,
    weights: Any,
    scales: Any,
    norms: Any,
    epsilon: float,
    keys: Any,
    values: Any,
) -> None:
    """Read tokens through all blocks: `x` becomes their normed states, keys and values are kept.

    Args:
        x: embeddings, (tokens, width) fp32.
        rows: row of the cache of each token.
        places: position of each token in its row; tokens of one row are given in order.
        cos: of the rotary positions, (tokens, head width).
        sin: likewise, the first half negated.
        sizes: queries, heads and channels of each block, (blocks, 3).
        weights: of all blocks in one line: queries, keys and values; output; gate and up; down.
        scales: of their outputs in the same order, or of length 0.
        norms: of attention and feed-forward of each block and of the end, (2 * blocks + 1, width).
        epsilon: of the norms.
        keys: (rows, heads of all blocks, room, head width).
        values: likewise.
    """
    tokens, width = x.shape
    head_width = keys.shape[-1]
    before = np.empty((tokens, width), np.float32)
    added = np.empty((tokens, width), np.float32)
    place = scaled = first_head = 0
    for block in range(len(sizes)):
        queries, heads, channels = sizes[block]
        inside, mixed = (queries + 2 * heads) * head_width, queries * head_width
        outs = (inside, width, 2 * channels, width)
        ins = (width, mixed, width, channels)
        h = np.empty((tokens, inside), np.float32)
        attended = np.empty((tokens, mixed), np.float32)
        gates = np.empty((tokens, 2 * channels), np.float32)
        active = np.empty((tokens, channels), np.float32)
        sources, targets = (before, attended, before, active), (h, added, gates, added)
        for part in range(4):
            if part in (0, 2):
                normed(x, norms[2 * block + part // 2], epsilon, before)
            matrix = weights[place : place + outs[part] * ins[part]].reshape(outs[part], ins[part])
            factor = scales[scaled : scaled + outs[part]] if len(scales) else scales
            place += outs[part] * ins[part]
            scaled += outs[part]
            project(sources[part], matrix, factor, targets[part])
            if part == 0:
                _turn(h, queries + heads, head_width, cos, sin)
                _keep(h, queries, heads, first_head, rows, places, keys, values)
                _attend(h, queries, heads, first_head, rows, places, keys, values, attended)
                first_head += heads
            elif part == 2:
                _gate(gates, active)
            else:
                for token in range(tokens):
                    for i in range(width):
                        x[token, i] += added[token, i]
    normed(x, norms[2 * len(sizes)], epsilon, before)
    x[:] = before
