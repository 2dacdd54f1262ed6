"""Regularizers that act on embeddings: mixup, Gaussian noise, text dropout.

All act after CLAP and before the classifier (report, section 4), on a `Features` triple, and draw from the generator
that they are given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Features", "add_noise", "drop_texts", "mixup"]


class Features(NamedTuple):
    """What the classifier reads of a batch.

    audio (B, E) and text (B, E): embeddings; presence (B,) in [0, 1]: 1 where a clip has a text, 0 where it has none,
    between the two where mixup blended a present text with a missing one. The text of a clip without text is zero.
    """

    audio: torch.Tensor
    text: torch.Tensor
    presence: torch.Tensor


def mixup(
    features: Features, target: torch.Tensor, generator: torch.Generator, alpha: float = 0.2, probability: float = 0.5
) -> tuple[Features, torch.Tensor]:
    """Blend each clip with another of its batch (Zhang et al., 2018), with `probability` a batch.

    One λ ~ Beta(alpha, alpha) and one permutation for audio, text, presence and target (B, 23) alike. Report,
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

    return Features(*(mix(part) for part in features)), mix(target)


def add_noise(features: Features, generator: torch.Generator, deviation: float = 1e-4) -> Features:
    """Gaussian noise of standard `deviation` on both embeddings (report, section 4: 1e-4); presence stays."""
    if deviation == 0:
        return features

    def noise(x: torch.Tensor) -> torch.Tensor:
        return deviation * torch.randn(x.shape, generator=generator).to(x)

    return Features(features.audio + noise(features.audio), features.text + noise(features.text), features.presence)


def drop_texts(features: Features, generator: torch.Generator, probability: float) -> Features:
    """Treat each text as missing with `probability` (0 in the report), which trains the audio-only path."""
    if probability == 0:
        return features
    keep = (torch.rand(len(features.presence), generator=generator) >= probability).to(features.presence)
    return Features(features.audio, features.text * keep[:, None], features.presence * keep)
