"""What lies between the matrix products of HTSAT on a CPU: each one pass over memory, compiled by numba, in fp32 or
bf16, with gradients (measured in bf16: attention's take a seventeenth off a training step, those of sums and norms a
fiftieth at most).

PyTorch goes over its tensors once an operation, copies queries, keys and values apart, turns bf16 into fp32 and back
each time, and has its attention and layer norm made for rows much longer than a window's 64. What is compiled checks no
bounds: shapes are checked before.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from llvmlite import ir
from numba import config, njit, prange, set_num_threads, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic, overload
from numpy import float32, int64, uint16, uint32, uint64
from numpy.polynomial import Chebyshev, Polynomial
from torch.autograd.function import once_differentiable

__all__ = ["HEAD", "PAIRS", "TOKENS", "add_norm", "product", "window_attention"]

TOKENS, HEAD = 64, 24  # tokens of a window and numbers of a head, in all of HTSAT's layers and sizes

# What numba compiles for.
_FEATURES = (get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES).split(",")
PAIRS = "+avx512bf16" in _FEATURES  # whether the processor multiplies pairs of bf16
_LANES = 16
_ROWS = 4  # of a tile
# Columns of a tile, whose sums fit the registers: 4 × 64 those of AVX-512, 4 × 16 those of AVX2 and ARM.
_AT_ONCE = TOKENS if "+avx512f" in _FEATURES else _LANES
_BITS = ir.VectorType(ir.IntType(32), _LANES)
_FLOATS = ir.VectorType(ir.FloatType(), _LANES)

_LOG2_E = float32(math.log2(math.e))
# Of the polynomial that is 2 ** x at the six Chebyshev points of [-0.5, 0.5].
_COEFFICIENTS = Chebyshev.interpolate(np.exp2, 5, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef.astype(float32)
_C0, _C1, _C2, _C3, _C4, _C5 = _COEFFICIENTS
_SHIFT = float32(1.5 * 2**23)  # a number this large has no digits after the point
_IN_ORDER = {"contract", "nnan", "nsz", "arcp"}  # what the compiler may assume; not that sums can be reordered


def window_attention(qkv: torch.Tensor, of_head: torch.Tensor, of_window: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale · query · key + of_head + of_window) · value inside each window: (B, L, 3C) -> (B, L, C).

    qkv, fp32 or bf16: the tokens window by window, each with queries, keys and values of all heads side by side.
    of_head (heads, TOKENS, TOKENS) and of_window (windows, TOKENS, TOKENS): what is added between a key (first) and a
    query, fp32; windows is 1 or how many an image has. All contiguous on the CPU. All between is fp32; in bf16 only the
    result is rounded, and the softmax where the processor multiplies bf16. qkv and of_head get gradients. Raises
    ValueError for others.
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
    return _WindowAttention.apply(qkv, of_head, of_window, scale)


class _WindowAttention(torch.autograd.Function):
    """Keeps nothing for the way back but what it is given: weights are computed again, in fp32. bf16 is made fp32 where
    the processor does not multiply it."""

    @staticmethod
    def forward(ctx, qkv: torch.Tensor, of_head: torch.Tensor, of_window: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(qkv, of_head, of_window)
        ctx.scale, dtype = scale, qkv.dtype
        qkv = qkv if PAIRS else qkv.float()
        result = qkv.new_empty(*qkv.shape[:2], len(of_head) * HEAD)
        before, after = (_in_words(_array(each).reshape(-1)) for each in (qkv, result))
        if qkv.dtype == torch.bfloat16:
            passes = _attend_in_pairs, _attend_in_pairs_side_by_side
        else:
            passes = _attend, _attend_side_by_side
        _in_parts(_parts(), *passes, before, of_head.numpy(), of_window.numpy(), float32(scale), after)
        return result.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        (qkv, of_head, of_window), parts, dtype = ctx.saved_tensors, _parts(), gradient.dtype
        qkv, gradient = (each if PAIRS else each.float() for each in (qkv, gradient.contiguous()))
        of_qkv, of_heads = torch.empty_like(qkv), np.zeros((parts, *of_head.shape), float32)
        numbers = [_array(each).reshape(-1) for each in (qkv, gradient, of_qkv)]
        arrays = (
            *map(_in_words, numbers[:2]),
            *numbers,
            of_head.numpy(),
            of_window.numpy(),
            float32(ctx.scale),
            of_heads,
        )
        _in_parts(parts, _attend_back, _attend_back_side_by_side, *arrays)
        return of_qkv.to(dtype), torch.from_numpy(of_heads.sum(0)), None, None


def add_norm(
    x: torch.Tensor,
    change: torch.Tensor | None,
    order: torch.Tensor | None,
    norm: torch.nn.LayerNorm,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + change)[:, order] and its layer norm in `dtype`, both (B, L, C) and with gradients. All between is fp32.
    (The sum does not take the place of x: then the compiler would have to go number by number, twice as slow.)

    x (B, L, C) in fp32, change the same in fp32 or bf16, order (L,) of places below L, contiguous on the CPU. If the
    norm is over several times C, so many tokens come to stand side by side before: (B, L / n, n · C). Raises ValueError
    for other shapes.
    """
    (_, length, width), wide = x.shape, math.prod(norm.normalized_shape)
    if (
        (change is not None and change.shape != x.shape)
        or (order is not None and order.shape != x.shape[1:2])
        or wide % width
        or length % (wide // width)
    ):
        shapes = [None if each is None else tuple(each.shape) for each in (x, change, order)]
        raise ValueError(f"x, change, order and a norm over {wide} do not go together: {shapes}")
    order = torch.arange(length) if order is None else order  # one kind less to compile
    inputs = x, change, order, norm.weight, norm.bias, norm.eps, dtype
    return _AddNorm.apply(*inputs) if torch.is_grad_enabled() else _sum_and_norm(*inputs)


def _sum_and_norm(x: torch.Tensor, change: torch.Tensor | None, order: torch.Tensor, weight, bias, eps, dtype):
    (batch, length, width), wide = x.shape, len(weight)
    total = x.new_empty(batch, length * width // wide, wide)
    normed = torch.empty_like(total, dtype=dtype)
    arrays = (
        x.numpy(),
        None if change is None else _array(change),
        order.numpy(),
        weight.numpy(),
        bias.numpy(),
        float32(eps),
        total.numpy(),
        _array(normed),
    )
    _in_parts(_parts(), _add_norm, _add_norm_side_by_side, *arrays)
    return total, normed


class _AddNorm(torch.autograd.Function):
    """Keeps but the sum for the way back, which the next one needs anyway."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, change: torch.Tensor | None, order: torch.Tensor, weight, bias, eps, dtype):
        total, normed = _sum_and_norm(x, change, order, weight, bias, eps, dtype)
        ctx.save_for_backward(total, weight, order)
        ctx.shape, ctx.of_change, ctx.eps, ctx.dtype = x.shape, None if change is None else change.dtype, eps, dtype
        ctx.set_materialize_grads(False)  # of patch merging only the norm is used
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx, of_total: torch.Tensor | None, of_normed: torch.Tensor | None):
        (total, weight, order), parts = ctx.saved_tensors, _parts()
        of_normed = torch.zeros_like(total, dtype=ctx.dtype) if of_normed is None else of_normed.contiguous()
        of_x = total.new_empty(ctx.shape)
        of_change = torch.empty_like(of_x, dtype=ctx.of_change) if ctx.of_change == torch.bfloat16 else None
        of_weight, of_bias = np.zeros((2, parts, len(weight)), float32)
        arrays = (
            None if of_total is None else of_total.contiguous().numpy(),
            _array(of_normed),
            total.numpy(),
            order.numpy(),
            weight.numpy(),
            float32(ctx.eps),
            of_x.numpy(),
            None if of_change is None else _array(of_change),
            of_weight,
            of_bias,
        )
        _in_parts(parts, _add_norm_back, _add_norm_back_side_by_side, *arrays)
        if ctx.of_change == torch.float32:
            of_change = of_x
        return of_x, of_change, None, *(torch.from_numpy(each.sum(0)) for each in (of_weight, of_bias)), None, None


def _array(x: torch.Tensor) -> np.ndarray:
    """The same memory for numba, which knows no bf16: as its bits."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def _in_words(numbers: np.ndarray) -> np.ndarray:
    """bf16, two numbers of a token in one of uint32; fp32 as it is."""
    return numbers.view(np.uint32) if numbers.dtype == np.uint16 else numbers


def _parts() -> int:
    """As many as PyTorch has threads here: in `haf_utils.threads` one."""
    return min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)


def _in_parts(parts: int, one, side_by_side, *arrays) -> None:
    """A pass in so many parts at once. Where there is one, `one` does all.

    numba's threads are the very ones of PyTorch where both have OpenMP; others would have to share the cores with
    PyTorch's, which wait wide awake for several milliseconds after every operation (measured: twice the time).
    """
    if parts == 1:
        one(0, 1, *arrays)
    else:
        set_num_threads(parts)
        side_by_side(parts, *arrays)


def _compiled(**options):
    """Compiled at the first call, which takes seconds, and kept beside this file or in the user's cache; where neither
    can be written, each process compiles anew."""

    def compiled(function):
        how = dict(nogil=True, error_model="numpy", **options)
        try:
            return njit(cache=True, **how)(function)
        except RuntimeError:  # numba's word for it
            return njit(**how)(function)

    return compiled


# Products -------------------------------------------------------------------------------------------------------------

# numba's compiler turns loops over numbers into vectors, but keeps the sums of a product in memory and knows no
# products of bf16. So their instructions are written out. (Measured on one Zen 4 core, a window's scores: 2.4 µs as
# loops, 1.7 this way, 0.9 in bf16.) They stand in this file because numba compiles anew what it has kept when the file
# changes, not when one does that it imports.


class _Pairs(ir.types.Type):
    """LLVM's type for 16 pairs of bf16, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "<32 x bfloat>"

    def __eq__(self, other) -> bool:
        return isinstance(other, _Pairs)

    def __hash__(self) -> int:
        return hash(_Pairs)


def product(depth: int, pairs: bool, by_row: bool, width: int = TOKENS):
    """A function for compiled code, `f(left, at, stride, right, result, to)`: four rows of a result (rows, width) are
    four rows of `left` (rows, depth) times `right` (depth, width), width a multiple of 16. All are flat arrays, of
    which nothing checks the bounds.

    The four rows of `left` start at `at`; `stride` lies between one row and the next (then columns are side by side)
    if `by_row`, else between one column and the next (then rows are). The result's start at `to`.
    pairs: `left` and `right` are uint32, each of them two bf16 next to each other along the depth, the first in the
    lower half; `depth` counts pairs. Else they are float32. The result is float32.
    """

    @intrinsic
    def multiply(_typing, left, at, stride, right, result, to):
        return types.void(left, at, stride, right, result, to), generate

    def generate(context, builder, signature, arguments):
        left, at, stride, right, result, to = (
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        kind = _BITS if pairs else _FLOATS
        undefined, first = ir.Constant(kind, ir.Undefined), ir.Constant(_BITS, [0] * _LANES)
        if pairs:
            shape = ir.FunctionType(_FLOATS, [_FLOATS, _Pairs(), _Pairs()])
            dot = cgutils.get_or_insert_function(builder.module, shape, "llvm.x86.avx512bf16.dpbf16ps.512")

        def number(value: int):
            return ir.Constant(ir.IntType(64), value)

        def lanes(array, offset, kind):
            return builder.bitcast(builder.gep(array, [offset]), kind.as_pointer())

        def everywhere(row: int, column: int):
            """That number of the left factor in all lanes."""
            far, near = (row, column) if by_row else (column, row)
            offset = builder.add(builder.add(at, builder.mul(number(far), stride)), number(near))
            value = builder.load(builder.gep(left, [offset]), align=4)
            value = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(value, undefined, first)

        def add(total, x, y):
            if pairs:
                return builder.call(dot, [total, builder.bitcast(x, _Pairs()), builder.bitcast(y, _Pairs())])
            return builder.fadd(builder.fmul(x, y, flags=("contract",)), total, flags=("contract",))

        for begin in range(0, width, _AT_ONCE):
            columns = range(begin, min(begin + _AT_ONCE, width), _LANES)
            sums = {(row, column): ir.Constant(_FLOATS, None) for row in range(_ROWS) for column in columns}
            for k in range(depth):
                factors = {c: builder.load(lanes(right, number(k * width + c), kind), align=4) for c in columns}
                for row in range(_ROWS):
                    value = everywhere(row, k)
                    for column in columns:
                        sums[row, column] = add(sums[row, column], factors[column], value)
            for (row, column), total in sums.items():
                offset = builder.add(to, number(row * width + column))
                builder.store(total, lanes(result, offset, _FLOATS), align=4)
        return context.get_dummy_value()

    return multiply


# Passes ---------------------------------------------------------------------------------------------------------------

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
    """2 ** x for -126 <= x <= 0, within what fp32 rounds away. Added to so large a number, x is rounded to a whole one
    that stands in the lowest bits (not so if the compiler may reorder sums)."""
    shifted = x + _SHIFT
    rest = x - (shifted - _SHIFT)
    power = float32(((((_C5 * rest + _C4) * rest + _C3) * rest + _C2) * rest + _C1) * rest + _C0)
    return uint32(power.view(uint32) + uint32(float32(shifted).view(uint32) << uint32(23))).view(float32)


# Without a sign: an index that might be negative is looked at one by one (measured: up to twice the time).
_MANY, _NUMBERS = uint64(TOKENS), uint64(HEAD)


@njit(inline="always")
def _turn(tokens, first, row, count, columns):
    """`count` numbers of each of a window's tokens, from `first` on and `row` apart -> columns (count, TOKENS)."""
    many, first, row, count = _MANY, uint64(first), uint64(row), uint64(count)
    for i in range(many):
        for d in range(count):
            columns[d * many + i] = tokens[first + i * row + d]


@njit(inline="always")
def _turn_back(columns, count, tokens, first, row):
    many, first, row, count = _MANY, uint64(first), uint64(row), uint64(count)
    for i in range(many):
        for d in range(count):
            tokens[first + i * row + d] = columns[d * many + i]


@njit(inline="always")
def _add_bias(scores, of_head, of_window, scale, largest):
    """Scores become scale · scores + of_head + of_window; `largest` what the largest of each column is."""
    largest[:] = float32(-3e38)
    for j in range(TOKENS):
        for i in range(TOKENS):
            score = scores[j * TOKENS + i] * scale + (of_head[j, i] + of_window[j, i])
            scores[j * TOKENS + i] = score
            largest[i] = max(largest[i], score)


@njit(inline="always")
def _weight(score, largest):
    """Never so small that a product with it were too small for fp32, which is slow on some processors."""
    return float32(_power_of_two(max((score - largest) * _LOG2_E, float32(-64))))


@njit(inline="always")
def _weigh(scores, of_head, of_window, scale, largest, total):
    """Scores become the weights of a softmax, but for their sum, whose inverse is `total`."""
    _add_bias(scores, of_head, of_window, scale, largest)
    total[:] = float32(0)
    for j in range(TOKENS):
        for i in range(TOKENS):
            weight = _weight(scores[j * TOKENS + i], largest[i])
            scores[j * TOKENS + i] = weight
            total[i] += weight
    for i in range(TOKENS):
        total[i] = float32(1) / total[i]


@njit(inline="always")
def _pair(first, second):
    """Two numbers side by side in bf16."""
    return uint32(uint32(_half(first)) | uint32(uint32(_half(second)) << uint32(16)))


_scores, _gathered = product(HEAD, pairs=False, by_row=True), product(TOKENS, pairs=False, by_row=False)


@_compiled(fastmath=_IN_ORDER)
def _attend(part, parts, qkv, of_head, of_window, scale, result):
    """A part of the windows, in fp32. A query's scores stand in a column: so in every loop what is side by side belongs
    to different queries."""
    heads, windows, width = of_head.shape[0], of_window.shape[0], of_head.shape[0] * HEAD
    row, count = 3 * width, len(qkv) // (3 * width * TOKENS)
    query, gathered = np.empty(HEAD * TOKENS, float32), np.empty(HEAD * TOKENS, float32)
    scores, largest, total = np.empty(TOKENS * TOKENS, float32), np.empty(TOKENS, float32), np.empty(TOKENS, float32)
    for window in range(count * part // parts, count * (part + 1) // parts):
        for head in range(heads):
            queries = window * TOKENS * row + head * HEAD
            keys, values = queries + width, queries + 2 * width
            _turn(qkv, queries, row, HEAD, query)
            for j in range(0, TOKENS, _ROWS):
                _scores(qkv, keys + j * row, row, query, scores, j * TOKENS)
            _weigh(scores, of_head[head], of_window[window % windows], scale, largest, total)
            for d in range(0, HEAD, _ROWS):
                _gathered(qkv, values + d, row, scores, gathered, d * TOKENS)
            for d in range(HEAD):
                for i in range(TOKENS):
                    gathered[d * TOKENS + i] *= total[i]
            _turn_back(gathered, HEAD, result, window * TOKENS * width + head * HEAD, width)


@njit(inline="always")
def _pair_tokens(tokens, first, row, pairs):
    """A head's numbers of a window's tokens, paired inside each token -> pairs of two tokens (TOKENS / 2, HEAD)."""
    first, row, two, numbers = uint64(first), uint64(row), uint64(2), _NUMBERS
    for j in range(_MANY // two):
        for d in range(numbers // two):
            one, other = tokens[first + two * j * row + d], tokens[first + (two * j + uint64(1)) * row + d]
            place = j * numbers + two * d
            pairs[place] = uint32((one & uint32(0xFFFF)) | uint32(other << uint32(16)))
            pairs[place + uint64(1)] = uint32(uint32(one >> uint32(16)) | (other & uint32(0xFFFF0000)))


_scores_of_pairs = product(HEAD // 2, pairs=True, by_row=True)
_gathered_of_pairs = product(TOKENS // 2, pairs=True, by_row=False)


@_compiled(fastmath=_IN_ORDER)
def _attend_in_pairs(part, parts, qkv, of_head, of_window, scale, result):
    """The same in bf16, two numbers of a token in one of uint32. Weights are rounded, and their sum is that of the
    rounded ones, so that what all values have in common stays as it is."""
    half = HEAD // 2
    heads, windows, width = of_head.shape[0], of_window.shape[0], of_head.shape[0] * half
    row, count = 3 * width, len(qkv) // (3 * width * TOKENS)
    query, value = np.empty(half * TOKENS, uint32), np.empty(TOKENS // 2 * HEAD, uint32)
    weights, gathered = np.empty(TOKENS // 2 * TOKENS, uint32), np.empty(HEAD * TOKENS, float32)
    scores, largest, total = np.empty(TOKENS * TOKENS, float32), np.empty(TOKENS, float32), np.empty(TOKENS, float32)
    rounded = np.empty(half * TOKENS, uint32)
    for window in range(count * part // parts, count * (part + 1) // parts):
        for head in range(heads):
            queries = window * TOKENS * row + head * half
            keys, values = queries + width, queries + 2 * width
            _turn(qkv, queries, row, half, query)
            _pair_tokens(qkv, values, row, value)
            for j in range(0, TOKENS, _ROWS):
                _scores_of_pairs(qkv, keys + j * row, row, query, scores, j * TOKENS)
            _add_bias(scores, of_head[head], of_window[window % windows], scale, largest)
            total[:] = float32(0)
            for j in range(TOKENS // 2):
                for i in range(TOKENS):
                    pair = _pair(
                        _weight(scores[2 * j * TOKENS + i], largest[i]),
                        _weight(scores[(2 * j + 1) * TOKENS + i], largest[i]),
                    )
                    weights[j * TOKENS + i] = pair
                    total[i] += _wide(pair & uint32(0xFFFF)) + uint32(pair & uint32(0xFFFF0000)).view(float32)
            for d in range(0, HEAD, _ROWS):
                _gathered_of_pairs(value, d, HEAD, weights, gathered, d * TOKENS)
            for i in range(TOKENS):
                total[i] = float32(1) / total[i]
            for d in range(half):
                for i in range(TOKENS):
                    place = 2 * d * TOKENS + i
                    rounded[d * TOKENS + i] = _pair(gathered[place] * total[i], gathered[place + TOKENS] * total[i])
            _turn_back(rounded, half, result, window * TOKENS * width + head * half, width)


_SIDE = 32  # numbers that a token has here: those of a head, and zeros that fill up a vector
_rows_of = product(TOKENS, pairs=False, by_row=True, width=_SIDE)
_columns_of = product(TOKENS, pairs=False, by_row=False, width=_SIDE)


@njit(inline="always")
def _read_tokens(tokens, first, row, side):
    """A head's numbers of a window's tokens, `row` apart from `first` on -> side (TOKENS, _SIDE) in fp32."""
    many, numbers, apart = _MANY, _NUMBERS, uint64(_SIDE)
    first, row = uint64(first), uint64(row)
    for i in range(many):
        for d in range(numbers):
            side[i * apart + d] = _read(tokens[first + i * row + d])


@njit(inline="always")
def _write_tokens(side, scale, tokens, first, row):
    many, numbers, apart = _MANY, _NUMBERS, uint64(_SIDE)
    first, row = uint64(first), uint64(row)
    for i in range(many):
        for d in range(numbers):
            tokens[first + i * row + d] = _like(side[i * apart + d] * scale, tokens[0])


def _words(x):
    """How many of an array's elements a head has: numbers of fp32, or pairs of bf16."""


@overload(_words, inline="always")
def _words_of(x):
    count = HEAD // 2 if x.dtype == types.uint32 else HEAD
    return lambda x: count


def _score(left, at, stride, right, result, to):
    """Four rows of scores, by fp32 or by pairs of bf16."""


@overload(_score, inline="always")
def _score_as(left, at, stride, right, result, to):
    if left.dtype == types.uint32:
        return lambda left, at, stride, right, result, to: _scores_of_pairs(left, at, stride, right, result, to)
    return lambda left, at, stride, right, result, to: _scores(left, at, stride, right, result, to)


@_compiled(fastmath=_IN_ORDER)
def _attend_back(part, parts, words, of_words, qkv, gradient, of_qkv, of_head, of_window, scale, of_heads):
    """From the gradient of a part of the windows' results to that of their queries, keys and values, and to that of
    `of_head`, a sum for each part: of_heads (parts, heads, TOKENS, TOKENS). `words` and `of_words`: qkv and gradient
    once more, as `_words` counts them."""
    heads, windows = of_head.shape[0], of_window.shape[0]
    width, row, count = heads * HEAD, 3 * heads * HEAD, len(qkv) // (3 * heads * HEAD * TOKENS)
    number = _words(words)
    across, down = heads * number, 3 * heads * number
    columns = np.empty(HEAD * TOKENS, words.dtype)
    right, side = np.zeros(TOKENS * _SIDE, float32), np.empty(TOKENS * _SIDE, float32)
    weights, scores = np.empty(TOKENS * TOKENS, float32), np.empty(TOKENS * TOKENS, float32)
    largest, total, mean = np.empty(TOKENS, float32), np.empty(TOKENS, float32), np.empty(TOKENS, float32)
    for window in range(count * part // parts, count * (part + 1) // parts):
        for head in range(heads):
            place = window * TOKENS * down + head * number
            _turn(words, place, down, number, columns)
            for j in range(0, TOKENS, _ROWS):
                _score(words, place + across + j * down, down, columns, weights, j * TOKENS)
            _weigh(weights, of_head[head], of_window[window % windows], scale, largest, total)
            _turn(of_words, window * TOKENS * across + head * number, across, number, columns)
            for j in range(0, TOKENS, _ROWS):  # what a weight's growth would change
                _score(words, place + 2 * across + j * down, down, columns, scores, j * TOKENS)
            mean[:] = float32(0)
            for j in range(TOKENS):
                for i in range(TOKENS):
                    weight = weights[j * TOKENS + i] * total[i]
                    weights[j * TOKENS + i] = weight
                    mean[i] += weight * scores[j * TOKENS + i]
            for j in range(TOKENS):
                for i in range(TOKENS):
                    score = weights[j * TOKENS + i] * (scores[j * TOKENS + i] - mean[i])
                    scores[j * TOKENS + i] = score
                    of_heads[part, head, j, i] += score
            queries = window * TOKENS * row + head * HEAD
            keys, values = queries + width, queries + 2 * width
            _read_tokens(gradient, window * TOKENS * width + head * HEAD, width, right)
            for j in range(0, TOKENS, _ROWS):
                _rows_of(weights, j * TOKENS, TOKENS, right, side, j * _SIDE)
            _write_tokens(side, float32(1), of_qkv, values, row)
            _read_tokens(qkv, queries, row, right)
            for j in range(0, TOKENS, _ROWS):
                _rows_of(scores, j * TOKENS, TOKENS, right, side, j * _SIDE)
            _write_tokens(side, scale, of_qkv, keys, row)
            _read_tokens(qkv, keys, row, right)
            for i in range(0, TOKENS, _ROWS):
                _columns_of(scores, i, TOKENS, right, side, i * _SIDE)
            _write_tokens(side, scale, of_qkv, queries, row)


@_compiled(fastmath=True)
def _add_norm(part, parts, x, change, order, weight, bias, eps, total, normed):
    """A part of the rows of each image."""
    width, rows, wide = x.shape[2], total.shape[1], total.shape[2]
    beside = wide // width
    for image in range(x.shape[0]):
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            mean, variance = float32(0), float32(0)
            for token in range(beside):
                place = order[row * beside + token]
                for column in range(width):
                    value = x[image, place, column]
                    if change is not None:
                        value += _read(change[image, place, column])
                    total[image, row, token * width + column] = value
                    mean += value
            mean /= float32(wide)
            for column in range(wide):
                variance += (total[image, row, column] - mean) * (total[image, row, column] - mean)
            scale = float32(1) / np.sqrt(variance / float32(wide) + eps)
            for column in range(wide):
                value = (total[image, row, column] - mean) * scale * weight[column] + bias[column]
                normed[image, row, column] = _like(value, normed[0, 0, 0])


@_compiled(fastmath=True)
def _add_norm_back(part, parts, of_total, of_normed, total, order, weight, eps, of_x, of_change, of_weight, of_bias):
    """From the gradients of a part of the rows to those of the tokens in them, and to those of weight and bias, a sum
    for each part: (parts, width of a row). Mean and scale are computed again: to keep them would cost the way there a
    sixth of its time (measured)."""
    width, rows, wide = of_x.shape[2], total.shape[1], total.shape[2]
    beside = wide // width
    growth, sums = np.empty(wide, float32), np.empty(wide, float32)
    for image in range(len(of_x)):
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            mean, variance, common, along = float32(0), float32(0), float32(0), float32(0)
            for column in range(wide):
                mean += total[image, row, column]
            mean /= float32(wide)
            for column in range(wide):
                variance += (total[image, row, column] - mean) * (total[image, row, column] - mean)
            scale = float32(1) / np.sqrt(variance / float32(wide) + eps)
            for column in range(wide):
                change = _read(of_normed[image, row, column])
                number = (total[image, row, column] - mean) * scale
                of_weight[part, column] += change * number
                of_bias[part, column] += change
                change *= weight[column]
                common += change
                along += change * number
                growth[column] = change
            common /= float32(wide)
            along /= float32(wide)
            for column in range(wide):
                number = (total[image, row, column] - mean) * scale
                value = (growth[column] - common - along * number) * scale
                if of_total is not None:
                    value += of_total[image, row, column]
                sums[column] = value
            for token in range(beside):
                place = order[row * beside + token]
                for column in range(width):
                    value = sums[token * width + column]
                    of_x[image, place, column] = value
                    if of_change is not None:
                        of_change[image, place, column] = _half(value)


# prange counts without a sign; with it, what one thread runs serves here too and is compiled once.


@_compiled(parallel=True)
def _attend_side_by_side(parts, *arrays):
    for part in prange(parts):
        _attend(int64(part), parts, *arrays)


@_compiled(parallel=True)
def _attend_in_pairs_side_by_side(parts, *arrays):
    for part in prange(parts):
        _attend_in_pairs(int64(part), parts, *arrays)


@_compiled(parallel=True)
def _attend_back_side_by_side(parts, *arrays):
    for part in prange(parts):
        _attend_back(int64(part), parts, *arrays)


@_compiled(parallel=True)
def _add_norm_side_by_side(parts, *arrays):
    for part in prange(parts):
        _add_norm(int64(part), parts, *arrays)


@_compiled(parallel=True)
def _add_norm_back_side_by_side(parts, *arrays):
    for part in prange(parts):
        _add_norm_back(int64(part), parts, *arrays)
