"""What lies between the matrix products of HTSAT, in bf16 on a CPU: each in one pass over memory, compiled by numba.

PyTorch goes over its tensors once an operation, turns bf16 into fp32 and back each time, and has its softmax and layer
norm made for rows much longer than a window's 64. Once the products run in bf16 that is a third of the time (measured
on one Zen 4 core at CLAP's real size: the softmax here takes 6 % off a whole embedding, the norm 3 %). Without
gradients.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from numpy import float32, int32, uint16, uint32
from numpy.polynomial import Chebyshev, Polynomial

__all__ = ["add_norm_", "softmax_columns_"]

_LOG2_E = float32(math.log2(math.e))
# Of the polynomial that is 2 ** x at the five Chebyshev points of [0, 1].
_C0, _C1, _C2, _C3, _C4 = Chebyshev.interpolate(np.exp2, 4, domain=[0, 1]).convert(kind=Polynomial).coef.astype(float32)


def softmax_columns_(scores: torch.Tensor, bias: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale · scores + bias) down the columns, in place of `scores` and returned: each column adds up to 1.

    scores (M, N, N) in bf16 and bias (B, N, N) in fp32, contiguous on the CPU; matrix m gets bias m mod B. All between
    is fp32, the result is rounded once.
    """
    _softmax(scores.view(torch.uint16).numpy(), bias.numpy(), float32(scale))
    return scores


def add_norm_(x: torch.Tensor, change: torch.Tensor | None, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """The layer norm (..., C), in bf16, of x + change; the sum takes the place of x. All between is fp32.

    x (..., C) in fp32 and change in bf16, contiguous on the CPU.
    """
    normed = torch.empty_like(x, dtype=torch.bfloat16)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    added = None if change is None else _rows(change.view(torch.uint16))
    _add_norm(_rows(x), added, weight, bias, float32(norm.eps), _rows(normed.view(torch.uint16)))
    return normed


def _rows(x: torch.Tensor) -> np.ndarray:
    return x.view(-1, x.shape[-1]).numpy()


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
def _softmax(scores, bias, scale):
    n = scores.shape[1]
    values = np.empty((n, n), float32)
    largest, total = np.empty(n, float32), np.empty(n, float32)
    for matrix in range(len(scores)):
        added = matrix % len(bias)
        largest[:], total[:] = float32(-3e38), float32(0)
        for row in range(n):
            for column in range(n):
                value = _wide(scores[matrix, row, column]) * scale + bias[added, row, column]
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
def _add_norm(x, change, weight, bias, eps, normed):
    width = x.shape[1]
    for row in range(len(x)):
        mean, variance = float32(0), float32(0)
        for column in range(width):
            if change is not None:
                x[row, column] += _wide(change[row, column])
            mean += x[row, column]
        mean /= float32(width)
        for column in range(width):
            variance += (x[row, column] - mean) * (x[row, column] - mean)
        scale = float32(1) / np.sqrt(variance / float32(width) + eps)
        for column in range(width):
            normed[row, column] = _half((x[row, column] - mean) * scale * weight[column] + bias[column])
