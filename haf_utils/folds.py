"""Splits of a clips table: the official folds, small classes, and folds that keep uploaders apart."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

__all__ = ["official_folds"]

SEED = 1821  # the official baseline's


def official_folds(labels) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Labels (N,) in metadata order -> five (train, validation, test) index arrays, as the official baseline splits."""
    labels = np.asarray(labels)
    folds = []
    for rest, test in StratifiedKFold(5, shuffle=True, random_state=SEED).split(labels, labels):
        inner = StratifiedShuffleSplit(1, test_size=0.2, random_state=SEED)
        train, validation = next(inner.split(rest, labels[rest]))
        folds.append((rest[train], rest[validation], test))
    return folds
