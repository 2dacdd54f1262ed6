"""Ablations: run folders pooled out of fold, paired differences with intervals, and the conclusions they allow.

Pooled out of fold: each clip is predicted by the one model of five that did not train on it, so that a recipe is scored
on every clip. Two recipes are compared on the same clips, under the same seeds.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.config import LOCATION_FIELDS, FinetuneConfig, check, differing, parameters, resolve
from haf_utils.experiment.finetune import config_of, other_code
from haf_utils.metrics import confusion, error_severity, scores_from_confusion
from haf_utils.runs import Run, RunError, finished, load_run
from haf_utils.statistics import Difference, bootstrap, decimals, interval, mcnemar, paired_difference

__all__ = ["Pooled", "compare", "compare_all", "errors_inside_parent", "head_twin", "joint_recipes", "on_clips",
           "one_seed", "pool", "read_runs", "recipe_of", "score", "severity", "standing", "told",
           "verdict", "without_tta"]  # fmt: skip

_OF_A_RUN = ("config.json", "predictions.npz")
REPLICATE_FIELDS = (*LOCATION_FIELDS, "fold", "seed")  # what may differ between the runs that are pooled


@dataclass(frozen=True)
class Pooled:
    """Out-of-fold predictions of one recipe under S seeds: ids (N,) sorted, labels (N,), folds (N,) that each clip was
    tested in, posteriors with and without test-time augmentation (S, N, 23)."""

    name: str
    seeds: tuple[int, ...]
    ids: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    probabilities: np.ndarray
    plain: np.ndarray
    training_clips: float  # mean over folds
    absent_classes: tuple[int, ...]  # labels without a training clip in some fold
    by_other_code: bool = False  # whether other code than the present made any of the runs

    @property
    def predicted(self) -> np.ndarray:
        """(S, N) labels."""
        return self.probabilities.argmax(-1)


def read_runs(folder: Path | str) -> tuple[list[Run], pd.DataFrame]:
    """All usable runs directly under `folder`, and a table (run, reason) of what is half written, damaged or of another
    taxonomy. A folder without predictions or the config.json of a run is none and is not listed."""
    runs, left_out = [], []
    for path in sorted({file.parent for name in _OF_A_RUN for file in Path(folder).glob(f"*/{name}")}):
        try:
            if not (path / "predictions.npz").exists() and b'"digests"' not in (path / "config.json").read_bytes():
                continue  # a checkpoint of continued pretraining
            run = load_run(path)
            _ = run.metrics["absent_classes"], run.part("test")
            check(config_of(run, device="cpu", system="haf"))  # a control, or a GPU's run, can be read, too
            runs.append(run)
        except (RunError, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            what = str(error) if isinstance(error, RunError) else f"config.json or metrics.json: {error}: move it away"
            reason = what if finished(path) else "not finished: the same sweep goes on with it"
            left_out.append((path.name, reason.replace(f"{path}", path.name)))
    return runs, pd.DataFrame(left_out, columns=["run", "reason"])


def _recipe(config: Mapping) -> tuple:
    """Parameters that are equal in runs that are pooled; a checkpoint by its name, as paths change when runs move."""
    values = parameters(FinetuneConfig("", "")) | dict(config)
    values["initialisation"] = Path(str(values["initialisation"])).name
    return tuple((name, value) for name, value in sorted(values.items()) if name not in REPLICATE_FIELDS)


def _preference(run: Run) -> tuple:
    """Sort key: runs of the present code after those of other code, newer after older ones."""
    file = run.folder / "metrics.json"
    return not other_code(run.config), file.stat().st_mtime if file.is_file() else 0.0


def pool(runs: Sequence[Run], wanted: FinetuneConfig, folds: Sequence[int] = range(5), name: str = "") -> Pooled:
    """The runs of the recipe `wanted` (whatever its fold and seed), pooled over `folds`; every seed that has them all.

    Raises ValueError that says which folds are missing, or where runs were not made on the same clips.
    """
    recipe = _recipe(parameters(resolve(dataclasses.replace(wanted, name="any"))))
    same = sorted((run for run in runs if _recipe(run.config["config"]) == recipe), key=_preference)
    name = name or resolve(wanted).name
    dataset = same[-1].config["digests"].get("dataset") if same else None
    by_seed: dict[int, dict[int, Run]] = {}
    for run in same:  # of several runs of one seed and fold, the last in the order of preference
        if run.config["digests"].get("dataset") == dataset:
            by_seed.setdefault(run.config["config"]["seed"], {})[run.config["config"]["fold"]] = run
    seeds = tuple(sorted(seed for seed, by_fold in by_seed.items() if set(folds) <= set(by_fold)))
    if not seeds:
        have = {seed: sorted(by_fold) for seed, by_fold in by_seed.items()}
        other = len(same) - sum(map(len, have.values()))
        more = f" ({other} more on other data, or replaced by newer ones)" if other else ""
        found = f"there are {have or 'no runs of it'}{more}"
        raise ValueError(f"{name}: no seed has all of the folds {list(folds)}; {found}")
    chosen = [[by_seed[seed][fold] for fold in folds] for seed in seeds]
    parts = [[run.part("test") for run in row] for row in chosen]
    ids = np.concatenate([part.ids for part in parts[0]])
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"{name}: a clip is in the test part of two folds: these are not folds of one split")
    for row in parts[1:]:
        if not np.array_equal(ids, np.concatenate([part.ids for part in row])):
            raise ValueError(f"{name}: its seeds were tested on different clips: they cannot be pooled")
    order = np.argsort(ids)

    def stack(field: str) -> np.ndarray:
        return np.stack([np.concatenate([getattr(part, field) for part in row])[order] for row in parts])

    splits = [run.split for run in chosen[0]]
    return Pooled(
        name=name,
        seeds=seeds,
        ids=ids[order],
        labels=np.concatenate([part.labels for part in parts[0]])[order],
        folds=np.repeat(list(folds), [len(part.ids) for part in parts[0]])[order],
        probabilities=stack("probabilities"),
        plain=stack("plain"),
        training_clips=float(np.mean([(split["part"] == "train").sum() for split in splits])),
        absent_classes=tuple(sorted({label for run in chosen[0] for label in run.metrics["absent_classes"]})),
        by_other_code=any(other_code(run.config) for row in chosen for run in row),
    )


def without_tta(pooled: Pooled) -> Pooled:
    """The same models without test-time augmentation: this ablation needs no training."""
    return dataclasses.replace(pooled, name=f"{pooled.name} without TTA", probabilities=pooled.plain)


def one_seed(pooled: Pooled, seed: int) -> Pooled:
    """The runs under one of the seeds alone; they count as seed 0, so that two seeds can be compared."""
    row = [pooled.seeds.index(seed)]
    arrays = {name: getattr(pooled, name)[row] for name in ("probabilities", "plain")}
    return dataclasses.replace(pooled, name=f"{pooled.name}, seed {seed}", seeds=(0,), **arrays)


def on_clips(pooled: Pooled, chosen: np.ndarray, which: str) -> Pooled:
    """The predictions of the clips for which `chosen` (N,) is true; `which` describes them in the name."""
    rows = {name: getattr(pooled, name)[chosen] for name in ("ids", "labels", "folds")}
    arrays = {name: getattr(pooled, name)[:, chosen] for name in ("probabilities", "plain")}
    return dataclasses.replace(pooled, name=f"{pooled.name}, {which}", **rows, **arrays)


def recipe_of(config: FinetuneConfig) -> dict[str, object]:
    """Parameters in which `config` differs from the report's recipe, apart from profile, train, fold and seed."""
    return {name: v for name, v in differing(config).items() if name not in ("profile", "train", "fold", "seed")}


