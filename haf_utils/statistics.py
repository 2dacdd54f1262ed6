"""Which differences to trust: bootstrap intervals, paired differences between systems, McNemar's test.

Clips are resampled within their class (and fold, if given), so that every replicate has the class sizes of the data.
Resampling the clips of a stratum with replacement is the same as drawing the number of clips of each distinct outcome
(the true class and every system's prediction) from a multinomial distribution. So replicates are drawn as counts, which
is fast, and all systems are scored on the same resample.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from haf_utils.metrics import METRICS, class_scores, confusion, scores_from_confusion
from haf_utils.taxonomy import CLASSES, to_labels

__all__ = ["Difference", "McNemar", "bootstrap", "bootstrap_classes", "decimals", "interval", "mcnemar",
           "paired_difference"]  # fmt: skip


def _systems(y_true, predictions) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and (M, N), checked. One system may come as (N,)."""
    truth = to_labels(y_true)
    if len(truth) == 0:
        raise ValueError("y_true is empty: there is nothing to resample")
    predictions = np.atleast_2d(np.asarray(predictions))
    if predictions.ndim != 2 or predictions.shape[0] == 0 or predictions.shape[1] != len(truth):
        raise ValueError(f"predictions must have shape (systems, {len(truth)}), got {predictions.shape}")
    return truth, np.stack([to_labels(row) for row in predictions])


def _resampled_counts(truth, predictions, rng, replicates, strata) -> np.ndarray:
    """Confusion counts of every system in every replicate, (M, replicates, 23, 23)."""
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy Generator such as np.random.default_rng(0), got {type(rng).__name__}")
    if not isinstance(replicates, (int, np.integer)) or replicates < 1:
        raise ValueError(f"replicates={replicates!r} must be an integer of at least 1")
    group = truth
    if strata is not None:
        strata = np.asarray(strata)
        if strata.shape != truth.shape or pd.isna(strata).any():
            raise ValueError(f"strata must hold one value a clip, shape {truth.shape} without gaps, got {strata.shape}")
        group = np.unique(strata, return_inverse=True)[1] * len(CLASSES) + truth

    size = len(CLASSES)
    counts = np.zeros((len(predictions), replicates, size, size))
    for value in np.unique(group):
        clips = np.flatnonzero(group == value)
        outcomes, times = np.unique(predictions[:, clips], axis=1, return_counts=True)
        drawn = rng.multinomial(len(clips), times / len(clips), size=replicates).astype(float)
        label = truth[clips[0]]
        for system, predicted in enumerate(outcomes):
            counts[system, :, label] += drawn @ np.eye(size)[predicted]
    return counts


def bootstrap(
    y_true, predictions, rng: np.random.Generator, replicates: int = 1000, strata=None, **metric
) -> dict[str, np.ndarray]:
    """Scores of M systems over resampled clips: dict of metric (`metrics.METRICS`) -> array (M, replicates).

    y_true (N,) and predictions (M, N), or (N,) for one system: codes or labels 0..22. Clips are drawn with replacement
    within each class, or within each class of each stratum (`strata`: one value a clip, such as its fold), and the
    same clips for all systems, so differences along the first axis are paired.
    `metric`: `lam` and `never_predicted` of `metrics.hierarchical_scores`.
    Raises ValueError for wrong shapes, labels outside the taxonomy and an `rng` that is no numpy Generator.
    """
    truth, predictions = _systems(y_true, predictions)
    return scores_from_confusion(_resampled_counts(truth, predictions, rng, replicates, strata), **metric)


def bootstrap_classes(y_true, y_pred, rng: np.random.Generator, replicates: int = 1000, **metric) -> np.ndarray:
    """hF of every class in each replicate of `bootstrap`, (23, replicates); NaN for a class without clips.

    y_true, y_pred (N,): labels or codes; `metric`: `lam` and `never_predicted` of `metrics.hierarchical_scores`.
    """
    truth, predictions = _systems(y_true, to_labels(y_pred))
    return class_scores(_resampled_counts(truth, predictions, rng, replicates, None)[0], **metric).T


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval along the last axis of `samples` (..., replicates) -> (low, high), each (...)."""
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must lie between 0 and 1, such as 0.95")
    low, high = np.quantile(np.asarray(samples), [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return low.round(12), high.round(12)  # an end that is zero but for the computer's rounding is zero


@dataclass(frozen=True)
class Difference:
    """A score of system a minus that of system b, with its interval."""

    estimate: float
    low: float
    high: float


def paired_difference(
    y_true, a, b, rng: np.random.Generator, replicates: int = 1000, level: float = 0.95, strata=None, **metric
) -> dict[str, Difference]:
    """Every score of system `a` minus that of `b` on the same clips: dict of metric -> `Difference`.

    a, b: predictions (N,), or (S, N) from S seeds each, row by row under the same seed; the estimate is the mean over
    seeds. Each replicate resamples clips as `bootstrap` does. With several seeds, each replicate is also shifted by a
    draw from Student's t with S − 1 degrees of freedom, scaled to the variance *between seeds beyond what resampling
    clips explains* (the moment estimator of random-effects meta-analysis, DerSimonian and Laird 1986). Resampling the
    seeds instead would count the variance over clips twice and make the intervals far too wide.
    Two seeds estimate this variance poorly: use three or more. With one seed the interval describes the two trained
    models, not their recipes.
    Raises ValueError as `bootstrap` does, and for a different number of seeds.
    """
    truth, a = _systems(y_true, a)
    truth, b = _systems(truth, b)
    seeds = len(a)
    if len(b) != seeds:
        raise ValueError(f"a holds {seeds} runs and b {len(b)}: pair them seed by seed")
    samples = bootstrap(truth, np.concatenate([a, b]), rng, replicates, strata, **metric)
    observed = scores_from_confusion(np.stack([confusion(truth, row) for row in (*a, *b)]), **metric)
    shift = rng.standard_t(seeds - 1, replicates) if seeds > 1 else np.zeros(replicates)
    result = {}
    for name in METRICS:
        resampled = samples[name][:seeds] - samples[name][seeds:]  # (seeds, replicates)
        difference = observed[name][:seeds] - observed[name][seeds:]  # (seeds,)
        centre, between = resampled.mean(0), 0.0
        if seeds > 1:
            explained = (resampled - centre).var(1).sum() / (seeds - 1)
            between = max(difference.var(ddof=1) - explained, 0.0)
        low, high = interval(centre + shift * np.sqrt(between / seeds), level)
        result[name] = Difference(float(difference.mean()), float(low), float(high))
    return result


def decimals(low: float, high: float) -> int:
    """Decimals to show of an interval in points: one, two or three, so that no end but zero is rounded to 0.0."""
    return 1 + sum(0 < min(abs(low), abs(high)) < near for near in (0.05, 0.005))


@dataclass(frozen=True)
class McNemar:
    """Clips that only one of two systems classifies correctly, and the exact two-sided p-value of their imbalance."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(y_true, a, b) -> McNemar:
    """McNemar's exact test that systems a and b, predictions (N,), have the same accuracy.

    Only the clips on which exactly one of them is right count: under the null hypothesis either is equally likely.
    Raises ValueError for wrong shapes and labels outside the taxonomy.
    """
    truth, (a, b) = _systems(y_true, [to_labels(a), to_labels(b)])
    only_a = int(((a == truth) & (b != truth)).sum())
    only_b = int(((b == truth) & (a != truth)).sum())
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p_value))
