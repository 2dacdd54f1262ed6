"""From folders on disk to what training reads: one table of clips with texts, their audio, and the parts of a split.

Rows of BSD10k come first, in the order of its metadata (the official folds depend on it), then BSD35k-CS without the
clips that BSD10k has, then the evaluation set. A clip that cannot be read keeps its row, so that the folds stay the
official ones, but belongs to no part; `lost` says why.
"""

import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.audio import prepare
from haf_utils.captions import add_text
from haf_utils.config import FOLDS, SPLITS
from haf_utils.datasets import load_bsd, load_evaluation, load_features, without
from haf_utils.folds import PARTS, grouped_folds, official_folds
from haf_utils.io.files import atomic_write, inert
from haf_utils.io.store import AudioStore, build_store

__all__ = ["Corpus", "load_corpus"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """table: clips table with `text`, `origin` (bsd10k, bsd35k-cs, evaluation) and `readable`, RangeIndex;
    stores: audio store of each origin; features: precomputed (audio (N, E), text (N, E')) where there is no audio;
    lost: sound_id, path, reason of each clip that cannot be read; notes: what a reader should know about the loading.
    """

    table: pd.DataFrame
    stores: dict[str, AudioStore]
    features: tuple[np.ndarray, np.ndarray] | None
    lost: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, -1 where unknown."""
        return self.table["label"].to_numpy()

    @property
    def presence(self) -> np.ndarray:
        """(N,) float32: 1 where the clip has a usable text, 0 where it has none."""
        present = (self.table["text"] != "").to_numpy(np.float32)
        if self.features is not None:  # a text whose embedding was not shipped is of no use
            present *= self.features[1].any(axis=1)
        return present

    def samples(self, row: int) -> np.ndarray:
        """int16 mono samples (n,) of the clip in `row`: a view into the memory-mapped store."""
        origins, ids = self._names
        return self.stores[origins[row]].samples(ids[row])

    @cached_property
    def row_hashes(self) -> np.ndarray:
        """A number a row (N,) uint64 of all that a run uses of a clip: id, label, text, origin, and its samples (or
        shipped embeddings). Equal rows have equal numbers, in every process and place."""
        columns = self.table[["sound_id", "label", "text", "origin", "readable"]].astype(str)
        if self.features is None:
            indices = [(name, store.index) for name, store in self.stores.items()]
            crc = {(name, row.sound_id): row.crc for name, index in indices for row in index.itertuples()}
            used = [crc.get(key, 0) for key in zip(columns["origin"], columns["sound_id"], strict=True)]
        else:
            used = [zlib.crc32(np.concatenate(pair).tobytes()) for pair in zip(*self.features, strict=True)]
        return pd.util.hash_pandas_object(columns.assign(used=used), index=False).to_numpy()

    @cached_property
    def _names(self) -> tuple[np.ndarray, np.ndarray]:
        """Origin and id of each row: out of the table one by one they take longer than their samples."""
        return self.table["origin"].to_numpy(), self.table["sound_id"].to_numpy()

    @cache  # noqa: B019 (a process holds few corpora, and the grouped folds take seconds)
    def _folds(self, split: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        own = self.table[self.table["origin"] == "bsd10k"]
        return official_folds(own["label"].to_numpy()) if split == "official" else grouped_folds(own)

    def parts(self, split: str = "official", fold: int = 0) -> np.ndarray:
        """Part of each row (N,) of str: one of `PARTS`, or "" where a row takes no part.

        BSD10k's rows follow the fold; BSD35k-CS trains only; in the "uploader" split its clips of uploaders held out
        for validation or test are left out too. Raises ValueError for an unknown split or fold.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}")
        if fold not in range(FOLDS):
            raise ValueError(f"fold={fold!r} must be one of 0 to {FOLDS - 1}")
        part = np.full(len(self.table), "", dtype=object)
        for name, rows in zip(PARTS, self._folds(split)[fold], strict=False):
            part[rows] = name
        origin, uploader = self.table["origin"].to_numpy(), self.table["uploader"].to_numpy()
        crowd = origin == "bsd35k-cs"
        if split == "uploader":
            held_out = set(uploader[np.isin(part, ("validation", "test"))]) - {""}  # "": nobody knows whose
            crowd &= ~np.isin(uploader, list(held_out))
        part[crowd] = "train"
        part[origin == "evaluation"] = "evaluation"
        part[~self.table["readable"].to_numpy()] = ""
        return part


