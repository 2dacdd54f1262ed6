"""The manifest: what each recording of a dataset is, measured once, in constant memory, and kept.

A CSV beside no dataset (datasets are often read-only) but in the user's cache: one row a file, appended as it is
measured, so that an interrupted run goes on where it was. A row holds as long as the file's size and time of change do.
"""

import hashlib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from haf_utils.io import journal
from haf_utils.io.decoding import decoded
from haf_utils.io.files import state
from haf_utils.io.progress import bar
from haf_utils.io.recordings import scan

__all__ = ["FIELDS", "default_path", "measure", "update"]

FIELDS = tuple("path size mtime_ns frames rate channels peak rms audio_hash problem".split())
_BATCH = 64  # files between two writes: what a kill can lose


def default_path(root: str | os.PathLike) -> Path:
    """Where the manifest of the dataset in `root` lives: in $XDG_CACHE_HOME or ~/.cache, by the folder's full path."""
    root = Path(root).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "haf-clap" / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:10]}.csv"


def update(
    path: str | os.PathLike, files: Iterable[str | os.PathLike], workers: int | None = None, again: bool = False
) -> pd.DataFrame:
    """Bring the manifest in `path` up to date for `files` -> table (columns `FIELDS`), a row a file, in their order.

    Only files that are new or have changed are read (`again`: all), by `workers` threads (None: as `decoding.decoded`
    has it). Interrupted, the next call goes on. Raises ValueError if `path` is another file than a manifest.
    """
    path, files = Path(path), [os.fspath(file) for file in files]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path} cannot be kept ({error}): pass --manifest FILE, or set XDG_CACHE_HOME") from error
    with FileLock(f"{path}.lock"):
        rows, torn = journal.read(path, FIELDS)
        if torn and not rows and not path.read_bytes().startswith(b"path,size,"):
            raise ValueError(f"{path} is not a manifest: choose another name")
        known = {row[0]: row for row in rows}
        states = {file: tuple(map(str, state(file))) for file in files}
        to_do = [file for file in files if again or file not in known or known[file][1:3] != states[file]]
        with bar(total=len(files), description="reading audio") as progress:
            progress.update(len(files) - len(to_do))
            queue = iter(to_do)
            while batch := list(islice(queue, _BATCH)):
                for row in decoded(measure, batch, workers):
                    known[row["path"]] = tuple(str(row[field]) for field in FIELDS)
                    progress.update()
                journal.append(path, FIELDS, [known[file] for file in batch])
    table = pd.DataFrame([known[file] for file in files], columns=list(FIELDS), dtype=object)
    counts, levels = ("size", "frames", "rate", "channels"), ("peak", "rms")
    return table.astype(dict.fromkeys(counts, np.int64) | dict.fromkeys(levels, np.float64))


def measure(file: str | os.PathLike) -> dict:
    """Read one recording from beginning to end, a block at a time -> dict of `FIELDS`.

    frames (a channel), rate in Hz, peak and rms over all channels (full scale 1), audio_hash of the decoded samples
    (the same for the same sound in WAV and FLAC). `problem` is "" or what is wrong
    (`recordings.CATEGORIES`), in the words in which the audio store and prediction say it.
    """
    file = os.fspath(file)
    size, mtime = state(file)
    digest = hashlib.blake2b(digest_size=16)
    sound = scan(file, lambda block, _: digest.update(block.data))
    digest.update(f"{sound.rate} {sound.channels}".encode())
    row = {"path": file, "size": size, "mtime_ns": mtime, "frames": sound.frames, "rate": sound.rate}
    row |= {"channels": sound.channels, "peak": sound.peak, "rms": sound.rms, "problem": sound.problem}
    return row | {"audio_hash": digest.hexdigest() if sound.frames else ""}
