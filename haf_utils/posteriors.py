"""Posteriors from outside: class probabilities keyed by sound_id, from whatever system, checked before they are used.

Two layouts are read: a CSV table with a row a clip and the columns `sound_id`, the 23 class codes and, where known,
`fold` (whose model scored the clip) and `ground_truth` (a code); and the official baseline's output, a folder of
`fold_<k>/evaluation/predictions.csv` (`sound_id,ground_truth,prediction,prediction_score`: the largest posterior only).
Nested, for a third input, is a folder of a table a fold, `fold_<k>.csv` (`haf posteriors` writes one).
"""

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.folds import FOLDS
from haf_utils.io.files import atomic_write, state
from haf_utils.io.layouts import read_csv
from haf_utils.metrics import check_probabilities
from haf_utils.taxonomy import CLASSES

__all__ = ["Posteriors", "read", "read_fold", "spread", "write"]

LOWEST, HIGHEST = 0.05, 0.999  # of a largest posterior; ours: above 1/23, so that it stays the largest, and below 1
TOLERANCE = 0.01  # of a row's sum: 23 probabilities, rounded to three decimals


@dataclass(frozen=True)
class Posteriors:
    """ids (N,) str, unique; probabilities (N, 23), rows sum to 1; folds (N,) int, the fold whose model scored the clip
    and did not train on it, or None; labels (N,) 0..22, -1 unknown, or None; source: what messages call the table."""

    ids: np.ndarray
    probabilities: np.ndarray
    folds: np.ndarray | None = None
    labels: np.ndarray | None = None
    source: str = "posteriors"

    def __post_init__(self):
        check_probabilities(self.probabilities, self.source)
        columns = [column for column in (self.ids, self.folds, self.labels) if column is not None]
        if {len(column) for column in columns} != {len(self.probabilities)} or not len(self.ids):
            raise ValueError(f"{self.source}: there must be as many ids as rows of probabilities, and at least one")
        twice = pd.Index(self.ids).duplicated()
        if twice.any():
            a, b = np.flatnonzero(self.ids == self.ids[twice][0])[:2] + 1
            raise ValueError(f"{self.source}: sound_id {self.ids[twice][0]} is in rows {a} and {b}: keep one of them")

    def for_ids(self, ids: Iterable) -> "Posteriors":
        """The rows of the clips `ids`, in their order. Raises ValueError with how many are missing, and which."""
        ids = np.asarray(list(ids)).astype(str)
        rows = pd.Index(self.ids).get_indexer(ids)
        lacking = ids[rows < 0]
        if len(lacking):
            some, held = ", ".join(lacking[:3]), f"it holds {self.ids[0]} and {len(self.ids) - 1} others"
            missing = f"{self.source} lacks {len(lacking)} of {len(ids)} clips, such as {some} ({held})"
            raise ValueError(f"{missing}: add their rows, or leave these clips out everywhere")
        folds, labels = (None if column is None else column[rows] for column in (self.folds, self.labels))
        return replace(self, ids=ids, probabilities=self.probabilities[rows], folds=folds, labels=labels)

    def check_unseen(self, fold: int) -> None:
        """Raise ValueError where models of other folds, which trained on them, score these test clips of `fold`."""
        seen = [] if self.folds is None else self.ids[self.folds != fold].tolist()
        if seen:
            reason = f"test clips of fold {fold}, by models of other folds: predict again on the folds used here"
            raise ValueError(f"{self.source} scores {len(seen)} clips, such as {', '.join(seen[:3])}, {reason}")


