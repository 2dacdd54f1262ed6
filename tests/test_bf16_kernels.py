"""The compiled passes between HTSAT's products give what PyTorch gives in fp32, rounded to bf16 once."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haf_utils.bf16_kernels import add_norm, softmax_columns_
from haf_utils.htsat import _columns, _plain

ROUNDING = 2**-8  # of a value, the most that bf16 rounds away
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def close(found, expected):
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=ROUNDING * 1.01, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 70),
    st.floats(0.01, 3),
    st.floats(0.1, 40),
)
def test_softmax_is_pytorchs_down_the_columns(seed, sizes, n, scale, spread):
    images, windows, heads = sizes
    scores = normal(seed, images * windows * heads, n, n, spread=spread).bfloat16()
    of_head, of_window = normal(seed + 1, heads, n, n), torch.zeros(windows, n, n)
    of_window[normal(seed + 2, windows, n, n) > 1] = -100.0  # as HTSAT hides what is no neighbour
    added = (of_window[:, None] + of_head).flatten(0, 1).repeat(images, 1, 1)
    expected = (scores.float() * scale + added).softmax(1)
    found = softmax_columns_(scores, of_head, of_window, scale)
    assert found.data_ptr() == scores.data_ptr()
    close(found, expected)


def test_what_does_not_go_together_is_refused():
    """What is compiled would read beyond the end."""
    scores, heads, windows = torch.zeros(6, 4, 4).bfloat16(), torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)
    for wrong in (
        (scores.float(), heads, windows),
        (scores[:5], heads, windows),
        (scores, heads[:, :3], windows),
        (scores, heads, windows[:, :, :3]),
    ):
        with pytest.raises(ValueError, match="do not go with"):
            softmax_columns_(*wrong, 1.0)
    x, norm = torch.zeros(2, 5, 8), nn.LayerNorm(8)
    for change, order in ((torch.zeros(2, 4, 8), None), (None, torch.arange(4))):
        with pytest.raises(ValueError, match="do not go together"):
            add_norm(x, change, order, norm)


def test_softmax_of_extremes():
    far, nothing = torch.tensor([[3e38, -3e38], [0.0, 0.0]]).bfloat16()[None], torch.zeros(1, 64, 64)
    close(softmax_columns_(far, nothing[:, :2, :2], nothing[:, :2, :2], 0.5), torch.eye(2)[None])
    same = torch.full((1, 64, 64), -7.0).bfloat16()
    assert (softmax_columns_(same, nothing + 300.0, nothing, 1.0) == 1 / 64).all()


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    st.integers(1, 5),
    st.integers(2, 100),
    st.floats(0.1, 100),
    st.floats(-3, 3),
    st.booleans(),
    st.booleans(),
)
def test_norm_of_a_sum_is_pytorchs(seed, rows, width, spread, centre, changed, ordered):
    norm = nn.LayerNorm(width)
    norm.weight.data, norm.bias.data = normal(seed + 1, width), normal(seed + 2, width)
    x = normal(seed, 2, rows, width, spread=spread) + centre
    change = normal(seed + 3, 2, rows, width).bfloat16() if changed else None
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)) if ordered else None
    expected = x + change if changed else x.clone()
    expected = expected[:, order] if ordered else expected
    total, found = add_norm(x, change, order, norm)
    assert torch.equal(total, expected)
    with torch.no_grad():
        torch.testing.assert_close(found.float(), norm(expected), rtol=ROUNDING * 1.01, atol=1e-4)


def test_norm_rounds_to_the_nearest():
    x = normal(0, 4096, 64)
    expected = F.layer_norm(x, (64,)).bfloat16()
    _, found = add_norm(x[None], None, None, nn.LayerNorm(64))
    assert (found[0] == expected).float().mean() > 0.999  # else the last bit of fp32 decided


@pytest.mark.parametrize("windows", [1, 3])  # all alike, or each with neighbours of its own
@torch.no_grad()
def test_attention_in_columns_is_attention(windows):
    query, key, value = normal(0, 3, 6, 2, 16, 8).bfloat16()
    of_head, of_window = normal(1, 2, 16, 16), normal(2, windows, 16, 16)
    expected = _plain(query.float(), key.float(), value.float(), of_window[:, None] + of_head, 0.0, 0.3)
    queries_last = of_head.mT.contiguous(), of_window.mT.contiguous()
    found = _columns(query, key, value, queries_last, 0.0, 0.3)
    assert (found - expected).norm() < 0.01 * expected.norm()
