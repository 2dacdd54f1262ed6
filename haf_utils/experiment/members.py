"""The systems that are handed in: which trained models each is an average of, and what those predict, from run folders.

"ours" trains without the crowd's hard labels, which cost three points on the real benchmark, and is the best ensemble
by validation of its members. The report gives the number of members and the fusion of each of its systems (its table
1), not the members; what stands in `SYSTEMS` is this project's reading.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from haf_utils.config import ARCHITECTURES, FinetuneConfig, differing, resolve
from haf_utils.datasets import load_bsd
from haf_utils.ensembles import Member, align, fit_weights, subsets
from haf_utils.experiment.ablations import read_runs
from haf_utils.experiment.control_runs import run_control
from haf_utils.experiment.finetune import config_of, other_code
from haf_utils.experiment.grids import unique
from haf_utils.experiment.sweeps import sweep
from haf_utils.experiment.teacher import teach
from haf_utils.experiment.workspace import Workspace, finetune_config
from haf_utils.inference import average_probabilities
from haf_utils.io.progress import headless
from haf_utils.profiles import profile
from haf_utils.runs import Run, RunError, load_run

__all__ = ["MEMBERS", "REPORTED", "SYSTEMS", "TRAIN", "Trained", "best_subset", "complete", "fold_member", "fuse",
           "kind_of", "makeable", "member_configs", "member_of", "out_of_fold", "submitted", "systems_called",
           "train_members", "trained_ours", "weights_of"]  # fmt: skip

# Every member: the fields of `FinetuneConfig` in which it differs from the report's recipe (630k, hierarchical
# smoothing, mixup) without BSD35k-CS; "seed" is added. An initialisation that is a folder's name is one of the runs'.
OURS: dict[str, dict] = {
    "smoothing + mixup (ours)": {},
    "another seed (ours)": {"seed": 1},
    "smoothing (ours)": {"mixup": False},
    "plain (ours)": {"smoothing": "none", "mixup": False},
    "Text-Aux (ours)": {"system": "text_aux"},
    "PaSST (ours)": {"system": "passt", "train": "joint"},
    "metadata": {},  # no CLAP: words alone
}
# Also in "ours" where posteriors from outside are given: the table, nearest neighbours, a model with it as third input;
# and where BSD35k-CS is, too, that model on its clips as ours label them (stage 2), and then on BSD10k (stage 3).
STAGES: dict[str, dict] = {"stage 2": {"extra_weight": 1.0}, "stage 3": {"whole_model": True}}
BEYOND: dict[str, dict] = {"posteriors": {}, "neighbours": {}, "third input": {}} | STAGES
_REPORT: dict[str, dict] = {
    "smoothing": {"mixup": False},
    "smoothing + mixup": {},
    "another seed": {"seed": 1},
    "plain": {"smoothing": "none", "mixup": False},
    "FSD50K": {"initialisation": "clap-fsd50k"},
    "FSD50K + NSynth": {"initialisation": "clap-fsd50k-nsynth"},
    "PaSST": {"system": "passt", "train": "joint"},
    "Text-Aux": {"system": "text_aux"},
}
MEMBERS = OURS | BEYOND | {name: {"extra_weight": 1.0} | fields for name, fields in _REPORT.items()}
_CONTROLS = {"metadata": "metadata", "posteriors": "posteriors", "neighbours": "votes"}  # these have no network

# System -> members, fusion (report, table 1; the members are our reading), in the order in which they are handed in.
SYSTEMS: dict[str, tuple[tuple[str, ...], str]] = {
    "ours": (tuple(OURS), "Best subset"),
    "task1-1": (("smoothing", "smoothing + mixup", "another seed"), "Equal"),
    "task1-2": (("smoothing + mixup", "plain", "FSD50K", "FSD50K + NSynth"), "Weighted"),
    "task1-3": (("PaSST", "Text-Aux"), "Equal"),
}
REPORTED = {"task1-1": 0.7656, "task1-2": 0.7663, "task1-3": 0.7892}  # accuracy on the report's internal test set

# How CLAP members are trained: jointly, as in the report, or, where minutes count, on frozen embeddings.
TRAIN = {"full": "joint", "mini": "head", "tiny": "head"}

# PaSST of the small profiles, which trains jointly where the other members train heads: few and small steps, without
# BSD35k-CS, since it takes as long as all of them together. So the report's and ours are one run there.
SMALL_PASST = {"epochs": 3, "batch": 16, "classifier_rate": 3e-3, "backbone_rate": 3e-4, "extra_weight": 0.0}


def systems_called(which: str = "", beyond: bool = False) -> dict[str, tuple[tuple[str, ...], str]]:
    """Those of `SYSTEMS` that `which` names: "ours", "report", "" for all; beyond: "ours" with the members of `BEYOND`.
    Raises ValueError for another name."""
    if which not in ("", "ours", "report"):
        raise ValueError(f"systems_of={which!r} is unknown: ours, report, or nothing for all")
    systems = SYSTEMS | ({"ours": ((*OURS, *BEYOND), "Best subset")} if beyond else {})
    return {name: system for name, system in systems.items() if not which or (name == "ours") == (which == "ours")}


def kind_of(member: str) -> str:
    """CLAP, PaSST, words, posteriors or neighbours: the kind of model that a member is."""
    name = member.removesuffix(" (ours)")
    return {"metadata": "words"}.get(name, name if name in ("PaSST", "posteriors", "neighbours") else "CLAP")


def member_configs(
    space: Workspace,
    seed: int = 0,
    fold: int = 0,
    train: str = "",
    systems: Mapping[str, tuple] = SYSTEMS,
    extra_weight: float | None = None,
    **choices,
) -> tuple[dict[str, FinetuneConfig], dict[str, str]]:
    """Configurations of the members of `systems` that can be trained in `space`, those of "ours" first, and why the
    others cannot: two dicts by name.

    train: "head" or "joint" for the CLAP members, "" as the profile does (`TRAIN`). A dataset that ships embeddings
    and no audio trains heads, and has no PaSST. extra_weight: of BSD35k-CS in the report's members (None: 1); choices:
    other fields of `FinetuneConfig` for all members, None where the recipe's own value stays.
    """
    has_audio = load_bsd(space.dataset)["path"].notna().any()
    train = (train or TRAIN[space.profile]) if has_audio else "head"
    choices = {name: value for name, value in choices.items() if value is not None}
    wanted = {name for members, _ in systems.values() for name in members}
    configs, absent = {}, {}
    for name, fields in MEMBERS.items():
        if name not in wanted:
            continue
        own = {"train": train, "fold": fold} | fields | {"seed": seed + fields.get("seed", 0)}
        if name in _REPORT and extra_weight is not None:
            own["extra_weight"] = extra_weight
        if fields.get("system") == "passt" and profile(space.profile).embedded and not space.passt:
            own |= SMALL_PASST
        if name in ("posteriors", "third input", *STAGES):
            own["posteriors"] = space.posteriors
        if name == "stage 2":
            own["teacher"] = str(Path(space.runs) / "posteriors" / f"teacher-s{seed}")
        if name == "stage 3" and "stage 2" in configs:
            own["initialisation"] = resolve(configs["stage 2"]).name.replace(f"_f{fold}_s", "_f{fold}_s")
        checkpoint = Path(space.runs) / fields.get("initialisation", "")
        if "initialisation" in fields and not has_audio:
            absent[name] = "it embeds audio, and this dataset has none"
        elif "initialisation" in fields and not checkpoint.is_dir():
            absent[name] = f"there is no continued checkpoint {checkpoint.name}: notebook 03 makes it"
        elif name in STAGES and not space.extra:
            absent[name] = "it trains on BSD35k-CS, which is not given"
        elif fields.get("system") == "passt" and not has_audio:
            absent[name] = "it hears waveforms, and this dataset has embeddings alone"
        else:
            configs[name] = finetune_config(space, **own | choices)
    return configs, absent


class Trained(NamedTuple):
    """folders: run folders of each member, one a fold; failed: why each of the others has none, by name."""

    folders: dict[str, list[Path]]
    failed: dict[str, str]


def train_members(
    folds: Sequence[Mapping[str, FinetuneConfig]], workers: int | None = None, retrain: bool = False
) -> Trained:
    """Train every member in every fold, unless it is there already; `workers` processes, None for one a core or GPU.

    folds: a fold's configurations by member, as `member_configs` gives them. A member that fails in a fold is named
    with the reason and takes no part; the others go on. Raises ValueError or TypeError for wrong parameters.
    """
    networks = {(name, at): each[name] for at, each in enumerate(folds) for name in each if name not in _CONTROLS}
    found, failed = _train({k: config for k, config in networks.items() if k[0] not in STAGES}, workers, retrain)
    for stage in STAGES:
        own = {key: config for key, config in networks.items() if key[0] == stage}
        try:
            if stage == "stage 2" and own:
                config, ours = own[stage, 0], [name for name in (*OURS, "third input") if kind_of(name) == "CLAP"]
                runs = [load_run(found[key]) for key in found if key[0] in ours and key[0] not in failed]
                where = {name: getattr(config, name) for name in ("dataset", "extra", "scratch", "device")}
                list(teach(runs, config.teacher, overwrite=True, quiet=headless(), **where))
            elif own and "stage 2" in failed:
                raise RunError("stage 2, from which it goes on, has failed")
            for (_, at), config in own.items() if stage == "stage 3" else ():  # that may have got a suffix
                start = found["stage 2", at].name.replace(f"_f{config.fold}_s", "_f{fold}_s")
                own[stage, at] = dataclasses.replace(config, initialisation=start)
            more, lost = _train(own, workers, retrain)
            found, failed = found | more, failed | lost
        except (OSError, RuntimeError, ValueError) as error:
            failed[stage] = f"{type(error).__name__}: {error}"
    folders: dict[str, list[Path]] = {}
    for name in dict.fromkeys(name for configs in folds for name in configs if name not in failed):
        try:
            if kind := _CONTROLS.get(name):
                folders[name] = [run_control(configs[name], kind, quiet=True) for configs in folds]
            else:
                folders[name] = [found[name, place] for place in range(len(folds))]
        except (OSError, RuntimeError, ValueError) as error:  # of the control
            failed[name] = f"{type(error).__name__}: {error}"
    return Trained(folders, failed)


def _train(
    configs: Mapping[tuple[str, int], FinetuneConfig], workers: int | None, retrain: bool
) -> tuple[dict[tuple[str, int], Path], dict[str, str]]:
    """Run folders by member and fold, and why members have failed, by name."""
    networks = {key: resolve(config) for key, config in configs.items()}
    # In the order of members, and of those the long ones first.
    recipes = unique(sorted(networks.values(), key=lambda recipe: recipe.train != "joint"))
    found, failed = {}, {}
    if recipes:
        # Its lines would stay in the notebook.
        outcome = sweep(recipes, workers, retry_failed=True, quiet=headless(), retrain=retrain)
        lost = outcome.failed | dict.fromkeys(outcome.absent, "no worker was left")
        names = [recipe.name for recipe in recipes if recipe.name not in lost]
        found = dict(zip(names, outcome.folders, strict=True))
        for (name, _), recipe in networks.items():
            if recipe.name in lost:
                failed.setdefault(name, f"fold {recipe.fold}: {lost[recipe.name].strip().splitlines()[-1]}")
    return {key: found[recipe.name] for key, recipe in networks.items() if recipe.name in found}, failed


def makeable(
    names: Sequence[str], systems: Mapping[str, tuple] = SYSTEMS
) -> tuple[dict[str, tuple[tuple[str, ...], str]], dict[str, str]]:
    """The systems that can be made of the members `names`, and what the others lack. A best subset is one of what there
    is; the others need all of their members."""
    found, lacking = {}, {}
    for system, (members, fusion) in systems.items():
        there = tuple(name for name in members if name in names)
        if there == members or (there and fusion == "Best subset"):
            found[system] = there, fusion
        else:
            lacking[system] = ", ".join(name for name in members if name not in names)
    return found, lacking


def member_of(run: Run, part: str, name: str = "") -> Member:
    """What `run` says of the clips of `part`, posteriors (V, N, 23) a view, as a member of an ensemble. Raises
    RunError, which names the parts there are, if the run holds no predictions for `part`."""
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
        own = ("fold", "name", *["initialisation"] * bool(first.get("whole_model")))  # stage 2 of each fold
        differing = [f for f, value in other.items() if f not in own and first.get(f) != value]
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


def weights_of(fusion: str, *folds: Sequence[Member]) -> np.ndarray:
    """Weights (M,) of a system's members, which sum to 1, from what they predict of validation clips, a fold each.

    "Equal"; "Weighted": fitted, and averaged over folds; "Best subset": equal on the members of `best_subset`, 0 on the
    others. Where neighbours are among three members or more, the others' subset is blended with them, by the share that
    is best on validation clips, averaged over folds.
    """
    members, voters = len(folds[0]), [m for m, member in enumerate(folds[0]) if member.name == "neighbours"]
    if fusion == "Best subset" and voters and members > 2:
        rest = [[member for member in fold if member.name != "neighbours"] for fold in folds]
        weights, shares = weights_of(fusion, *rest), []
        for fold, others in zip(folds, rest, strict=True):
            both = align([fuse(others, weights, "others"), fold[voters[0]]])
            shares.append(fit_weights([member.probabilities for member in both], both[0].labels)[1])
        return np.insert(weights * (1 - np.mean(shares)), voters[0], np.mean(shares))
    if fusion == "Weighted" and members > 1:
        fold_members = [align(fold) for fold in folds]
        fitted = [fit_weights([m.probabilities for m in fold], fold[0].labels) for fold in fold_members]
        return np.mean(fitted, axis=0)
    chosen = list(best_subset(*folds)) if fusion == "Best subset" and members > 1 else list(range(members))
    weights = np.zeros(members)
    weights[chosen] = 1 / len(chosen)
    return weights


def fuse(members: Sequence[Member], weights=None, name: str = "") -> Member:
    """The average of members (checked by `ensembles.align`) as a member: one posterior (N, 23) a clip."""
    if len(members) == 1:
        views = np.asarray(members[0].probabilities, dtype=np.float64)
        mean = views.mean(axis=0) if views.ndim == 3 else views
        return dataclasses.replace(members[0], probabilities=mean, name=name or members[0].name)
    aligned = align(members)
    return Member(
        name or " + ".join(member.name for member in aligned),
        aligned[0].ids,
        aligned[0].labels,
        average_probabilities([member.probabilities for member in aligned], weights),
        sorted(set().union(*(member.train_ids for member in aligned))),
    )


def out_of_fold(
    runs: Mapping[str, Sequence[Run]], names: Sequence[str], fusion: str = "Equal", name: str = "", part: str = "test"
) -> Member:
    """What a system predicts of the clips of `part` of all folds, pooled: each fold's by the models that were not
    trained on them, with weights (or a subset) from that fold's validation clips.

    runs: of each member, one a fold, in the same order; names: the members of the system.
    """
    folds = [
        fuse(_of_fold(of_fold, part, names), weights_of(fusion, _of_fold(of_fold, "validation", names)))
        for of_fold in zip(*(runs[member] for member in names), strict=True)
    ]
    arrays = (np.concatenate([getattr(fold, f) for fold in folds]) for f in ("ids", "labels", "probabilities"))
    return Member(name or " + ".join(names), *arrays, ())


def _of_fold(runs: Sequence[Run], part: str, names: Sequence[str]) -> list[Member]:
    return [member_of(run, part, name) for run, name in zip(runs, names, strict=True)]


def submitted(
    runs: Mapping[str, Sequence[Run]], names: Sequence[str], fusion: str = "Equal", name: str = ""
) -> tuple[Member, np.ndarray]:
    """What a system predicts of the evaluation set, and the weights (M,) of its members: each is the mean of its folds,
    and the weights (or the subset) are the best in the mean over the folds' validation clips."""
    by_fold = zip(*(runs[member] for member in names), strict=True)
    weights = weights_of(fusion, *[_of_fold(of_fold, "validation", names) for of_fold in by_fold])
    return fuse([fold_member(runs[member], "evaluation", member) for member in names], weights, name), weights


