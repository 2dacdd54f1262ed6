"""Tiny Text-Aux CLAP: text teaches in training, audio alone answers (report, section 4: a member of task1-3).

The challenge lists this system as audio only, so the text branch is read as a training-time auxiliary: a text
classifier and an audio-to-text alignment shape the audio latent and are not used afterwards. `text_at_inference` is
this project's extension: the text's latent enters as a gated residual.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from haf_utils.model import GatedResidual, Output, projection
from haf_utils.regularizers import Features
from haf_utils.taxonomy import CLASSES

__all__ = ["TextAuxClassifier"]


class TextAuxClassifier(nn.Module):
    """`Features` of a batch -> `Output`; in training `auxiliary_loss` adds what the texts teach.

    text_weight: weight of the auxiliary text classifier (design choice: 0.3); alignment_weight: weight of the
    audio-to-text alignment, 1 - cosine between the audio latent and the text latent (ours: 0.1).
    """

    def __init__(
        self,
        embedding: int = 512,
        latent: int = 256,
        dropout: float = 0.3,
        text_at_inference: bool = False,
        text_weight: float = 0.3,
        alignment_weight: float = 0.1,
    ):
        super().__init__()
        self.text_weight, self.alignment_weight = text_weight, alignment_weight
        self.audio = nn.Sequential(projection(embedding, latent, dropout), GatedResidual(latent, dropout))
        self.text = nn.Sequential(projection(embedding, latent, dropout), GatedResidual(latent, dropout))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, len(CLASSES)))
        self.text_classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, len(CLASSES)))
        self.gate = nn.Linear(2 * latent, latent) if text_at_inference else None

    def forward(self, features: Features) -> Output:
        latent = self.audio(features.audio)
        presence = features.presence
        text_share = torch.zeros_like(presence)
        if self.gate is not None:
            text = self.text(features.text)
            gate = torch.sigmoid(self.gate(torch.cat([latent, text], dim=1))) * presence[:, None]
            latent = latent + gate * text
            text_share = gate.mean(1)
        return Output(self.classifier(latent), torch.stack([1 - text_share, text_share], dim=1))

    def auxiliary_loss(self, features: Features, target: torch.Tensor) -> torch.Tensor:
        """Scalar: what the texts add to the classification loss; a clip counts by the presence of its text.

        target (B, 23): a row sums to the weight of its clip, as for `losses.soft_cross_entropy`.
        """
        text = self.text(features.text)
        losses = -(target * F.log_softmax(self.text_classifier(text).float(), dim=-1)).sum(-1)
        # The text latent is the teacher: the alignment moves the audio latent only.
        alignment = 1 - F.cosine_similarity(self.audio(features.audio), text.detach(), dim=-1)
        weights = target.sum(-1)
        per_clip = self.text_weight * losses + self.alignment_weight * weights * alignment
        return (per_clip * features.presence).sum() / (weights * features.presence).sum().clamp(min=1)
