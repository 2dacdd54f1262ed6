"""Linear layers at the speed of the machine.

PyTorch multiplies fp32 matrices on x86 with Intel's MKL, which on AMD's processors with AVX-512 stays a fifth below
what oneDNN reaches (measured: 80 against 97 GFLOP/s on one Zen 4 core, at the sizes of CLAP). oneDNN comes with PyTorch
too, and in inference adds the bias and applies a GELU while the result is still in cache; in bf16, where PyTorch calls
it as well, that saves writing the result twice. It has no gradients, so those are spelt out here. On other devices, in
bf16 with gradients, and on processors without AVX-512 (measured on Zen 3: MKL is an eighth ahead) everything is what
PyTorch does.
"""

from __future__ import annotations

import math
import platform

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import register_flop_formula
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["linear"]

# On other processors the operator may exist, but nobody has measured it.
_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and platform.machine() in ("x86_64", "AMD64")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
)
_PACKED: WeakIdKeyDictionary = WeakIdKeyDictionary()  # parameter -> {type: (its state, its values for oneDNN, …)}
# A parameter counts what changes it in place; fused optimisers on a CPU change it uncounted.
register_optimizer_step_post_hook(lambda *_: _PACKED.clear())


def linear(layer: nn.Linear, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """`layer(x)`, then GELU if asked, within rounding: x (..., in) -> (..., out), in bf16 under such an autocast."""
    weight, bias = layer.weight, layer.bias
    training, bf16 = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    if _AVAILABLE and x.device.type == "cpu" and weight.dtype == torch.float32 and not (training and bf16):
        if not training:
            dtype = torch.bfloat16 if bf16 else torch.float32
            weight, bias = _packed(weight, dtype), None if bias is None else _packed(bias, dtype)
            return _multiply(x.to(dtype), weight, bias, "gelu" if gelu else "none")
        product = _Product.apply(x, weight, bias)
    else:
        product = F.linear(x, weight, bias)
    if not gelu:
        return product
    return F.gelu(product) if training else torch.ops.aten.gelu_(product)  # in place: half the memory


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, after: str = "none") -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")


if _AVAILABLE:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _operations(x: tuple, weight: tuple, *_, **__) -> int:
        """What PyTorch's counter of operations is to count for a product, by the shapes: it does not know oneDNN's."""
        return 2 * math.prod(x) * weight[0]


class _Product(torch.autograd.Function):
    """`F.linear` with gradients; that of the weight by MKL, which is the faster one where sums are long."""

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


def _packed(parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A parameter in this type, matrices in the blocks that oneDNN multiplies, which it else makes for every product
    (measured: 4 % of one in fp32, 5 % in bf16). Made once for as long as the parameter lives and stays as it is: for a
    batch of texts, bf16 alone costs as much as a sixth of the forward pass, and autocast keeps it for one batch only.
    The price is memory: as much again as the weights have, or half of it in bf16. What writes into `parameter.data`
    in place is not noticed: write into the parameter itself, under `torch.no_grad()`."""
    if parameter.is_inference():  # has no version
        return parameter.to(dtype)
    state, known = (parameter._version, parameter.data_ptr()), _PACKED.setdefault(parameter, {})
    if dtype not in known or known[dtype][0] != state:
        now = parameter.detach()  # kept too: else its address might be given to what replaces it
        values = now.to(dtype)
        if values.dim() == 2:
            values = torch.ops.mkldnn._reorder_linear_weight(values)
        known[dtype] = state, values, now
    return known[dtype][1]
