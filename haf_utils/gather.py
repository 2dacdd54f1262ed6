"""Rows in other places, with a gradient that is a gather as well: PyTorch's own would add up rows one by one."""

from __future__ import annotations

import torch

__all__ = ["gather"]


def gather(x: torch.Tensor, dim: int, places: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """`x.index_select(dim, places)`. `back`: for each row of x the place of the result whose gradient is its own; the
    gradients of other places that hold the same row are left out, so they must be zero."""
    return _Gather.apply(x, dim, places, back)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, dim: int, places: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.dim, ctx.back = dim, back
        return x.index_select(dim, places)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient.index_select(ctx.dim, ctx.back), None, None, None
