"""The run folder: the results of a trained model, and all that ablations and ensembles read.

    config.json         every resolved parameter, versions, digests of the data, checkpoint and code it depends on
    split.csv           sound_id, part (train, validation, test, evaluation; extra: labelled as a teacher)
    history.csv         a row an epoch
    predictions.npz     for each scored part: ids, labels, posteriors of each view, plain posteriors, fusion weights
    metrics.json        scores of each labelled part; parameters; seconds; digests of the weights and of all of these
    model.safetensors   the weights that made the predictions
    resume.pt           only while training goes on

`metrics.json` is written last: a folder that has it is finished.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.config import LOCATION_FIELDS, FinetuneConfig, parameters
from haf_utils.folds import PARTS
from haf_utils.io.files import atomic_write, state
from haf_utils.io.layouts import read_csv
from haf_utils.metrics import hierarchical_scores
from haf_utils.taxonomy import CLASSES

__all__ = ["Predictions", "Run", "RunError", "finished", "load_run"]

_FILES = ("config.json", "split.csv", "history.csv", "predictions.npz", "metrics.json")


class RunError(ValueError):
    """A run folder cannot be used; the message names the folder, what is wrong and what to do."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for N clips: ids (N,) str, labels (N,) int (-1 unknown), posteriors (V, N, 23) of V views; without
    test-time augmentation, plain (N, 23) posteriors and weights (N, 2) of audio and text in the fusion, or (N, 3) with
    those of outside posteriors."""

    ids: np.ndarray
    labels: np.ndarray
    posteriors: np.ndarray
    plain: np.ndarray
    weights: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """(N, 23): posteriors averaged over the views, which is what the report calls TTA."""
        return self.posteriors.mean(axis=0)


@dataclass(frozen=True)
class Run:
    folder: Path
    config: dict
    split: pd.DataFrame
    history: pd.DataFrame
    predictions: dict[str, Predictions]
    metrics: dict

    @property
    def name(self) -> str:
        return self.folder.name

    def part(self, part: str) -> Predictions:
        """Predictions on `part`; raises RunError that names the parts there are."""
        if part not in self.predictions:
            raise RunError(f"{self.folder} holds no predictions for {part!r}, only for {', '.join(self.predictions)}")
        return self.predictions[part]


def write_predictions(path: Path | str, predictions: dict[str, Predictions]) -> None:
    """All parts into one .npz, posteriors as float32, with the class codes of their columns."""
    arrays: dict[str, np.ndarray] = {"classes": np.array(CLASSES)}
    for part, p in predictions.items():
        arrays |= {f"{part}_ids": p.ids.astype(str), f"{part}_labels": p.labels.astype(np.int64)}
        for name in ("posteriors", "plain", "weights"):
            arrays[f"{part}_{name}"] = getattr(p, name).astype(np.float32)
    atomic_write(path, lambda p: np.savez_compressed(p, **arrays))


def read_predictions(path: Path | str) -> dict[str, Predictions]:
    """Parts by name. Raises RunError for a damaged file or columns of another taxonomy."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path} cannot be read ({error}): delete its run folder and train again") from error
    if (classes := arrays.get("classes", np.empty(0)).tolist()) != list(CLASSES):
        raise RunError(f"{path} was written for another taxonomy: its classes are {classes}")
    parts = [name.removesuffix("_ids") for name in arrays if name.endswith("_ids")]
    fields = ("ids", "labels", "posteriors", "plain", "weights")
    missing = [f"{part}_{name}" for part in parts for name in fields if f"{part}_{name}" not in arrays]
    if missing:
        raise RunError(f"{path} lacks {', '.join(missing)}: delete its run folder and train again")
    predictions = {part: Predictions(*(arrays[f"{part}_{name}"] for name in fields)) for part in parts}
    for part, of_part in predictions.items():
        if problem := _problem(of_part):
            raise RunError(f"{path}, {part}: {problem}: it was damaged or changed; move its run folder away")
    return predictions


def _problem(p: Predictions) -> str:
    """What is wrong with predictions, "" if nothing: everything that is scored goes through here."""
    kinds = "".join(array.dtype.kind for array in (p.ids, p.labels, p.posteriors, p.plain, p.weights))
    if kinds != "Uifff" or p.ids.ndim != 1:
        return f"arrays of the kinds {kinds}, not of texts, integers and real numbers"
    clips = len(p.ids)
    fits = p.weights.shape in ((clips, 2), (clips, 3))
    if p.labels.shape != (clips,) or p.plain.shape != (clips, len(CLASSES)) or not fits:
        return f"{clips} ids beside labels {p.labels.shape}, posteriors {p.plain.shape}, weights {p.weights.shape}"
    if p.posteriors.ndim != 3 or p.posteriors.shape[1:] != p.plain.shape or not len(p.posteriors):
        return f"views of shape {p.posteriors.shape} beside posteriors {p.plain.shape}"
    if len(np.unique(p.ids)) != clips:
        return "an id occurs twice"
    if not np.isin(p.labels, np.arange(-1, len(CLASSES))).all():
        return f"labels outside -1 to {len(CLASSES) - 1}"
    for values in (p.plain, p.posteriors):
        if not np.isfinite(values).all() or (values < 0).any() or np.abs(values.sum(-1) - 1).max(initial=0) > 1e-3:
            return "posteriors that are not finite, negative or do not sum to 1"
    impossible = (p.weights < 0).any() or np.isinf(p.weights).any()  # NaN: of a control that does not fuse
    return "weights that are negative or infinite" if impossible else ""