# What can be set for all members at once: it does not say which member a run is.
_FREE = "profile fold precision epochs batch accumulation tta_views classifier_rate backbone_rate".split()


def _which(config: FinetuneConfig) -> dict[str, object]:
    return {"system": config.system} | {k: v for k, v in differing(config).items() if k not in _FREE}


def trained_ours(folder: Path | str) -> tuple[dict[Path, float], list[str], list[str]]:
    """The run folders that make up "ours" in a folder of runs, and their weights, which sum to 1: equal in the subset
    that is best by validation, as `submitted` has it, and in all folds that every member has; the members' names,
    one a folder; and what of "ours" is left out, since it needs more than a recording and its text.

    Of several runs of a member in one fold, one of today's code is taken, then the newest. Raises RunError for none.
    """
    every: dict[str, dict[int, Run]] = {name: {} for name in OURS if kind_of(name) != "words"}
    runs, _ = read_runs(folder)
    kinds = {run.config["config"]["system"] for run in runs}
    left_out = [name for name, kind in _CONTROLS.items() if f"control-{kind}" in kinds]
    runs = [run for run in runs if run.config["config"]["system"] in ARCHITECTURES]
    if any(run.config["config"].get("posteriors") for run in runs):  # in training every clip had some
        left_out.append("third input (also of stages 2 and 3)")
    runs.sort(key=lambda run: (bool(other_code(run.config)), -(run.folder / "metrics.json").stat().st_mtime))
    for run in runs:
        config = config_of(run, device="cpu")
        for name in every:
            own = {"train": TRAIN[config.profile]} | OURS[name]
            if _which(config) == _which(FinetuneConfig("", "", profile=config.profile, **own)):
                every[name].setdefault(config.fold, run)
    found = {name: by_fold for name, by_fold in every.items() if by_fold}
    folds = set.intersection(*map(set, found.values())) if found else set()
    if not folds:
        raise RunError(f"{folder} is no run folder, and in it are no runs of the system ours: name run folders")
    weights = weights_of("Best subset", *[[member_of(found[n][f], "validation", n) for n in found] for f in folds])
    shares = dict(zip(found, weights / len(folds), strict=True))
    used = [(name, found[name][f].folder, share) for name, share in shares.items() for f in sorted(folds) if share > 0]
    return {run: share for _, run, share in used}, [name for name, _, _ in used], left_out


