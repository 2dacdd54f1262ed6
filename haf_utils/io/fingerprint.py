"""Audio fingerprints: which recordings of one dataset are also in another, when ids do not tell.

The evaluation set is anonymous, yet some of its clips may be in FSD50K, where a model would have seen them in
pretraining. A fingerprint is a sequence of 32-bit words, one every 16 ms: the signs of how the energy differences
between neighbouring frequency bands change in time (Haitsma and Kalker, ISMIR 2002). It survives resampling, gain,
lossy coding and cutting, and two different recordings agree on half of the bits.
"""

import os
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import soxr

from haf_utils.io.decoding import decoded
from haf_utils.io.progress import bar
from haf_utils.io.recordings import AudioError, decode

__all__ = ["fingerprint", "fingerprints", "matches"]

RATE = 8_000  # Hz; all that is used lies below 3.4 kHz
WINDOW = 1_024  # samples, 128 ms
HOP = 128  # samples, 16 ms
EDGES = np.geomspace(150.0, 3_400.0, 34)  # Hz: 33 bands, 32 differences
LOUDNESS = 1e-6  # frames 60 dB below the loudest one are noise or nothing, and say nothing
LONGEST = 120  # seconds of a recording that are looked at
LEAST_FRAMES = 12  # words in common; with the window, about 0.3 s, FSD50K's shortest clip
SHORT_FRAMES = 250  # 4 s: below, coding may leave no word whole, so recordings of one length are compared anyway
COMMON = 200  # a word that occurs more often tells too little to start a comparison


def fingerprint(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono samples (n,) at `rate` Hz -> uint32 (frames,), 0 where a frame is too quiet to tell."""
    samples = np.asarray(samples[: LONGEST * rate], dtype=np.float32)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE, quality="HQ")
    samples = np.pad(samples, (WINDOW // 2, WINDOW // 2 + HOP))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)) ** 2
    bins = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / RATE), EDGES)
    energy = np.add.reduceat(power, bins, axis=1)[:, :-1]
    total = energy.sum(1)
    # Energies are relative to what can be heard, so that coding noise in empty bands does not set bits.
    level = np.log(energy + 1e-7 * total.max(initial=0.0) + 1e-30)
    rising = np.diff(np.diff(level, axis=1), axis=0) > 0
    words = np.packbits(rising, axis=1, bitorder="little").view("<u4").ravel()
    loud = (total[1:] > LOUDNESS * total.max(initial=0.0)) & (total[1:] > 0)
    return np.where(loud, words, 0).astype(np.uint32)


def fingerprints(paths: Iterable[str | os.PathLike], workers: int | None = None) -> list[np.ndarray]:
    """Fingerprints of recordings, in the order of `paths`; progress on long lists. A recording that cannot be read gets
    an empty fingerprint, which matches nothing, and is named in a UserWarning."""
    paths, lost = [os.fspath(path) for path in paths], []

    def one(path: str) -> np.ndarray:
        try:
            samples, rate = decode(path)
            if rate < RATE // 2:
                raise AudioError(path, f"sampled at {rate} Hz, too low to compare")
        except AudioError as error:
            lost.append(str(error))
            return np.zeros(0, np.uint32)
        return fingerprint(samples, rate)

    result = list(bar(decoded(one, paths, workers), total=len(paths), description="fingerprints"))
    if lost:
        shown = "; ".join(sorted(lost)[:10]) + ("; …" if len(lost) > 10 else "")
        warnings.warn(f"{len(lost)} recordings have no fingerprint: {shown}", stacklevel=2)
    return result


def matches(a: Sequence[np.ndarray], b: Sequence[np.ndarray], most_errors: float = 0.25) -> pd.DataFrame:
    """Pairs of the same recording in `a` and `b`, fingerprints each -> a row a pair, best first.

    Columns: a and b, positions in the two lists; errors, the share of differing bits, 0 to `most_errors` (different
    recordings have about 0.5); seconds that were compared; offset in seconds at which b's recording starts in a's.
    A pair counts if at least `LEAST_FRAMES` words, and four fifths of the shorter one, could be compared.
    """
    words = np.concatenate([*b, np.zeros(0, np.uint32)])
    length = np.array([len(one) for one in b], dtype=np.int64)
    clip = np.repeat(np.arange(len(b)), length)
    position = np.arange(len(words)) - np.repeat(np.cumsum(length) - length, length)
    told = np.flatnonzero(words)
    order = told[np.argsort(words[told], kind="stable")]
    index = words[order]
    rows = []
    for i, query in enumerate(bar(a, description="comparing")):
        first, last = np.searchsorted(index, query, "left"), np.searchsorted(index, query, "right")
        usable = np.flatnonzero((last > first) & (last - first <= COMMON) & (query != 0))
        hits = order[np.concatenate([np.arange(first[k], last[k]) for k in usable] or [np.zeros(0, int)])]
        offsets = np.repeat(usable, last[usable] - first[usable]) - position[hits]
        candidates = np.column_stack([clip[hits], offsets])
        if LEAST_FRAMES <= len(query) <= SHORT_FRAMES:
            alike = np.flatnonzero(np.abs(length - len(query)) <= 2)
            shifted = (np.column_stack([alike, np.full_like(alike, k)]) for k in (-1, 0, 1))
            candidates = np.vstack([candidates, *shifted])
        # The alignments with most words in common, for each recording of b.
        pairs, votes = np.unique(candidates, axis=0, return_counts=True)
        best = pd.DataFrame({"b": pairs[:, 0], "offset": pairs[:, 1], "votes": votes})
        best = best.sort_values("votes", kind="stable").groupby("b").tail(3)
        for j, of_b in best.groupby("b"):
            found = min(_compare(query, b[j], offset) for offset in of_b.offset)
            if found[0] <= most_errors:
                rows.append((i, int(j), found[0], found[1] * HOP / RATE, found[2] * HOP / RATE))
    table = pd.DataFrame(rows, columns=["a", "b", "errors", "seconds", "offset"])
    return table.sort_values("errors", kind="stable", ignore_index=True)


def _compare(a: np.ndarray, b: np.ndarray, offset: int) -> tuple[float, int, int]:
    """Share of differing bits with b starting at frame `offset` of a (1 if too little overlaps), frames, offset."""
    start, stop = max(0, offset), min(len(a), offset + len(b))
    x, y = a[start:stop], b[start - offset : stop - offset]
    both = (x != 0) & (y != 0)
    frames = int(both.sum())
    if frames < max(LEAST_FRAMES, 0.8 * min(np.count_nonzero(a), np.count_nonzero(b))):
        return 1.0, frames, offset
    differing = np.unpackbits((x[both] ^ y[both]).view(np.uint8)).sum()
    return float(differing) / (32 * frames), frames, offset
