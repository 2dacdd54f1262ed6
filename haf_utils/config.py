"""The configuration of a fine-tuning run: every parameter, its checks, its defaults and its name."""

import dataclasses
import os
import types
import typing
import zlib
from dataclasses import dataclass
from pathlib import Path

from haf_utils.profiles import PROFILES, Profile, Rates, profile

__all__ = ["ARCHITECTURES", "FOLDS", "FUSIONS", "LOCATION_FIELDS", "MODALITIES", "SMOOTHINGS", "SPLITS",
           "FinetuneConfig", "Recipe", "check", "check_device", "default_name", "differing",
           "parameters", "resolve"]  # fmt: skip

ARCHITECTURES = ("haf", "text_aux", "passt")
SMOOTHINGS = ("none", "uniform", "hierarchical")
MODALITIES = ("both", "audio", "text")
FUSIONS = ("attention", "concatenation", "mean")
SPLITS = ("official", "uploader")
FOLDS = 5


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides a run, as a user writes it. None means "as the profile says"; `resolve` gives a `Recipe`.

    dataset, extra, evaluation: folders of BSD10k, BSD35k-CS and the evaluation set; runs: folder of run folders.
    """

    dataset: str
    runs: str
    extra: str = ""
    evaluation: str = ""
    scratch: str = ""  # where audio stores and embeddings live; "" = beside the runs
    weights: str = ""  # checkpoint that "pretrained" means; "" = the profile's
    tokenizer: str = ""  # tokenizer.json, or its folder; "" = the checkpoint's own, or RoBERTa's
    name: str = ""  # "" = made from what differs from the defaults
    profile: str = "mini"
    system: str = "haf"  # haf, text_aux, passt
    train: str = "joint"  # head (frozen backbone), joint
    initialisation: str = "pretrained"  # pretrained (the profile's), random, a known name, checkpoint or run (f{fold})
    whole_model: bool = False  # stage 3: backbone and classifier start as the run folder in `initialisation` left them
    split: str = "official"  # official, uploader
    fold: int = 0
    seed: int = 0
    smoothing: str = "hierarchical"  # none, uniform, hierarchical
    smoothing_factor: float | None = None
    mixup: bool = True
    mixup_alpha: float | None = None
    mixup_probability: float | None = None
    feature_noise: float | None = None
    dropout: float | None = None
    text_dropout: float = 0.0
    ema: bool = True
    tta_views: int | None = None
    modality: str = "both"  # both, audio, text
    fusion: str = "attention"  # attention, concatenation, mean
    gating: bool = True
    top_level_weight: float = 0.0  # weight of the auxiliary top-level loss
    text_at_inference: bool = False  # Text-Aux CLAP: the extension
    extra_weight: float = 0.0  # weight of BSD35k-CS's clips in the loss, 0 leaves them out; the report: 1
    teacher: str = ""  # stage 2: a table or folder of posteriors of BSD35k-CS's clips, as `haf posteriors` writes them
    soft_weight: float = 1.0  # the teacher's share λ: targets of BSD35k-CS's clips are (1 − λ)·hard + λ·soft
    agreement: float = 0.0  # clips of BSD35k-CS train whose label is this probable, by the teacher or else neighbours
    confidence_weight: bool = False  # a clip's weight in the loss is its annotators' confidence / 5
    posteriors: str = ""  # third input: a table of class probabilities, or a folder of nested ones, fold_<k>.csv
    data_share: float = 1.0  # share of the training clips that is used (learning curves)
    shuffle_texts: bool = False  # a planted effect: each clip gets the text of another
    epochs: int | None = None
    batch: int | None = None
    accumulation: int = 1  # parts in which a batch goes through the backbone: less memory, a third more work
    activation_checkpointing: bool = False
    classifier_rate: float | None = None
    backbone_rate: float | None = None
    device: str = "cpu"
    precision: str = "fp32"  # fp32, bf16


@dataclass(frozen=True, kw_only=True)
class Recipe(FinetuneConfig):
    """A checked `FinetuneConfig` in which nothing is left open, with the sizes and rates of its profile."""

    smoothing_factor: float
    mixup_alpha: float
    mixup_probability: float
    feature_noise: float
    dropout: float
    tta_views: int
    epochs: int
    batch: int
    classifier_rate: float
    backbone_rate: float
    sizes: Profile
    rates: Rates

    @property
    def stores(self) -> Path:
        """Folder of the audio stores."""
        return Path(self.scratch or self.runs) / "stores"

    @property
    def sample_rate(self) -> int:
        """Rate that the backbone reads, Hz."""
        return self.sizes.passt.sample_rate if self.system == "passt" else self.sizes.clap.audio.sample_rate


_CHOICES = {
    "profile": tuple(PROFILES),
    "system": ARCHITECTURES,
    "train": ("head", "joint"),
    "split": SPLITS,
    "smoothing": SMOOTHINGS,
    "modality": MODALITIES,
    "fusion": FUSIONS,
    "precision": ("fp32", "bf16"),
}
_RANGES = {  # inclusive
    "fold": (0, FOLDS - 1),
    "seed": (0, 2**32 - 1),
    "smoothing_factor": (0, 0.999),
    "mixup_alpha": (1e-3, 100),
    "mixup_probability": (0, 1),
    "feature_noise": (0, 10),
    "dropout": (0, 0.99),
    "text_dropout": (0, 1),
    "tta_views": (0, 100),
    "top_level_weight": (0, 100),
    "extra_weight": (0, 100),
    "soft_weight": (0, 1),
    "agreement": (0, 1),
    "data_share": (0.001, 1),
    "epochs": (1, 10_000),
    "batch": (2, 100_000),
    "accumulation": (1, 10_000),
    "classifier_rate": (0, 10),
    "backbone_rate": (0, 10),
}
# Where a run is, not what it is.
LOCATION_FIELDS = tuple("dataset runs extra evaluation scratch weights tokenizer name device".split())
# Folders beside the runs.
_TAKEN = ("stores", "embeddings", "errors", "sweeps", "notebooks", "figures", "submission", "posteriors")
_UNNAMED = ("profile", "system", "train", "fold", "seed", "precision")  # stand in a name's fixed places, or nowhere


def check(config: FinetuneConfig) -> None:
    """Raises ValueError or TypeError that names the parameter, its value and what it may be."""
    for field, kind in typing.get_type_hints(FinetuneConfig).items():
        value = getattr(config, field)
        allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        # An int is a fine float, but a bool is no int, and the string "1e-4" that YAML makes of 1e-4 is no float.
        fits = (int, *allowed) if float in allowed else allowed
        if not isinstance(value, fits) or (isinstance(value, bool) and bool not in allowed):
            names = " or ".join(t.__name__ for t in allowed if t is not type(None))
            found = type(value).__name__
            advice = " (1.0e-4, not 1e-4, in YAML)" if (found, *allowed[:1]) == ("str", float) else ""
            raise TypeError(f"{field}={value!r} is of type {found}, it must be {names}{advice}")
    for field, choices in _CHOICES.items():
        if getattr(config, field) not in choices:
            raise ValueError(f"{field}={getattr(config, field)!r} is unknown: choose one of {', '.join(choices)}")
    for field, (low, high) in _RANGES.items():
        value = getattr(config, field)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{field}={value!r} must lie in {low} to {high}")
    if config.system == "passt" and config.train == "head":
        raise ValueError("system='passt' trains jointly: pass train='joint'")
    if config.posteriors and (config.system != "haf" or config.modality == "text"):
        raise ValueError("posteriors are a third input of system='haf' with modality='both' or 'audio'")
    if (config.teacher or config.agreement) and not config.extra_weight:
        raise ValueError("teacher and agreement are about BSD35k-CS's clips: pass extra=… and extra_weight=1.0")
    if config.soft_weight != 1 and not config.teacher:
        raise ValueError(f"soft_weight={config.soft_weight!r} is the share of a teacher: pass teacher=…")
    if config.agreement and config.system == "passt" and not config.teacher:
        raise ValueError("PaSST has no embeddings to compare: agreement needs a teacher there")
    check_device(config.device)


def check_device(name: str) -> None:
    """Raises ValueError where there is no such device here."""
    if name == "cpu":
        return
    import torch  # takes seconds, and only a device needs it

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not a torch device: cpu, cuda, cuda:1, mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise ValueError(f"device={name!r} asks for a GPU, but this PyTorch sees {seen}: pass device='cpu'")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={name!r} asks for an Apple GPU, and there is none: pass device='cpu'")


def resolve(config: FinetuneConfig) -> Recipe:
    """`config` checked, with every None replaced by the profile's number and the name filled in.

    Without BSD35k-CS its weight is 0, and a head trains whole batches, so that these make no difference to the name.
    Raises as `check`.
    """
    check(config)
    folders = {f: os.path.expanduser(getattr(config, f)) for f in LOCATION_FIELDS if f not in ("name", "device")}
    config = dataclasses.replace(config, **folders)
    if not config.extra:
        config = dataclasses.replace(config, extra_weight=0.0)
    if config.train == "head":
        config = dataclasses.replace(config, accumulation=1)
    sizes = profile(config.profile)
    rates = sizes.head if config.train == "head" else sizes.joint
    given, defaults = parameters(config), vars(sizes) | vars(rates) | {"smoothing_factor": sizes.smoothing}
    filled = {name: defaults[name] for name, value in given.items() if value is None}
    usual: dict[str, typing.Any] = {n: None for n in defaults.keys() & given if given[n] == defaults[n]}  # one run
    name = config.name or default_name(dataclasses.replace(config, **usual))
    if Path(name).name != name or name.startswith(".") or name in _TAKEN:
        raise ValueError(f"name={name!r} must be a plain folder name, other than {', '.join(_TAKEN)}")
    return Recipe(**given | filled | {"name": name}, sizes=sizes, rates=rates)


def parameters(config: FinetuneConfig) -> dict[str, typing.Any]:
    """The fields of a `FinetuneConfig`, also of a `Recipe`: what config.json records."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(FinetuneConfig)}


