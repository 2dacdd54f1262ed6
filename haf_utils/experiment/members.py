"""The report's systems: which trained models each is an average of, and what those models say, from run folders.

The report gives the number of members and the fusion of each system (its table 1), not the members; `SYSTEMS` is this
project's reading. "ours" has no fixed members: it is the best ensemble by validation of all that there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.config import FinetuneConfig, resolve
from haf_utils.datasets import load_bsd
from haf_utils.ensembles import Member, align, fit_weights, subsets
from haf_utils.experiment.control_runs import run_control
from haf_utils.experiment.sweeps import sweep
from haf_utils.experiment.workspace import Workspace, finetune_config
from haf_utils.inference import average_probabilities
from haf_utils.io.progress import headless
from haf_utils.profiles import profile
from haf_utils.runs import Run, RunError

__all__ = [
    "MEMBERS",
    "REPORTED",
    "SYSTEMS",
    "TRAIN",
    "best_subset",
    "complete",
    "fold_member",
    "fuse",
    "member_configs",
    "member_of",
    "train_members",
    "weights_of",
]

# Every member: the fields of `FinetuneConfig` in which it differs from the report's recipe (630k, hierarchical
# smoothing, mixup, BSD35k-CS at full weight). An initialisation that is the name of a folder is one of the runs'.
MEMBERS: dict[str, dict] = {
    "smoothing": {"mixup": False},
    "smoothing + mixup": {},
    "another seed": {},
    "plain": {"smoothing": "none", "mixup": False},
    "FSD50K": {"initialisation": "clap-fsd50k"},
    "FSD50K + NSynth": {"initialisation": "clap-fsd50k-nsynth"},
    "PaSST": {"system": "passt", "train": "joint"},
    "Text-Aux": {"system": "text_aux"},
    "metadata": {},  # no CLAP: words alone, an addition of this project
}

# System -> members, fusion (report, table 1; the members are our reading).
SYSTEMS: dict[str, tuple[tuple[str, ...], str]] = {
    "task1-1": (("smoothing", "smoothing + mixup", "another seed"), "Equal"),
    "task1-2": (("smoothing + mixup", "plain", "FSD50K", "FSD50K + NSynth"), "Weighted"),
    "task1-3": (("PaSST", "Text-Aux"), "Equal"),
}
REPORTED = {"task1-1": 0.7656, "task1-2": 0.7663, "task1-3": 0.7892}  # accuracy on the report's internal test set

# How CLAP members are trained: jointly, as in the report, or, where minutes count, on frozen embeddings.
TRAIN = {"full": "joint", "mini": "head", "tiny": "head"}

# PaSST without pretrained weights (small profiles) stays far behind CLAP, however it is trained on two thousand clips:
# a few epochs, at rates for random weights, are enough to have a member of another kind.
FROM_SCRATCH = {"epochs": 4, "batch": 16, "classifier_rate": 1e-3, "backbone_rate": 1e-3, "extra_weight": 0.0}


def member_configs(
    space: Workspace, seed: int = 0, fold: int = 0, train: str = ""
) -> tuple[dict[str, FinetuneConfig], dict[str, str]]:
    """Configurations of the members that can be trained in `space`, and why the others cannot: two dicts by name.

    train: "head" or "joint" for the CLAP members, "" as the profile does (`TRAIN`). A dataset that ships embeddings
    and no audio trains heads, and has no PaSST.
    """
    has_audio = load_bsd(space.dataset)["path"].notna().any()
    train = (train or TRAIN[space.profile]) if has_audio else "head"
    configs, absent = {}, {}
    for name, fields in MEMBERS.items():
        choices = {"train": train, "seed": seed + (name == "another seed"), "fold": fold, "extra_weight": 1.0} | fields
        if fields.get("system") == "passt" and profile(space.profile).passt_checkpoint is None:
            choices |= FROM_SCRATCH
        checkpoint = Path(space.runs) / choices.get("initialisation", "")
        if "initialisation" in fields and not has_audio:
            absent[name] = "it embeds audio, and this dataset has none"
        elif "initialisation" in fields and not checkpoint.is_dir():
            absent[name] = f"there is no continued checkpoint {checkpoint.name}: notebook 03 makes it"
        elif fields.get("system") == "passt" and not has_audio:
            absent[name] = "it hears waveforms, and this dataset has embeddings alone"
        else:
            configs[name] = finetune_config(space, **choices)
    return configs, absent


def train_members(configs: Mapping[str, FinetuneConfig], workers: int | None = None) -> dict[str, Path]:
    """The run folder of every member, trained unless it is there already; `workers` processes, None for one a core.

    Raises RunError that names the runs that failed.
    """
    networks = {name: resolve(config) for name, config in configs.items() if name != "metadata"}
    names = sorted(networks, key=lambda name: networks[name].train != "joint")  # the long ones first
    long_first = [networks[name] for name in names]
    outcome = sweep(long_first, workers, retry_failed=True, quiet=headless())  # its lines would stay in the notebook
    if outcome.failed or outcome.absent:
        raise RunError(str(outcome))
    folders = dict(zip(names, outcome.folders, strict=True))
    return folders | {name: run_control(configs[name], "metadata", quiet=True) for name in configs.keys() - networks}


def member_of(run: Run, part: str, name: str = "") -> Member:
    """What `run` says of the clips of `part`, posteriors (V, N, 23) a view, as a member of an ensemble.

    Raises RunError, which names the parts there are, if the run holds no predictions for `part`.
    """
    predictions = run.part(part)
    return Member(name or run.name, predictions.ids, predictions.labels, predictions.posteriors, _train_ids(run))


def _train_ids(run: Run) -> list[str]:
    return run.split.loc[run.split["part"] == "train", "sound_id"].tolist()


def fold_member(runs: Sequence[Run], part: str = "evaluation", name: str = "") -> Member:
    """One member from runs of the same recipe in several folds: their mean posterior (N, 23) on clips of `part`.

    It counts as trained on what any of them was trained on, so it fits the evaluation set, where all folds help, and
    `align` refuses it for a test part.
    Raises RunError if two runs are of the same fold, differ in more than the fold, or lack `part`; ValueError if they
    score different clips.
    """
    if not runs:
        raise RunError("there is no run to average over folds")
    first = runs[0].config["config"]
    for run in runs[1:]:
        other = run.config["config"]
        differing = [f for f, value in other.items() if f not in ("fold", "name") and first.get(f) != value]
        if differing:
            raise RunError(f"{runs[0].name} and {run.name} differ in more than the fold: {', '.join(differing)}")
    folds = [run.config["config"]["fold"] for run in runs]
    if len(set(folds)) < len(folds):
        raise RunError(f"two runs of the same fold: {', '.join(run.name for run in runs)} are of folds {folds}")
    if len(runs) == 1:
        return member_of(runs[0], part, name)
    # Of one fold's clips another may have been trained on some: it is the mean that is checked, by what it is used for.
    scoring = [dataclasses.replace(member_of(run, part), train_ids=()) for run in runs]
    trained = sorted(set().union(*(_train_ids(run) for run in runs)))
    return dataclasses.replace(fuse(scoring), name=name or runs[0].name, train_ids=trained)


def weights_of(fusion: str, validation: Sequence[Member]) -> np.ndarray:
    """Weights (M,) of a system's members: equal, or ("Weighted") fitted on what they say of validation clips."""
    members = align(validation)
    if fusion == "Weighted":
        return fit_weights([member.probabilities for member in members], members[0].labels)
    return np.full(len(members), 1 / len(members))


