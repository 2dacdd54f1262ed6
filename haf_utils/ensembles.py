"""Ensembles of posteriors: which members fit together, their weights, their diversity, and how to decide.

Averaging itself is `inference.average_probabilities` (report, equation 1). Nothing here fits on test clips: weights are
fitted on the labels they are given, which must be validation clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from haf_utils.metrics import check_probabilities, confusion, score_matrix, scores_from_confusion
from haf_utils.taxonomy import CLASSES, to_labels

__all__ = ["RULES", "Member", "align", "blend_neighbours", "correct_prior", "decide", "diversity", "fit_weights",
           "subsets"]  # fmt: skip

RULES = ("largest", "expected_score", "prior_corrected")
_MOST_MEMBERS = 12  # 4,095 subsets; the number doubles with each member


@dataclass(frozen=True)
class Member:
    """A trained model's posteriors of the clips to be scored, and the clips that it was trained on.

    ids (N,) clip names; labels (N,) 0..22, or -1 where unknown (the evaluation set); probabilities (N, 23), or
    (V, N, 23) for V test-time views; train_ids: names of the clips it was trained on (in all folds, if it is itself a
    mean over folds).
    """

    name: str
    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    train_ids: Sequence[str]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _checked(member: Member) -> Member:
    """The member with ids as strings and views averaged. Raises ValueError for what is wrong with it alone."""
    where = f"member {member.name!r}"
    ids, labels = np.asarray(member.ids).astype(str), np.asarray(member.labels)
    probabilities = np.asarray(member.probabilities, dtype=np.float64)
    if probabilities.ndim == 3 and len(probabilities):
        probabilities = probabilities.mean(axis=0)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(CLASSES):
        form = f"(clips, {len(CLASSES)}) or (views, clips, {len(CLASSES)}), one column a class of the taxonomy"
        raise ValueError(f"{where}: probabilities must have shape {form}, got {np.shape(member.probabilities)}")
    probabilities = check_probabilities(probabilities, f"{where}: probabilities")
    if not (ids.shape == labels.shape == (len(probabilities),)) or len(ids) == 0:
        numbers = f"{ids.size} ids, {labels.size} labels and {len(probabilities)} rows of probabilities"
        raise ValueError(f"{where}: {numbers} must be as many, and at least one")
    if labels.dtype.kind not in "iu" or ((labels < -1) | (labels >= len(CLASSES))).any():
        raise ValueError(f"{where}: labels must be integers from 0 to {len(CLASSES) - 1}, or -1 where unknown")
    unique, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"{where} scores clips more than once: {_some(unique[times > 1].tolist())}")
    if seen := np.intersect1d(unique, np.asarray(list(member.train_ids)).astype(str)).tolist():
        raise ValueError(f"{where} was trained on {len(seen)} of the clips to be scored ({_some(seen)}): score others")
    return replace(member, ids=ids, labels=labels, probabilities=probabilities)


def align(members: Sequence[Member]) -> list[Member]:
    """Members that may be averaged: checked against each other, views averaged to (N, 23), clips in the first's order.

    Raises ValueError, with the difference, for fewer than two members, a name used twice, members that score other
    clips or know other labels for them, columns of another taxonomy, and a member trained on a clip to be scored.
    """
    if len(members) < 2:
        raise ValueError(f"an ensemble needs at least two members, got {[m.name for m in members]}")
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise ValueError(f"two members have the same name: {', '.join(names)}")
    first, *others = [_checked(member) for member in members]
    aligned = [first]
    for member in others:
        pair = f"members {first.name!r} and {member.name!r}"
        lacking, extra = np.setdiff1d(first.ids, member.ids).tolist(), np.setdiff1d(member.ids, first.ids).tolist()
        if lacking or extra:
            second = f"the second lacks {len(lacking)} ({_some(lacking)}) and has {len(extra)} others ({_some(extra)})"
            raise ValueError(f"{pair} score different clips: {second}")
        order = pd.Index(member.ids).get_indexer(first.ids)
        labels = member.labels[order]
        differ = np.flatnonzero(labels != first.labels)
        if len(differ):
            example = f"{first.ids[differ[0]]}: {first.labels[differ[0]]} and {labels[differ[0]]}"
            raise ValueError(f"{pair} know different labels for {len(differ)} clips, such as {example}")
        aligned.append(replace(member, ids=first.ids, labels=labels, probabilities=member.probabilities[order]))
    return aligned


def _stack(list_of_probabilities: Sequence[np.ndarray], labels) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors (M, N, 23) and labels (N,), checked."""
    if len(list_of_probabilities) == 0:
        raise ValueError("there are no members")
    stack = [check_probabilities(rows, f"member {m}") for m, rows in enumerate(list_of_probabilities)]
    truth = to_labels(labels)
    lengths = [len(rows) for rows in stack]
    if len(truth) == 0 or set(lengths) != {len(truth)}:
        raise ValueError(f"members score {lengths} clips and there are {len(truth)} labels: they must be as many")
    return np.stack(stack), truth


