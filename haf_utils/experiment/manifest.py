"""The manifest: what each recording of a dataset is, measured once, in constant memory, and kept.

A CSV beside no dataset (datasets are often read-only) but in the user's cache: one row a file, appended as it is
measured, so that an interrupted run goes on where it was. A row holds as long as the file's size and time of change do.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from filelock import FileLock
from haf_utils.io.decoding import decoded
from haf_utils.io.progress import bar
from haf_utils.io.recordings import cut_short

__all__ = ["FIELDS", "default_path", "measure", "update"]

FIELDS = tuple("path size mtime_ns frames rate channels peak rms sha256 audio_hash problem".split())
_BLOCK = 1 << 18  # values (frames × channels) decoded at a time
_BATCH = 64  # files between two writes: what a kill can lose
# libsndfile's format -> the extensions that name it. A WAV by content may be called nothing else.
_EXTENSIONS = {
    "WAV": (".wav", ".wave"),
    "WAVEX": (".wav", ".wave"),
    "RF64": (".wav", ".rf64"),
    "W64": (".wav", ".w64"),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3",),
}

SHORT = 0.010  # seconds; BSD10k's shortest clip has 7 ms, so short is unusual, not wrong
LONG = 600.0  # seconds; the datasets end at 30
LOW_RATE = 4_000  # Hz: less than a telephone
SILENT = 1 / 32_767  # peak below which nothing is left after CLAP's quantisation to 16 bit


def default_path(root: str | os.PathLike) -> Path:
    """Where the manifest of the dataset in `root` lives: in $XDG_CACHE_HOME or ~/.cache, by the folder's full path."""
    root = Path(root).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "haf-clap" / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:10]}.csv"


def update(path: str | os.PathLike, files: Iterable[str | os.PathLike], workers: int | None = None) -> pd.DataFrame:
    """Bring the manifest in `path` up to date for `files` -> table (columns `FIELDS`), a row a file, in their order.

    Only files that are new or have changed are read, by `workers` threads (None: as `decoding.decoded` has it).
    Interrupted, the next call goes on.
    """
    if workers is not None and workers < 1:  # also where there is nothing to read
        raise ValueError(f"workers={workers} must be 1 or more")
    path, files = Path(path), [os.fspath(file) for file in files]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = _read(path)
        states = {file: _state(file) for file in files}
        to_do = [file for file in files if file not in known or known[file][1:3] != states[file]]
        with (
            open(path, "a", newline="", encoding="utf-8", errors="surrogateescape") as lines,
            bar(total=len(files), description="reading audio") as progress,
        ):
            writer = csv.writer(lines)
            if not known and lines.tell() == 0:
                writer.writerow(FIELDS)
            elif to_do:
                lines.write("\r\n")  # a kill may have torn the last row; blank lines mean nothing
            progress.update(len(files) - len(to_do))
            queue = iter(to_do)
            while batch := list(islice(queue, _BATCH)):
                for row in decoded(measure, batch, workers):
                    known[row["path"]] = tuple(str(row[field]) for field in FIELDS)
                    writer.writerow(known[row["path"]])
                    progress.update()
                lines.flush()
    table = pd.DataFrame([known[file] for file in files], columns=list(FIELDS), dtype=object)
    for field in ("size", "frames", "rate", "channels"):
        table[field] = table[field].astype(np.int64)
    for field in ("peak", "rms"):
        table[field] = table[field].astype(np.float64)
    return table


def measure(file: str | os.PathLike) -> dict:
    """Read one recording from beginning to end, a block at a time -> dict of `FIELDS`.

    frames (a channel), rate in Hz, peak and rms over all channels (full scale 1), sha256 of the file, audio_hash of
    the decoded samples (the same for the same sound in WAV and FLAC). `problem` is "" or what is wrong, beginning with
    its category and a colon: missing, damaged, empty, not finite, silent, wrong extension, unusual, short.
    """
    file = os.fspath(file)
    size, mtime = _state(file)
    row = dict.fromkeys(FIELDS, 0) | {"path": file, "size": size, "mtime_ns": mtime, "peak": 0.0, "rms": 0.0}
    row |= {"sha256": "", "audio_hash": "", "problem": ""}
    try:
        with open(file, "rb") as content:
            row["sha256"] = hashlib.file_digest(content, "sha256").hexdigest()
        with soundfile.SoundFile(file) as audio:
            row |= {"rate": audio.samplerate, "channels": audio.channels}
            row |= _levels(audio)
            row["problem"] = _problem(row, audio, Path(file).suffix.lower())
    except FileNotFoundError:
        row["problem"] = "missing: no such file"
    except (OSError, soundfile.SoundFileError) as error:
        reason = str(error).split(": ")[-1].rstrip(".") if size != "0" else "the file has no bytes"
        row["problem"] = f"damaged: {reason}"
    return row


def _levels(audio: soundfile.SoundFile) -> dict:
    digest = hashlib.blake2b(f"{audio.samplerate} {audio.channels} ".encode(), digest_size=16)
    block = np.empty((max(1, _BLOCK // audio.channels), audio.channels), dtype=np.float32)
    frames, peak, energy = 0, 0.0, 0.0
    while len(samples := audio.read(out=block)):
        frames += len(samples)
        digest.update(samples.data)
        peak = max(peak, float(samples.max()), -float(samples.min()))  # NaN passes through both
        energy += float(np.dot(samples.ravel(), samples.ravel()))
        if not np.isfinite(energy):
            peak = energy = float("nan")
    values = frames * audio.channels
    return {
        "frames": frames,
        "peak": peak,
        "rms": float(np.sqrt(energy / values)) if values else 0.0,
        "audio_hash": digest.hexdigest() if frames else "",
    }


def _problem(row: dict, audio: soundfile.SoundFile, suffix: str) -> str:
    seconds = row["frames"] / row["rate"]
    if short := cut_short(audio):
        return f"damaged: {short}"
    if row["frames"] == 0:
        return "empty: no samples"
    if row["frames"] < audio.frames:
        return f"damaged: ends after {row['frames']} of {audio.frames} samples"
    if not np.isfinite(row["rms"]):
        return "not finite: holds NaN, infinite or absurdly large samples"
    if row["peak"] < SILENT:
        return f"silent: peak {row['peak']:.1e}"
    if audio.format in _EXTENSIONS and suffix not in _EXTENSIONS[audio.format]:
        return f"wrong extension: {audio.format} named {suffix}"
    if row["rate"] < LOW_RATE or seconds > LONG:
        return f"unusual: {seconds:.1f} s at {row['rate']} Hz"
    if seconds < SHORT:
        return f"short: {1000 * seconds:.1f} ms"
    return ""


def _state(file: str) -> tuple[str, str]:
    """Size and time of change, as the manifest writes them; ("-1", "-1") where there is no file."""
    try:
        stat = os.stat(file)
    except OSError:
        return "-1", "-1"
    return str(stat.st_size), str(stat.st_mtime_ns)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    """Rows of a manifest by path; the last of several wins, and a row torn by a kill is dropped."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as lines:
        rows = [tuple(row) for row in csv.reader(line.replace("\0", "") for line in lines)]
    if rows and rows[0] != FIELDS:
        raise ValueError(f"{path} is not a manifest of this version: delete it, it will be made again")
    return {row[0]: row for row in rows[1:] if len(row) == len(FIELDS)}
