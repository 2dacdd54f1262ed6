"""What lies between the matrix products of HTSAT on a CPU, without gradients: each one pass over memory, compiled by
numba, in fp32 or bf16. (Attention with gradients was tried as well: three per cent of a training step, for twice the
code.)

PyTorch goes over its tensors once an operation, copies queries, keys and values apart, turns bf16 into fp32 and back
each time, and has its attention and layer norm made for rows much longer than a window's 64. What is compiled checks no
bounds: shapes are checked before.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import config, njit, prange, set_num_threads, types
from numba.extending import overload
from numpy import float32, int32, uint16, uint32
from numpy.polynomial import Chebyshev, Polynomial

__all__ = ["HEAD", "TOKENS", "add_norm", "window_attention"]

# Tokens of a window and numbers of a head, in all of HTSAT's layers and sizes. Known to the compiler, so that it can
# tell rows apart and keep the sums of a tile in registers.
TOKENS, HEAD = 64, 24

_LOG2_E = float32(math.log2(math.e))
# Of the polynomial that is 2 ** x at the six Chebyshev points of [0, 1].
_COEFFICIENTS = Chebyshev.interpolate(np.exp2, 5, domain=[0, 1]).convert(kind=Polynomial).coef.astype(float32)
_C0, _C1, _C2, _C3, _C4, _C5 = _COEFFICIENTS


def window_attention(qkv: torch.Tensor, of_head: torch.Tensor, of_window: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale · query · key + of_head + of_window) · value inside each window: (B, L, 3C) -> (B, L, C).

    qkv, fp32 or bf16: the tokens window by window, each with queries, keys and values of all heads side by side.
    of_head (heads, TOKENS, TOKENS) and of_window (windows, TOKENS, TOKENS): what is added between a key (first) and a
    query, fp32; windows is 1 or how many an image has. All contiguous on the CPU. All between is fp32, and the result
    is rounded once. Raises ValueError for others.
    """
    heads, windows = len(of_head), len(of_window)
    square, whole = (TOKENS, TOKENS), qkv.shape[1] % (windows * TOKENS) == 0
    if (
        not whole
        or qkv.shape[2] != 3 * heads * HEAD
        or {of_head.shape[1:], of_window.shape[1:]} != {square}
        or qkv.dtype not in (torch.float32, torch.bfloat16)
        or {of_head.dtype, of_window.dtype} != {torch.float32}
        or not all(each.is_contiguous() for each in (qkv, of_head, of_window))
    ):
        raise ValueError(
            f"queries, keys and values {tuple(qkv.shape)} of {qkv.dtype} do not go with {tuple(of_head.shape)} of the "
            f"heads and {tuple(of_window.shape)} of the windows, or are not contiguous"
        )
    result = qkv.new_empty(*qkv.shape[:2], heads * HEAD)
    before, after = _array(qkv).reshape(-1, 3, heads, HEAD), _array(result).reshape(-1, heads, HEAD)
    _in_parts(_attend, _attend_side_by_side, before, of_head.numpy(), of_window.numpy(), float32(scale), after)
    return result


def add_norm(
    x: torch.Tensor,
    change: torch.Tensor | None,
    order: torch.Tensor | None,
    norm: torch.nn.LayerNorm,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + change)[:, order] and its layer norm in `dtype`, both (B, L, C). All between is fp32. (The sum does not take
    the place of x: then the compiler would have to go number by number, twice as slow.)

    x (B, L, C) in fp32, change the same in `dtype`, order (L,) of places below L, contiguous on the CPU. Raises
    ValueError for other shapes.
    """
    if (change is not None and change.shape != x.shape) or (order is not None and order.shape != x.shape[1:2]):
        shapes = [None if each is None else tuple(each.shape) for each in (x, change, order)]
        raise ValueError(f"x, change and order do not go together: {shapes}")
    total, normed = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    added = None if change is None else _array(change.to(dtype))
    places = None if order is None else order.numpy()
    arrays = x.numpy(), added, places, weight, bias, float32(norm.eps), total.numpy(), _array(normed)
    _in_parts(_add_norm, _add_norm_side_by_side, *arrays)
    return total, normed


def _array(x: torch.Tensor) -> np.ndarray:
    """The same memory for numba, which knows no bf16: as its bits."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def _in_parts(one, side_by_side, *arrays) -> None:
    """A pass in as many parts as PyTorch has threads here. Where it has one, as in `haf_utils.threads`, `one` does all.

    numba's threads are the very ones of PyTorch where both have OpenMP; others would have to share the cores with
    PyTorch's, which wait wide awake for several milliseconds after every operation (measured: twice the time).
    """
    parts = min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)
    if parts == 1:
        one(0, 1, *arrays)
    else:
        set_num_threads(parts)
        side_by_side(parts, *arrays)


def _compiled(**options):
    """Compiled at the first call, which takes seconds, and kept beside this file or in the user's cache; where neither
    can be written, each process compiles anew."""

    def compiled(function):
        how = dict(nogil=True, fastmath=True, error_model="numpy", **options)
        try:
            return njit(cache=True, **how)(function)
        except RuntimeError:  # numba's word for it
            return njit(**how)(function)

    return compiled


# bf16 is the upper half of fp32. Every step says its type, for numba would go on in 64 bits and half as fast.


@njit(inline="always")
def _wide(half):
    return uint32(uint32(half) << uint32(16)).view(float32)


@njit(inline="always")
def _half(value):  # to the nearest, the even one of two
    bits = float32(value).view(uint32)
    odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
    return uint16(uint32(uint32(uint32(bits + uint32(0x7FFF)) + odd) >> uint32(16)))


def _read(x):
    """A number of an array, be it fp32 or the bits of bf16, in fp32."""


