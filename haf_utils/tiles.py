"""Small matrix products inside numba's compiled passes, at the rate of the processor.

numba's compiler turns loops over numbers into vectors, but keeps the sums of a product in memory and knows no products
of bf16. So the instructions are written out here: the sums of four rows stay in registers, and on a processor that
multiplies pairs of bf16 (AVX512-BF16) that is one instruction. (Measured on one Zen 4 core, a window's scores: 2.4 µs
in a loop of numba, 1.7 this way, 0.9 in bf16.)
"""

from __future__ import annotations

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["COLUMNS", "PAIRS", "product"]

COLUMNS = 64  # of every right factor and result: the tokens of a window
_ROWS = 4  # of a tile
_LANES = 16

_FEATURES = binding.get_host_cpu_features()
PAIRS = bool(_FEATURES.get("avx512bf16"))  # whether the processor has the instruction for pairs
# Sums that fit the registers: 4 × 64 in the 32 of AVX-512, 4 × 16 in smaller ones.
_AT_ONCE = COLUMNS if _FEATURES.get("avx512f") else _LANES

_BITS = ir.VectorType(ir.IntType(32), _LANES)
_FLOATS = ir.VectorType(ir.FloatType(), _LANES)


class _Pairs(ir.types.Type):
    """LLVM's type for 16 pairs of bf16, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "<32 x bfloat>"

    def __eq__(self, other) -> bool:
        return isinstance(other, _Pairs)

    def __hash__(self) -> int:
        return hash(_Pairs)


def product(depth: int, pairs: bool, by_row: bool):
    """A function for compiled code, `f(left, at, stride, right, result, to)`: four rows of a result (rows, 64) are four
    rows of `left` (rows, depth) times `right` (depth, 64). All are flat arrays, of which nothing checks the bounds.

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

        for begin in range(0, COLUMNS, _AT_ONCE):
            columns = range(begin, begin + _AT_ONCE, _LANES)
            sums = {(row, column): ir.Constant(_FLOATS, None) for row in range(_ROWS) for column in columns}
            for k in range(depth):
                factors = {c: builder.load(lanes(right, number(k * COLUMNS + c), kind), align=4) for c in columns}
                for row in range(_ROWS):
                    value = everywhere(row, k)
                    for column in columns:
                        sums[row, column] = add(sums[row, column], factors[column], value)
            for (row, column), total in sums.items():
                offset = builder.add(to, number(row * COLUMNS + column))
                builder.store(total, lanes(result, offset, _FLOATS), align=4)
        return context.get_dummy_value()

    return multiply
