"""Runs side by side: a table of all recipes in a folder, and the paired difference of two systems on the same clips."""

import dataclasses
import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from haf_utils.experiment.ablations import REPLICATE_FIELDS, read_runs, verdict
from haf_utils.experiment.finetune import other_code
from haf_utils.metrics import confusion, hierarchical_scores, scores_from_confusion
from haf_utils.posteriors import read
from haf_utils.runs import Run, load_run
from haf_utils.statistics import bootstrap, interval, mcnemar, paired_difference

__all__ = ["Scored", "compare_systems", "leaderboard", "scored"]

METRICS = {"hF": "hF", "accuracy": "accuracy", "top_accuracy": "top-level accuracy"}


class Scored(NamedTuple):
    """Predictions of a system on test clips: ids (N,), labels (N,), predicted (N,); note: what a reader should know."""

    name: str
    ids: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    note: str = ""


def leaderboard(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a recipe, the code that trained it and the clips that it was tested on, best first: hF of these clips,
    pooled over folds, as mean over seeds, with the 95 % interval over clips, folds, seeds,
    how many runs were made by other code than today's, and one of the folders, below that of the runs."""
    groups: dict[tuple, dict[int, dict[int, Run]]] = {}
    for run in runs:
        config = run.config["config"]
        key = tuple(sorted((k, str(v)) for k, v in config.items() if k not in REPLICATE_FIELDS))
        made_of = run.config["digests"].get("dataset"), str(run.config.get("code"))
        groups.setdefault((key, *made_of), {}).setdefault(config["seed"], {})[config["fold"]] = run
    recipes: dict[tuple, list[list[Run]]] = {}  # a list a seed: its runs by fold, tested on the same clips
    for key, by_seed in groups.items():
        for by_fold in by_seed.values():
            own = [by_fold[fold] for fold in sorted(by_fold)]
            recipes.setdefault((key, *(tuple(run.part("test").ids) for run in own)), []).append(own)
    rows = []
    for members in recipes.values():
        labels = np.concatenate([run.part("test").labels for run in members[0]])
        predicted = [np.concatenate([run.part("test").probabilities.argmax(1) for run in own]) for own in members]
        samples = bootstrap(labels, np.stack(predicted), np.random.default_rng(0), replicates=500)["hF"]
        low, high = interval(samples.mean(0))
        mean = np.mean([hierarchical_scores(labels, of_seed)["hF"] for of_seed in predicted])
        first, other = members[0][0], sum(bool(other_code(run.config)) for own in members for run in own)
        recipe = re.sub(r"_f\d+_s\d+(~\w+)?$", "", first.name)
        rows.append((recipe, mean, low, high, len(members[0]), len(members), other, "/".join(first.folder.parts[-2:])))
    columns = ["recipe", "hF", "low", "high", "folds", "seeds", "other code", "folder"]
    return pd.DataFrame(rows, columns=columns).sort_values("hF", ascending=False, ignore_index=True)


def scored(path: Path | str) -> Scored:
    """The test predictions of a run folder, or of one in the official baseline's output layout. Raises RunError or
    ValueError that says what the folder is not."""
    path = Path(path)
    name = "/".join(path.parts[-2:])  # runs of two data sets may have one name
    if (path / "config.json").is_file():
        run = load_run(path)
        part, changed = run.part("test"), other_code(run.config)
        note = f"made by other code: {', '.join(changed)}" if changed else ""
        return Scored(name, part.ids.astype(str), part.labels, part.probabilities.argmax(1), note)
    if not path.exists() and (runs := sorted(path.parent.glob(f"{glob.escape(path.name)}_f*_s*"))):
        raise ValueError(
            f"{path} is a recipe with runs: name one, such as {runs[0]}, or compare recipes in notebook 05"
        )
    table = read(path)
    if table.labels is None:
        raise ValueError(f"{path} lacks true classes to score it by: give each clip's code in a column ground_truth")
    return Scored(name, table.ids.astype(str), table.labels, table.probabilities.argmax(1))


def compare_systems(a: Scored, b: Scored) -> tuple[pd.DataFrame, list[str]]:
    """`a` against `b` on the clips that both were tested on -> a row a metric, in fractions, and sentences. Raises
    ValueError where they share no clip or disagree about labels."""
    _, in_a, in_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if not len(in_a):
        raise ValueError(f"{a.name} and {b.name} were tested on different clips: compare systems of one fold")
    labels = a.labels[in_a]
    if (labels != b.labels[in_b]).any():
        raise ValueError(f"{a.name} and {b.name} disagree about the labels of clips: they are of different data")
    one, other = a.predicted[in_a], b.predicted[in_b]
    scores = [scores_from_confusion(confusion(labels, predicted)) for predicted in (one, other)]
    differences = paired_difference(labels, one, other, np.random.default_rng(0), replicates=2000)
    rows = [(*(float(s[metric]) for s in scores), *dataclasses.astuple(differences[metric])) for metric in METRICS]
    lines = [f"{len(in_a)} clips that both were tested on (a: {len(a.ids)}, b: {len(b.ids)})"]
    gone = [(x.name, np.setdiff1d(y.ids, x.ids)) for x, y in ((a, b), (b, a))]
    lines += [f"{name} lacks {len(ids)} of the other's clips, such as {ids[0]}" for name, ids in gone if len(ids)]
    lines += [f"{system.name}: {system.note}" for system in (a, b) if system.note]
    p_value = f"McNemar p = {mcnemar(labels, one, other).p_value:.3f}"
    lines.append(f"{a.name} against {b.name} {verdict(differences['hF'])}; {p_value}")
    return pd.DataFrame(rows, index=list(METRICS.values()), columns=["a", "b", "difference", "low", "high"]), lines


def read_all(folder: Path | str) -> tuple[list[Run], pd.DataFrame]:
    """All finished runs below `folder`, as `ablations.read_runs`; a folder of such folders counts too."""
    folder = Path(folder)
    runs, left_out = read_runs(folder)
    if not runs:
        parts = [read_runs(inner) for inner in sorted(folder.glob("*")) if inner.is_dir()]
        runs = [run for found, _ in parts for run in found]
        left_out = pd.concat([left_out, *(table for _, table in parts)], ignore_index=True)
    if not runs:
        reasons = "".join(f"; {reason}" for reason in left_out["reason"][:3])
        raise ValueError(f"{folder} holds no finished run{reasons}")
    return runs, left_out
