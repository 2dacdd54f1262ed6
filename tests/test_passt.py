"""PaSST against hear21passt's own front end and network."""

import contextlib
import copy
import hashlib
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, need_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from haf_utils import passt
from haf_utils.audio import windows
from haf_utils.io.checkpoints import CheckpointError
from haf_utils.io.third_party import hear21passt
from haf_utils.model import LinearClassifier, Model, PasstBackbone
from haf_utils.passt import build_passt, log_mel, official_weights
from haf_utils.profiles import PROFILES, PasstConfig

MINI = PROFILES["mini"].passt
NAME = "passt_s_swa_p16_128_ap476"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def original(config: PasstConfig, classes: int = 527) -> torch.nn.Module:
    """hear21passt's network as it builds it itself."""
    torch.manual_seed(1)
    return hear21passt().PaSST(
        img_size=(128, config.frames),
        patch_size=config.patch,
        stride=config.stride,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        num_classes=classes,
        distilled=True,
        s_patchout_t=config.patchout_time,
        s_patchout_f=config.patchout_frequency,
    )


# The mel front end ----------------------------------------------------------------------------------------------------


def test_log_mel_is_hear21passts():
    with np.load(need_shared("golden/passt_mel.npz")) as golden:
        mel = log_mel(torch.from_numpy(golden["waveforms"]))
        assert mel.dtype == torch.float32 and mel.shape == golden["mel"].shape
        np.testing.assert_allclose(mel.numpy(), golden["mel"], atol=1e-4, rtol=0)