def fuse(members: Sequence[Member], weights=None) -> Member:
    """The average of members (checked by `ensembles.align`) as a member: one posterior (N, 23) a clip."""
    aligned = align(members)
    return Member(
        " + ".join(member.name for member in aligned),
        aligned[0].ids,
        aligned[0].labels,
        average_probabilities([member.probabilities for member in aligned], weights),
        sorted(set().union(*(member.train_ids for member in aligned))),
    )


def complete(member: Member, ids: Sequence[str], fallback: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Posteriors (N, 23) of all `ids`, in that order, and those ids that `member` does not score.

    fallback (N, 23): what is said of a clip that could not be decoded, from its text or from the class prior: a
    submission needs a row for each clip.
    """
    places = pd.Index(np.asarray(member.ids).astype(str)).get_indexer(pd.Index(np.asarray(ids).astype(str)))
    posteriors = np.array(fallback, dtype=np.float64)
    posteriors[places >= 0] = np.asarray(member.probabilities)[places[places >= 0]]
    return posteriors, [str(id_) for id_, place in zip(ids, places, strict=True) if place < 0]


def best_subset(validation: Sequence[Member], metric: str = "hF") -> tuple[int, ...]:
    """Positions of the members whose equal-weight average has the best `metric` on validation clips.

    Only ensembles count, of two members at least; of several that are equally good, the smallest. The best of hundreds
    of subsets looks better on validation clips than it is: judge it on others.
    """
    members = align(validation)
    table = subsets([member.probabilities for member in members], members[0].labels)
    table = table[table["M"] > 1]
    return table.loc[table[metric].idxmax(), "members"]  # idxmax takes the first, and small subsets come first