def joint_recipes(runs: Sequence[Run]) -> list[tuple[FinetuneConfig, list[int]]]:
    """The recipes trained jointly from the profile's checkpoint on the official split, each with its folds."""
    recipes: dict[tuple, tuple[FinetuneConfig, list[int]]] = {}
    for run in runs:
        config = config_of(run)
        kind = config.system, config.train, config.initialisation, config.split
        if kind == ("haf", "joint", "pretrained", "official"):
            key = (_recipe(run.config["config"]), config.seed)
            recipes.setdefault(key, (config, []))[1].append(config.fold)
    return list(recipes.values())


def head_twin(config: FinetuneConfig, base: FinetuneConfig) -> FinetuneConfig:
    """The head run to compare a joint run with: its parameters but for `train` and those of joint training, at the
    location and in the precision of `base`."""
    changed = differing(config)
    for name in ("epochs", "batch", "classifier_rate", "backbone_rate", "accumulation", "activation_checkpointing"):
        changed.pop(name, None)
    location = {name: getattr(base, name) for name in LOCATION_FIELDS if name != "name"}
    changed["precision"] = base.precision
    return FinetuneConfig(**location | changed | {"train": "head"})


def _strata(labels: np.ndarray, folds: np.ndarray) -> np.ndarray | None:
    """The folds, if classes have enough clips in each, else None. Resampling a stratum of n clips shows (n − 1) / n of
    their variance, so that small collections are resampled within their class alone."""
    sizes = pd.Series(labels).groupby([labels, folds]).size()
    return folds if sizes.median() >= 5 else None


