"""The audio store: every clip of a dataset decoded once, in one memory-mapped file with an index of offsets."""

import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from haf_utils.io import journal
from haf_utils.io.decoding import decoded
from haf_utils.io.files import atomic_write, state, writable
from haf_utils.io.progress import bar
from haf_utils.io.recordings import AudioError, header

__all__ = ["AudioStore", "build_store", "changed_clips"]

_COLUMNS = ["sound_id", "path", "size", "mtime_ns", "offset", "frames", "crc", "reason"]
_CHUNK, _CHUNK_BYTES = 128, 1 << 27  # most clips, and about most bytes of them, decoded before they are written


@dataclass
class AudioStore:
    """Every clip of a dataset, decoded once: mono int16 at one rate, whole length, in one memory-mapped file.

    `index`: DataFrame (sound_id, path, offset, frames, crc), a row a usable clip, in the table's order; crc is the
    CRC-32 of its samples, by which runs know that a recording changed.
    `lost`: DataFrame (sound_id, path, reason): clips that cannot be used (`recordings.UNUSABLE`).
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

    prepare: path and rate -> int16 samples (n,), `haf_utils.audio.prepare`. `workers`: threads that decode; None as
    `decoding.decoded` has it. Kept in `folder`: clips whose file (size, time of change) is as it was are not decoded
    again; a build that was killed goes on where it stopped; a second process waits for the first. Memory stays flat for
    any number of clips; the space needed is printed, and compared with what is free, before anything is written. If the
    samples' file has changed since it was written or checked last, CRCs are compared; clips of which they differ, and
    those whose row in the index is torn, are decoded again.

    Clips that cannot be used (`recordings.UNUSABLE`) are left out and listed in `store.lost` with the reason.
    Raises ValueError if sound_ids repeat or more than the share `max_lost` of the clips is lost; OSError if the disk
    is too small.
    """
    ids = table["sound_id"].astype(str)
    if ids.duplicated().any():
        raise ValueError(f"sound_id {ids[ids.duplicated()].iloc[0]!r} occurs more than once in the clips table")
    wanted = pd.DataFrame({"sound_id": ids.to_numpy(), "path": [str(path) for path in table["path"]]})
    stats = [state(path) for path in wanted["path"]]
    wanted["size"], wanted["mtime_ns"] = [size for size, _ in stats], [time for _, time in stats]

    folder = writable(Path(folder) / str(sample_rate))  # another rate is another store
    with FileLock(folder / "lock"):
        known, end = _read_index(folder)
        intact = _intact(folder, known)
        if not intact.all():
            print(f"audio store: the samples of {(~intact).sum()} clips have changed on the disk: decoded again")
        done = wanted.merge(known[intact], on=_COLUMNS[:4], how="left")
        pending = wanted[done["frames"].isna().to_numpy()]
        if len(pending):
            if done["frames"].sum() < end / 2 or not end:  # mostly samples that nobody wants any more
                for name in ("index.csv", "samples.int16"):  # not truncated: others may have mapped it
                    (folder / name).unlink(missing_ok=True)
                pending, end = wanted, 0
            seconds = _check_space(pending, folder, sample_rate)
            _append(pending, seconds, folder, sample_rate, prepare, end, workers, progress)
            done = wanted.merge(_read_index(folder)[0], on=_COLUMNS[:4], how="left")
        if not _noted(folder):
            atomic_write(folder / "checked", lambda path: path.write_bytes(_state(folder)))
        usable = done["reason"] == ""
        lost = done.loc[~usable, ["sound_id", "path", "reason"]].reset_index(drop=True)
        if len(lost) > max_lost * len(done):
            reasons = lost["reason"].str.split(":").str[0].value_counts().to_dict()
            first = f"{lost['path'].iloc[0]}: {lost['reason'].iloc[0]}"
            many = f"{len(lost)} of {len(done)} clips cannot be used ({reasons}), more than the share {max_lost}"
            raise ValueError(f"{many} that may be lost; the first is {first}")
        index = done.loc[usable, ["sound_id", "path", "offset", "frames", "crc"]].reset_index(drop=True)
        index = index.astype({"offset": np.int64, "frames": np.int64, "crc": np.int64})
        return AudioStore(folder, sample_rate, index, lost)  # mapped before another process may write


