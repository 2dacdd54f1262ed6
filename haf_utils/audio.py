"""From files to waveforms: the int16 samples that CLAP reads, and their windows.

Preparation is laion-clap's: mono (mean of the channels), resampled by soxr's HQ filter, clipped to [-1, 1] and
quantised to int16 (``laion_clap/training/data.py``). Short clips are repeated whole times and zero-padded
("repeatpad"); long ones are cut into windows, which are random in training and fixed everywhere else.
"""

import math

import numpy as np
import soxr

from haf_utils.io.recordings import AudioError, decode

__all__ = ["AudioError", "decode", "fixed_windows", "prepare", "random_window", "repeat_pad", "to_float", "windows"]

MAX_WINDOWS = 5  # ours: fixed windows a clip; BSD's 30 s clips need three of 10 s


def prepare(path, sample_rate: int) -> np.ndarray:
    """A recording as CLAP reads it: mono at `sample_rate` Hz, clipped to [-1, 1], int16 (n,), n >= 1.

    Bit for bit as laion-clap prepares it (librosa's resampling, then quantisation). Raises AudioError, also where all
    samples are 0 at this rate.
    """
    samples, rate = decode(path)
    if rate != sample_rate:
        # The length is librosa's, rounding error included: 10 s at 44.1 kHz become 480,001 samples at 48 kHz.
        frames = math.ceil(len(samples) * (sample_rate / rate))
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")[:frames]
        if len(samples) < frames:
            samples = np.pad(samples, (0, frames - len(samples)))
    np.clip(samples, -1.0, 1.0, out=samples)  # in place, since long recordings are large
    samples *= 32767.0
    quantized = samples.astype(np.int16)
    if not quantized.any():
        raise AudioError(path, f"silent: nothing is left at {sample_rate} Hz")
    return quantized


def to_float(samples):
    """int16 samples of any shape, an array or a tensor -> the same, float32 in [-1, 1], as laion-clap converts them."""
    return samples / np.float32(32767.0)


def repeat_pad(samples: np.ndarray, window: int) -> np.ndarray:
    """Samples (n,) with 1 <= n <= window -> (window,): repeated whole times, then zeros ("repeatpad")."""
    return _repeat(samples, window, 0, np.empty(window, samples.dtype))


def _repeat(samples: np.ndarray, window: int, begin: int, out: np.ndarray) -> np.ndarray:
    """Write the repeat-padded samples from position `begin` on into `out`, and return it."""
    end, phase = window // len(samples) * len(samples), begin % len(samples)
    repeated = out[: max(0, end - begin)]
    out[len(repeated) :] = 0
    first = min(len(repeated), len(samples) - phase)
    repeated[:first] = samples[phase : phase + first]
    rest = repeated[first:]
    whole = len(rest) // len(samples) * len(samples)
    rest[:whole].reshape(-1, len(samples))[:] = samples
    rest[whole:] = samples[: len(rest) - whole]
    return out


def fixed_windows(frames: int, window: int) -> np.ndarray:
    """Where the fixed windows of a clip of `frames` samples start: ascending ints, at most MAX_WINDOWS.

    One window at 0 for a clip of at most 1.01 `window`, where a second one would nearly equal the first; else as many
    as cover the clip, evenly spaced, the first at its beginning and the last flush with its end. A clip longer than
    MAX_WINDOWS windows is sampled, not covered.
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
    offset, without which all views of a short clip would be equal (ours). `out` is its place in a batch, so that no
    copy is made: copying would slow down a GPU.
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