def _paired(a: Pooled, b: Pooled) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, tuple[int, ...]]:
    """labels (N,), strata (N,) and predictions (S, N) of `a` and `b` on the clips and under the seeds they share."""
    seeds = tuple(seed for seed in a.seeds if seed in b.seeds)
    _, in_a, in_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if not seeds or not len(in_a):
        what = "seed" if not seeds else "clip"
        raise ValueError(f"{a.name} and {b.name} have no {what} in common: they cannot be paired")
    if (a.labels[in_a] != b.labels[in_b]).any():
        raise ValueError(f"{a.name} and {b.name} disagree about the labels of clips: they are of different data")
    predicted_a = a.predicted[[a.seeds.index(seed) for seed in seeds]][:, in_a]
    predicted_b = b.predicted[[b.seeds.index(seed) for seed in seeds]][:, in_b]
    return b.labels[in_b], _strata(b.labels[in_b], b.folds[in_b]), predicted_a, predicted_b, seeds


def compare(a: Pooled, b: Pooled, rng: np.random.Generator, replicates: int = 2000, metric: str = "hF") -> dict:
    """`a` minus `b` in `metric` on the same clips under the same seeds.

    Returns a dict of estimate, low, high (95 %; clips resampled within class, and within fold where classes have enough
    clips in each; seeds as a second source of variance), p_value (McNemar's, on accuracy; of several seeds twice their
    median, a valid p-value under any dependence: Vovk and Wang, 2020), clips, seeds.
    """
    labels, strata, predicted_a, predicted_b, seeds = _paired(a, b)
    difference = paired_difference(labels, predicted_a, predicted_b, rng, replicates, strata=strata)[metric]
    p_values = [mcnemar(labels, *pair).p_value for pair in zip(predicted_a, predicted_b, strict=True)]
    p_value = p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.median(p_values)))
    return dataclasses.asdict(difference) | {"p_value": p_value, "clips": len(labels), "seeds": len(seeds)}


