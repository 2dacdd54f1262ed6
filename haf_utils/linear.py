"""Linear layers at the speed of the machine.

PyTorch multiplies fp32 matrices on x86 with Intel's MKL, which on AMD's processors with AVX-512 stays a fifth below
what oneDNN reaches (measured: 80 against 97 GFLOP/s on one Zen 4 core, at the sizes of CLAP). oneDNN comes with PyTorch
too, and adds the bias and applies a GELU while the result is still in cache; in bf16, where PyTorch calls it as well,
that saves writing the result twice. It has no gradients here, so it serves inference alone; with gradients, on other
devices, and on processors without AVX-512 (measured on Zen 3: MKL is an eighth ahead) everything is what PyTorch does.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["linear"]

# On other processors the operator may exist, but nobody has measured it.
_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and platform.machine() in ("x86_64", "AMD64")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
)
_HALF: WeakIdKeyDictionary = WeakIdKeyDictionary()  # parameter -> (its state, its values in bf16)


def linear(layer: nn.Linear, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """`layer(x)`, then GELU if asked, within rounding: x (..., in) -> (..., out), in bf16 under such an autocast."""
    weight, bias = layer.weight, layer.bias
    if _AVAILABLE and x.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_grad_enabled():
        if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16:
            x, weight, bias = x.bfloat16(), _half(weight), None if bias is None else _half(bias)
        if x.dtype == weight.dtype:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    product = F.linear(x, weight, bias)
    if not gelu:
        return product
    return F.gelu(product) if torch.is_grad_enabled() else torch.ops.aten.gelu_(product)  # in place: half the memory


def _half(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter in bf16, made once for as long as it lives and stays as it is: for a batch of texts, that costs as
    much as a sixth of the forward pass. (Autocast keeps it for one batch only.)"""
    if parameter.is_inference():  # has no version
        return parameter.bfloat16()
    state = parameter._version, parameter.data_ptr()
    known = _HALF.get(parameter)
    if known is None or known[0] != state:
        known = _HALF[parameter] = state, parameter.detach().bfloat16()
    return known[1]