@cache
def load_corpus(dataset: str, extra: str = "", evaluation: str = "", stores: str = "", sample_rate: int = 48_000):
    """Load BSD10k (and BSD35k-CS, and the evaluation set) and decode what is not decoded yet -> `Corpus`.

    dataset, extra, evaluation: folders in their official layouts, "" for none; stores: folder for the audio stores;
    sample_rate in Hz. A dataset without audio but with features/, as CLAP's are shipped, gives a corpus of embeddings.
    An extra or evaluation set that has not what the dataset has, recordings or embeddings, is left out with a note.
    """
    parts = [("bsd10k", dataset, add_text(load_bsd(dataset)))]  # origin, folder, clips
    notes = []
    if extra:
        crowd, twice = without(add_text(load_bsd(extra)), parts[0][2])
        notes.append(f"{twice} of the extra clips are also in {Path(dataset).name} and count there")
        parts += [("bsd35k-cs", extra, crowd)] if len(crowd) else []
    if evaluation:
        parts.append(("evaluation", evaluation, add_text(load_evaluation(evaluation))))
    recorded = parts[0][2]["path"].notna().any()
    if not recorded and not (Path(dataset) / "features").is_dir():
        raise ValueError(f"{dataset} has neither audio/ nor features/: unpack audio.zip, or features.zip")
    usable = [t["path"].notna().any() if recorded else (Path(root) / "features").is_dir() for _, root, t in parts]
    for root in [root for (_, root, _), fits in zip(parts, usable, strict=True) if not fits]:
        why = "has recordings" if recorded else "has embeddings alone"
        notes.append(f"{root} is left out: {Path(dataset).name} {why}, and it has none")
    parts = [part for part, fits in zip(parts, usable, strict=True) if fits]
    tables = [table.assign(origin=origin) for origin, _, table in parts]
    built: dict[str, AudioStore] = {}
    features = None
    if recorded:
        for origin, root, table in parts:
            built[origin] = build_store(table, Path(stores) / Path(root).resolve().name, sample_rate, prepare)
        lost = pd.concat([store.lost.assign(origin=origin) for origin, store in built.items()], ignore_index=True)
        safe = lost.apply(inert)
        atomic_write(Path(stores) / "lost.csv", lambda path: safe.to_csv(path, index=False, errors="surrogateescape"))
    else:
        loaded = [load_features(root, table["sound_id"]) for _, root, table in parts]
        for (_, root, _), arrays in zip(parts, loaded, strict=True):
            if (shape := [a.shape[1] for a in arrays]) != (first := [a.shape[1] for a in loaded[0]]):
                raise ValueError(f"{root} has embeddings of widths {shape}, {dataset} of {first}: take one network")
        audio, text = (np.concatenate(modality) for modality in zip(*loaded, strict=True))
        features = audio, text
        absent = ~np.isfinite(features[0]).all(1)
        rows = pd.concat(tables, ignore_index=True).loc[absent, ["sound_id", "origin"]]
        lost = rows.assign(path="", reason="no readable audio embedding")[["sound_id", "path", "reason", "origin"]]
        for modality in features:
            np.nan_to_num(modality, copy=False)
    table = pd.concat(tables, ignore_index=True)
    gone = pd.MultiIndex.from_frame(lost[["origin", "sound_id"]])
    table["readable"] = ~pd.MultiIndex.from_frame(table[["origin", "sound_id"]]).isin(gone)
    return Corpus(table, built, features, lost, tuple(notes))
