"""Every number of the method: `full` is the report, `mini` for a laptop (minutes), `tiny` for tests (seconds).

A profile changes numbers and nothing else: the code path is one. Sources stand beside the numbers; "ours" marks a
choice of this project where the report is silent. LAION's values are those of laion-clap 1.1.7 (``HTSAT-tiny.json``).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AudioConfig", "ClapConfig", "PasstConfig", "Pretraining", "Profile", "Rates", "PROFILES", "REPOSITORY",
           "profile"]  # fmt: skip

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class AudioConfig:
    """CLAP's audio front end. Defaults: LAION-CLAP, 10 s at 48 kHz."""

    sample_rate: int = 48_000  # Hz
    window_samples: int = 480_000  # samples the network hears at once
    n_fft: int = 1024
    hop: int = 480  # samples
    mel_bins: int = 64
    fmin: float = 50.0  # Hz
    fmax: float = 14_000.0  # Hz


@dataclass(frozen=True)
class ClapConfig:
    """Sizes of a CLAP network: HTSAT for audio, RoBERTa for text, both projected to `embedding` dimensions.

    Defaults: HTSAT-tiny and roberta-base as in LAION's 630k checkpoints, 158 M parameters.
    """

    audio: AudioConfig = AudioConfig()
    # HTSAT (laion-clap's create_htsat_model, "tiny")
    spec_size: int = 256
    patch_size: int = 4
    patch_stride: int = 4
    htsat_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    attention_window: int = 8
    audioset_classes: int = 527  # size of HTSAT's own head: unused here, but its weights are in every checkpoint
    # RoBERTa (roberta-base)
    vocab_size: int = 50_265
    text_dim: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_feedforward: int = 3072
    text_positions: int = 514
    # Both
    tokens: int = 77  # laion-clap truncates texts here
    embedding: int = 512


@dataclass(frozen=True)
class PasstConfig:
    """Sizes of a PaSST network. Defaults: ``passt_s_swa_p16_128_ap476`` of hear21passt (ViT-B, DeiT)."""

    sample_rate: int = 32_000  # Hz
    window_samples: int = 320_000  # 10 s
    frames: int = 998  # time frames of the position embedding
    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    stride: int = 10
    patchout_time: int = 40  # columns of patches dropped in training (PaSST paper, table 2, structured patchout)
    patchout_frequency: int = 4


@dataclass(frozen=True)
class Rates:
    """How one way of fine-tuning optimises: Adam, StepLR, early stopping."""

    epochs: int
    batch: int
    classifier_rate: float
    backbone_rate: float = 0.0
    halving_steps: int = 1650  # ours: StepLR every so many optimizer steps, 15 epochs of BSD10k, 3 with BSD35k-CS ...
    step_factor: float = 0.5  # ... by this factor
    patience: int = 8  # ours: epochs without a better validation hF, never before the first halving


@dataclass(frozen=True)
class Pretraining:
    """Contrastive (continued) pretraining; the report gives no numbers, these are ours."""

    epochs: int = 5
    batch: int = 64
    rate: float = 1e-5
    warmup: float = 0.1  # share of all steps
    nsynth_share: float = 0.3  # share of NSynth captions in a batch where both are used
    ema: float = 0.999


@dataclass(frozen=True)
class Profile:
    name: str
    clap: ClapConfig
    passt: PasstConfig
    head: Rates
    joint: Rates
    pretraining: Pretraining
    checkpoint: str  # what `initialisation="pretrained"` means: a path under the repository, or a known name
    passt_checkpoint: str  # the same for PaSST
    embedded: str | None  # size of the embedded dataset that stands in for datasets not given; None: nothing does
    latent: int = 256  # ours: width of the task-oriented space
    dropout: float = 0.3  # report, section 4
    feature_noise: float = 1e-4  # report, section 4: standard deviation on the embeddings
    smoothing: float = 0.1  # report, section 4: mass shared by the siblings
    mixup_alpha: float = 0.2  # report, section 4
    mixup_probability: float = 0.5  # report, section 4
    ema: float = 0.999  # report, section 4
    tta_views: int = 5  # report, section 4
    hatr_epochs: int = 100  # of the official baseline
    ablation_folds: int = 5  # that notebook 05 pools
    ensemble_folds: int = 1  # official folds that notebook 06 trains its members in
    ours_first: bool = False  # where members take hours: "ours" is handed in before the report's systems are trained
    caveat: str = ""  # what a score on recordings other than the embedded ones is worth
    preflight_steps: int = 0  # training steps that are timed before a run starts: only long runs need the estimate


