import math

import pytest
import torch

from haf_utils.clap import Clap, ClapNetwork
from haf_utils.config import FinetuneConfig
from haf_utils.experiment.complexity import Complexity, complexity, total
from haf_utils.experiment.predict import TrainedModel
from haf_utils.fast import ops
from haf_utils.model import ClapBackbone, HafClassifier, LinearClassifier, Model, PasstBackbone, TextAuxClassifier
from haf_utils.passt import build_passt
from haf_utils.profiles import profile

SIZES = profile("mini")


def loaded(backbone, classifier, clap=None, **choices):
    audio = SIZES.clap.audio if clap else SIZES.passt
    config = FinetuneConfig(dataset="", runs="", profile="mini", **choices)
    return TrainedModel("x", Model(backbone, classifier).eval(), clap, audio.window_samples, audio.sample_rate, config)


@pytest.fixture(scope="module")
def clap():
    return Clap(ClapNetwork(SIZES.clap).eval(), None, torch.device("cpu"))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_passt_is_counted_as_by_hand():
    sizes = SIZES.passt
    model = loaded(PasstBackbone(build_passt(sizes)), LinearClassifier(sizes.dim), system="passt", train="joint")
    cost = complexity(model)
    patches = ((128 - 16) // 16 + 1) * ((sizes.frames - 16) // sizes.stride + 1)
    tokens = patches + 2
    attention = 4 * tokens * sizes.dim**2 + 2 * tokens**2 * sizes.dim  # q, k, v, out; scores and their sum
    block = attention + 2 * 4 * tokens * sizes.dim**2
    mel = 128 * 513 * (sizes.window_samples // 320)
    by_hand = mel + patches * 256 * sizes.dim + sizes.depth * block + 23 * sizes.dim
    assert cost.macs == pytest.approx(by_hand, rel=0.01)
    assert cost.parameters == count(model.model)


def test_clap_is_counted_as_by_hand(clap, monkeypatch):
    monkeypatch.setenv("HAF_FAST", "1")  # laion-clap's forward computes its AudioSet head, too
    sizes, branch = SIZES.clap, clap.network.audio_branch
    by_hand = math.prod(branch.layers[0].input_resolution) * sizes.htsat_dim * sizes.patch_size**2
    for layer in branch.layers:
        tokens = math.prod(layer.input_resolution)
        inside = min(sizes.attention_window**2, tokens)
        by_hand += len(layer.blocks) * tokens * (12 * layer.dim**2 + 2 * inside * layer.dim)
        by_hand += (layer.downsample is not None) * tokens * 2 * layer.dim**2
    frames, bins = sizes.audio.window_samples // sizes.audio.hop + 1, sizes.audio.fmax * sizes.audio.n_fft
    mel = frames * sizes.audio.mel_bins * (bins / sizes.audio.sample_rate + 1)
    audio_alone = loaded(ClapBackbone(clap.network), TextAuxClassifier(), clap, system="text_aux")
    assert complexity(audio_alone).macs == pytest.approx(by_hand + mel, rel=0.02)


def test_what_no_posterior_depends_on_is_not_counted(clap):
    model = loaded(ClapBackbone(clap.network), HafClassifier(), clap)
    branch = clap.network.audio_branch
    unused = [branch.tscam_conv, branch.head, branch.spectrogram_extractor]  # the last is replaced by an FFT
    unused += [clap.network.text_transform, clap.network.audio_transform]
    temperatures = 2
    trainable = [p.requires_grad for p in model.model.parameters()]
    assert complexity(model).parameters == count(model.model) - sum(map(count, unused)) - temperatures
    assert [p.requires_grad for p in model.model.parameters()] == trainable


def test_a_text_that_only_teaches_costs_nothing(clap):
    backbone = ClapBackbone(clap.network)
    audio = complexity(loaded(backbone, TextAuxClassifier(), clap, system="text_aux"))
    both = complexity(
        loaded(backbone, TextAuxClassifier(text_at_inference=True), clap, system="text_aux", text_at_inference=True)
    )
    haf_audio = complexity(loaded(backbone, HafClassifier(modality="audio"), clap, modality="audio"))
    text = count(clap.network.text_branch.embeddings) + count(clap.network.text_branch.encoder)
    assert both.parameters > audio.parameters + text and both.macs > audio.macs
    assert haf_audio == audio


def test_total_adds():
    assert total([Complexity(1, 10), Complexity(2, 20)]) == Complexity(3, 30)


def test_a_product_costs_the_same_whoever_multiplies(clap, monkeypatch):
    """oneDNN's are counted by a formula of this project."""
    model = loaded(ClapBackbone(clap.network), HafClassifier(), clap)
    cost = complexity(model)
    monkeypatch.setattr(ops, "_AVAILABLE", False)
    assert complexity(model) == cost
