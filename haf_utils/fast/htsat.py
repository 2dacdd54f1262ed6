"""HTSAT's forward pass on laion-clap's modules, without rolling and cutting the image in every block.

HTSAT is a Swin transformer: its blocks attend inside windows of 8 × 8 tokens, and every other block shifts the windows
by half. All other operations of a block act on single tokens. So tokens stay in the order of the windows, and one
gather permutes them for the next block.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from haf_utils.fast.ops import gather, linear

__all__ = ["encode", "permutation"]

Order = tuple  # of tokens: arguments of `_positions`


def encode(htsat: nn.Module, image: torch.Tensor, recompute: bool = False) -> torch.Tensor:
    """Spectrogram images (B, 1, spec_size, spec_size) -> embeddings (B, D), the mean over the last layer's tokens.

    Equals the "embedding" of laion-clap's `forward_features` within rounding, with the same gradients. `recompute`:
    activation checkpointing of the blocks, for less memory and a third more work. Raises ValueError for other sizes.
    """
    size = tuple(htsat.patch_embed.img_size)
    if image.shape[2:] != size:
        raise ValueError(f"images must be (batch, 1, {size[0]}, {size[1]}), got {tuple(image.shape)}")
    # In fp32 under autocast too, so that the sum over the blocks' residuals is not rounded to bf16.
    with torch.autocast(image.device.type, enabled=False):
        x = htsat.pos_drop(htsat.patch_embed(image))
    for layer in htsat.layers:
        order = ("rows", *layer.input_resolution)
        for block in layer.blocks:
            wanted = ("windows", *block.input_resolution, block.window_size, block.shift_size)
            x, order = _reorder(x, order, wanted), wanted
            x = checkpoint(_block, block, x, use_reentrant=False) if recompute else _block(block, x)
        if layer.downsample is not None:
            x = _downsample(layer.downsample, x, order)
    return htsat.norm(x).mean(dim=1)  # the mean does not depend on the order


def _block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A transformer block on tokens (B, L, C) in the order of its windows."""
    x = x + block.drop_path(_attention(block, block.norm1(x)))
    mlp = block.mlp
    hidden = mlp.drop(linear(mlp.fc1, block.norm2(x), gelu=True))
    return x + block.drop_path(mlp.drop(linear(mlp.fc2, hidden)))


def _attention(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Attention inside each window: (B, L, C) -> (B, L, C)."""
    attention, inside, (batch, length, width) = block.attn, block.window_size**2, x.shape
    heads = attention.num_heads
    qkv = linear(attention.qkv, x).view(batch * length // inside, inside, 3, heads, width // heads)
    attend = _fused if x.device.type == "cuda" else _unfused  # on a CPU the fused kernel has no gradient for the bias
    dropout = attention.attn_drop.p if block.training else 0.0
    qkv = qkv.permute(2, 0, 3, 1, 4)
    x = attend(*qkv, _bias(block).to(qkv.dtype), dropout, attention.scale)
    return attention.proj_drop(linear(attention.proj, x.transpose(1, 2).reshape(batch, length, width)))


def _bias(block: nn.Module) -> torch.Tensor:
    """The bias on the attention scores of the N tokens of a window: (1, heads, N, N); for shifted windows (windows,
    heads, N, N), as it includes the mask between tokens that are not neighbours in the image."""
    attention, inside = block.attn, block.window_size**2
    # `index_select`, since the gradient of `table[index]` is slow.
    bias = attention.relative_position_bias_table.index_select(0, attention.relative_position_index.view(-1))
    bias = bias.view(1, inside, inside, attention.num_heads).permute(0, 3, 1, 2)
    return (bias if block.attn_mask is None else bias + block.attn_mask[:, None]).contiguous()


def _unfused(query, key, value, bias: torch.Tensor, dropout: float, scale: float) -> torch.Tensor:
    """Attention (B · windows, heads, N, D) in single operations, which have gradients on every device."""
    scores = (query.contiguous() * scale) @ key.contiguous().transpose(-2, -1)
    scores = scores.unflatten(0, (-1, len(bias))) + bias
    return F.dropout(scores.flatten(0, 1).softmax(-1), dropout) @ value.contiguous()


def _fused(query, key, value, bias: torch.Tensor, dropout: float, scale: float) -> torch.Tensor:
    """The same by PyTorch's fused kernel."""
    many = len(query) // len(bias)
    bias = bias.expand(many, -1, -1, -1) if len(bias) == 1 else bias.repeat(many, 1, 1, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)


def _downsample(merging: nn.Module, x: torch.Tensor, order: Order) -> torch.Tensor:
    """Swin's patch merging: tokens (B, L, C) in `order` -> (B, L / 4, 2C) row by row; one gather puts the four tokens
    that are merged side by side. In fp32 under autocast too, as the patch embedding."""
    x = _reorder(x, order, ("squares", *merging.input_resolution))
    with torch.autocast(x.device.type, enabled=False):
        return linear(merging.reduction, merging.norm(x.view(len(x), -1, *merging.norm.normalized_shape)))


def _reorder(x: torch.Tensor, current: Order, wanted: Order) -> torch.Tensor:
    return x if current == wanted else gather(x, 1, *permutation(current, wanted, x.device))


def _positions(kind: str, height: int, width: int, window: int = 2, shift: int = 0) -> torch.Tensor:
    """An order of tokens: the position (H·W,) of each in the image, counted row by row.

    "rows": row by row; "windows": window by window, of the image rolled by `shift`; "squares": of 2 × 2, in each the
    first column before the second, as laion-clap stacks them.
    """
    positions = torch.arange(height * width, device="cpu")
    if kind == "rows":
        return positions
    positions = positions.view(height, width).roll((-shift, -shift), (0, 1))
    positions = positions.view(height // window, window, width // window, window)
    return positions.permute((0, 2, 1, 3) if kind == "windows" else (0, 2, 3, 1)).flatten()


@torch.compiler.assume_constant_result
@torch.inference_mode(False)  # cached inference tensors could not serve training
@cache
def permutation(current: Order, wanted: Order, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """index (L,), which permutes tokens from one order to the other, and its inverse (L,), for the backward pass."""
    index = _positions(*current).argsort()[_positions(*wanted)].to(device)
    return index, index.argsort()