def fit_weights(list_of_probabilities: Sequence[np.ndarray], labels) -> np.ndarray:
    """Weights (M,), at least 0 and summing to 1, whose average has the least cross-entropy on these labels.

    M arrays (N, 23) and labels (N,) of *validation* clips. The problem is convex, so the same input gives the same
    weights and there is nothing to tune. (The report calls task1-2 "Weighted" without a rule: this one is ours.)
    Raises ValueError for shapes that do not fit, RuntimeError if the optimizer fails.
    """
    stack, truth = _stack(list_of_probabilities, labels)
    # Clipped, so that a posterior of exactly 0 on the true class has a finite cost.
    likelihood = np.maximum(stack[:, np.arange(len(truth)), truth], 1e-12).T  # (N, M)

    def cross_entropy(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = likelihood @ weights
        return -np.log(mixed).mean(), -(likelihood / mixed[:, None]).mean(0)

    equal, bounds = np.full(len(stack), 1 / len(stack)), [(0.0, 1.0)] * len(stack)
    sum_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    settings = {"method": "SLSQP", "options": {"ftol": 1e-12, "maxiter": 1000}}
    solution = minimize(cross_entropy, equal, jac=True, bounds=bounds, constraints=sum_to_one, **settings)
    if not solution.success:
        raise RuntimeError(f"no weights found: {solution.message}")
    weights = np.where(solution.x < 1e-9, 0, solution.x)  # the optimizer leaves 1e-17 for 0
    return weights / weights.sum()


def blend_neighbours(posteriors: np.ndarray, votes: Mapping[int, np.ndarray], labels) -> tuple[int, float]:
    """k and share β in [0, 1] for which (1 − β)·p + β·v has the least cross-entropy on *validation* clips.

    posteriors p (N, 23); votes v (N, 23) of the k training clips nearest in embedding space, by k; labels (N,).
    """
    found = []
    for k, of_k in votes.items():
        share = fit_weights([posteriors, of_k], labels)
        right = np.tensordot(share, np.stack([posteriors, of_k]), 1)[np.arange(len(of_k)), to_labels(labels)]
        found.append((-np.log(np.maximum(right, 1e-12)).mean(), k, float(share[1])))
    return min(found)[1:]


def subsets(list_of_probabilities: Sequence[np.ndarray], labels) -> pd.DataFrame:
    """Scores of the equal-weight average of each of the 2^M − 1 subsets of M members.

    A row a subset, small ones first: members (tuple of positions), M (their number), and every score of
    `metrics.hierarchical_scores`. Raises ValueError for shapes that do not fit and more than 12 members.
    """
    stack, truth = _stack(list_of_probabilities, labels)
    members = len(stack)
    if members > _MOST_MEMBERS:
        raise ValueError(f"{members} members have {2**members - 1:,} subsets: pass at most {_MOST_MEMBERS}")
    chosen = [c for size in range(1, members + 1) for c in combinations(range(members), size)]
    # The class with the largest sum is the class with the largest mean.
    counts = np.stack([confusion(truth, stack[list(c)].sum(0).argmax(1)) for c in chosen])
    return pd.DataFrame({"members": chosen, "M": [len(c) for c in chosen], **scores_from_confusion(counts)})


def diversity(
    list_of_predictions: Sequence, labels, names: Sequence[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairwise diversity of members: (disagreement, error overlap), two DataFrames (M, M).

    Disagreement: share of clips on which two members name different classes. Error overlap: of the clips that at least
    one of the two gets wrong, the share that both get wrong (Jaccard; NaN where neither errs): near 1, averaging the
    two helps little.
    M predictions (N,) and labels (N,), codes or 0..22; `names` of rows and columns, by default the positions.
    """
    truth = to_labels(labels)
    predictions = [to_labels(row) for row in list_of_predictions]
    lengths = [len(row) for row in predictions]
    if len(truth) == 0 or set(lengths) != {len(truth)}:
        raise ValueError(f"members predict {lengths} clips and there are {len(truth)} labels: they must be as many")
    rows = pd.Index(range(len(predictions)) if names is None else names)
    if len(rows) != len(predictions):
        raise ValueError(f"{len(rows)} names for {len(predictions)} members")
    predicted = np.stack(predictions)
    disagreement = (predicted[:, None] != predicted[None]).mean(-1)
    wrong = (predicted != truth).astype(float)
    both = wrong @ wrong.T
    either = wrong.sum(1)[:, None] + wrong.sum(1)[None] - both
    overlap = np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)
    return pd.DataFrame(disagreement, rows, rows), pd.DataFrame(overlap, rows, rows)


def correct_prior(probabilities, prior) -> np.ndarray:
    """Posteriors (N, 23) as they would be if all classes were equally frequent: divided by `prior`, rows sum to 1.

    prior (23,): class shares or counts of the training clips. A class of prior 0 was not in training and keeps
    probability 0. Raises ValueError for another shape, negative values, and a row with no mass on classes of training.
    """
    probabilities = check_probabilities(probabilities)
    prior = np.asarray(prior, dtype=np.float64)
    if prior.shape != (len(CLASSES),) or not (prior >= 0).all() or not 0 < prior.sum() < np.inf:
        raise ValueError(f"prior must be {len(CLASSES)} finite shares or counts, at least 0, with a positive sum")
    corrected = np.divide(probabilities, prior, out=np.zeros_like(probabilities), where=prior > 0)
    mass = corrected.sum(1, keepdims=True)
    if (mass == 0).any():
        raise ValueError(f"row {int(np.flatnonzero(mass == 0)[0])} has no probability on any class of positive prior")
    return corrected / mass


def decide(probabilities, rule: str = "largest", prior=None, lam: float = 0.75) -> np.ndarray:
    """One label 0..22 a clip, (N,) int64, from posteriors (N, 23).

    - ``"largest"``: the largest posterior (the report's rule, which maximises expected accuracy).
    - ``"expected_score"``: the largest expected hierarchical score, in which the right parent alone counts `lam` / 2,
      so that likely siblings raise a class.
    - ``"prior_corrected"``: the largest posterior after `correct_prior`, since a macro score weighs classes equally.

    `prior` is read by ``"prior_corrected"`` alone, so that one loop can compare all rules.
    Raises ValueError for an unknown rule and for a prior that is missing.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown: choose one of {', '.join(RULES)}")
    if rule == "prior_corrected" and prior is None:
        raise ValueError("rule='prior_corrected' needs prior, the class shares or counts of the training clips")
    probabilities = check_probabilities(probabilities)
    if rule == "expected_score":
        probabilities = probabilities @ score_matrix(lam)
    elif rule == "prior_corrected":
        probabilities = correct_prior(probabilities, prior)
    return probabilities.argmax(1)
