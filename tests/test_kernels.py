"""The compiled passes between HTSAT's products give what PyTorch gives, rounded once."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haf_utils.htsat import _plain
from haf_utils.kernels import HEAD, TOKENS, add_norm, window_attention

ROUNDING = 2**-8  # of a value, the most that bf16 rounds away
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def close(found, expected, atol=1e-6):
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=ROUNDING * 1.01, atol=atol)


def attention(qkv, of_head, of_window, scale):
    """As `window_attention`, by PyTorch."""
    (images, length, width), heads = qkv.shape, len(of_head)
    query, key, value = qkv.view(-1, TOKENS, 3, heads, width // heads // 3).permute(2, 0, 3, 1, 4)
    bias = (of_window[:, None] + of_head).mT
    return _plain(query, key, value, bias, 0.0, scale).transpose(1, 2).reshape(images, length, width // 3)


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=15, deadline=None)
@given(
    seeds,
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    st.floats(0.01, 0.3),  # HTSAT's is 0.2
    st.floats(0.1, 3),
)
@torch.no_grad()
def test_attention_is_pytorchs(threads, seed, sizes, scale, spread):
    images, windows, heads = sizes
    qkv = normal(seed, images, windows * TOKENS, 3 * heads * HEAD, spread=spread)
    of_head, of_window = normal(seed + 1, heads, TOKENS, TOKENS), torch.zeros(windows, TOKENS, TOKENS)
    of_window[normal(seed + 2, windows, TOKENS, TOKENS) > 1] = -100.0  # as HTSAT hides what is no neighbour
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = window_attention(qkv, of_head, of_window, scale)
        half = window_attention(qkv.bfloat16(), of_head, of_window, scale)
    finally:
        torch.set_num_threads(before)
    expected = attention(qkv.double(), of_head.double(), of_window.double(), scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)
    close(half, attention(qkv.bfloat16().double(), of_head.double(), of_window.double(), scale).float(), 2e-5)


def test_what_does_not_go_together_is_refused():
    """What is compiled would read beyond the end."""
    square = TOKENS, TOKENS
    qkv, heads, windows = torch.zeros(1, 3 * TOKENS, 6 * HEAD), torch.zeros(2, *square), torch.zeros(3, *square)
    for wrong in (
        (qkv[:, :TOKENS], heads, windows),
        (qkv[:, :, :-1], heads, windows),
        (qkv, heads[:1], windows),
        (qkv, heads[:, :3], windows),
        (qkv, heads, windows[:, :, :3]),
        (qkv.double(), heads, windows),
        (qkv, heads.double(), windows),
        (qkv.mT.contiguous().mT, heads, windows),
    ):
        with pytest.raises(ValueError, match="do not go with"):
            window_attention(*wrong, 1.0)
    x, norm = torch.zeros(2, 5, 8), nn.LayerNorm(8)
    for change, order in ((torch.zeros(2, 4, 8), None), (None, torch.arange(4))):
        with pytest.raises(ValueError, match="do not go together"):
            add_norm(x, change, order, norm, torch.bfloat16)


@torch.no_grad()
def test_attention_where_one_score_outweighs_all():
    qkv, nothing = torch.zeros(1, TOKENS, 3 * HEAD), torch.zeros(1, TOKENS, TOKENS)
    qkv[..., 2 * HEAD :] = normal(0, TOKENS, HEAD)
    outweighed = torch.full((1, TOKENS, TOKENS), -3e38)
    outweighed[:, torch.arange(TOKENS), torch.arange(TOKENS).flip(0)] = 3e38
    assert torch.equal(window_attention(qkv, outweighed, nothing, 1.0)[0], qkv[0, :, 2 * HEAD :].flip(0))
    mean = window_attention(qkv, nothing + 300.0, nothing, 1.0)
    torch.testing.assert_close(mean, qkv[..., 2 * HEAD :].mean(1, keepdim=True).expand_as(mean), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    st.integers(1, 5),
    st.integers(2, 100),
    st.floats(0.1, 100),
    st.floats(-3, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_norm_of_a_sum_is_pytorchs(seed, rows, width, spread, centre, changed, ordered, dtype):
    norm = nn.LayerNorm(width)
    norm.weight.data, norm.bias.data = normal(seed + 1, width), normal(seed + 2, width)
    x = normal(seed, 2, rows, width, spread=spread) + centre
    change = normal(seed + 3, 2, rows, width).to(dtype) if changed else None
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)) if ordered else None
    expected = x + change if changed else x.clone()
    expected = expected[:, order] if ordered else expected
    total, found = add_norm(x, change, order, norm, dtype)
    assert torch.equal(total, expected) and found.dtype == dtype
    with torch.no_grad():
        rounding = ROUNDING * 1.01 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found.float(), norm(expected), rtol=rounding, atol=1e-4)


def test_norm_rounds_to_the_nearest():
    x = normal(0, 4096, 64)
    expected = F.layer_norm(x, (64,)).bfloat16()
    _, found = add_norm(x[None], None, None, nn.LayerNorm(64), torch.bfloat16)
    assert (found[0] == expected).float().mean() > 0.999  # else the last bit of fp32 decided
