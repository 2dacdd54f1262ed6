"""Regularizers: mixup, Gaussian noise and text dropout on embeddings, and the moving average of the weights.

The first three act on `Features`, after CLAP and before the classifier (report, section 4), and draw from the generator
that is passed to them.
"""

import copy
from itertools import chain

import torch
from torch import nn

from haf_utils.model import Features

__all__ = ["Ema", "add_noise", "drop_texts", "mixup"]


def mixup(
    features: Features, target: torch.Tensor, generator: torch.Generator, alpha: float = 0.2, probability: float = 0.5
) -> tuple[Features, torch.Tensor]:
    """Blend each clip with another of its batch (Zhang et al., 2018), with `probability` a batch.

    One λ ~ Beta(alpha, alpha) and one permutation for all parts of `features` and target (B, 23) alike. Report,
    section 4: alpha 0.2, probability 0.5. The generator lives on the CPU, so that every device draws the same.
    """
    if torch.rand((), generator=generator) >= probability:
        return features, target
    # Beta(α, α) = X / (X + Y) with X, Y ~ Gamma(α): torch's own Beta takes no generator.
    gammas = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    blend = float(gammas[0] / gammas.sum()) if gammas.sum() > 0 else 1.0
    order = torch.randperm(len(target), generator=generator).to(target.device)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return blend * x + (1 - blend) * x[order]

    return features.map(mix), mix(target)


def add_noise(features: Features, generator: torch.Generator, deviation: float = 1e-4) -> Features:
    """Gaussian noise of standard `deviation` on both embeddings (report, section 4: 1e-4), and on posteriors; presence,
    which is the row sum of posteriors, stays."""
    if deviation == 0:
        return features

    def noise(x: torch.Tensor) -> torch.Tensor:
        return deviation * torch.randn(x.shape, generator=generator).to(x)

    noisy = features._replace(audio=features.audio + noise(features.audio), text=features.text + noise(features.text))
    if features.posteriors is not None:
        noisy = noisy._replace(posteriors=shaken(features.posteriors, noise(features.posteriors)))
    return noisy


def shaken(posteriors: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Posteriors (B, 23) with noise (B, 23) that leaves their row sums, and rows of zeros, as they are."""
    return posteriors + (noise - noise.mean(1, keepdim=True)) * posteriors.sum(1, keepdim=True)


def drop_texts(features: Features, generator: torch.Generator, probability: float) -> Features:
    """Treat each text as missing with `probability` (0 in the report), which trains the audio-only path; and each row
    of posteriors, by draws of its own."""
    if probability == 0:
        return features
    third = features.posteriors
    shape = (1 if third is None else 2, len(features.presence))
    keep, other = (torch.rand(shape, generator=generator) >= probability).to(features.presence)[[0, -1]]
    dropped = features._replace(text=features.text * keep[:, None], presence=features.presence * keep)
    return dropped if third is None else dropped._replace(posteriors=third * other[:, None])


class Ema:
    """Exponential moving average (EMA) of the weights of `model`, used for validation and inference.

    Floating-point parameters and buffers are averaged, all others (HTSAT's relative_position_index, BatchNorm's
    num_batches_tracked) copied: averages of integers are meaningless. The decay warms up as
    min(decay, (1 + t) / (10 + t)) at update t, so that after a short training the initial weights do not dominate.
    The EMA of a model that does not change equals it bit for bit.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must lie in [0, 1)")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move one step towards `model` (same architecture). To be called after each optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        pairs = zip(_tensors(self.model), _tensors(model), strict=True)
        averaged, copied = [], []
        for shadow, current in pairs:
            (averaged if shadow.is_floating_point() else copied).append((shadow, current))
        # shadow + (1 - decay) (current - shadow): exact where the two agree, unlike the weighted sum.
        torch._foreach_lerp_(*map(list, zip(*averaged, strict=True)), 1 - decay)
        for shadow, current in copied:
            shadow.copy_(current)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> chain:
    """Parameters and buffers. A state dict would be slow enough to matter for a small head."""
    return chain(model.parameters(), model.buffers())