def read(path: str | os.PathLike) -> Posteriors:
    """A CSV of class probabilities, a predictions.csv of the official baseline, or a folder of its five folds.

    The folder is `<variant>/<audio|both>`, or `<variant>` where it holds one of the two. Columns without a meaning
    here are ignored with a warning that names them; rows are normalised to sum 1 exactly.
    Raises FileNotFoundError for what is absent, and ValueError that names file, row and column, and says what to do,
    for missing or doubled clips and classes, codes outside the taxonomy, and values that are no probabilities.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folds(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent: pass a CSV of class probabilities or a folder of five folds")
    table = read_csv(path)
    needed = ("prediction", "prediction_score") if "prediction_score" in table else CLASSES
    _check_columns(table, path, ("sound_id", *needed))
    ids = table["sound_id"].str.strip().str.normalize("NFC").to_numpy(str)  # as `datasets` spells them

    def refuse(wrong: np.ndarray, what) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            count = f" ({wrong.sum()} rows are like that)" if wrong.sum() > 1 else ""
            raise ValueError(f"{path}, row {row + 1}, sound_id {ids[row] or 'empty'}: {what(row)}{count}")

    def numbers(name: str) -> np.ndarray:
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        refuse(~np.isfinite(values), lambda row: f"{name} is {table[name][row]!r}: write a finite number")
        return values

    def labels(name: str) -> np.ndarray:
        found = pd.Index(CLASSES).get_indexer(table[name])
        unknown = (found < 0) & ((name != "ground_truth") | (table[name] != "").to_numpy())
        refuse(unknown, lambda row: f"{name} {table[name][row]!r} is no class of the taxonomy")
        return found

    refuse(ids == "", lambda row: "name the clip")
    if needed is CLASSES:
        probabilities = np.stack([numbers(code) for code in CLASSES], axis=1)
        low, total = probabilities.argmin(1), probabilities.sum(1)
        refuse(
            (probabilities < 0).any(1),
            lambda row: f"{CLASSES[low[row]]} is {probabilities[row].min():g}, negative: apply softmax to logits",
        )
        advice = "divide by it (100 where the values are percentages), or apply softmax to logits"
        refuse(np.abs(total - 1) > TOLERANCE, lambda row: f"the classes sum to {total[row]:.6g}, not 1: {advice}")
        probabilities /= total[:, None]
    else:
        score = numbers("prediction_score")
        refuse((score < 0) | (score > 1), lambda row: f"prediction_score {score[row]:g} is not in [0, 1]")
        probabilities = spread(labels("prediction"), score)
    folds = numbers("fold") if "fold" in table else None
    if folds is not None:
        refuse((folds < 0) | (folds % 1 > 0), lambda row: f"fold {folds[row]:g} is none of 0, 1, 2, …")
        folds = folds.astype(np.int64)
    known = "ground_truth" in table and (table["ground_truth"] != "").any()
    return Posteriors(ids, probabilities, folds, labels("ground_truth") if known else None, str(path))


def read_fold(path: str | os.PathLike, fold: int) -> Posteriors:
    """The table that models of `fold` read: of a folder of nested tables its fold_<k>.csv, else `path` itself."""
    file = Path(path) / f"fold_{fold}.csv" if any(Path(path).glob("fold_*.csv")) else Path(path)
    return read(file) if file.is_dir() else _read_once(file, state(file))


@lru_cache(2)
def _read_once(file: Path, unchanged: tuple[int, int]) -> Posteriors:
    return read(file)


def spread(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Largest posteriors `scores` (N,) of the classes `labels` (N,) -> (N, 23): the rest is spread evenly.

    Scores are clipped to [0.05, 0.999], so that in a product of members no class is ever ruled out."""
    scores = np.clip(scores, LOWEST, HIGHEST)
    probabilities = np.repeat((1 - scores)[:, None] / (len(CLASSES) - 1), len(CLASSES), axis=1)
    probabilities[np.arange(len(labels)), labels] = scores
    return probabilities


def write(path: str | os.PathLike, posteriors: Posteriors, overwrite: bool = False) -> None:
    """Write the CSV that `read` reads, six significant digits. Raises FileExistsError unless `overwrite`."""
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or move it away")
    table = pd.DataFrame(posteriors.probabilities, columns=list(CLASSES))
    if posteriors.labels is not None:
        table.insert(0, "ground_truth", [CLASSES[label] if label >= 0 else "" for label in posteriors.labels])
    if posteriors.folds is not None:
        table.insert(0, "fold", posteriors.folds)
    table.insert(0, "sound_id", posteriors.ids)
    atomic_write(path, lambda place: table.to_csv(place, index=False, float_format="%.6g"))


def _read_folds(folder: Path) -> Posteriors:
    """The five folds of the official layout, in one table with folds."""
    found = [int(entry.name[5:]) for entry in folder.iterdir() if re.fullmatch(r"fold_\d+", entry.name)]
    modalities = [folder / name for name in ("audio", "both") if (folder / name).is_dir()]
    if not found and len(modalities) == 1:
        return _read_folds(modalities[0])
    if sorted(found) != list(range(FOLDS)):
        choices = modalities or sorted(folder.glob("*fold*.csv"))
        choose = f": pass one of {', '.join(map(str, choices))}" if choices else ""
        raise ValueError(f"{folder} must hold fold_0 to fold_{FOLDS - 1}, it has folds {sorted(found)}{choose}")
    parts = [read(folder / f"fold_{fold}" / "evaluation" / "predictions.csv") for fold in range(FOLDS)]
    ids, probabilities = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "probabilities"))
    known = all(part.labels is not None for part in parts)
    labels = np.concatenate([part.labels for part in parts]) if known else None
    folds = np.repeat(range(FOLDS), [len(part.ids) for part in parts])
    return Posteriors(ids, probabilities, folds, labels, str(folder))


def _check_columns(table: pd.DataFrame, path: Path, needed: tuple[str, ...]) -> None:
    """Raise ValueError for columns that are missing or classes of another taxonomy; warn of those ignored."""
    missing = [name for name in needed if name not in table]
    if len(missing) >= len(CLASSES) and any(len(set(CLASSES) & set(values)) > 11 for _, values in table.items()):
        raise ValueError(f"{path} is transposed, its rows are classes: write a row a clip and a column a class")
    extra = [name for name in table if name not in (*needed, "fold", "ground_truth")]
    if missing:
        few = ", ".join(missing[:3]) + f" and {len(missing) - 3} more" * (len(missing) > 3)
        advice = f"add it, or rename one (others found: {', '.join(extra[:9]) or 'none'})"
        raise ValueError(f"{path} lacks the column {few}: {advice}")
    foreign = [name for name in extra if re.fullmatch(r"(m|is|sp|fx|ss)(-\w+)?", name)]
    if foreign:
        advice = "remove it, divide rows by their sum"
        raise ValueError(f"{path}: column {foreign[0]!r} is no class of the taxonomy: {advice}")
    if extra:
        warnings.warn(f"{path}: columns {', '.join(map(repr, extra))} are ignored", stacklevel=3)