def compare_all(
    variants: Mapping[str, Pooled], base: Pooled, rng: np.random.Generator, replicates: int = 2000, metric: str = "hF"
) -> pd.DataFrame:
    """`compare` of each variant with `base`: a row a variant, the columns of `compare`."""
    rows = {name: compare(pooled, base, rng, replicates, metric) for name, pooled in variants.items()}
    columns = ["estimate", "low", "high", "p_value", "clips", "seeds"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("variant")


def score(pooled: Pooled, rng: np.random.Generator, replicates: int = 2000, metric: str = "hF") -> dict:
    """The mean over seeds of a score, with the 95 % interval over clips: dict of estimate, low, high."""
    counts = np.stack([confusion(pooled.labels, predicted) for predicted in pooled.predicted])
    observed = scores_from_confusion(counts)[metric]
    strata = _strata(pooled.labels, pooled.folds)
    samples = bootstrap(pooled.labels, pooled.predicted, rng, replicates, strata)[metric].mean(0)
    low, high = interval(samples)
    return {"estimate": float(observed.mean()), "low": float(low), "high": float(high)}


def severity(pooled: Pooled) -> dict[str, float]:
    """Shares of clips: right, right_parent (wrong class, right top level), wrong_parent; and inside, the share of the
    errors that stay inside the parent. Means over seeds."""
    shares = pd.DataFrame([error_severity(pooled.labels, predicted) for predicted in pooled.predicted]).mean()
    wrong = shares["right_parent"] + shares["wrong_parent"]
    return shares.to_dict() | {"inside": float(shares["right_parent"] / wrong) if wrong else float("nan")}


def errors_inside_parent(a: Pooled, b: Pooled, rng: np.random.Generator, replicates: int = 2000) -> Difference:
    """Share of the errors that stay inside the parent, `a` minus `b`, with its 95 % interval over resampled clips."""
    labels, strata, predicted_a, predicted_b, seeds = _paired(a, b)

    def inside(scores: Mapping[str, np.ndarray]) -> np.ndarray:
        wrong = 1 - scores["accuracy"]
        share = np.divide(scores["top_accuracy"] - scores["accuracy"], wrong, out=np.zeros_like(wrong), where=wrong > 0)
        return share[: len(seeds)].mean(0) - share[len(seeds) :].mean(0)

    both = np.concatenate([predicted_a, predicted_b])
    low, high = interval(inside(bootstrap(labels, both, rng, replicates, strata)))
    observed = inside(scores_from_confusion(np.stack([confusion(labels, predicted) for predicted in both])))
    return Difference(float(observed), float(low), float(high))


def verdict(difference: Mapping | Difference, metric: str = "hF") -> str:
    """The conclusion that a 95 % interval allows, in percentage points."""
    values = dataclasses.asdict(difference) if isinstance(difference, Difference) else difference
    estimate, low, high = (100 * values[name] for name in ("estimate", "low", "high"))
    if low == estimate == high == 0:
        return f"changes no prediction that counts: {metric} is the same on every draw of clips"
    digits = decimals(low, high)
    shown = f"{estimate:+.{digits}f} points (95 % interval {low:+.{digits}f} to {high:+.{digits}f})"
    if low > 0:
        return f"raises {metric}: {shown}"
    if high < 0:
        return f"lowers {metric}: {shown}"
    return f"shows no clear difference in {metric}: {shown}"


def standing(differences: Mapping[str, Difference]) -> str:
    """Sentences about a system's place beside others, from its score minus theirs: name -> `Difference`."""
    ahead = [name for name, difference in differences.items() if difference.low > 0]
    behind = [name for name, difference in differences.items() if difference.high < 0]
    open_ = [name for name in differences if name not in ahead + behind]
    sentences = {
        "Ahead of {}.": ahead,
        "**Behind {}.**": behind,
        "No clear difference from {}: the intervals cover zero.": open_,
    }
    return " ".join(sentence.format(", ".join(names)) for sentence, names in sentences.items() if names)


def told(table: pd.DataFrame) -> pd.Series:
    """Whether the interval of a row (low, high) excludes zero: boolean Series with the index of `table`."""
    return (table["low"] > 0) | (table["high"] < 0)
