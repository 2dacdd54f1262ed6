"""HAF-CLAP's feature processing and classifier (report, sections 3.3 and 3.4), on top of CLAP's embeddings.

audio (B, 512) ─ projection ─ gated residual refinement ┐
                                                        ├ attention fusion ─ (B, 256) ─ classifier ─ logits (B, 23)
text  (B, 512) ─ projection ─ gated residual refinement ┘
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from haf_utils.regularizers import Features
from haf_utils.taxonomy import CLASSES

__all__ = ["FUSIONS", "MODALITIES", "GatedResidual", "HafClassifier", "LinearClassifier", "Output"]

MODALITIES = ("both", "audio", "text")
FUSIONS = ("attention", "concatenation", "mean")


class Output(NamedTuple):
    """logits (B, 23); weights (B, 2): how much the fusion took of audio and of text, rows sum to at most 1."""

    logits: torch.Tensor
    weights: torch.Tensor


def projection(embedding: int, latent: int, dropout: float) -> nn.Sequential:
    """Embedding (B, E) -> task-oriented latent space (B, L)."""
    return nn.Sequential(nn.Linear(embedding, latent), nn.LayerNorm(latent), nn.GELU(), nn.Dropout(dropout))


class GatedResidual(nn.Module):
    """LayerNorm(x + σ(Gx) ⊙ MLP(x)), (B, L) -> (B, L): the gate picks the dimensions that the MLP may change.

    With `gating=False` the gate is 1 (an ablation).
    """

    def __init__(self, latent: int, dropout: float, gating: bool = True):
        super().__init__()
        self.gate = nn.Linear(latent, latent) if gating else None
        self.transform = nn.Sequential(
            nn.Linear(latent, latent), nn.GELU(), nn.Dropout(dropout), nn.Linear(latent, latent)
        )
        self.norm = nn.LayerNorm(latent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = self.transform(x)
        if self.gate is not None:
            change = torch.sigmoid(self.gate(x)) * change
        return self.norm(x + change)


class HafClassifier(nn.Module):
    """Projection, refinement, fusion and classifier: `Features` of a batch -> `Output`.

    embedding: size E of CLAP's embeddings; latent: size L of the task-oriented space (ours: 256); dropout 0.3 (report);
    modality "both", "audio" or "text"; fusion "attention" (the report), "concatenation" or "mean"; gating as above.

    A missing text is a state of its own: its presence p = 0 enters the attention as + log p, which makes its weight
    exactly 0, and a clip that mixup gave half a text counts half of it.
    """

    def __init__(
        self,
        embedding: int = 512,
        latent: int = 256,
        dropout: float = 0.3,
        modality: str = "both",
        fusion: str = "attention",
        gating: bool = True,
    ):
        super().__init__()
        if modality not in MODALITIES:
            raise ValueError(f"modality={modality!r} is unknown: choose one of {', '.join(MODALITIES)}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion={fusion!r} is unknown: choose one of {', '.join(FUSIONS)}")
        self.modality, self.fusion = modality, fusion
        if modality != "text":
            self.audio = nn.Sequential(projection(embedding, latent, dropout), GatedResidual(latent, dropout, gating))
        if modality != "audio":
            self.text = nn.Sequential(projection(embedding, latent, dropout), GatedResidual(latent, dropout, gating))
        if modality == "both" and fusion == "attention":
            self.score = nn.Linear(2 * latent, 2)
        if modality == "both" and fusion == "concatenation":
            self.join = nn.Linear(2 * latent, latent)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, len(CLASSES)))

    def weigh(self, audio: torch.Tensor, text: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        """Fusion weights (B, 2) from the refined vectors (B, L) and the presence (B,) of the texts."""
        if self.fusion == "attention":
            log_presence = torch.stack([torch.zeros_like(presence), torch.log(presence)], dim=1)
            return torch.softmax(self.score(torch.cat([audio, text], dim=1)).float() + log_presence, dim=1)
        share = torch.stack([torch.ones_like(presence), presence], dim=1)
        return share / share.sum(1, keepdim=True)

    def forward(self, features: Features) -> Output:
        presence = features.presence
        nothing = torch.zeros_like(presence)
        if self.modality == "audio":
            fused, weights = self.audio(features.audio), torch.stack([nothing + 1, nothing], dim=1)
        elif self.modality == "text":
            # Without a text nothing reaches the classifier but its bias, which learns the class prior.
            fused = self.text(features.text) * presence[:, None]
            weights = torch.stack([nothing, presence], dim=1)
        else:
            audio, text = self.audio(features.audio), self.text(features.text)
            weights = self.weigh(audio, text, presence)
            if self.fusion == "concatenation":
                fused = self.join(torch.cat([audio, text * presence[:, None]], dim=1))
            else:
                fused = weights[:, :1] * audio + weights[:, 1:] * text
        return Output(self.classifier(fused), weights)


class LinearClassifier(nn.Module):
    """LayerNorm and a linear layer on the audio embedding alone: the head of PaSST, and of a linear probe."""

    def __init__(self, embedding: int, dropout: float = 0.0):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.LayerNorm(embedding), nn.Dropout(dropout), nn.Linear(embedding, len(CLASSES))
        )

    def forward(self, features: Features) -> Output:
        audio_only = torch.stack([torch.ones_like(features.presence), torch.zeros_like(features.presence)], dim=1)
        return Output(self.classifier(features.audio), audio_only)
