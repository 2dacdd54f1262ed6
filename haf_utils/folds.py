"""Splits of a clips table: the official folds, and the closest folds in which no two parts share an uploader.

A fold is a tuple (train, validation, test) of index arrays into the rows of the table, disjoint and complete.
Clips of one uploader are similar in sound and text, so a random split measures in part how well uploaders are
recognised; grouped folds measure the score on uploaders that are not in training.
"""

import os
import warnings

import numpy as np
import pandas as pd

from haf_utils.config import FOLDS
from haf_utils.io.files import atomic_write
from haf_utils.taxonomy import CLASSES, to_labels

__all__ = ["PARTS", "deviation", "grouped_folds", "official_folds", "small_classes", "write_split"]

PARTS = ("train", "validation", "test", "evaluation")  # a fold has the first three
SEED = 1821  # of the official baseline's splits
VALIDATION = 0.2  # share of what is not test, official baseline

Fold = tuple[np.ndarray, np.ndarray, np.ndarray]


def small_classes(labels) -> dict[str, int]:
    """Classes that occur but have fewer clips than there are folds -> {code: clips}, taxonomy order."""
    counts = np.bincount(to_labels(labels), minlength=len(CLASSES))
    return {CLASSES[label]: int(counts[label]) for label in np.flatnonzero((counts > 0) & (counts < FOLDS))}


def official_folds(labels) -> list[Fold]:
    """Labels or codes (N,), in the row order of the metadata -> the official baseline's five folds.

    ``StratifiedKFold(5, shuffle=True, random_state=1821)`` gives the test parts, and inside the rest
    ``StratifiedShuffleSplit(test_size=0.2, random_state=1821)`` the validation part. For BSD10k-v1.2 these are the
    published splits: 7011 or 7012, 1753 and 2191 or 2192 clips.

    For small recordings of one's own, where that is not defined, two rules are added. A class with fewer clips than
    folds cannot be in every test part: its clips are in the training part of every fold and never scored, and a
    UserWarning names it. A validation part smaller than the number of classes gets as many clips as classes.

    Raises ValueError for labels outside the taxonomy, or if no class has five clips.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit  # here: a second, not needed to predict

    labels = to_labels(labels)
    small = small_classes(labels)
    is_small = np.isin(labels, [CLASSES.index(code) for code in small])
    tiny, big = np.flatnonzero(is_small), np.flatnonzero(~is_small)
    if not len(big):
        raise ValueError(f"no class has {FOLDS} clips or more, so there is nothing to split: {small or 'no clips'}")
    if small:
        listing = ", ".join(f"{code} ({count})" for code, count in small.items())
        text = f"classes with fewer than {FOLDS} clips are used for training only and never scored: {listing}"
        warnings.warn(text, stacklevel=2)
    folds = []
    classes = len(np.unique(labels[big]))
    for rest, test in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(big, labels[big]):
        enough = np.ceil(VALIDATION * len(rest)) >= classes
        inner = StratifiedShuffleSplit(1, test_size=VALIDATION if enough else classes, random_state=SEED)
        train, validation = next(inner.split(rest, labels[big[rest]]))
        # In scikit-learn's order, so that the arrays equal the official ones.
        folds.append((np.append(big[rest[train]], tiny), big[rest[validation]], big[test]))
    return folds


def grouped_folds(table: pd.DataFrame, seed: int = 0) -> list[Fold]:
    """Five folds of a clips table (columns label, uploader, sound_id) in which no two parts share an uploader.

    The test parts partition the table, as the official ones do; sizes and classes are as even as uploaders allow. A
    clip without an uploader is an uploader of its own. Deterministic for a seed. Raises ValueError where too few
    uploaders own the clips: a part would be empty.
    """
    labels, group = to_labels(table.label.to_numpy()), _groups(table)
    counts = np.zeros((group.max() + 1, len(CLASSES)))  # clips of each uploader and class
    np.add.at(counts, (group, labels), 1)
    if len(counts) < 3 * FOLDS:
        needed = f"{3 * FOLDS} are needed; split='official' mixes them"
        raise ValueError(f"{len(counts)} uploaders are too few for {FOLDS} folds that keep them apart: {needed}")
    fold_of = _partition(counts, np.tile(counts.sum(0) / FOLDS, (FOLDS, 1)), seed)
    folds = []
    for fold in range(FOLDS):
        rest = np.flatnonzero(fold_of != fold)
        shares = np.array([[1 - VALIDATION], [VALIDATION]])
        part_of = np.full(len(counts), 2)
        part_of[rest] = _partition(counts[rest], shares * counts[rest].sum(0), seed)
        train, validation, test = (np.flatnonzero(part_of[group] == part) for part in range(3))
        folds.append((train, validation, test))
    return folds


def deviation(table: pd.DataFrame, split: Fold, reference: Fold) -> pd.DataFrame:
    """How far a split is from a reference: a row a part, indexed by its name.

    Columns: clips and reference_clips; uploaders; class_distance, the total variation distance between the two class
    distributions (0 equal, 1 disjoint); worst_class, the class whose count is off by most relative to the reference,
    with its count (worst_clips) and the reference's (worst_reference).
    """
    labels, uploader, rows = table.label.to_numpy(), _groups(table), []
    for chosen, expected in zip(split, reference, strict=True):
        counts, target = (np.bincount(labels[index], minlength=len(CLASSES)) for index in (chosen, expected))
        worst = int(np.argmax(np.abs(counts - target) / np.maximum(target, 1)))
        shares = (counts / max(counts.sum(), 1), target / max(target.sum(), 1))
        sizes = len(chosen), len(expected), len(np.unique(uploader[chosen]))
        distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
        rows.append((*sizes, distance, CLASSES[worst], int(counts[worst]), int(target[worst])))
    columns = "clips reference_clips uploaders class_distance worst_class worst_clips worst_reference".split()
    return pd.DataFrame(rows, index=pd.Index(PARTS[:3], name="part"), columns=columns)


def write_split(path: str | os.PathLike, table: pd.DataFrame, split: Fold) -> None:
    """Write a split as CSV (sound_id, part), rows in the order of the table, so that others can use the same clips."""
    part = np.full(len(table), "", dtype=object)
    for name, rows in zip(PARTS, split, strict=False):
        part[rows] = name
    content = pd.DataFrame({"sound_id": table.sound_id.to_numpy(), "part": part})[part != ""]
    atomic_write(path, lambda temporary: content.to_csv(temporary, index=False))


def _groups(table: pd.DataFrame) -> np.ndarray:
    """Number of each row's uploader (N,)."""
    names = table.uploader.where(table.uploader != "", "clip " + table.sound_id)
    return np.unique(names.to_numpy(dtype=str), return_inverse=True)[1]