def finished(folder: Path | str) -> bool:
    """Whether the run in `folder` is complete: no file of it is missing or empty."""
    names = _FILES + ("model.safetensors",) * (Path(folder) / "model.safetensors").is_file()
    return all(state(Path(folder) / name)[0] > 0 for name in names)


def load_run(folder: Path | str) -> Run:
    """Read a finished run, or an exported one, which has no predictions.

    Raises RunError where the folder is absent, half written or of another taxonomy."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}: name one that holds config.json and metrics.json")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if len(missing) == len(_FILES):
        raise RunError(f"{folder} is no run folder: it has none of {', '.join(_FILES)}")
    config = {} if "config.json" in missing else _read(folder / "config.json", _json)
    if ("digests" in config) != ("config" in config):
        raise RunError(f"{folder / 'config.json'} lacks the parameters or digests of its run: move the folder away")
    if "exported" in config:  # by `haf export`, to predict with: it has no predictions of its own
        return Run(folder, config, pd.DataFrame(), pd.DataFrame(), {}, {})
    if missing and config and "digests" not in config:
        raise RunError(f"{folder} is the checkpoint of a pretraining, no training run: it has no classifier")
    if missing:
        advice = "run it again with the same parameters, it goes on from where it stopped"
        raise RunError(f"{folder} is not a finished run, it lacks {', '.join(missing)}: {advice}")
    split = _read(folder / "split.csv", read_csv)
    if not {"sound_id", "part"} <= set(split.columns):
        raise RunError(f"{folder / 'split.csv'} has no columns sound_id and part: move its run folder away")
    history, metrics = _read(folder / "history.csv", pd.read_csv), _read(folder / "metrics.json", _json)
    run = Run(folder, config, split, history, read_predictions(folder / "predictions.npz"), metrics)
    if problem := _contradiction(run):
        raise RunError(f"{folder}: {problem}: a file was damaged or changed; move the folder away")
    return run


def digest(run: Run) -> str:
    """SHA-256 of a run's parameters and of what it says, wherever it lies now; not of parts that are added later."""
    own = {name: value for name, value in run.config["config"].items() if name not in LOCATION_FIELDS}
    scores = {name: value for name, value in run.metrics.items() if name != "digest"}
    rows = run.split.loc[run.split["part"].isin(PARTS[:3]), ["sound_id", "part"]].to_numpy().tolist()
    parts = [run.predictions[part] for part in PARTS[1:3] if part in run.predictions]
    content = [own, scores, rows, [(p.ids.tolist(), p.labels.tolist()) for p in parts]]
    found = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + (run.folder / "history.csv").read_bytes())
    for array in (array for p in parts for array in (p.posteriors, p.plain, p.weights)):
        found.update(array.astype(np.float32).tobytes())
    return found.hexdigest()


def _contradiction(run: Run) -> str:
    """In what the files of a run contradict each other, "" if in nothing."""
    ids, parts = run.split["sound_id"], run.split["part"]
    if unknown := sorted(set(parts) - {*PARTS, "extra"}):
        return f"split.csv has a part {unknown[0]!r}"
    if not (parts == "train").any():
        return "split.csv has no clip that it was trained on"
    own = ids[parts != "evaluation"]  # those have names of their own, which may be the same
    if (twice := own[own.duplicated()]).size:
        return f"split.csv has the clip {twice.iloc[0]!r} twice"
    for part in [part for part in run.predictions if part != "evaluation"]:
        if seen := set(run.predictions[part].ids) & set(ids[parts == "train"]):
            return f"{part} scores clips that it was trained on: {', '.join(sorted(seen)[:3])}"
    for part in PARTS[1:3]:
        p, recorded = run.predictions.get(part), run.metrics.get(part, {}).get("hF")
        if (sorted(p.ids) if p else []) != sorted(ids[parts == part]):
            return f"predictions.npz has other clips than split.csv, for {part}"
        if p and (not len(p.ids) or (p.labels < 0).any()):
            return f"{part} has clips without a label, which metrics.json has a score of"
        scored = hierarchical_scores(p.labels, p.probabilities.argmax(1))["hF"] if p else recorded
        # float32 may exchange two posteriors that are almost equal
        if p and not (isinstance(recorded, float) and abs(scored - recorded) < 0.02):
            return f"hF of {part} is {scored:.3f} by predictions.npz, {recorded} by metrics.json"
    newer = run.config["config"].keys() - parameters(FinetuneConfig("", "")).keys()  # its digest may be of more
    changed = not newer and run.metrics.get("digest") not in (None, digest(run))  # older runs have none
    return "metrics.json has the digest of other files" if changed else ""


def _json(path: Path) -> dict:
    content = json.loads(path.read_text("utf-8"))
    objects = ("config", "digests", "code", "versions", "test", "validation")
    if not isinstance(content, dict) or not all(isinstance(content.get(name, {}), dict) for name in objects):
        raise ValueError("it holds no record of a run")
    if not isinstance(content.get("absent_classes", []), list):
        raise ValueError(f"absent_classes is {content['absent_classes']!r}, no list of labels")
    return content


def _read(path: Path, read: Callable[[Path], object]):
    try:
        return read(path)
    except (ValueError, OSError, RecursionError) as error:  # pandas' and json's errors are ValueErrors
        raise RunError(f"{path} is damaged ({error}): delete its run folder and train again") from error