# The mini networks hear 2.55 s at 32 kHz: 256 frames of 10 ms, the size of their spectrogram image, so nothing is
# interpolated. Patches of 8 x 8 keep 256 tokens, a sixteenth of HTSAT-tiny's.
_MINI_CLAP = ClapConfig(
    audio=AudioConfig(sample_rate=32_000, window_samples=81_600, hop=320),
    spec_size=128,
    patch_size=8,
    patch_stride=8,
    htsat_dim=48,
    depths=(1, 2, 2),
    heads=(2, 4, 8),
    audioset_classes=23,
    vocab_size=4_000,
    text_dim=128,
    text_layers=2,
    text_heads=4,
    text_feedforward=384,
    text_positions=80,
)
_MINI_PASST = PasstConfig(
    window_samples=81_600, frames=255, dim=128, depth=4, heads=4, stride=16, patchout_time=4, patchout_frequency=2
)

PROFILES: dict[str, Profile] = {
    "full": Profile(
        name="full",
        clap=ClapConfig(),
        passt=PasstConfig(),
        head=Rates(epochs=60, batch=64, classifier_rate=1e-3, halving_steps=2200, patience=15),
        joint=Rates(epochs=30, batch=64, classifier_rate=5e-5, backbone_rate=1e-5),
        pretraining=Pretraining(),
        checkpoint="630k",
        passt_checkpoint="passt_s_swa_p16_128_ap476",
        embedded=None,
        ensemble_folds=5,
        ours_first=True,
        preflight_steps=3,
    ),
    "mini": Profile(
        name="mini",
        clap=_MINI_CLAP,
        passt=_MINI_PASST,
        # Few and large steps: as good on the embedded dataset's five folds as batches of 64, in half the time.
        head=Rates(epochs=10, batch=128, classifier_rate=6e-3, halving_steps=40, patience=6),
        # Few clips, few epochs: small batches, larger steps than the report's 1e-5 and 5e-5. Of four settings the
        # lowest validation cross-entropy on fold 0 (0.81; batch 16 at a backbone_rate of 5e-5: 0.94).
        joint=Rates(epochs=5, batch=32, classifier_rate=3e-3, backbone_rate=1e-4, halving_steps=57),
        pretraining=Pretraining(epochs=1, batch=32, rate=2e-4),
        checkpoint="data/clap-mini",
        passt_checkpoint="data/passt-mini",
        embedded="mini",
        caveat="a small network, pretrained on synthetic sounds: of real recordings it knows little "
        "(full: the real networks)",
        latent=128,  # as good as 256 on the embedded dataset's five folds, and half the time
        hatr_epochs=25,
    ),
}
PROFILES["tiny"] = dataclasses.replace(
    PROFILES["mini"],
    name="tiny",
    head=Rates(epochs=2, batch=16, classifier_rate=1e-3),
    joint=Rates(epochs=1, batch=8, classifier_rate=1e-3, backbone_rate=2e-4),
    pretraining=Pretraining(epochs=1, batch=8, rate=2e-4),
    embedded="tiny",
    tta_views=2,
    hatr_epochs=1,
    ablation_folds=2,
)


def profile(name: str) -> Profile:
    """The profile called `name`. Raises ValueError that lists the names there are."""
    if name not in PROFILES:
        raise ValueError(f"profile={name!r} is unknown: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
