"""HTSAT's forward pass on laion-clap's own modules, without its detours.

HTSAT is a Swin transformer: its blocks attend inside windows of 8 × 8 tokens, and every other block shifts the windows
by half. laion-clap rolls and cuts the image into windows and puts it together again in every block. But all else in a
block acts on each token alone, so here the tokens simply stay in the order of the windows, and one gather takes them
to the next block's. In inference, attention runs in one fused kernel.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from haf_utils.linear import linear

__all__ = ["encode"]


def encode(htsat: nn.Module, image: torch.Tensor, recompute: bool = False) -> torch.Tensor:
    """Spectrogram images (B, 1, spec_size, spec_size) -> embeddings (B, D), the mean over the last layer's tokens.

    Equals the "embedding" of laion-clap's `forward_features` within rounding, with the same gradients. `recompute`:
    keep no activations inside the blocks, for less memory and a third more work.
    """
    x = htsat.pos_drop(htsat.patch_embed(image))
    order = torch.arange(x.shape[1])  # where in the image each token stands
    for layer in htsat.layers:
        for block in layer.blocks:
            height, width = block.input_resolution
            wanted = _window_order(height, width, block.window_size, block.shift_size)
            x, order = _reorder(x, order, wanted), wanted
            x = recomputed(_block, block, x, use_reentrant=False) if recompute else _block(block, x)
        if layer.downsample is not None:
            x, order = _downsample(layer.downsample, x, order), torch.arange(x.shape[1] // 4)
    return htsat.norm(x).mean(dim=1)


def _block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A transformer block on tokens (B, L, C) in the order of its windows."""
    x = x + block.drop_path(_attention(block, block.norm1(x)))
    mlp = block.mlp
    hidden = mlp.drop(linear(mlp.fc1, block.norm2(x), gelu=True))
    return x + block.drop_path(mlp.drop(linear(mlp.fc2, hidden)))


def _attention(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Attention inside each window: (B, L, C) -> (B, L, C)."""
    attention, (batch, length, width) = block.attn, x.shape
    heads, inside = attention.num_heads, block.window_size**2
    count = length // inside  # windows an image
    qkv = linear(attention.qkv, x).view(batch * count, inside, 3, heads, width // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B · windows, heads, N, width / heads)
    bias = attention.relative_position_bias_table[attention.relative_position_index.view(-1)]
    bias = bias.view(inside, inside, heads).permute(2, 0, 1).to(query.dtype)
    if block.attn_mask is not None:
        bias = bias + block.attn_mask[:, None].to(bias.dtype)  # (windows, heads, N, N)
    dropout = attention.attn_drop.p if block.training else 0.0
    # On a CPU the fused kernel is the faster one only in fp32, and has no gradient for the bias (measured).
    if query.is_cuda or (query.dtype == torch.float32 and not torch.is_grad_enabled()):
        bias = bias.expand(batch, count, heads, inside, inside).flatten(0, 1)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=attention.scale)
    else:
        scores = (query * attention.scale) @ key.transpose(-2, -1)
        scores = (scores.view(batch, count, heads, inside, inside) + bias).flatten(0, 1)
        x = F.dropout(scores.softmax(-1), dropout) @ value
    return attention.proj_drop(linear(attention.proj, x.transpose(1, 2).reshape(batch, length, width)))


def _downsample(merging: nn.Module, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Swin's patch merging: tokens (B, L, C) in `order` -> (B, L / 4, 2C) row by row; one gather puts the four tokens
    that become one side by side."""
    height, width = merging.input_resolution
    places = torch.arange(height * width).view(height // 2, 2, width // 2, 2)
    side_by_side = places.permute(0, 2, 3, 1).reshape(-1)  # laion-clap stacks columns first
    x = _reorder(x, order, side_by_side)
    return linear(merging.reduction, merging.norm(x.view(x.shape[0], -1, 4 * x.shape[2])))


@cache
def _window_order(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """Places (H·W,) in the image of its tokens, window by window, the image rolled by `shift` before."""
    places = torch.arange(height * width).view(height, width).roll((-shift, -shift), (0, 1))
    places = places.view(height // window, window, width // window, window)
    return places.transpose(1, 2).reshape(-1)


def _reorder(x: torch.Tensor, current: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Tokens (B, L, C) that stand in the order `current` -> the same in the order `wanted`."""
    if torch.equal(current, wanted):
        return x
    steps = current.argsort()[wanted]
    return _Permutation.apply(x, steps.to(x.device), steps.argsort().to(x.device))


class _Permutation(torch.autograd.Function):
    """x[:, order]; its gradient is a gather as well, where PyTorch would add up rows one by one."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.inverse = inverse
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient.index_select(1, ctx.inverse), None, None