@overload(_read, inline="always")
def _read_as(x):
    return (lambda x: _wide(x)) if x == types.uint16 else (lambda x: x)


def _like(value, x):
    """`value` as the arrays of x hold it."""


@overload(_like, inline="always")
def _like_as(value, x):
    return (lambda value, x: _half(value)) if x == types.uint16 else (lambda value, x: value)


@njit(inline="always")
def _power_of_two(x):
    """2 ** x for -126 <= x <= 0, within what fp32 rounds away."""
    whole = np.floor(x)
    rest = x - whole
    fraction = ((((_C5 * rest + _C4) * rest + _C3) * rest + _C2) * rest + _C1) * rest + _C0
    return fraction * uint32(uint32(int32(int32(whole) + int32(127))) << uint32(23)).view(float32)


@njit(inline="always")
def _add_product(left, right, sums, rows, columns):
    """sums (rows, TOKENS) += left (rows, columns) · right (columns, TOKENS), right and sums each in one row; rows and
    columns are multiples of 4. In tiles of 4 × 4, whose numbers of `left` stay in registers: as many products as the
    processor can do."""
    for a in range(0, rows, 4):
        b, c, d = a + 1, a + 2, a + 3
        for p in range(0, columns, 4):
            q, r, s = p + 1, p + 2, p + 3
            ap, aq, ar, as_ = _read(left[a, p]), _read(left[a, q]), _read(left[a, r]), _read(left[a, s])
            bp, bq, br, bs = _read(left[b, p]), _read(left[b, q]), _read(left[b, r]), _read(left[b, s])
            cp, cq, cr, cs = _read(left[c, p]), _read(left[c, q]), _read(left[c, r]), _read(left[c, s])
            dp, dq, dr, ds = _read(left[d, p]), _read(left[d, q]), _read(left[d, r]), _read(left[d, s])
            into, source = a * TOKENS, p * TOKENS
            for i in range(TOKENS):
                x, y = right[source + i], right[source + TOKENS + i]
                z, w = right[source + 2 * TOKENS + i], right[source + 3 * TOKENS + i]
                sums[into + i] += ap * x + aq * y + ar * z + as_ * w
                sums[into + TOKENS + i] += bp * x + bq * y + br * z + bs * w
                sums[into + 2 * TOKENS + i] += cp * x + cq * y + cr * z + cs * w
                sums[into + 3 * TOKENS + i] += dp * x + dq * y + dr * z + ds * w


@_compiled()
def _attend(part, parts, qkv, of_head, of_window, scale, result):
    """A part of the windows. A query's scores stand in a column: so in every loop what is side by side belongs to
    different queries."""
    heads, windows, count = of_head.shape[0], of_window.shape[0], len(qkv) // TOKENS
    query, gathered = np.empty(HEAD * TOKENS, float32), np.empty(HEAD * TOKENS, float32)
    scores, largest, total = np.empty(TOKENS * TOKENS, float32), np.empty(TOKENS, float32), np.empty(TOKENS, float32)
    for window in range(count * part // parts, count * (part + 1) // parts):
        first, last = window * TOKENS, window * TOKENS + TOKENS
        for head in range(heads):
            keys, values = qkv[first:last, 1, head], qkv[first:last, 2, head]
            for i in range(TOKENS):
                for d in range(HEAD):
                    query[d * TOKENS + i] = _read(qkv[first + i, 0, head, d]) * scale
            for j in range(TOKENS):
                for i in range(TOKENS):
                    scores[j * TOKENS + i] = of_head[head, j, i] + of_window[window % windows, j, i]
            _add_product(keys, query, scores, TOKENS, HEAD)
            largest[:] = scores[:TOKENS]
            for j in range(1, TOKENS):
                for i in range(TOKENS):
                    largest[i] = max(largest[i], scores[j * TOKENS + i])
            total[:] = float32(0)
            for j in range(TOKENS):
                for i in range(TOKENS):
                    exponent = (scores[j * TOKENS + i] - largest[i]) * _LOG2_E
                    weight = _power_of_two(max(exponent, float32(-126)))
                    scores[j * TOKENS + i] = weight
                    total[i] += weight
            gathered[:] = float32(0)
            _add_product(values.T, scores, gathered, HEAD, TOKENS)
            for i in range(TOKENS):
                total[i] = float32(1) / total[i]
            for i in range(TOKENS):
                for d in range(HEAD):
                    result[first + i, head, d] = _like(gathered[d * TOKENS + i] * total[i], result[0, 0, 0])


@_compiled()
def _add_norm(part, parts, x, change, order, weight, bias, eps, total, normed):
    """A part of the tokens of each image."""
    length, width = x.shape[1], x.shape[2]
    for image in range(x.shape[0]):
        for row in range(length * part // parts, length * (part + 1) // parts):
            place = row if order is None else order[row]
            mean, variance = float32(0), float32(0)
            for column in range(width):
                value = x[image, place, column]
                if change is not None:
                    value += _read(change[image, place, column])
                total[image, row, column] = value
                mean += value
            mean /= float32(width)
            for column in range(width):
                variance += (total[image, row, column] - mean) * (total[image, row, column] - mean)
            scale = float32(1) / np.sqrt(variance / float32(width) + eps)
            for column in range(width):
                value = (total[image, row, column] - mean) * scale * weight[column] + bias[column]
                normed[image, row, column] = _like(value, normed[0, 0, 0])


@_compiled(parallel=True)
def _attend_side_by_side(parts, *arrays):
    for part in prange(parts):
        _attend(part, parts, *arrays)


@_compiled(parallel=True)
def _add_norm_side_by_side(parts, *arrays):
    for part in prange(parts):
        _add_norm(part, parts, *arrays)
