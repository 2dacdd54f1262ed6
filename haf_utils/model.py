"""The models: a backbone that embeds, and a classifier on its embeddings (report, sections 3.3 and 3.4).

`HafClassifier` is HAF-CLAP's feature processing, fusion and classifier:

audio (B, 512) ─ projection ─ gated residual refinement ┐
                                                        ├ attention fusion ─ (B, 256) ─ classifier ─ logits (B, 23)
text  (B, 512) ─ projection ─ gated residual refinement ┘
Class probabilities from outside, q (B, 23), are a third branch: q · E, E (23, 256) trained, refined alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from haf_utils.config import FUSIONS, MODALITIES
from haf_utils.taxonomy import CLASSES

__all__ = ["ClapBackbone", "Features", "GatedResidual", "HafClassifier", "LinearClassifier", "Model", "Output",
           "PasstBackbone", "TextAuxClassifier"]  # fmt: skip


class Features(NamedTuple):
    """A batch as the classifier reads it.

    audio (B, E) and text (B, E): embeddings; presence (B,) in [0, 1]: 1 where a clip has a text, 0 where it has none,
    between the two where mixup blended a present text with a missing one. The text of a clip without text is zero.
    posteriors (B, 23), for a third input: a row sums to its presence, zero for a clip without any; None: no table.
    """

    audio: torch.Tensor
    text: torch.Tensor
    presence: torch.Tensor
    posteriors: torch.Tensor | None = None

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Features":
        """`change` applied to every part that is there."""
        return Features(*(None if part is None else change(part) for part in self))

    @staticmethod
    def concatenate(batches: Sequence["Features"]) -> "Features":
        return Features(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*batches, strict=True)))


class Output(NamedTuple):
    """logits (B, 23); weights (B, 2): the share of audio and of text in the fusion, rows sum to at most 1; (B, 3) with
    that of the outside posteriors, where they are used."""

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
    modality "both", "audio" or "text"; fusion "attention" (the report), "concatenation" or "mean"; gating as above;
    posteriors: whether class probabilities from outside are a third input, beside audio or both (CP-JKU, 2026).

    The presence p of the text enters the attention as + log p: a missing text (p = 0) has weight exactly 0, and where
    mixup blended a text with a missing one, p scales the odds of the text against the audio. Posteriors likewise.
    """

    def __init__(
        self,
        embedding: int = 512,
        latent: int = 256,
        dropout: float = 0.3,
        modality: str = "both",
        fusion: str = "attention",
        gating: bool = True,
        posteriors: bool = False,
    ):
        super().__init__()
        if modality not in MODALITIES:
            raise ValueError(f"modality={modality!r} is unknown: choose one of {', '.join(MODALITIES)}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion={fusion!r} is unknown: choose one of {', '.join(FUSIONS)}")
        self.modality, self.fusion, self.reads_posteriors = modality, fusion, posteriors
        if modality != "text":
            self.audio = nn.Sequential(projection(embedding, latent, dropout), GatedResidual(latent, dropout, gating))
        if modality != "audio":
            self.text = nn.Sequential(projection(embedding, latent, dropout), GatedResidual(latent, dropout, gating))
        if posteriors:
            of_classes = nn.Linear(len(CLASSES), latent, bias=False)  # q · E: of no posteriors, zero
            nn.init.normal_(of_classes.weight)
            self.classes = nn.Sequential(of_classes, nn.Dropout(dropout), GatedResidual(latent, dropout, gating))
        inputs = (2 if modality == "both" else 1) + posteriors
        if inputs > 1 and fusion == "attention":
            self.fusion_logits = nn.Linear(inputs * latent, inputs)
        if inputs > 1 and fusion == "concatenation":
            self.concat = nn.Linear(inputs * latent, latent)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, len(CLASSES)))

    def fusion_weights(self, vectors: Sequence[torch.Tensor], presences: Sequence[torch.Tensor]) -> torch.Tensor:
        """Fusion weights (B, M) from M refined vectors (B, L) and the presence (B,) of each."""
        share = torch.stack(list(presences), dim=1)
        if self.fusion == "attention":
            return torch.softmax(self.fusion_logits(torch.cat(list(vectors), dim=1)).float() + torch.log(share), dim=1)
        return share / share.sum(1, keepdim=True)

    def forward(self, features: Features) -> Output:
        ones, zeros = torch.ones_like(features.presence), torch.zeros_like(features.presence)
        branches = {}  # refined vector and presence of each input, in the order of the weights' columns
        if self.modality != "text":
            branches["audio"] = self.audio(features.audio), ones
        if self.modality != "audio":
            branches["text"] = self.text(features.text), features.presence
        if self.reads_posteriors:
            q = ones.new_zeros(len(ones), len(CLASSES)) if features.posteriors is None else features.posteriors
            branches["classes"] = self.classes(q), q.sum(1)
        vectors, presences = zip(*branches.values(), strict=True)
        if len(branches) == 1:
            # Without a text the logits are the classifier's bias, which learns the class prior.
            fused, share = vectors[0] * presences[0][:, None], presences[0][:, None]
        else:
            share = self.fusion_weights(vectors, presences)
            scale = torch.stack(presences, dim=1) if self.fusion == "concatenation" else share
            scaled = [vector * scale[:, [place]] for place, vector in enumerate(vectors)]
            fused = self.concat(torch.cat(scaled, dim=1)) if self.fusion == "concatenation" else sum(scaled)
        columns = dict(zip(branches, share.unbind(1), strict=True))
        names = ("audio", "text", "classes")[: 2 + self.reads_posteriors]
        return Output(self.classifier(fused), torch.stack([columns.get(name, zeros) for name in names], dim=1))

    def _load_from_state_dict(self, state: dict, prefix: str, *rest) -> None:
        """Weights of version 0.1 call the fusion's layers `score` and `join`."""
        for old, new in (("score", "fusion_logits"), ("join", "concat")):
            for kind in ("weight", "bias"):
                if f"{prefix}{old}.{kind}" in state:
                    state[f"{prefix}{new}.{kind}"] = state.pop(f"{prefix}{old}.{kind}")
        super()._load_from_state_dict(state, prefix, *rest)