def _partition(counts: np.ndarray, targets: np.ndarray, seed: int, restarts: int = 3, sweeps: int = 20) -> np.ndarray:
    """Deal groups with class counts (G, C) out to parts with wanted class counts (P, C) -> part of each group (G,).

    Minimises the squared deviations from the targets, each relative to its target, of every class and of the size, by
    coordinate descent: groups are dealt out at random, so that every part gets large and small ones; then, from the
    largest group to the smallest, each moves to the part where it fits best, until none moves.
    """
    sized = np.column_stack([counts, counts.sum(1)])
    wanted = np.column_stack([targets, targets.sum(1)]).astype(float)
    # The size counts as much as four classes, since report and baseline fix it.
    weight = np.append(np.ones(counts.shape[1]), 4.0) / np.maximum(wanted, 1.0) ** 2
    rng = np.random.default_rng(seed)
    best, best_cost = np.zeros(len(sized), int), np.inf
    for _ in range(restarts):
        part_of = rng.choice(len(wanted), size=len(sized), p=wanted[:, -1] / wanted[:, -1].sum())
        have = np.zeros_like(wanted)
        np.add.at(have, part_of, sized)
        order = np.lexsort((rng.random(len(sized)), -sized[:, -1]))
        for _ in range(sweeps):
            moved = False
            for group in order:
                current, size = part_of[group], sized[group]
                have[current] -= size
                # (have + size - wanted)² - (have - wanted)², weighted: what adding the group to each part would cost
                cost = (weight * size * (2 * (have - wanted) + size)).sum(1)
                part = int(cost.argmin())
                have[part] += size
                moved |= part != current
                part_of[group] = part
            if not moved:
                break
        cost = float((weight * (have - wanted) ** 2).sum())
        if cost < best_cost:
            best, best_cost = part_of, cost
    return best
