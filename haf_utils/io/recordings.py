"""The one reader of recordings: a sound file to mono samples, or the reason why it cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile

__all__ = ["AudioError", "cut_short", "decode"]

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