class LinearClassifier(nn.Module):
    """LayerNorm and a linear layer on the audio embedding alone: the head of PaSST, and of a linear probe."""

    def __init__(self, embedding: int):
        super().__init__()
        # Not trained with dropout; the layer keeps the names of the weights.
        self.classifier = nn.Sequential(nn.LayerNorm(embedding), nn.Identity(), nn.Linear(embedding, len(CLASSES)))

    def forward(self, features: Features) -> Output:
        audio_only = torch.stack([torch.ones_like(features.presence), torch.zeros_like(features.presence)], dim=1)
        return Output(self.classifier(features.audio), audio_only)


class TextAuxClassifier(nn.Module):
    """Tiny Text-Aux CLAP (report, section 4, task1-3): the text is auxiliary in training, inference is on audio alone.

    The challenge lists this system as audio only, so the text branch is read as a training-time auxiliary: a text
    classifier and an audio-to-text alignment shape the audio latent and are not used afterwards. `text_at_inference` is
    this project's extension: the text's latent enters as a gated residual.

    `Features` of a batch -> `Output`; in training `auxiliary_loss` is added.

    text_weight: weight of the auxiliary text classifier (ours: 0.3); alignment_weight: weight of the
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
        """Scalar to be added to the classification loss; a clip counts by the presence of its text.

        target (B, 23): a row sums to the weight of its clip, as for `losses.soft_cross_entropy`.
        """
        text = self.text(features.text)
        losses = -(target * F.log_softmax(self.text_classifier(text).float(), dim=-1)).sum(-1)
        # Detached: the alignment moves the audio latent only.
        alignment = 1 - F.cosine_similarity(self.audio(features.audio), text.detach(), dim=-1)
        weights = target.sum(-1)
        per_clip = self.text_weight * losses + self.alignment_weight * weights * alignment
        return (per_clip * features.presence).sum() / (weights * features.presence).sum().clamp(min=1e-6)


class Model(nn.Module):
    """backbone: audio and tokens -> embeddings (None in head training); classifier: `Features` -> `Output`."""

    def __init__(self, backbone: nn.Module | None, classifier: nn.Module):
        super().__init__()
        self.backbone, self.classifier = backbone, classifier


class ClapBackbone(nn.Module):
    """A CLAP network as backbone: waveforms (B, samples), int16 or in [-1, 1], tokens -> unit embeddings (B, 512)."""

    normalised = True

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def embed_audio(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.network.audio_embedding(waveforms, augment=self.training)

    def embed_text(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network.text_embedding(tokens["input_ids"], tokens["attention_mask"])


class PasstBackbone(nn.Module):
    """A PaSST network as backbone: waveforms (B, samples) -> embeddings (B, D); it reads no text."""

    normalised = False

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def embed_audio(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.network(waveforms)

    def embed_text(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        return tokens["input_ids"].new_zeros((len(tokens["input_ids"]), 1), dtype=torch.float32)