def changed_clips(folder) -> pd.DataFrame:
    """Rows (sound_id, path) of a store's folder, of one rate, whose samples are not as they were written: all CRCs are
    compared. Where there are some, the next `build_store` finds and mends them, too."""
    folder = writable(folder)
    with FileLock(folder / "lock"):
        known, _ = _read_index(folder)
        changed = known.loc[~_intact(folder, known, deep=True), ["sound_id", "path"]]
        if len(changed):
            (folder / "checked").unlink(missing_ok=True)
    return changed


def _read_index(folder: Path) -> tuple[pd.DataFrame, int]:
    """The newest intact row of each clip, and the number of samples that are there and that rows reach to."""
    rows, torn = journal.read(folder / "index.csv", _COLUMNS)
    if torn:
        print(f"audio store: {torn} lines of index.csv cannot be read: their clips are decoded again")
    known = pd.DataFrame(rows, columns=_COLUMNS, dtype=object)
    known = known.astype(dict.fromkeys(_COLUMNS[2:7], np.int64))
    end = min(int((known["offset"] + known["frames"]).max()), _size(folder) // 2) if len(known) else 0
    return known.drop_duplicates("sound_id", keep="last"), end


def _size(folder: Path) -> int:
    return max(0, state(folder / "samples.int16")[0])


def _intact(folder: Path, known: pd.DataFrame, deep: bool = False) -> np.ndarray:
    """Whether the samples of each row are there and, where the file is not as noted (or `deep`), have their CRC."""
    begins, size = known["offset"].to_numpy(), _size(folder)
    ends = begins + known["frames"].to_numpy()
    intact = (2 * ends <= size) | (ends == begins)
    if size and (deep or not _noted(folder)):
        samples = np.memmap(folder / "samples.int16", np.int16, "r", shape=size // 2)
        for row in bar(np.flatnonzero(intact & (ends > begins)), description="checking the audio store"):
            intact[row] = zlib.crc32(samples[begins[row] : ends[row]]) == known["crc"].iat[row]
    return intact


def _state(folder: Path) -> bytes:
    return "size {} mtime_ns {}\n".format(*state(folder / "samples.int16")).encode()


def _noted(folder: Path) -> bool:
    """Whether size and time of the samples are those at the time when they were written or compared last."""
    return (folder / "checked").is_file() and (folder / "checked").read_bytes() == _state(folder)


def _check_space(pending: pd.DataFrame, folder: Path, sample_rate: int) -> np.ndarray:
    """Estimated seconds of each clip (P,). Raises OSError if there is no room for them."""
    each = np.array([_seconds(path) for path in pending["path"]])
    seconds = each.sum()
    need, free = 2 * sample_rate * seconds, shutil.disk_usage(folder).free
    place = "/".join(folder.parts[-2:])  # not the whole path, which has no place in a published notebook
    print(f"audio store: {len(pending)} clips, {seconds / 3600:.2f} h, {need / 1e6:.0f} MB in {place}")
    if need > free:
        sizes = f"needs {need / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB free"
        raise OSError(f"the audio store {sizes}: make room or choose another scratch folder")
    return each


def _seconds(path: str) -> float:
    try:
        return header(path)[0]
    except AudioError:
        return 0.0  # the reason is found when it is decoded


def _append(pending, seconds, folder: Path, sample_rate: int, prepare: Callable, end: int, workers, progress) -> None:
    def work(path: str) -> np.ndarray | str:
        try:
            return prepare(path, sample_rate)
        except AudioError as error:
            return error.reason

    size = np.maximum(2 * sample_rate * seconds, _CHUNK_BYTES / _CHUNK)
    chunk = (np.cumsum(size) - size) // _CHUNK_BYTES
    with (
        open(folder / "samples.int16", "ab") as file,
        bar(total=len(pending), description="audio store", quiet=not progress) as shown,
    ):
        file.truncate(2 * end)  # what a killed build wrote after its last index row
        for _, clips in pending.groupby(chunk):
            rows = []
            results = decoded(work, clips["path"], workers)
            for clip, result in zip(clips.itertuples(index=False), results, strict=True):
                lost = isinstance(result, str)
                frames, crc = (0, 0) if lost else (len(result), zlib.crc32(result))
                rows.append((*clip, end, frames, crc, result if lost else ""))
                if not lost:
                    file.write(result)
                end += frames
            file.flush()
            os.fsync(file.fileno())
            journal.append(folder / "index.csv", _COLUMNS, rows)  # only now do the samples count
            shown.update(len(rows))