def complete(member: Member, ids: Sequence[str], fallback: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Posteriors (N, 23) of all `ids`, in that order, and those ids that `member` does not score.

    fallback (N, 23): what is said of a clip that could not be decoded, from its text or from the class prior: a
    submission needs a row for each clip.
    """
    places = pd.Index(np.asarray(member.ids).astype(str)).get_indexer(pd.Index(np.asarray(ids).astype(str)))
    posteriors = np.array(fallback, dtype=np.float64)
    posteriors[places >= 0] = np.asarray(member.probabilities)[places[places >= 0]]
    return posteriors, [str(id_) for id_, place in zip(ids, places, strict=True) if place < 0]


def best_subset(*folds: Sequence[Member], metric: str = "hF") -> tuple[int, ...]:
    """Positions of the members whose equal-weight average has the best `metric` on validation clips, in the mean over
    folds: each of `folds` holds the same members, of one fold.

    Only ensembles count, of two members at least; of several that are equally good, the smallest. The best of hundreds
    of subsets looks better on validation clips than it is: judge it on others.
    """
    tables = [subsets([member.probabilities for member in members], members[0].labels) for members in map(align, folds)]
    score = np.mean([table[metric] for table in tables], axis=0)
    score[tables[0]["M"] < 2] = -1
    return tables[0]["members"].iloc[score.argmax()]  # the first of the best, and small subsets come first
