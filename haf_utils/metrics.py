"""The challenge's hierarchical metric and the accuracies, computed from confusion counts.

All scores are functions of the 23 × 23 counts of (true class, predicted class), so they cost one `np.bincount` over
the clips and a few sums over the counts; a bootstrap draws counts instead of clips (`haf_utils.statistics`).

The metric is that of DCASE 2026 Task 1: hierarchical precision and recall after Kiritchenko et al. (2005), where a
prediction with the right top level and the wrong class earns a share set by `lam`.
"""

import numpy as np
import pandas as pd

from haf_utils.taxonomy import CLASSES, PARENT, to_labels

__all__ = ["METRICS", "check_probabilities", "class_scores", "confusion", "error_severity",
           "expected_calibration_error", "hierarchical_scores", "score_matrix", "scores_from_confusion"]  # fmt: skip

METRICS = ("hP", "hR", "hF", "h_accuracy", "accuracy", "top_accuracy", "macro_accuracy", "macro_top_accuracy")

_SAME_CLASS = np.eye(len(CLASSES))
_SIBLING = (PARENT[:, None] == PARENT[None, :]) - _SAME_CLASS


def score_matrix(lam: float = 0.75) -> np.ndarray:
    """Score of each (true, predicted) pair, (23, 23): 1 exact, lam / 2 for the right top level only, else 0.

    A label stands for the set {top level, class}; a pair earns weight × |intersection| / 2, the weight being 1 for an
    exact match and `lam` (0.75 in the challenge) where only the top level matches.
    Raises ValueError for `lam` outside [0, 1].
    """
    if not (np.isscalar(lam) and not isinstance(lam, (str, bytes)) and 0.0 <= lam <= 1.0):
        raise ValueError(f"lam={lam!r} must be a number in [0, 1]; the challenge uses 0.75")
    return _SAME_CLASS + lam / 2 * _SIBLING


def _paired_labels(y_true, y_pred) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = to_labels(y_true), to_labels(y_pred)
    if len(truth) != len(predicted):
        raise ValueError(f"y_true has {len(truth)} labels and y_pred {len(predicted)}: pass one prediction a clip")
    if len(truth) == 0:
        raise ValueError("y_true and y_pred are empty: there is nothing to score")
    return truth, predicted


def confusion(y_true, y_pred) -> np.ndarray:
    """Counts of (true, predicted) classes, (23, 23) int64: row = true class, column = predicted class.

    Takes codes or labels 0..22, in any sequence. Raises ValueError for empty input, different lengths and labels
    outside the taxonomy.
    """
    truth, predicted = _paired_labels(y_true, y_pred)
    size = len(CLASSES)
    return np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    result = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=result, where=denominator > 0)


def _class_scores(counts: np.ndarray, lam: float, never_predicted: str) -> tuple[np.ndarray, ...]:
    """hP, hR, hF of every class, each (..., 23), and the mask of the classes that enter the means."""
    if never_predicted not in ("zero", "drop"):
        raise ValueError(f"never_predicted={never_predicted!r} is unknown: choose 'zero' or 'drop' (official script)")
    pair = score_matrix(lam)
    support, predicted = counts.sum(-1), counts.sum(-2)
    precision = _ratio(np.einsum("...tp,tp->...p", counts, pair), predicted)
    recall = _ratio(np.einsum("...tp,tp->...t", counts, pair), support)
    f_score = _ratio(2 * precision * recall, precision + recall)
    # The official script ("drop") leaves out classes that are never predicted, which favours systems that avoid them.
    counted = support > 0
    if never_predicted == "drop":
        counted = counted & (predicted > 0)
    return precision, recall, f_score, counted


def class_scores(counts: np.ndarray, lam: float = 0.75, never_predicted: str = "zero") -> np.ndarray:
    """hF of every class from confusion counts (..., 23, 23) -> (..., 23); NaN for a class outside the means."""
    *_, f_score, counted = _class_scores(np.asarray(counts), lam, never_predicted)
    return np.where(counted, f_score, np.nan)


def scores_from_confusion(
    counts: np.ndarray, lam: float = 0.75, never_predicted: str = "zero"
) -> dict[str, np.ndarray]:
    """The scores of `hierarchical_scores` from confusion counts (..., 23, 23) -> dict of arrays (...) in [0, 1].

    Raises ValueError for another shape, for counts that are negative or all zero, and for a wrong `lam` or
    `never_predicted`.
    """
    counts = np.asarray(counts)
    size = len(CLASSES)
    if counts.shape[-2:] != (size, size):
        raise ValueError(f"counts must have shape (..., {size}, {size}), got {counts.shape}")
    if (counts < 0).any():
        raise ValueError("counts must not be negative")
    total = counts.sum((-2, -1))
    if (total == 0).any():
        raise ValueError("counts are all zero: there is nothing to score")

    precision, recall, f_score, counted = _class_scores(counts, lam, never_predicted)
    support = counts.sum(-1)
    right = np.einsum("...tt->...t", counts)
    right_top = right + np.einsum("...tp,tp->...t", counts, _SIBLING)
    present = support > 0

    def mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        # 0 instead of NaN where all labelled classes are dropped.
        return _ratio((values * mask).sum(-1), mask.sum(-1))

    macro, macro_top = mean(_ratio(right, support), present), mean(_ratio(right_top, support), present)
    return {
        "hP": mean(precision, counted),
        "hR": mean(recall, counted),
        "hF": mean(f_score, counted),
        "h_accuracy": (macro + macro_top) / 2,  # 1 exact, 0.5 for the right top level: the mean of the two rates
        "accuracy": right.sum(-1) / total,
        "top_accuracy": right_top.sum(-1) / total,
        "macro_accuracy": macro,
        "macro_top_accuracy": macro_top,
    }