def test_log_mel_by_definition():
    """One frame in the middle of a clip, computed with a plain DFT and filters drawn by hand in double precision."""
    wave = noise(1, 4000, seed=3)
    x = wave[0].double().numpy()
    x = x[1:] - 0.97 * x[:-1]
    centre = 5 * 320
    frame = np.zeros(1024)
    frame[112:912] = x[centre - 400 : centre + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799))
    power = np.abs(np.fft.rfft(frame)) ** 2

    def to_mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)  # Kaldi's

    edges = np.linspace(to_mel(0.0), to_mel(15_000.0), 130)
    bins = to_mel(np.arange(513) * 32_000 / 1024)
    rise = (bins[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins[None]) / np.diff(edges)[1:, None]
    filters = np.clip(np.minimum(rise, fall), 0, None)
    expected = (np.log(filters @ power + 1e-5) + 4.5) / 5
    np.testing.assert_allclose(log_mel(wave)[0, :, 5].numpy(), expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(514, 6000), batch=st.integers(1, 4))
def test_log_mel_of_any_length_depends_on_no_neighbour(samples, batch):
    waves = noise(batch, samples, seed=samples)
    mel = log_mel(waves)
    assert mel.shape == (batch, 128, (samples - 1) // 320 + 1) and torch.isfinite(mel).all()
    alone = torch.cat([log_mel(wave[None]) for wave in waves])
    torch.testing.assert_close(alone, mel, atol=1e-5, rtol=0)


def test_log_mel_of_silence_is_the_floor_and_of_a_prefix_the_same():
    assert torch.allclose(log_mel(torch.zeros(1, 32_000)), torch.tensor((np.log(1e-5) + 4.5) / 5, dtype=torch.float32))
    long = noise(1, 64_000)
    # Frames that do not reach the reflected end do not know how long the clip is.
    torch.testing.assert_close(log_mel(long[:, :32_000])[..., :98], log_mel(long)[..., :98], atol=1e-5, rtol=0)


def test_log_mel_stays_in_fp32_under_autocast():
    wave = noise(2, 8000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(wave), log_mel(wave.double())) and log_mel(wave).dtype == torch.float32


@pytest.mark.parametrize("shape", [(32_000,), (2, 513), (1, 2, 3200), (1, 0)])
def test_log_mel_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="at least 514 samples"):
        log_mel(torch.zeros(shape))


# The network ----------------------------------------------------------------------------------------------------------


# Ten seconds with overlapping patches, as the official weights have them, in a network small enough for a test.
TEN_SECONDS = replace(
    MINI, window_samples=320_000, frames=998, stride=10, patchout_time=40, patchout_frequency=4, depth=1
)


@pytest.mark.filterwarnings("ignore:Input image size")  # the original warns that 1,000 frames are not 998
@pytest.mark.parametrize("config", [MINI, TEN_SECONDS], ids=["mini", "ten seconds"])
@pytest.mark.parametrize("training", [False, True])
def test_embeddings_are_those_of_hear21passts_own_forward(config, training, tmp_path, capsys):
    """In training too: the same patches are left out for the same seed."""
    reference = original(config)
    torch.save(reference.state_dict(), tmp_path / "official.pt")
    network = build_passt(config, tmp_path / "official.pt").train(training)
    waves = noise(2, config.window_samples)
    torch.manual_seed(7)
    _, expected = reference.train(training)(log_mel(waves)[:, None])
    torch.manual_seed(7)
    torch.testing.assert_close(network(waves), expected, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().out == "", "hear21passt's network prints at its first forward pass"


def test_full_size_has_the_weights_of_hear21passts_model_and_runs():
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the whole network
        reference = hear21passt().get_model(arch=NAME, pretrained=False).state_dict()
    assert sum(value.numel() for value in reference.values()) == 86_153_758
    network = build_passt(PasstConfig())
    own = {name: value.shape for name, value in network.network.state_dict().items()}
    heads = {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias", "head_dist.weight", "head_dist.bias"}
    assert own == {name: value.shape for name, value in reference.items() if name not in heads}
    with torch.inference_mode():  # in training mode, which patchout makes half as dear
        embeddings = network(noise(1, 320_000))
    assert embeddings.shape == (1, 768) and torch.isfinite(embeddings).all()


def test_patchout_in_training_only():
    network, waves = build_passt(MINI), noise(2, MINI.window_samples)
    tokens = []
    network.network.blocks[0].mlp.register_forward_hook(lambda _, inputs, output: tokens.append(output.shape[1]))
    torch.manual_seed(0)
    first, second = network(waves), network(waves)
    assert not torch.allclose(first, second)
    network.eval()
    assert torch.equal(network(waves), network(waves))
    rows, columns = 128 // MINI.stride, MINI.frames // MINI.stride
    left = (rows - MINI.patchout_frequency) * (columns - MINI.patchout_time)
    assert tokens == [2 + left, 2 + left, 2 + rows * columns, 2 + rows * columns]


def test_embedding_depends_on_no_neighbour():
    network, waves = build_passt(MINI).eval(), noise(4, MINI.window_samples)
    together = network(waves)
    assert together.shape == (4, MINI.dim) and together.dtype == torch.float32
    torch.testing.assert_close(network(waves[2:3]), together[2:3], atol=1e-5, rtol=1e-5)


def test_gradients_are_the_same_with_activations_recomputed():
    network, waves = build_passt(MINI), noise(2, MINI.window_samples)
    gradients = []
    for network.recompute_activations in (False, True):
        network.zero_grad()
        torch.manual_seed(0)
        network(waves).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):  # also: no parameter is left without a gradient
        torch.testing.assert_close(plain, recomputed)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("config", [MINI, TEN_SECONDS], ids=["mini", "ten seconds"])
def test_fused_attention_has_the_embeddings_and_gradients_of_hear21passts(config, monkeypatch):
    network, waves = build_passt(config), noise(2, config.window_samples)
    found = []
    for fast in "10":
        monkeypatch.setenv("HAF_FAST", fast)
        network.zero_grad()
        torch.manual_seed(0)
        embeddings = network(waves)
        embeddings.square().sum().backward()
        found.append([embeddings.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-3)


def test_fused_attention_keeps_no_matrix_of_weights(monkeypatch):
    """What a step keeps for its backward pass: nothing of shape (heads, N, N)."""
    monkeypatch.setenv("HAF_FAST", "1")
    network, waves = build_passt(TEN_SECONDS), noise(1, TEN_SECONDS.window_samples)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        network(waves)
    tokens = max(shape[2] for shape in kept if len(shape) == 4)
    assert tokens > 100 and not any(shape[-2:] == (tokens, tokens) for shape in kept if len(shape) >= 2)


def test_bf16_is_near_and_a_copy_is_equal():
    network, waves = build_passt(MINI).eval(), noise(4, MINI.window_samples)
    exact = network(waves)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(waves)
    assert rough.dtype == torch.float32 and (rough - exact).norm() < 0.05 * exact.norm()
    assert torch.equal(copy.deepcopy(network)(waves), exact)  # as the EMA copies it


def test_long_and_short_clips_come_through_the_fixed_windows():
    network = build_passt(MINI).eval()
    for samples, count in ((900, 1), (MINI.window_samples, 1), (2 * MINI.window_samples + 5, 3)):
        clip = (1000 * np.sin(np.arange(samples))).astype(np.int16)
        assert network(torch.from_numpy(windows(clip, MINI.window_samples)).float() / 32767).shape == (count, MINI.dim)
    with pytest.raises(ValueError, match="reads 81600 samples at once, got \\(1, 900\\)"):
        network(noise(1, 900))


# Weights --------------------------------------------------------------------------------------------------------------


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    states = [build_passt(MINI, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("form", ["zip", "old", "safetensors", "run"])
def test_weights_of_every_form(form, tmp_path):
    source = build_passt(MINI, seed=5)
    state = source.network.state_dict() | {"head.1.weight": torch.zeros(527, MINI.dim)}
    path = tmp_path / f"weights.{form}"
    if form in ("zip", "old"):
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    elif form == "safetensors":
        save_file(state, path)
    else:
        path.mkdir()
        system = Model(PasstBackbone(source), LinearClassifier(MINI.dim))
        save_file(system.state_dict(), path / "model.safetensors")
    loaded = build_passt(MINI, path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = original(MINI).state_dict()
    del state["blocks.1.attn.qkv.bias"]
    state["blocks.9.norm1.weight"] = torch.zeros(MINI.dim)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd.pt.*missing \(blocks.1.attn.qkv.bias\).*expected \(blocks.9.norm1"):
        build_passt(MINI, tmp_path / "odd.pt")
    other = replace(MINI, stride=10)
    torch.save(original(other).state_dict(), tmp_path / "stride.pt")
    with pytest.raises(CheckpointError, match=r"time_new_pos_embed \(1, 128, 1, 25\) instead of \(1, 128, 1, 15\)"):
        build_passt(MINI, tmp_path / "stride.pt")
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match="text.pt is a text file"):
        build_passt(MINI, tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        build_passt(MINI, tmp_path / "absent.pt")


class Malicious:
    executed = False

    def __reduce__(self):
        return setattr, (Malicious, "executed", True)


def test_malicious_weights_are_refused_and_nothing_runs(tmp_path):
    torch.save({"cls_token": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="refused"):
        build_passt(MINI, tmp_path / "evil.pt")
    assert not Malicious.executed
    pickle.loads(pickle.dumps(Malicious()))  # the trap does spring where it is not refused
    assert Malicious.executed


def test_official_weights_come_once_from_hear21passts_address(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    published = tmp_path / "passt.pt"
    torch.save(original(MINI).state_dict(), published)
    monkeypatch.setitem(hear21passt().default_cfgs[NAME], "url", published.as_uri())
    with pytest.raises(OSError, match="invalid hash value"):
        official_weights()
    assert not list((tmp_path / "cache").rglob("*.pt*"))

    monkeypatch.setitem(passt.SHA256, NAME, hashlib.sha256(published.read_bytes()).hexdigest())
    path = official_weights(NAME)
    assert path.parent == tmp_path / "cache" / "checkpoints"
    published.unlink()  # from now on there is no network
    assert official_weights(NAME) == path
    expected = original(MINI).state_dict()["cls_token"]
    assert torch.equal(build_passt(MINI, NAME).network.cls_token, expected)
    path.unlink()
    with pytest.raises(OSError, match="python data/download.py passt, and copy the file to .*passt.pt"):
        official_weights(NAME)
    with pytest.raises(ValueError, match=f"unknown: choose one of {NAME}"):
        official_weights("passt_xl")


def test_the_downloader_fetches_the_same_file(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "data"))
    import download

    assert hear21passt().default_cfgs[NAME]["url"] == download.PASST
    assert passt.SHA256[NAME] == download.PASST_SHA256
