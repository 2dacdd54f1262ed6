"""Two operations faster than PyTorch's defaults: linear layers in fp32 on a CPU, and permutations of rows."""

import math
import platform

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

__all__ = ["gather", "linear"]

# A private operator, faster than PyTorch's MKL on processors with AVX-512; on others it may be slower.
_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and platform.machine() in ("x86_64", "AMD64")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
)


def linear(layer: nn.Linear, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """`layer(x)`, then GELU if asked: x (..., in) -> (..., out), within rounding, with the same gradients.

    In fp32 on a CPU it calls oneDNN, which without gradients applies the GELU while the product is in the cache.
    Elsewhere and under autocast it calls PyTorch's functions.
    """
    weight, bias, training = layer.weight, layer.bias, torch.is_grad_enabled()
    fp32_on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not (_AVAILABLE and fp32_on_cpu) or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        product = F.linear(x, weight, bias)
    elif training:
        product = _Product.apply(x, weight, bias)
    else:
        return _multiply(x, weight, bias, "gelu" if gelu else "none")
    if not gelu:
        return product
    return F.gelu(product) if training else torch.ops.aten.gelu_(product)  # in place: half the memory


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, after: str = "none") -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")


if _AVAILABLE:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _operations(x: tuple, weight: tuple, *_, **__) -> int:
        """Floating-point operations from the shapes: PyTorch's counter does not know this operator."""
        return 2 * math.prod(x) * weight[0]


class _Product(torch.autograd.Function):
    """`F.linear` by oneDNN with gradients, which the operator lacks; the weight's by PyTorch, which is faster."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _multiply(gradient, weight.t(), None) if for_x else None,
            rows.t() @ x.flatten(0, -2) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def gather(x: torch.Tensor, dim: int, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """`x.index_select(dim, index)`; its backward is an `index_select` by `inverse` and not a scatter-add.

    index: a permutation of the rows of x, which may repeat rows. inverse: for each row of x, the position in the result
    that holds its gradient; at further positions of a repeated row the gradient must be zero.
    """
    return _Gather.apply(x, dim, index, inverse)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, dim: int, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.dim, ctx.inverse = dim, inverse
        return x.index_select(dim, index)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient.index_select(ctx.dim, ctx.inverse), None, None, None
