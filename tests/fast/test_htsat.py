"""The fast way through HTSAT equals laion-clap's: same embeddings, same gradients, in fp32 and nearly in bf16."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from haf_utils.clap import ClapNetwork
from haf_utils.fast.htsat import _fused, _unfused, encode, permutation
from haf_utils.fast.ops import gather, linear
from haf_utils.profiles import AudioConfig, profile

CONFIG = replace(profile("mini").clap, depths=(2, 2, 2))  # with shifted windows


@pytest.fixture(scope="module")
def htsat():
    torch.manual_seed(0)
    htsat = ClapNetwork(CONFIG).audio_branch.eval()
    for layer in htsat.layers:  # zero at the start, so that a wrong bias would not show
        for block in layer.blocks:
            nn.init.normal_(block.attn.relative_position_bias_table)
    assert any(block.shift_size for layer in htsat.layers for block in layer.blocks)
    return htsat


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 1, CONFIG.spec_size, CONFIG.spec_size, generator=torch.Generator().manual_seed(1))


def plain(htsat, images):
    return htsat.forward_features(images)["embedding"]


def gradients(htsat, embed, images):
    htsat.zero_grad()
    images = images.clone().requires_grad_()
    (embed(htsat, images) ** 3).sum().backward()
    found = {name: p.grad.clone() for name, p in htsat.named_parameters() if p.grad is not None}
    return found | {"image": images.grad}


def test_embeddings_are_laion_claps(htsat, images):
    with torch.no_grad():
        expected = plain(htsat, images)
        assert expected.abs().max() > 0.1
        assert (encode(htsat, images) - expected).abs().max() < 1e-5
        assert (torch.cat([encode(htsat, image[None]) for image in images]) - expected).abs().max() < 1e-5
    with torch.enable_grad():  # the way that training takes
        assert (encode(htsat, images) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_laion_claps(htsat, images, recompute):
    with torch.inference_mode():
        encode(htsat, images)  # leaves orders of tokens behind, which must not get in the way
    expected = gradients(htsat, plain, images)
    found = gradients(htsat, lambda htsat, x: encode(htsat, x, recompute), images)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_gradients_in_bf16_stay_close(htsat, images):
    expected = gradients(htsat, encode, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(htsat, encode, images)
    for name, gradient in expected.items():
        assert 0 < (found[name] - gradient).norm() <= 0.1 * gradient.norm(), name


@pytest.mark.parametrize("windows", [1, 3])
def test_the_fused_attention_is_the_plain_one(windows):
    query, key, value = torch.randn(3, 6, 2, 16, 8, generator=torch.Generator().manual_seed(0))
    bias = torch.randn(windows, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    expected, fused = (attend(query, key, value, bias, 0.0, 0.3) for attend in (_unfused, _fused))
    torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-6)


def test_a_gather_has_pytorchs_gradient():
    x, order = torch.randn(2, 5, 3, requires_grad=True), torch.tensor([3, 0, 4, 1, 2])
    found, expected = gather(x, 1, order, order.argsort()), x[:, order]
    assert torch.equal(found, expected)
    change = torch.randn(2, 5, 3)
    assert torch.equal(*(torch.autograd.grad(each, x, change)[0] for each in (found, expected)))


@pytest.mark.parametrize("bf16", [False, True])
def test_recomputing_draws_the_same_again(htsat, images, bf16):
    found = []
    htsat.train()
    for recompute in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(gradients(htsat, lambda htsat, x, recompute=recompute: encode(htsat, x, recompute), images))
    htsat.eval()
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("bf16", [False, True])
def test_images_of_another_size_are_refused(htsat, bf16):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        with pytest.raises(ValueError, match="images must be"):
            encode(htsat, torch.zeros(1, 1, CONFIG.spec_size, 2 * CONFIG.spec_size))


@torch.no_grad()
def test_bf16_stays_close(htsat, images):
    expected = encode(htsat, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = encode(htsat, images).float()
    apart = (expected[0] - expected[1]).norm()
    assert 0 < (found - expected).norm(dim=1).max() < 0.15 * apart


@pytest.mark.parametrize(
    "sizes", [CONFIG, replace(CONFIG, audio=AudioConfig(), spec_size=256, patch_size=32, patch_stride=32)]
)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_the_front_end_are_those_of_its_formula(sizes, training):
    """PyTorch's batch normalisation of a strided or narrow input is wrong on CPUs: gradients off by their own size."""
    torch.manual_seed(0)
    network = ClapNetwork(replace(sizes, htsat_dim=8, depths=(1, 1), heads=(1, 1), text_layers=1)).train(training)
    norm, htsat = network.audio_branch.bn0, network.audio_branch
    for dropped in [m for m in network.modules() if hasattr(m, "drop_prob")]:
        dropped.drop_prob = 0.0
    waveforms = 0.1 * torch.randn(2, sizes.audio.window_samples)
    weights = torch.randn(2, 512)
    (network.audio_embedding(waveforms) * weights).sum().backward()
    found = norm.weight.grad.clone(), norm.bias.grad.clone()

    mel = network.log_mel(waveforms)
    mean, variance = norm.running_mean, norm.running_var
    if training:
        mean, variance = mel.mean((0, 2)), mel.var((0, 2), unbiased=False)
    network.zero_grad()
    scaled = (mel - mean[:, None]) / (variance[:, None] + norm.eps).sqrt()
    scaled = scaled * norm.weight[:, None] + norm.bias[:, None]
    image = htsat.reshape_wav2img(scaled.transpose(1, 2)[:, None])
    embedding = F.normalize(network.audio_projection(encode(htsat, image)), dim=-1)
    (embedding * weights).sum().backward()
    for one, other in zip(found, (norm.weight.grad, norm.bias.grad), strict=True):
        assert other.norm() > 0 and (one - other).norm() < 1e-3 * other.norm()


