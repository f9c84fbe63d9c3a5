"""The arithmetic of a Llama for a few tokens at a time, compiled for the processor that it runs on.

At a hundred million weights and less, a token costs a framework mostly what it costs to call its operations, and its
matrix products are made for many rows. Here all blocks are one compiled function. Tokens are texts side by side or the
tokens of a prompt.

Matrices are kept in panels: the weights of LANES outputs for one input lie side by side, so that each output has a sum
of its own in a wide register and no sum is taken across a register. A panel is read from near memory once for four
tokens. Weights are fp32, bfloat16 (the upper halves of fp32 numbers, as uint16) or INT8 with a scale for each output.
Tokens meet INT8 weights as whole numbers of up to 16 bits with a scale for each token, and their sums are exact; other
sums are fp32. Keys and values are panels, too.

All this is one file because numba takes what it compiled before until the file of a function changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
LANES = 32 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 16  # outputs of a panel
FEW = 4  # tokens that are multiplied together
# Sums may be reordered, which lets them use wide registers; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}


def compiled(function: F) -> F:
    """Compile without the interpreter's lock; kept on disk for the next process."""
    return cast("F", numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")(function))


@compiled
def panelled(count: int) -> int:
    """Return a number of outputs filled up to whole panels."""
    return -(-count // LANES) * LANES


def pack(weights: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix (outputs, inputs) as panels in one line, filled up with zeros to whole panels.

    In a panel of INT8 two inputs of an output lie side by side.
    """
    outputs, inputs = weights.shape
    together = 2 if weights.dtype == np.int8 else 1
    whole = np.zeros((panelled(outputs), -(-inputs // together) * together), weights.dtype)
    whole[:outputs, :inputs] = weights
    return whole.reshape(-1, LANES, whole.shape[1] // together, together).transpose(0, 2, 1, 3).ravel()


I32 = ir.IntType(32)


def _many(element: ir.Type, count: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, count)


def _widened(builder: ir.IRBuilder, stored: types.Type, raw: ir.Value) -> ir.Value:
    """Return weights as the numbers that are multiplied: fp32, or pairs of 16 bits of INT8."""
    if stored == types.int8:
        return builder.sext(raw, _many(ir.IntType(16), 2 * LANES))
    if stored == types.uint16:
        whole = builder.zext(raw, _many(I32))
        raw = builder.shl(whole, ir.Constant(whole.type, [16] * LANES))
    return builder.bitcast(raw, _many(ir.FloatType()))


def _everywhere(builder: ir.IRBuilder, piece: ir.Value) -> ir.Value:
    """Return a register that holds 32 bits in every place."""
    one = builder.insert_element(ir.Constant(_many(I32), ir.Undefined), piece, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(_many(I32), None))


def _added(builder: ir.IRBuilder, total: ir.Value, one: ir.Value, other: ir.Value) -> ir.Value:
    """Return sums with the products of two registers added; processors add the products of a pair in one step."""
    if isinstance(total.type.element, ir.FloatType):
        return builder.fadd(total, builder.fmul(one, other, flags=["contract"]), flags=["contract"])
    wide = _many(I32, 2 * LANES)
    products = builder.mul(builder.sext(one, wide), builder.sext(other, wide))
    first, second = (ir.Constant(total.type, list(range(at, 2 * LANES, 2))) for at in (0, 1))
    pairs = (builder.shuffle_vector(products, products, places) for places in (first, second))
    return builder.add(total, builder.add(*pairs))


def _tile(count: int) -> Any:
    """Return the function that multiplies `count` tokens with a panel."""
    unrolled = FEW // count  # sums of an output, so that no register waits for another

    @numba.extending.intrinsic
    def tile(
        typing: Any, given: Any, start: Any, inputs: Any, weights: Any, place: Any, out: Any, target: Any, pitch: Any
    ) -> Any:
        """Write the sums of tokens with the panel that begins at `place` as LANES numbers of fp32 for each token.

        The inputs of the first token begin at `start`, its sums at `target`; those of the next ones follow, the sums
        at a distance of `pitch`. For INT8 the number of inputs is even.
        """

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            stored = signature.args[3].dtype
            x, w, y = (make_array(signature.args[at])(context, builder, arguments[at]).data for at in (0, 3, 5))
            _, start, inputs, _, place, _, target, pitch = arguments
            number, whole = start.type, stored == types.int8
            together = 2 if whole else 1  # inputs that make a piece of 32 bits
            panel_type = _many(context.get_data_type(stored), together * LANES).as_pointer()
            panel = builder.bitcast(builder.gep(w, [place]), panel_type)
            begins = [builder.add(start, builder.mul(inputs, number(token))) for token in range(count)]
            tokens = [builder.bitcast(builder.gep(x, [at]), I32.as_pointer()) for at in begins]
            nothing = ir.Constant(_many(I32 if whole else ir.FloatType()), None)
            totals = [[cgutils.alloca_once_value(builder, nothing) for _ in range(unrolled)] for _ in tokens]

            def multiply(at: ir.Value, part: int) -> None:
                weight = _widened(builder, stored, builder.load(builder.gep(panel, [at]), align=1))
                for token, parts in zip(tokens, totals, strict=True):
                    piece = _everywhere(builder, builder.load(builder.gep(token, [at]), align=2))
                    total = builder.load(parts[part])
                    builder.store(_added(builder, total, weight, builder.bitcast(piece, weight.type)), parts[part])

            pieces = builder.sdiv(inputs, number(together))
            rounds = builder.sdiv(pieces, number(FEW))
            with cgutils.for_range(builder, rounds) as loop:
                for part in range(FEW):
                    multiply(builder.add(builder.mul(loop.index, number(FEW)), number(part)), part % unrolled)
            with cgutils.for_range(builder, pieces, start=builder.mul(rounds, number(FEW))) as loop:
                multiply(loop.index, 0)
            for token, parts in enumerate(totals):
                total = builder.load(parts[0])
                for part in parts[1:]:
                    total = (builder.add if whole else builder.fadd)(total, builder.load(part))
                if whole:
                    total = builder.sitofp(total, _many(ir.FloatType()))
                place = builder.gep(y, [builder.add(target, builder.mul(pitch, number(token)))])
                builder.store(total, builder.bitcast(place, total.type.as_pointer()), align=4)
            return context.get_dummy_value()

        number = types.intp
        return types.void(given, number, number, weights, number, out, number, number), generate

    return tile


multiply_few, multiply_one = _tile(FEW), _tile(1)


def _given(x: Any, weights: Any) -> Any:
    """Return tokens as they meet weights, (tokens, inputs), and a scale for each, none where all are 1."""
    raise NotImplementedError


@numba.extending.overload(_given)
def _given_to(x: Any, weights: Any) -> Any:
    def numbers(x: Any, weights: Any) -> Any:
        return x, np.empty(0, np.float32)

    def whole_numbers(x: Any, weights: Any) -> Any:
        tokens, width = x.shape
        given = np.zeros((tokens, width + width % 2), np.int16)
        scales = np.empty(tokens, np.float32)
        most = float32(min(32767, (2**31 - 1) // (127 * width)))  # so that no sum leaves 32 bits
        for token in range(tokens):
            highest = float32(1e-30)
            for i in range(width):
                highest = max(highest, abs(x[token, i]))
            scales[token] = highest / most
            for i in range(width):
                given[token, i] = np.int16(np.rint(x[token, i] * (most / highest)))
        return given, scales

    return whole_numbers if weights.dtype == types.int8 else numbers


@compiled
def project(x: Any, weights: Any, scales: Any, out: Any) -> None:
    """Write x @ weights.T * scales into `out`.

    Args:
        x: (tokens, width) fp32.
        weights: (outputs, width) in panels.
        scales: (outputs,) fp32, or of length 0 where all are 1.
        out: (tokens, outputs filled up to whole panels) fp32.
    """
    tokens, outputs = out.shape
    given, factors = _given(x, weights)
    inputs = given.shape[1]
    for first in range(0, outputs, LANES):
        place = first * inputs
        token = 0
        while token + FEW <= tokens:
            multiply_few(given, token * inputs, inputs, weights, place, out, token * outputs + first, outputs)
            token += FEW
        while token < tokens:
            multiply_one(given, token * inputs, inputs, weights, place, out, token * outputs + first, outputs)
            token += 1
    for token in range(len(factors)):
        for i in range(len(scales)):
            out[token, i] *= scales[i] * factors[token]


@compiled
def normed(x: Any, weight: Any, epsilon: float, out: Any) -> None:
    """Write the root-mean-square norm of each token into `out`, both (tokens, width)."""
    for token in range(len(x)):
        total = float32(0)
        for i in range(x.shape[1]):
            total += x[token, i] * x[token, i]
        factor = float32(1 / np.sqrt(total / x.shape[1] + epsilon))
        for i in range(x.shape[1]):
            out[token, i] = weight[i] * (x[token, i] * factor)


@numba.njit(inline="always", fastmath=FAST, error_model="numpy")
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


@compiled
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


@compiled
def _keep(h: Any, queries: int, heads: int, first: int, rows: Any, places: Any, keys: Any, values: Any) -> None:
    """Write keys and values of each token into its place of its row; `first` is the block's first head in the cache."""
    width = keys.shape[3]
    for token in range(len(h)):
        row, place = rows[token], places[token]
        for head in range(heads):
            key = (queries + head) * width
            value = key + heads * width
            for i in range(width):
                keys[row, first + head, place // LANES, i, place % LANES] = h[token, key + i]
                values[row, first + head, i // LANES, place, i % LANES] = h[token, value + i]


@compiled
def _gate(gates: Any, out: Any) -> None:
    """Write silu(gate) * up into `out`; `gates` are (tokens, 2 * channels), the gates first."""
    channels = out.shape[1]
    for token in range(len(out)):
        for i in range(channels):
            gate = gates[token, i]
            out[token, i] = gate / (float32(1) + _exp(-gate)) * gates[token, channels + i]


@compiled
def _attend(
    h: Any, queries: int, heads: int, first: int, rows: Any, places: Any, keys: Any, values: Any, out: Any
) -> None:
    """Write the attention of each token over its row, up to its own place, into `out`, (tokens, queries * width)."""
    _, all_heads, panels, width, _ = keys.shape
    room = panels * LANES
    group = queries // heads
    scale = float32(1 / np.sqrt(width))
    weights = np.empty(room, np.float32)
    mixed = np.empty(panelled(width), np.float32)
    for token in range(len(h)):
        end = places[token] + 1
        for query in range(queries):
            head = rows[token] * all_heads + first + query // group
            asked = token * h.shape[1] + query * width
            for at in range(0, end, LANES):
                multiply_one(h, asked, width, keys, (head * room + at) * width, weights, at, 0)
            highest = float32(-np.inf)
            for at in range(end):
                highest = max(highest, weights[at])
            total = float32(0)
            for at in range(end):
                weights[at] = _exp((weights[at] - highest) * scale)
                total += weights[at]
            for at in range(0, width, LANES):
                multiply_one(weights, 0, end, values, (head * len(mixed) + at) * room, mixed, at, 0)
            for i in range(width):
                out[token, query * width + i] = mixed[i] / total


@compiled
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
        weights: of all blocks in one line of panels: queries, keys and values; output; gate and up; down.
        scales: of their outputs in the same order, or of length 0.
        norms: of attention and feed-forward of each block and of the end, (2 * blocks + 1, width).
        epsilon: of the norms.
        keys: in panels, (rows, heads of all blocks, room / LANES, head width, LANES).
        values: in panels, (rows, heads of all blocks, head width / LANES, room, LANES).
    """
    tokens, width = x.shape
    head_width = keys.shape[3]
    pair = 2 if weights.itemsize == 1 else 1  # inputs of INT8 that lie side by side
    before = np.empty((tokens, width), np.float32)
    added = np.empty((tokens, panelled(width)), np.float32)
    place = scaled = first_head = 0
    for block in range(len(sizes)):
        queries, heads, channels = sizes[block]
        inside, mixed = (queries + 2 * heads) * head_width, queries * head_width
        outs = (inside, width, 2 * channels, width)
        ins = (width, mixed, width, channels)
        h = np.empty((tokens, panelled(inside)), np.float32)
        attended = np.empty((tokens, mixed), np.float32)
        gates = np.empty((tokens, panelled(2 * channels)), np.float32)
        active = np.empty((tokens, channels), np.float32)
        sources, targets = (before, attended, before, active), (h, added, gates, added)
        for part in range(4):
            if part in (0, 2):
                normed(x, norms[2 * block + part // 2], epsilon, before)
            size = panelled(outs[part]) * (-(-ins[part] // pair) * pair)
            factor = scales[scaled : scaled + outs[part]] if len(scales) else scales
            project(sources[part], weights[place : place + size], factor, targets[part])
            place += size
            scaled += outs[part]
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
