"""The compiled passes between HTSAT's products give what PyTorch gives, within rounding."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import nn

from haf_utils import kernels
from haf_utils.fast.htsat import _plain
from haf_utils.kernels import HEAD, PAIRS, TOKENS, add_norm, product, window_attention

ROUNDING = 2**-8  # of a value, the most that bf16 rounds away
seeds = st.integers(0, 2**32 - 1)
has_pairs = pytest.mark.skipif(not PAIRS, reason="this processor has no products of bf16 (AVX512-BF16)")


def normal(seed, *shape, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def attention(qkv, of_head, of_window, scale):
    """As `window_attention`, by PyTorch."""
    (images, length, width), heads = qkv.shape, len(of_head)
    query, key, value = qkv.view(-1, TOKENS, 3, heads, width // heads // 3).permute(2, 0, 3, 1, 4)
    bias = (of_window[:, None] + of_head).mT
    return _plain(query, key, value, bias, 0.0, scale).transpose(1, 2).reshape(images, length, width // 3)


@pytest.mark.parametrize("threads", [1, 2])
# The same examples each time: at the largest scale and spread fp32 itself errs by as much as is allowed, PyTorch's too.
@settings(max_examples=15, deadline=None, derandomize=True)
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
    # In bf16 the weights are rounded too, and their sum is that of the rounded ones.
    exact = qkv.bfloat16().double()
    expected = attention(exact, of_head.double(), of_window.double(), scale)
    exact[..., 2 * heads * HEAD :].abs_()
    allowed = 2 * attention(exact, of_head.double(), of_window.double(), scale) + expected.abs()
    assert half.dtype == torch.bfloat16 and ((half - expected).abs() <= ROUNDING * 1.01 * allowed + 2e-5).all()


@pytest.mark.parametrize("threads", [1, 2])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seeds,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.floats(0.01, 0.3),
    st.floats(0.1, 2),
)
def test_gradients_of_attention_are_pytorchs(threads, seed, sizes, scale, spread):
    images, windows, heads = sizes
    qkv = normal(seed, images, windows * TOKENS, 3 * heads * HEAD, spread=spread)
    of_head, of_window = normal(seed + 1, heads, TOKENS, TOKENS), torch.zeros(windows, TOKENS, TOKENS)
    of_window[normal(seed + 2, windows, TOKENS, TOKENS) > 1] = -100.0
    change = normal(seed + 3, images, windows * TOKENS, heads * HEAD)

    def gradients(attend, dtype, exactly=False):
        one, other = (torch.float64, torch.float64) if exactly else (dtype, torch.float32)
        inputs = qkv.to(dtype).to(one).requires_grad_(), of_head.to(other).requires_grad_()
        return torch.autograd.grad(attend(*inputs, of_window.to(other), scale), inputs, change.to(dtype).to(one))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = {dtype: gradients(window_attention, dtype) for dtype in (torch.float32, torch.bfloat16)}
    finally:
        torch.set_num_threads(before)
    for dtype, (of_qkv, of_bias) in found.items():
        exact_qkv, exact_bias = gradients(attention, dtype, exactly=True)
        assert of_qkv.dtype == dtype and of_bias.dtype == torch.float32
        rounding = 2e-5 if dtype == torch.float32 else ROUNDING  # all but the result is fp32
        assert (of_qkv.double() - exact_qkv).norm() < rounding * exact_qkv.norm()
        assert (of_bias.double() - exact_bias).norm() < 2e-5 * exact_bias.norm()


def test_attention_has_its_gradients_in_the_way_of_others():
    """Of a result that is used twice and in another order, and of the bias where nothing asks for that of qkv."""
    qkv, nothing = normal(0, 2, TOKENS, 3 * HEAD), torch.zeros(1, TOKENS, TOKENS)
    of_head = normal(1, 1, TOKENS, TOKENS).requires_grad_()
    for attend in (window_attention, attention):
        result = attend(qkv, of_head, nothing, 0.2)
        (result.mT.square().sum() + result[:, ::2].sum()).backward()
    doubled = of_head.grad.clone()
    of_head.grad = None
    result = window_attention(qkv, of_head, nothing, 0.2)
    (result.mT.square().sum() + result[:, ::2].sum()).backward()
    torch.testing.assert_close(doubled, 2 * of_head.grad, rtol=1e-4, atol=1e-5)


@has_pairs  # others go this way in every test
@torch.no_grad()
def test_attention_in_bf16_where_the_processor_has_no_products_of_it(monkeypatch):
    qkv, of_head = normal(0, 2, 2 * TOKENS, 6 * HEAD).bfloat16(), normal(1, 2, TOKENS, TOKENS)
    nothing = torch.zeros(1, TOKENS, TOKENS)
    found = window_attention(qkv, of_head, nothing, 0.2)
    monkeypatch.setattr(kernels, "PAIRS", False)
    without = window_attention(qkv, of_head, nothing, 0.2)
    expected = attention(qkv.double(), of_head.double(), nothing.double(), 0.2)
    torch.testing.assert_close(without.double(), expected, rtol=ROUNDING * 1.01, atol=2e-5)
    assert not torch.equal(found, without)  # it did go another way


@has_pairs
def test_gradients_in_bf16_where_the_processor_has_no_products_of_it(monkeypatch):
    monkeypatch.setattr(kernels, "PAIRS", False)
    nothing, found = torch.zeros(1, TOKENS, TOKENS), {}
    for attend, dtype in ((window_attention, torch.bfloat16), (attention, torch.float64)):
        qkv = normal(0, 2, 2 * TOKENS, 6 * HEAD).bfloat16().to(dtype).requires_grad_()
        of_head = normal(1, 2, TOKENS, TOKENS).to(dtype if dtype == torch.float64 else torch.float32)
        result = attend(qkv, of_head, nothing.to(of_head.dtype), 0.2)
        change = normal(2, *result.shape).bfloat16().to(dtype)
        (found[dtype],) = torch.autograd.grad(result, qkv, change)
    assert found[torch.bfloat16].dtype == torch.bfloat16
    apart = (found[torch.bfloat16].double() - found[torch.float64]).norm()
    assert apart < ROUNDING * found[torch.float64].norm()


@pytest.mark.parametrize("pairs", [False, pytest.param(True, marks=has_pairs)])
@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("at_once, width", [(16, TOKENS), (TOKENS, TOKENS), (TOKENS, 32)])
def test_a_tile_is_the_product(pairs, by_row, at_once, width, monkeypatch):
    monkeypatch.setattr(kernels, "_AT_ONCE", at_once)
    depth, rng = 6, np.random.default_rng(0)
    tile = product(depth, pairs, by_row, width)

    @njit
    def multiply(left, at, stride, right, result, to):
        tile(left, at, stride, right, result, to)

    left, right = rng.standard_normal((4, depth)), rng.standard_normal((depth, width))
    if pairs:  # whole numbers are exact in bf16
        left, right = rng.integers(-9, 9, (4, 2 * depth)), rng.integers(-9, 9, (2 * depth, width))
    expected, left, right = left @ right, left.astype(np.float32), right.astype(np.float32)
    if pairs:
        left, right = left.view(np.uint32) >> 16, right.view(np.uint32) >> 16
        left, right = left[:, ::2] | left[:, 1::2] << 16, right[::2] | right[1::2] << 16
    around = np.zeros((4, depth + 3) if by_row else (depth, 4 + 3), left.dtype)
    inside = around[:, 1:-2]
    inside[:] = left if by_row else left.T
    result = np.full(2 + 4 * width + 2, 7, np.float32)
    multiply(around.ravel(), 1, around.shape[1], right.ravel(), result, 2)
    np.testing.assert_allclose(result[2:-2].reshape(4, width), expected, rtol=1e-5, atol=1e-5)
    assert (result[:2] == 7).all() and (result[-2:] == 7).all()


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
    for wide in (12, 16):  # no whole number of tokens; of which 5 are no multiple
        with pytest.raises(ValueError, match="do not go together"):
            add_norm(x, None, None, nn.LayerNorm(wide), torch.bfloat16)


@torch.no_grad()
def test_attention_where_one_score_outweighs_all():
    qkv, nothing = torch.zeros(1, TOKENS, 3 * HEAD), torch.zeros(1, TOKENS, TOKENS)
    qkv[..., 2 * HEAD :] = normal(0, TOKENS, HEAD)
    outweighed = torch.full((1, TOKENS, TOKENS), -3e38)
    outweighed[:, torch.arange(TOKENS), torch.arange(TOKENS).flip(0)] = 3e38
    assert torch.equal(window_attention(qkv, outweighed, nothing, 1.0)[0], qkv[0, :, 2 * HEAD :].flip(0))
    mean = window_attention(qkv, nothing + 300.0, nothing, 1.0)
    torch.testing.assert_close(mean, qkv[..., 2 * HEAD :].mean(1, keepdim=True).expand_as(mean), rtol=1e-5, atol=1e-6)


norms = given(
    seeds,
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 100)),
    st.floats(0.1, 100),
    st.floats(-3, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)


def inputs_of_a_norm(seed, sizes, spread, centre, changed, ordered, of_change):
    rows, beside, width = sizes
    norm = nn.LayerNorm(beside * width)
    norm.weight.data, norm.bias.data = normal(seed + 1, beside * width), normal(seed + 2, beside * width)
    x = normal(seed, 2, rows * beside, width, spread=spread) + centre
    change = normal(seed + 3, 2, rows * beside, width).to(of_change) if changed else None
    order = torch.randperm(rows * beside, generator=torch.Generator().manual_seed(seed)) if ordered else None
    return x, change, order, norm


def sum_and_norm(x, change, order, norm):
    """As `add_norm`, by PyTorch."""
    total = x.clone() if change is None else x + change
    total = (total if order is None else total[:, order]).view(len(x), -1, *norm.normalized_shape)
    return total, norm(total)


@settings(max_examples=30, deadline=None)
@norms
def test_norm_of_a_sum_is_pytorchs(seed, sizes, spread, centre, changed, ordered, of_change, dtype):
    x, change, order, norm = inputs_of_a_norm(seed, sizes, spread, centre, changed, ordered, of_change)
    with torch.no_grad():
        expected, normed = sum_and_norm(x, change, order, norm)
        total, found = add_norm(x, change, order, norm, dtype)
    assert torch.equal(total, expected) and found.dtype == dtype
    rounding = ROUNDING * 1.01 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.float(), normed, rtol=rounding, atol=1e-4)


@settings(max_examples=20, deadline=None, derandomize=True)
@norms
def test_gradients_of_a_norm_of_a_sum_are_pytorchs(seed, sizes, spread, centre, changed, ordered, of_change, dtype):
    x, change, order, norm = inputs_of_a_norm(seed, sizes, spread, centre, changed, ordered, of_change)
    rows, beside, width = sizes
    of_total, of_normed = normal(seed + 4, 2, rows, beside * width), normal(seed + 5, 2, rows, beside * width).to(dtype)

    def gradients(exactly, uses):
        """Those of x, change, weight and bias, where the sum, the norm or both are used."""
        kind = torch.float64 if exactly else torch.float32
        like = nn.LayerNorm(beside * width).to(kind)
        like.load_state_dict(norm.state_dict())
        inputs = [x.to(kind)] + ([change.to(kind if exactly else of_change)] if changed else [])
        inputs = [each.requires_grad_() for each in inputs]
        given_change = inputs[1] if changed else None
        if exactly:
            results = sum_and_norm(inputs[0], given_change, order, like)
        else:
            results = add_norm(inputs[0], given_change, order, like, dtype)
        changes = of_total.to(kind), of_normed.to(kind if exactly else dtype)
        return torch.autograd.grad(
            [results[use] for use in uses],
            [*inputs, *like.parameters()],
            [changes[use] for use in uses],
            allow_unused=True,
        )

    before = torch.get_num_threads()
    torch.set_num_threads(1 + seed % 2)
    try:
        found = {uses: gradients(False, uses) for uses in ((0, 1), (0,), (1,))}
    finally:
        torch.set_num_threads(before)
    for uses, each in found.items():
        for ours, exact in zip(each, gradients(True, uses), strict=True):
            exact = torch.zeros_like(ours).double() if exact is None else exact  # the sum has nothing of the weight
            rounding = ROUNDING if ours.dtype == torch.bfloat16 else 1e-4
            assert (ours.double() - exact).norm() <= rounding * exact.norm() + 1e-4


def test_norm_rounds_to_the_nearest():
    x = normal(0, 4096, 64)
    expected = F.layer_norm(x, (64,)).bfloat16()
    _, found = add_norm(x[None], None, None, nn.LayerNorm(64), torch.bfloat16)
    assert (found[0] == expected).float().mean() > 0.999  # else the last bit of fp32 decided


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(bad, dtype):
    """The compiler may assume that there is no such number; a diverged network must be seen to be one all the same."""
    nothing = torch.zeros(2, TOKENS, TOKENS)
    for first in range(0, 6 * HEAD, 2 * HEAD):  # a number of a query, key or value
        qkv = normal(0, 1, TOKENS, 6 * HEAD).to(dtype)
        qkv[0, 5, first + 3] = bad
        query, key, value = qkv.float().view(TOKENS, 3, 2, HEAD).permute(1, 2, 0, 3)
        expected = ((query @ key.mT).softmax(-1) @ value).transpose(0, 1).reshape(1, TOKENS, -1)
        found = window_attention(qkv.requires_grad_(), nothing, torch.zeros(1, TOKENS, TOKENS), 1.0)
        assert torch.equal(found.isfinite(), expected.isfinite()) and not expected.isfinite().all()
        assert not torch.autograd.grad(found.float().sum(), qkv)[0].isfinite().all()
    x = normal(0, 1, 4, 32)
    x[0, 1, 3] = bad
    norm = nn.LayerNorm(32)
    total, found = add_norm(x.requires_grad_(), None, None, norm, dtype)
    assert torch.equal(found.isfinite(), norm(x).isfinite()) and torch.equal(total.isfinite(), x.isfinite())
    assert not torch.autograd.grad(found.float().sum(), x)[0][0, 1].isfinite().any()
