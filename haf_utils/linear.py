"""Linear layers at the speed of the machine.

PyTorch multiplies fp32 matrices on x86 with Intel's MKL, which on AMD's processors with AVX-512 stays a fifth below
what oneDNN reaches (measured: 80 against 97 GFLOP/s on one Zen 4 core, at the sizes of CLAP). oneDNN comes with PyTorch
too, and applies a GELU while the result is still in cache. It has no gradients here, so it serves inference alone; with
gradients, on other devices, in other precisions, and on processors without AVX-512 (measured on Zen 3: MKL is an eighth
ahead) everything is what PyTorch does.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["linear"]

# On other processors the operator may exist, but nobody has measured it.
_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and platform.machine() in ("x86_64", "AMD64")
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
)


def linear(layer: nn.Linear, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """`layer(x)`, then GELU if asked, within rounding: x (..., in) -> (..., out)."""
    weight, bias = layer.weight, layer.bias
    if (
        _AVAILABLE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    product = F.linear(x, weight, bias)
    if not gelu:
        return product
    return F.gelu(product) if torch.is_grad_enabled() else torch.ops.aten.gelu_(product)  # in place: half the memory
