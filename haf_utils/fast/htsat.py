"""HTSAT's forward pass on laion-clap's own modules, without its detours.

HTSAT is a Swin transformer: its blocks attend inside windows of 8 × 8 tokens, and every other block shifts the windows
by half. laion-clap rolls and cuts the image into windows and puts it together again in every block. But all else in a
block acts on each token alone, so here the tokens simply stay in the order of the windows, and one gather takes them
to the next block's. What the second half of a block adds to them is added there too: so that on a CPU sum, gather and
the next norm are one pass, and attention another, there and back (`kernels`), in inference image by image where the
cache asks for it. On a GPU attention is PyTorch's fused kernel.

`torch.compile` of laion-clap's own way is not used: on two Zen 4 cores it compiles for 90 s and then takes 110 ms a
clip in fp32 and 58 in bf16, where its plain way takes 139 and 80, and this one 85 and 50 (measured side by side).
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.checkpoint import checkpoint as recomputed

from haf_utils.fast.ops import linear
from haf_utils.gather import gather

__all__ = ["encode"]

Steps = tuple[torch.Tensor, torch.Tensor]  # see `_steps`
Bias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]  # see `_bias`

# Bytes of a layer's widest tensor: what one image has in HTSAT's first layer. Twice as much is as fast (measured).
_CACHE = 6_500_000


def encode(htsat: nn.Module, image: torch.Tensor, recompute: bool = False) -> torch.Tensor:
    """Spectrogram images (B, 1, spec_size, spec_size) -> embeddings (B, D), the mean over the last layer's tokens.

    Equals the "embedding" of laion-clap's `forward_features` within rounding, with the same gradients. `recompute`:
    keep no activations inside the blocks, for less memory and a third more work. Raises ValueError for other sizes.
    """
    size = tuple(htsat.patch_embed.img_size)
    if image.shape[2:] != size:
        raise ValueError(f"images must be (batch, 1, {size[0]}, {size[1]}), got {tuple(image.shape)}")
    x = image
    for layer in htsat.layers:
        biases = [_bias(block, image) for block in layer.blocks]
        parts = x.split(_at_once(layer, x))
        if layer is htsat.layers[0]:
            parts = (_patches(htsat, part) for part in parts)
        parts = [_layer(layer, biases, part, recompute) for part in parts]
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
    return htsat.norm(x).mean(dim=1)


def _at_once(layer: nn.Module, x: torch.Tensor) -> int:
    """How many images go through a layer together. On a CPU without gradients as many as the cache holds: what is
    written is still there when it is read, and image after image gets its memory from the same place."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return len(x)
    widest = math.prod(layer.input_resolution) * layer.blocks[0].mlp.fc1.out_features * x.element_size()
    return max(1, _CACHE // widest)


def _patches(htsat: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Images -> tokens (B, L, C) of the first layer, in fp32 under autocast too: what blocks add to them is bf16 then,
    the sum is not (embeddings a third nearer to those in fp32, in less time: measured). The convolution is a product
    with each patch's pixels, which has the tokens in rows at once: on CPUs a third of the time, with gradients half."""
    embed = htsat.patch_embed
    (height, width), (down, right), (below, beside) = embed.proj.kernel_size, embed.proj.stride, embed.proj.padding
    with torch.autocast(image.device.type, enabled=False):
        patches = F.pad(image, (beside, beside, below, below)).unfold(2, height, down).unfold(3, width, right)
        pixels = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return htsat.pos_drop(embed.norm(F.linear(pixels, embed.proj.weight.flatten(1), embed.proj.bias)))


def _layer(layer: nn.Module, biases: list[torch.Tensor], x: torch.Tensor, recompute: bool) -> torch.Tensor:
    """One layer on tokens (B, L, C), row by row of the image -> (B, L / 4, 2C), but for the last layer (B, L, C)."""
    order, change = ("rows", *layer.input_resolution), None  # in which the tokens stand, see `_places`
    for block, bias in zip(layer.blocks, biases, strict=True):
        wanted = ("windows", *block.input_resolution, block.window_size, block.shift_size)
        if recompute and change is not None:  # or both would be kept for the way back
            x, change = _add(x, change), None
        inputs = block, x, change, _steps(order, wanted, x.device), bias  # steps as a tuple: not to be recorded
        x, change = recomputed(_block, *inputs, use_reentrant=False) if recompute else _block(*inputs)
        order = wanted
    if layer.downsample is None:
        return _add(x, change)
    return _downsample(layer, x, change, order)


def _bias(block: nn.Module, image: torch.Tensor) -> Bias:
    """What is added to the attention scores between two places of a window: (1, heads, N, N), or where windows are
    shifted (windows, heads, N, N), since those at the edge hide what is no neighbour in the image.

    For `kernels` instead a pair, with the queries last: that of each head (heads, N, N) and of each window
    (windows, N, N). Added up they would not fit the cache.
    """
    attention, inside = block.attn, block.window_size**2
    # Not by `table[index]`, whose gradient takes a hundred times as long.
    bias = attention.relative_position_bias_table.index_select(0, attention.relative_position_index.view(-1))
    bias = bias.view(1, inside, inside, attention.num_heads).permute(0, 3, 1, 2)
    if _compiled(block, image):
        hidden = bias.new_zeros(1, inside, inside) if block.attn_mask is None else block.attn_mask  # symmetric
        return bias[0].mT.contiguous(), hidden
    bias = bias if block.attn_mask is None else bias + block.attn_mask[:, None]
    return bias.to(_precision(image)).contiguous()  # or the fused kernel would make a copy, for every image anew


def _block(
    block: nn.Module, x: torch.Tensor, change: torch.Tensor | None, steps: Steps | None, bias: Bias
) -> tuple[torch.Tensor, torch.Tensor]:
    """A transformer block on tokens x + change (B, L, C), which `steps` take to the order of its windows -> the tokens
    in that order, and what the second half of the block is to add to them."""
    compiled = _compiled(block, x)
    x, normed = _add_norm(x, change, steps, block.norm1, compiled)
    change = block.drop_path(_attention(block, normed, bias, compiled))
    x, normed = _add_norm(x, change, None, block.norm2, compiled)
    mlp = block.mlp
    hidden = mlp.drop(linear(mlp.fc1, normed, gelu=True))
    return x, block.drop_path(mlp.drop(linear(mlp.fc2, hidden)))


def _add_norm(
    x: torch.Tensor, change: torch.Tensor | None, steps: Steps | None, norm: nn.LayerNorm, compiled: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + change, reordered by `steps`, and its layer norm: over a token, or over as many as it takes side by side.
    Without gradients x may be overwritten."""
    if compiled:
        from haf_utils.kernels import add_norm

        return add_norm(x, change, None if steps is None else steps[0], norm, _precision(x))
    x = _reorder(x if change is None else _add(x, change), steps)
    x = x.view(len(x), -1, *norm.normalized_shape)
    return x, norm(x)


def _add(x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """x + change; where no gradient needs x, in its place."""
    return x + change if torch.is_grad_enabled() else x.add_(change)


def _attention(block: nn.Module, x: torch.Tensor, bias: Bias, compiled: bool) -> torch.Tensor:
    """Attention inside each window: (B, L, C) -> (B, L, C)."""
    attention, (batch, length, width) = block.attn, x.shape
    qkv = linear(attention.qkv, x)
    if compiled:
        from haf_utils.kernels import window_attention

        x = window_attention(qkv, *bias, attention.scale)
    else:
        heads, inside = attention.num_heads, block.window_size**2
        qkv = qkv.view(batch * length // inside, inside, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        # On a CPU the fused one has no gradient for the bias.
        attend = _fused if x.device.type == "cuda" else _plain
        x = attend(*qkv, bias, attention.attn_drop.p if block.training else 0.0, attention.scale)
        x = x.transpose(1, 2).reshape(batch, length, width)
    return attention.proj_drop(linear(attention.proj, x))


def _precision(x: torch.Tensor) -> torch.dtype:
    """That of the products with x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _compiled(block: nn.Module, x: torch.Tensor) -> bool:
    """Whether `kernels` do what is between the products of a block: they have no dropout, and know one size of windows
    and heads. What counts operations is shown PyTorch's own."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or is_in_torch_dispatch_mode():
        return False
    if _precision(x) not in (torch.float32, torch.bfloat16):
        return False
    from haf_utils.kernels import HEAD, TOKENS  # here, as below: only this way needs numba

    sizes = block.window_size**2, block.dim // block.attn.num_heads
    return sizes == (TOKENS, HEAD) and not (block.training and block.attn.attn_drop.p)


def _plain(query, key, value, bias: torch.Tensor, dropout: float, scale: float) -> torch.Tensor:
    """Attention (B · windows, heads, N, D) in plain operations, with gradients everywhere; the bias is one for all
    windows, or that of each window of an image."""
    scores = (query.contiguous() * scale) @ key.contiguous().transpose(-2, -1)
    scores = scores.unflatten(0, (-1, len(bias))) + bias
    return F.dropout(scores.flatten(0, 1).softmax(-1), dropout) @ value.contiguous()


def _fused(query, key, value, bias: torch.Tensor, dropout: float, scale: float) -> torch.Tensor:
    """The same in PyTorch's one kernel."""
    many = len(query) // len(bias)
    bias = bias.expand(many, -1, -1, -1) if len(bias) == 1 else bias.repeat(many, 1, 1, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)


def _downsample(layer: nn.Module, x: torch.Tensor, change: torch.Tensor, order: tuple) -> torch.Tensor:
    """Swin's patch merging: tokens x + change (B, L, C) in `order` -> (B, L / 4, 2C) row by row; one gather puts the
    four tokens that become one side by side. In fp32 under autocast too: all that follows is added to what comes out
    here (embeddings half as far from those in fp32, for 3 % of time: measured)."""
    merging, compiled = layer.downsample, _compiled(layer.blocks[-1], x)
    steps = _steps(order, ("squares", *merging.input_resolution), x.device)
    with torch.autocast(x.device.type, enabled=False):
        _, x = _add_norm(x, change, steps, merging.norm, compiled)
        return linear(merging.reduction, x)


def _places(kind: str, height: int, width: int, window: int = 2, shift: int = 0) -> torch.Tensor:
    """An order of tokens: for each its place (H·W,) in the image, counted row by row.

    "rows": as they are counted; "windows": window by window, the image rolled by `shift` before; "squares": of 2 × 2,
    in each the first column before the second, as laion-clap stacks them.
    """
    places = torch.arange(height * width)
    if kind == "rows":
        return places
    places = places.view(height, width).roll((-shift, -shift), (0, 1))
    places = places.view(height // window, window, width // window, window)
    return places.permute((0, 2, 1, 3) if kind == "windows" else (0, 2, 3, 1)).flatten()


def _reorder(x: torch.Tensor, steps: Steps | None) -> torch.Tensor:
    """Tokens (B, L, C) in another order: that of `_steps`."""
    return x if steps is None else gather(x, 1, *steps)


@cache
@torch.inference_mode(False)  # kept for training too, whatever asks first
def _steps(current: tuple, wanted: tuple, device: torch.device) -> Steps | None:
    """Where each token of the order `wanted` stands in `current`, and the way back; None for the same order."""
    steps = _places(*current).argsort()[_places(*wanted)]
    if torch.equal(steps, torch.arange(len(steps))):
        return None
    return steps.to(device), steps.argsort().to(device)
