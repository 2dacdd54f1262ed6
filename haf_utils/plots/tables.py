"""The tables of notebook 06: scores with intervals, paired gains, views, pairs of members, the most confident mistakes.

Shares are text in percent with one decimal in tables that are shown, and fractions in tables from which figures are
drawn.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from haf_utils.metrics import hierarchical_scores
from haf_utils.statistics import Difference, bootstrap, decimals, interval, paired_difference
from haf_utils.taxonomy import CLASSES, NAMES, PARENT

__all__ = ["difference_sentence", "gain_table", "mistake_table", "moved", "pair_table", "percent", "score_table",
           "view_table"]  # fmt: skip


def percent(share: float) -> str:
    """0.6287 -> "62.9"."""
    return f"{100 * share:.1f}"


def difference_sentence(difference: Difference, what: str) -> str:
    """What the 95 % interval of a difference of shares allows to say of `what`, in points, as a clause."""
    estimate, low, high = (100 * value for value in (difference.estimate, difference.low, difference.high))
    digits = decimals(low, high)
    shown = f"{estimate:+z.{digits}f} points [{low:+z.{digits}f}, {high:+z.{digits}f}]"
    if low > 0:
        return f"{what} is above zero: {shown}"
    if high < 0:
        return f"{what} is below zero: {shown}"
    return f"{what} is not clearly different from zero: {shown}"


def moved(what: str, before: float, after: float, digits: int = 2) -> str:
    """Whether `what` rises, falls, or stays at the same number when both values are rounded to `digits`."""
    first, second = f"{before:.{digits}f}", f"{after:.{digits}f}"
    if float(first) == float(second):
        return f"{what} stays at {first}"
    return f"{what} {'rises' if after > before else 'falls'} from {first} to {second}"


def score_table(labels, predictions: Mapping[str, np.ndarray], rng, replicates: int = 1000) -> pd.DataFrame:
    """Scores of several systems on the same clips (%), with 95 % intervals of accuracy and hF; a row a system. labels
    (N,), predictions: name -> labels (N,); rng: generator of the resampling."""
    samples = bootstrap(labels, list(predictions.values()), rng, replicates)
    rows = []
    for number, predicted in enumerate(predictions.values()):
        scores = hierarchical_scores(labels, predicted)
        row = {}
        for title, metric in (("Acc.", "accuracy"), ("hF", "hF")):
            low, high = interval(samples[metric][number])
            row |= {title: percent(scores[metric]), f"95 % of {title}": f"{percent(low)} to {percent(high)}"}
        row |= {"hP": percent(scores["hP"]), "hR": percent(scores["hR"]), "top level": percent(scores["top_accuracy"])}
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(predictions, name="System"))


def gain_table(labels, pairs: Mapping, rng, replicates: int = 1000) -> pd.DataFrame:
    """Gain in hF and accuracy (points) with paired 95 % intervals; a row a pair, and whether its interval excludes 0.
    pairs: name -> (predictions (N,), predictions (N,) that they are compared with)."""
    rows = []
    for ours, theirs in pairs.values():
        differences = paired_difference(labels, ours, theirs, rng, replicates)
        row = {"decisions changed (%)": percent(np.mean(np.asarray(ours) != np.asarray(theirs)))}
        for metric in ("hF", "accuracy"):
            estimate, low, high = (100 * value for value in dataclasses.astuple(differences[metric]))
            digits = decimals(low, high)
            row[metric] = f"{estimate:+z.{digits}f} ({low:+z.{digits}f} to {high:+z.{digits}f})"
        sign = (differences["hF"].low > 0) - (differences["hF"].high < 0)
        rows.append(row | {"in hF": ("worse", "no clear difference", "better")[sign + 1]})
    index = pd.MultiIndex.from_tuples(pairs) if isinstance(next(iter(pairs)), tuple) else pd.Index(pairs)
    return pd.DataFrame(rows, index=index)


def view_table(model: str, views: np.ndarray, labels, rng, draws: int = 20) -> pd.DataFrame:
    """Accuracy, hF and agreement (the share of clips on which all views predict the same class) of 1, 2, ... V views;
    fractions, means over `draws` random choices of the views. views (V, N, 23) posteriors."""
    rows, predicted = [], views.argmax(2)
    for count in range(1, len(views) + 1):
        chosen = [rng.permutation(len(views))[:count] for _ in range(draws if count < len(views) else 1)]
        scores = [hierarchical_scores(labels, views[c].mean(0).argmax(1)) for c in chosen]
        agreement = np.mean([(predicted[c] == predicted[c[0]]).all(0).mean() for c in chosen])
        row = {"model": model, "views": count, "agreement": agreement}
        rows.append(row | {metric: np.mean([s[metric] for s in scores]) for metric in ("accuracy", "hF")})
    return pd.DataFrame(rows)


def pair_table(subsets: pd.DataFrame, overlap: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """All pairs of members: their error overlap, `gain` in hF over the better of the two, `gap` between their two hF,
    and whether they are `mixed`, of two kinds; fractions.

    subsets: as `ensembles.subsets` gives it; overlap (M, M): as `ensembles.diversity` gives it; kinds (M,).
    """
    single = {member: hf for (member, *others), hf in zip(subsets["members"], subsets["hF"], strict=True) if not others}
    rows = []
    for (a, b), hf in subsets.loc[subsets["M"] == 2, ["members", "hF"]].itertuples(index=False):
        both = (single[a], single[b])
        row = {"pair": f"{overlap.index[a]} + {overlap.index[b]}", "overlap": overlap.iloc[a, b]}
        rows.append(row | {"gain": hf - max(both), "gap": max(both) - min(both), "mixed": kinds[a] != kinds[b]})
    return pd.DataFrame(rows)


def mistake_table(ids, labels, posterior: np.ndarray, members: Mapping[str, np.ndarray], titles) -> pd.DataFrame:
    """Misclassified clips, the most confident first. ids, labels, titles (N,); posterior (N, 23) of the ensemble;
    members: name -> predicted labels (N,). The index is the clip's position."""
    predicted, labels = posterior.argmax(1), np.asarray(labels)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-posterior[wrong].max(1), kind="stable")]
    agree = sum((np.asarray(s)[wrong] == predicted[wrong]).astype(int) for s in members.values())
    return pd.DataFrame(
        {
            "sound_id": np.asarray(ids)[wrong],
            "title": pd.Series(list(titles), dtype=object).str.slice(0, 40).to_numpy()[wrong],
            "label": [NAMES[CLASSES[label]] for label in labels[wrong]],
            "predicted": [NAMES[CLASSES[label]] for label in predicted[wrong]],
            "posterior (%)": [f"{100 * p:.0f}" for p in posterior[wrong].max(1)],
            "top level": np.where(PARENT[predicted[wrong]] == PARENT[labels[wrong]], "right", "wrong"),
            "members that agree": [f"{count} of {len(members)}" for count in agree],
        },
        index=wrong,
    )
