"""What lies between the matrix products of HTSAT, in bf16 on a CPU: each in one pass over memory, compiled by numba.

PyTorch goes over its tensors once an operation, turns bf16 into fp32 and back each time, and has its softmax and layer
norm made for rows much longer than a window's 64. Once the products run in bf16 that is a third of the time (measured
on one Zen 4 core at CLAP's real size). Without gradients. What is compiled checks no bounds: shapes are checked before.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from numpy import float32, int32, uint16, uint32
from numpy.polynomial import Chebyshev, Polynomial

__all__ = ["add_norm", "softmax_columns_"]

_LOG2_E = float32(math.log2(math.e))
# Of the polynomial that is 2 ** x at the five Chebyshev points of [0, 1].
_C0, _C1, _C2, _C3, _C4 = Chebyshev.interpolate(np.exp2, 4, domain=[0, 1]).convert(kind=Polynomial).coef.astype(float32)


def softmax_columns_(
    scores: torch.Tensor, of_head: torch.Tensor, of_window: torch.Tensor, scale: float
) -> torch.Tensor:
    """softmax(scale · scores + of_head + of_window) down the columns, in place of `scores` and returned: each column
    adds up to 1.

    scores (images · windows · heads, N, N) in bf16, of_head (heads, N, N) and of_window (windows, N, N) in fp32,
    contiguous on the CPU. All between is fp32, the result is rounded once. Raises ValueError for others.
    """
    n = scores.shape[-1]
    whole = len(scores) % (len(of_head) * len(of_window)) == 0
    if (
        scores.dtype != torch.bfloat16
        or not whole
        or {each.shape[1:] for each in (scores, of_head, of_window)} != {(n, n)}
    ):
        raise ValueError(
            f"scores {tuple(scores.shape)} of {scores.dtype} do not go with {tuple(of_head.shape)} of the heads and "
            f"{tuple(of_window.shape)} of the windows"
        )
    _softmax(scores.view(torch.uint16).numpy(), of_head.numpy(), of_window.numpy(), float32(scale))
    return scores


def add_norm(
    x: torch.Tensor, change: torch.Tensor | None, order: torch.Tensor | None, norm: torch.nn.LayerNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + change)[:, order] and its layer norm in bf16, both (B, L, C). All between is fp32. (The sum does not take
    the place of x: then the compiler would have to go number by number, twice as slow.)

    x (B, L, C) in fp32, change the same in bf16, order (L,) of places below L, contiguous on the CPU. Raises ValueError
    for other shapes.
    """
    if (change is not None and change.shape != x.shape) or (order is not None and order.shape != x.shape[1:2]):
        shapes = [None if each is None else tuple(each.shape) for each in (x, change, order)]
        raise ValueError(f"x, change and order do not go together: {shapes}")
    total, normed = torch.empty_like(x), torch.empty_like(x, dtype=torch.bfloat16)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    added = None if change is None else change.bfloat16().view(torch.uint16).numpy()
    places = None if order is None else order.numpy()
    halves = normed.view(torch.uint16).numpy()
    _add_norm(x.numpy(), added, places, weight, bias, float32(norm.eps), total.numpy(), halves)
    return total, normed


# bf16 is the upper half of fp32. Every step says its type, for numba would go on in 64 bits and half as fast.


@njit(inline="always")
def _wide(half):
    return uint32(uint32(half) << uint32(16)).view(float32)


@njit(inline="always")
def _half(value):  # to the nearest, the even one of two
    bits = float32(value).view(uint32)
    odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
    return uint16(uint32(uint32(uint32(bits + uint32(0x7FFF)) + odd) >> uint32(16)))


@njit(inline="always")
def _power_of_two(x):
    """2 ** x for -126 <= x <= 0, within 4e-6 of it: a five-hundredth of what bf16 rounds away."""
    whole = np.floor(x)
    rest = x - whole
    fraction = (((_C4 * rest + _C3) * rest + _C2) * rest + _C1) * rest + _C0
    return fraction * uint32(uint32(int32(int32(whole) + int32(127))) << uint32(23)).view(float32)


@njit(nogil=True, fastmath=True, error_model="numpy")
def _softmax(scores, of_head, of_window, scale):
    n, heads = scores.shape[1], len(of_head)
    values = np.empty((n, n), float32)
    largest, total = np.empty(n, float32), np.empty(n, float32)
    for matrix in range(len(scores)):
        head, window = matrix % heads, matrix // heads % len(of_window)
        largest[:], total[:] = float32(-3e38), float32(0)
        for row in range(n):
            for column in range(n):
                value = _wide(scores[matrix, row, column]) * scale
                value += of_head[head, row, column] + of_window[window, row, column]
                values[row, column] = value
                largest[column] = max(largest[column], value)
        for row in range(n):
            for column in range(n):
                exponent = (values[row, column] - largest[column]) * _LOG2_E
                weight = _power_of_two(max(exponent, float32(-126)))
                values[row, column] = weight
                total[column] += weight
        for column in range(n):
            total[column] = float32(1) / total[column]
        for row in range(n):
            for column in range(n):
                scores[matrix, row, column] = _half(values[row, column] * total[column])


@njit(nogil=True, fastmath=True, error_model="numpy")
def _add_norm(x, change, order, weight, bias, eps, total, normed):
    width = x.shape[2]
    for image in range(x.shape[0]):
        for row in range(x.shape[1]):
            place = row if order is None else order[row]
            mean, variance = float32(0), float32(0)
            for column in range(width):
                value = x[image, place, column]
                if change is not None:
                    value += _wide(change[image, place, column])
                total[image, row, column] = value
                mean += value
            mean /= float32(width)
            for column in range(width):
                variance += (total[image, row, column] - mean) * (total[image, row, column] - mean)
            scale = float32(1) / np.sqrt(variance / float32(width) + eps)
            for column in range(width):
                value = (total[image, row, column] - mean) * scale * weight[column] + bias[column]
                normed[image, row, column] = _half(value)
