"""From files to waveforms: decoding, the int16 samples that CLAP hears, windows, and the audio store.

Preparation is laion-clap's: mono (mean of the channels), resampled by soxr's HQ filter, clipped to [-1, 1] and
quantised to int16 (``laion_clap/training/data.py``). Short clips are repeated whole times and zero-padded
("repeatpad"); long ones are heard through windows, which are random in training and fixed everywhere else.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import soxr
from filelock import FileLock

from haf_utils.decoding import decoded
from haf_utils.progress import bar

__all__ = [
    "AudioError",
    "AudioStore",
    "build_store",
    "cut_short",
    "decode",
    "fixed_windows",
    "prepare",
    "random_window",
    "repeat_pad",
    "to_float",
    "windows",
]

MAX_WINDOWS = 5  # ours: fixed windows a clip; BSD's 30 s clips need three of 10 s
LONGEST = 3600.0  # seconds; the datasets end at 30, and a clip is decoded as a whole (ten hours at 1 Hz exist)
_CUT = re.compile(r"^\s*data\s*: (\d+) \(should be (\d+)\)", re.M)
_UNKNOWN_LENGTH = 0x7FFF_0000  # bytes: a writer that could not seek back leaves such a length in the header


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and says why (`reason` is that alone)."""

    def __init__(self, path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return AudioError, (self.path, self.reason)


def decode(path) -> tuple[np.ndarray, int]:
    """Decode a recording (WAV, FLAC, Ogg, MP3, …) to mono.

    Returns samples, float32 (n,), nominally in [-1, 1], n >= 1, and the sampling rate in Hz.
    Raises AudioError if the file is missing, damaged, cut short, empty, longer than `LONGEST` or holds values that are
    not finite. A silent recording is returned as it is.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, expected = file.samplerate, file.frames
            if expected > LONGEST * rate:
                raise AudioError(
                    path, f"{expected / rate / 3600:.1f} h long at {rate} Hz, {LONGEST / 3600:g} h at most"
                )
            if short := cut_short(file):
                raise AudioError(path, f"damaged: {short}")
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        if not Path(path).is_file():
            raise AudioError(path, "missing") from error
        if Path(path).stat().st_size == 0:
            raise AudioError(path, "empty file") from error
        raise AudioError(path, f"damaged: {str(error).split(': ')[-1]}") from error
    if len(samples) == 0:
        raise AudioError(path, "no samples")
    if len(samples) < expected:
        raise AudioError(path, f"damaged: ends after {len(samples)} of {expected} samples")
    samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise AudioError(path, "holds values that are not finite")
    return samples, rate


def cut_short(file: soundfile.SoundFile) -> str:
    """How much of an open WAV is there, "" if all of it: libsndfile only logs that the end of a file is missing."""
    cut = _CUT.search(file.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_LENGTH:
        return f"cut short, {cut[2]} of {cut[1]} bytes of sound are there"
    return ""


def prepare(path, sample_rate: int) -> np.ndarray:
    """A recording as CLAP wants it: mono at `sample_rate` Hz, clipped to [-1, 1], int16 (n,), n >= 1.

    Bit for bit what laion-clap prepares (librosa's resampling, then its own quantisation). Raises AudioError.
    """
    samples, rate = decode(path)
    if rate != sample_rate:
        # The length is librosa's, rounding error included: 10 s at 44.1 kHz become 480,001 samples at 48 kHz.
        frames = math.ceil(len(samples) * (sample_rate / rate))
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
        samples = np.pad(samples[:frames], (0, max(0, frames - len(samples))))
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)


def to_float(samples):
    """int16 samples of any shape, an array or a tensor -> the same, float32 in [-1, 1], as laion-clap converts them."""
    return samples / np.float32(32767.0)


def repeat_pad(samples: np.ndarray, window: int) -> np.ndarray:
    """Samples (n,) with 1 <= n <= window -> (window,): repeated whole times, then zeros ("repeatpad")."""
    return _repeat(samples, window, 0, np.empty(window, samples.dtype))


def _repeat(samples: np.ndarray, window: int, begin: int, out: np.ndarray) -> np.ndarray:
    """Write into `out` what stands from `begin` on in the repeat-padded samples, and return it."""
    end, phase = window // len(samples) * len(samples), begin % len(samples)
    sound = out[: max(0, end - begin)]
    out[len(sound) :] = 0
    first = min(len(sound), len(samples) - phase)
    sound[:first] = samples[phase : phase + first]
    rest = sound[first:]
    whole = len(rest) // len(samples) * len(samples)
    rest[:whole].reshape(-1, len(samples))[:] = samples
    rest[whole:] = samples[: len(rest) - whole]
    return out


def fixed_windows(frames: int, window: int) -> np.ndarray:
    """Where the fixed windows of a clip of `frames` samples start: ascending ints, at most MAX_WINDOWS.

    One window at 0 for a clip no longer than `window`, or so little longer (a hundredth) that a second would repeat the
    first; else as many as cover the clip, evenly spaced, the first at its beginning and the last flush with its end.
    A clip longer than MAX_WINDOWS windows is sampled, not covered.
    """
    if frames <= 1.01 * window:
        return np.zeros(1, dtype=np.int64)
    count = min(math.ceil(frames / window), MAX_WINDOWS)
    return np.linspace(0, frames - window, count).astype(np.int64)


def windows(samples: np.ndarray, window: int) -> np.ndarray:
    """The fixed windows of a clip: int16 (n,) -> int16 (W, window), repeat-padded if it is shorter."""
    if len(samples) <= window:
        return repeat_pad(samples, window)[None]
    return np.stack([samples[start : start + window] for start in fixed_windows(len(samples), window)])


def random_window(samples: np.ndarray, rng: np.random.Generator, out: np.ndarray) -> np.ndarray:
    """A training or test-time view of a clip: int16 (n,) -> int16 `out` (window,), which is written and returned.

    Longer than the window: cut at a random place, as laion-clap does. Shorter: repeat-padded and rotated by a random
    offset, without which all views of a short clip were the same (ours). Written once, into its place in a batch: a
    GPU asks for batches about as fast as memory can be copied.
    """
    window = len(out)
    if len(samples) > window:
        start = int(rng.integers(len(samples) - window + 1))
        out[:] = samples[start : start + window]
        return out
    offset = int(rng.integers(window))
    _repeat(samples, window, 0, out[offset:])
    _repeat(samples, window, window - offset, out[:offset])
    return out


# The audio store -----------------------------------------------------------------------------------------------------

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
    workers: int | None = None,
    max_lost: float = 0.2,
    progress: bool = True,
) -> AudioStore:
    """Decode every clip of a clips table (columns sound_id, path) once, or find that it has been done.

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
            _append(pending, folder, sample_rate, end, workers, progress)
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
    pending: pd.DataFrame, folder: Path, sample_rate: int, end: int, workers: int | None, progress: bool
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
