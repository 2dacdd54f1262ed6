"""The audio store: every clip of a dataset decoded once, in one memory-mapped file with an index of offsets."""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from filelock import FileLock
from haf_utils.io.decoding import decoded
from haf_utils.io.progress import bar
from haf_utils.io.recordings import AudioError

__all__ = ["AudioStore", "build_store"]

_COLUMNS = ["sound_id", "path", "size", "mtime_ns", "offset", "frames", "crc", "reason"]
_CHUNK = 128  # clips decoded before they are written: bounds memory, and what a kill can lose


@dataclass
class AudioStore:
    """Every clip of a dataset, decoded once: mono int16 at one rate, whole length, in one memory-mapped file.

    `index`: DataFrame (sound_id, path, offset, frames, crc), a row a usable clip, in the table's order; crc is the
    CRC-32 of its samples, by which runs know that a recording changed.
    `lost`: DataFrame (sound_id, path, reason): clips that are missing, damaged, empty or silent.
    """

    folder: Path
    sample_rate: int
    index: pd.DataFrame
    lost: pd.DataFrame

    def __post_init__(self):
        self._row = {sound_id: row for row, sound_id in enumerate(self.index["sound_id"])}
        self._offset = self.index["offset"].to_numpy(np.int64)
        self._frames = self.index["frames"].to_numpy(np.int64)
        file = self.folder / "samples.int16"
        self._samples = np.asarray(np.memmap(file, np.int16, "r")) if file.stat().st_size else np.zeros(0, np.int16)

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, sound_id) -> bool:
        return str(sound_id) in self._row

    def samples(self, sound_id) -> np.ndarray:
        """A clip's samples, a read-only int16 view (n,) on the file. KeyError if the clip is not in the store."""
        row = self._row[str(sound_id)]
        return self._samples[self._offset[row] : self._offset[row] + self._frames[row]]


def build_store(
    table: pd.DataFrame,
    folder,
    sample_rate: int,
    prepare: Callable[[str, int], np.ndarray],
    workers: int | None = None,
    max_lost: float = 0.2,
    progress: bool = True,
) -> AudioStore:
    """Decode every clip of a clips table (columns sound_id, path) once, or find that it has been done.

    prepare: path and rate -> int16 samples (n,), `haf_utils.audio.prepare`.

    Kept in `folder`: clips whose file (size, time of change) is as it was are not decoded again; a build that was
    killed goes on where it stopped; a second process waits for the first. The space needed is printed, and compared
    with what is free, before anything is written. Memory stays flat for any number of clips. `workers`: threads that
    decode; None as `decoding.decoded` has it.

    Clips that are missing, damaged, empty or silent are left out and listed in `store.lost` with the reason.
    Raises ValueError if sound_ids repeat or more than the share `max_lost` of the clips is lost; OSError if the disk
    is too small.
    """
    ids = table["sound_id"].astype(str)
    if ids.duplicated().any():
        raise ValueError(f"sound_id {ids[ids.duplicated()].iloc[0]!r} occurs more than once in the clips table")
    wanted = pd.DataFrame({"sound_id": ids.to_numpy(), "path": [str(path) for path in table["path"]]})
    stats = [_stat(path) for path in wanted["path"]]
    wanted["size"], wanted["mtime_ns"] = [size for size, _ in stats], [time for _, time in stats]

    folder = Path(folder) / str(sample_rate)  # another rate is another store
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        known, end = _read_index(folder)
        done = wanted.merge(known, on=_COLUMNS[:4], how="left")
        pending = wanted[done["frames"].isna().to_numpy()]
        if len(pending):
            if done["frames"].sum() < end / 2:  # mostly samples that nobody wants any more
                for name in ("index.csv", "samples.int16"):
                    (folder / name).unlink(missing_ok=True)
                pending, end = wanted, 0
            _check_space(pending, folder, sample_rate)
            _append(pending, folder, sample_rate, prepare, end, workers, progress)
            known, _ = _read_index(folder)
            done = wanted.merge(known, on=_COLUMNS[:4], how="left")
    usable = done["reason"] == ""
    lost = done.loc[~usable, ["sound_id", "path", "reason"]].reset_index(drop=True)
    if len(lost) > max_lost * len(done):
        reasons = lost["reason"].str.split(":").str[0].value_counts().to_dict()
        raise ValueError(
            f"{len(lost)} of {len(done)} clips cannot be used ({reasons}), more than the share {max_lost} that may be "
            f"lost; the first is {lost['path'].iloc[0]}: {lost['reason'].iloc[0]}"
        )
    index = done.loc[usable, ["sound_id", "path", "offset", "frames", "crc"]].reset_index(drop=True)
    return AudioStore(
        folder, sample_rate, index.astype({"offset": np.int64, "frames": np.int64, "crc": np.int64}), lost
    )


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _read_index(folder: Path) -> tuple[pd.DataFrame, int]:
    """Rows that were written completely (the newest of each clip), and the number of samples that they reach to."""
    rows, file = [], folder / "index.csv"
    if file.exists():
        text = file.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):  # a kill cut the last line
            os.truncate(file, whole)
        rows = pd.read_csv(
            io.BytesIO(text[:whole]),
            names=_COLUMNS,
            dtype={"sound_id": str, "path": str, "reason": str},
            keep_default_na=False,
        )
    known = pd.DataFrame(rows, columns=_COLUMNS)
    end = int((known["offset"] + known["frames"]).max()) if len(known) else 0
    return known.drop_duplicates("sound_id", keep="last"), end