def default_name(config: FinetuneConfig) -> str:
    """A folder name from what differs from the defaults: haf-joint_smoothing=none_mixup=False_f0_s1."""
    shown = []
    for field in dataclasses.fields(FinetuneConfig):
        value = getattr(config, field.name)
        if field.name in (*LOCATION_FIELDS, *_UNNAMED) or value == field.default:
            continue
        if type(value) is int and "float" in str(field.type):
            value = float(value)  # 1 and 1.0 are one run
        text = Path(value.replace("{fold}", str(config.fold))).name if isinstance(value, str) else str(value)
        if len(text) > 60:  # a run that is continued; no file system has names of more than 255 bytes
            text = f"{text[:50]}-{zlib.crc32(text.encode()):08x}"
        shown.append(f"{field.name}={text}")
    return "_".join([f"{config.system}-{config.train}", *shown, f"f{config.fold}", f"s{config.seed}"])


def differing(config: FinetuneConfig) -> dict[str, object]:
    """The parameters in which `config` differs from the defaults of its profile, system and way of training, and those
    four that every run has: profile, train, fold, seed. What a run is, without where it is."""
    kind = {name: getattr(config, name) for name in ("profile", "system", "train")}
    default = parameters(resolve(FinetuneConfig(dataset="", runs="", **kind)))
    own = {k: v for k, v in parameters(resolve(config)).items() if k not in LOCATION_FIELDS and v != default[k]}
    return own | {name: getattr(config, name) for name in ("profile", "train", "fold", "seed")}