def hierarchical_scores(
    y_true, y_pred, lam: float = 0.75, never_predicted: str = "zero", per_class: bool = False
) -> dict[str, float]:
    """All scores of the challenge for codes or labels 0..22, in any sequence -> dict of floats in [0, 1].

    - ``hP``, ``hR``, ``hF``: unweighted means, over the classes present in `y_true`, of a class's mean pair score
      (`score_matrix`) among clips predicted as it, among clips labelled as it, and of the harmonic mean of the two.
      ``hF`` ranks systems; it is not the harmonic mean of ``hP`` and ``hR``.
    - ``accuracy``, ``top_accuracy``: share of clips with the right class, with the right top level;
      ``macro_accuracy``, ``macro_top_accuracy``: the same averaged over the classes present.
    - ``h_accuracy``: mean over the classes present of 1 for exact, 0.5 for the right top level only.

    `never_predicted`: what a class that is labelled but never predicted contributes to ``hP``, ``hR`` and ``hF``.
    ``"zero"``: precision and F-score 0. ``"drop"``: nothing, as in the official script; if no labelled class is ever
    predicted, the three are 0.

    ``per_class=True`` adds the key ``"per_class"``: a DataFrame with a row for each of the 23 classes and the columns
    code, hP, hR, hF (NaN where the class does not enter the means), support, predicted (clips).

    Raises ValueError for empty input, different lengths, labels outside the taxonomy, and a wrong `lam` or
    `never_predicted`.
    """
    counts = confusion(y_true, y_pred)
    scores = {name: float(value) for name, value in scores_from_confusion(counts, lam, never_predicted).items()}
    if per_class:
        *values, counted = _class_scores(counts, lam, never_predicted)
        hp, hr, hf = (np.where(counted, value, np.nan) for value in values)
        clips = {"support": counts.sum(1), "predicted": counts.sum(0)}
        scores["per_class"] = pd.DataFrame({"code": CLASSES, "hP": hp, "hR": hr, "hF": hf, **clips})
    return scores


def error_severity(y_true, y_pred) -> dict[str, float]:
    """Shares of clips, summing to 1: ``right``, ``right_parent`` (wrong class, right top level), ``wrong_parent``.

    Takes codes or labels 0..22; raises ValueError as `confusion` does.
    """
    truth, predicted = _paired_labels(y_true, y_pred)
    right, right_top = (truth == predicted).mean(), (PARENT[truth] == PARENT[predicted]).mean()
    return {"right": float(right), "right_parent": float(right_top - right), "wrong_parent": float(1 - right_top)}


def check_probabilities(probabilities, name: str = "probabilities") -> np.ndarray:
    """Distributions as float64 (N, 23). Raises ValueError for another shape, and names a row that is none."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(CLASSES):
        raise ValueError(f"{name} must have shape (clips, {len(CLASSES)}), got {probabilities.shape}")
    # 1e-3: float16 and bfloat16 posteriors do not sum to one more closely than that.
    wrong = ~((probabilities >= 0).all(1) & (np.abs(probabilities.sum(1) - 1) <= 1e-3))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = f"smallest {probabilities[row].min():.3g}, sum {probabilities[row].sum():.6g}"
        raise ValueError(f"{name}: row {row} is no distribution ({found}): values must be at least 0 and sum to 1")
    return probabilities


def expected_calibration_error(probabilities, labels, bins: int = 15) -> tuple[float, pd.DataFrame]:
    """Expected calibration error of the largest posterior, and the table of a reliability diagram.

    Clips are sorted by their largest posterior into `bins` intervals of equal width (Guo et al. 2017, 15 bins); the
    error is the mean over clips of |accuracy − confidence| of their bin, in [0, 1].

    probabilities (N, 23), labels (N,) codes or 0..22. Returns the error and a DataFrame with a row for each bin that
    is not empty: low, high (edges), clips, confidence, accuracy.
    Raises ValueError for empty input, different lengths, rows that are no distributions, and fewer than one bin.
    """
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise ValueError(f"bins={bins!r} must be an integer of at least 1")
    probabilities = check_probabilities(probabilities)
    truth, predicted = _paired_labels(labels, probabilities.argmax(1))
    confidence = np.minimum(probabilities.max(1), 1.0)
    # Intervals are open below and closed above, so that a posterior of exactly 1 falls into the last one.
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    clips = pd.DataFrame({"bin": which, "confidence": confidence, "accuracy": truth == predicted})
    table = clips.groupby("bin").agg(
        clips=("accuracy", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )
    table.insert(0, "low", table.index / bins)
    table.insert(1, "high", (table.index + 1) / bins)
    error = float((table["clips"] * (table["accuracy"] - table["confidence"]).abs()).sum() / len(truth))
    return error, table.reset_index(drop=True)