def _check_space(pending: pd.DataFrame, folder: Path, sample_rate: int) -> None:
    seconds = sum(_seconds(path) for path in pending["path"])
    need, free = 2 * sample_rate * seconds, shutil.disk_usage(folder).free
    place = "/".join(folder.parts[-2:])  # not the whole path, which has no place in a published notebook
    print(f"audio store: {len(pending)} clips, {seconds / 3600:.2f} h, {need / 1e6:.0f} MB in {place}")
    if need > free:
        raise OSError(
            f"the audio store needs {need / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB free: "
            f"make room or choose another scratch folder"
        )


def _seconds(path: str) -> float:
    try:
        return soundfile.info(path).duration
    except (soundfile.SoundFileError, OSError):
        return 0.0  # the reason is found when it is decoded


def _append(
    pending: pd.DataFrame,
    folder: Path,
    sample_rate: int,
    prepare: Callable[[str, int], np.ndarray],
    end: int,
    workers: int | None,
    progress: bool,
) -> None:
    def work(path: str) -> np.ndarray | str:
        try:
            samples = prepare(path, sample_rate)
        except AudioError as error:
            return error.reason
        return samples if samples.any() else "silent"

    with (
        open(folder / "samples.int16", "ab") as samples_file,
        open(folder / "index.csv", "a") as index_file,
        bar(total=len(pending), description="audio store", quiet=not progress) as shown,
    ):
        samples_file.truncate(2 * end)  # what a killed build wrote after its last index row
        for first in range(0, len(pending), _CHUNK):
            rows = pending.iloc[first : first + _CHUNK].copy()
            results = list(decoded(work, rows["path"], workers))
            rows["reason"] = [result if isinstance(result, str) else "" for result in results]
            rows["frames"] = [0 if isinstance(result, str) else len(result) for result in results]
            rows["crc"] = [0 if isinstance(result, str) else zlib.crc32(result.tobytes()) for result in results]
            rows["offset"] = end + np.concatenate([[0], np.cumsum(rows["frames"].to_numpy())[:-1]])
            end += int(rows["frames"].sum())
            for result in results:
                if not isinstance(result, str):
                    samples_file.write(result.tobytes())
            samples_file.flush()
            index_file.write(rows[_COLUMNS].to_csv(index=False, header=False))  # only now do the samples count
            index_file.flush()
            shown.update(len(rows))