def test_each_image_is_dropped_from_a_block_alone(htsat, images):
    """Stochastic depth in training is per image, as in laion-clap: with the same draws the same result."""
    htsat.train()
    results = []
    for embed in (plain, encode):
        torch.manual_seed(3)
        results.append(embed(htsat, images).detach())
    htsat.eval()
    assert (results[0] - results[1]).abs().max() < 1e-5
    assert (results[0] - encode(htsat, images)).abs().max() > 1e-4  # or nothing had been dropped


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_the_layer_itself(gelu, bias):
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(5, 7, 24)
    x.requires_grad_()
    expected, found = F.gelu(layer(x)) if gelu else layer(x), linear(layer, x, gelu)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(linear(layer, x, gelu), expected, rtol=1e-5, atol=1e-5)
    inputs = [x, *layer.parameters()]
    theirs, ours = (torch.autograd.grad((each**2).sum(), inputs) for each in (expected, found))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_a_permutation_and_its_inverse():
    rows, windows, shifted = ("rows", 8, 8), ("windows", 8, 8, 4, 0), ("windows", 8, 8, 4, 2)
    image = torch.arange(64)
    for wanted in (windows, shifted):
        index, inverse = permutation(rows, wanted, torch.device("cpu"))
        assert torch.equal(image[index][inverse], image)
    assert image[permutation(rows, windows, torch.device("cpu"))[0]][:5].tolist() == [0, 1, 2, 3, 8]
    tokens = image[permutation(rows, windows, torch.device("cpu"))[0]]
    rolled = image.view(8, 8).roll((-2, -2), (0, 1))
    assert torch.equal(tokens[permutation(windows, shifted, torch.device("cpu"))[0]][:16], rolled[:4, :4].flatten())


def test_what_was_embedded_before_can_be_trained_after(htsat, images):
    """Orders of tokens are kept from call to call, also from calls in which nothing may be recorded."""
    permutation.__wrapped__.cache_clear()
    with torch.inference_mode():
        encode(htsat, images)
    encode(htsat, images).sum().backward()
