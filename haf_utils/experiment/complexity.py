"""Cost of a model: the parameters that its posteriors depend on, and the multiply-accumulates of one clip.

The challenge asks for both numbers of every system (`submission.write_metadata`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from haf_utils.experiment.predict import Recordings, TrainedModel
from haf_utils.inputs import LiveInputs
from haf_utils.model import Features

__all__ = ["Complexity", "complexity", "total"]


@dataclass(frozen=True)
class Complexity:
    """parameters: that the posteriors depend on; macs: multiply-accumulates for one window of one clip."""

    parameters: int
    macs: int


def complexity(model: TrainedModel) -> Complexity:
    """Cost of a loaded model, measured on a real forward pass of one full window (and 77 tokens, if it reads text).

    Parameters are those that the logits have a gradient for: a text branch used in training only and the parts of a
    checkpoint that no embedding needs do not count. MACs are those of convolutions, matrix products and
    attention (half of what `torch.utils.flop_counter` counts as floating-point operations): the spectrogram's Fourier
    transform, normalisations and activations are negligible and left out. With HAF_FAST=0 laion-clap's AudioSet
    head counts too, since its forward computes it. Five test-time views cost five times the audio branch.
    """
    network, config = model.model, model.config
    device = next(network.parameters()).device
    samples = np.random.default_rng(0).integers(-3000, 3000, model.window, dtype=np.int16)
    clip = Recordings(pd.DataFrame({"sound_id": ["one clip"], "text": ["words"]}), [samples])
    tokens = [[4] * (model.clap.config.tokens if model.reads_text else 1)]
    inputs = LiveInputs(clip, model.window, tokens, np.ones(1, np.float32), device, config.precision)
    batch = inputs.prepare(np.arange(1))
    trainable = {parameter: parameter.requires_grad for parameter in network.parameters()}
    for parameter in trainable:
        parameter.requires_grad_(True)
    try:
        # The counter does not know the CPU's fused attention; MATH does the same in products.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            if model.reads_text:
                features = inputs.embed(network, batch)
            else:
                audio = inputs.embed_audio(network, batch)
                features = Features(audio, torch.zeros_like(audio), audio.new_ones(1))
            logits = network.classifier(features).logits
        flops = counter.get_total_flops()
        gradients = torch.autograd.grad(logits.sum(), list(trainable), allow_unused=True)
    finally:
        for parameter, value in trainable.items():
            parameter.requires_grad_(value)
    used = sum(p.numel() for p, gradient in zip(trainable, gradients, strict=True) if gradient is not None)
    return Complexity(used, flops // 2)


def total(members: Iterable[Complexity]) -> Complexity:
    """Cost of an ensemble: the sum over its members. Heads on the same frozen backbone count it once each."""
    members = list(members)
    return Complexity(sum(m.parameters for m in members), sum(m.macs for m in members))
