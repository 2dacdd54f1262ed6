"""Measurements of a dataset's clips and labels, and the figures of notebooks 01 and 02.

Nothing here needs a network. Only the first `EXCERPT_SECONDS` of a recording are decoded, to bound time and memory.
"""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soxr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from haf_utils.folds import grouped_folds, official_folds
from haf_utils.io import third_party
from haf_utils.io.decoding import decoded
from haf_utils.io.progress import bar
from haf_utils.io.recordings import AudioError, decode, header
from haf_utils.plots.style import CLASS_COLOURS, COLOURS, colour_labels
from haf_utils.taxonomy import CLASSES, NAMES, PARENT, TOP_LEVELS

__all__ = ["class_axis", "clip_figure", "concentration", "draw_spectrogram", "drawable", "folds_to_show", "gap_figure",
           "headers", "levels", "load_excerpt", "mel_decibels", "sound_profile"]  # fmt: skip

EXCERPT_SECONDS = 30.0  # BSD's clips are no longer
MEL_RATE, WINDOW, HOP = 32_000, 1280, 320  # Hz; samples: windows of 40 ms, every 10 ms
BANDS, LOW, HIGH = 64, 50.0, 14_000.0  # CLAP's mel bands (Slaney) and their range in Hz
FLOOR = -80.0  # dB relative to a clip's loudest band and frame
SILENCE = 1e-6  # mel power that counts as silence: far below the rounding of 16 bits
MEL_COLOURS = {"cmap": "magma", "vmin": FLOOR, "vmax": 0, "interpolation": "nearest"}


def folds_to_show(table: pd.DataFrame, seed: int = 0) -> tuple[list, str]:
    """Folds without shared uploaders and ""; where uploaders are too few, the official folds and a note about it."""
    try:
        return grouped_folds(table, seed), ""
    except ValueError as error:
        return official_folds(table.label), f"{error}. Below, the official folds stand in their place."


def headers(paths: Iterable) -> pd.DataFrame:
    """Headers of recordings: a row a path with seconds, rate (Hz), channels; NaN where no file can be read."""

    def read(path) -> tuple[float, float, float]:
        try:
            return header(path)
        except AudioError:
            return np.nan, np.nan, np.nan

    paths = list(paths)
    rows = list(bar(decoded(read, paths), total=len(paths), description="headers"))
    return pd.DataFrame(rows, columns=["seconds", "rate", "channels"], dtype=float)


def load_excerpt(path, seconds: float = EXCERPT_SECONDS) -> tuple[np.ndarray, int]:
    """The first `seconds` of a recording, mono float32 (n,), n >= 1, and its rate in Hz. Raises AudioError."""
    return decode(path, seconds)


def levels(samples: np.ndarray) -> tuple[float, float]:
    """Peak and RMS of samples in [-1, 1], each as a level in dBFS: 0 at full scale, -120 for silence."""
    peak, rms = np.abs(samples).max(), np.sqrt(np.square(samples, dtype=np.float64).mean())
    return 20 * np.log10(max(peak, 1e-6)), 20 * np.log10(max(rms, 1e-6))


def mel_decibels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (n,) at `rate` Hz -> mel spectrogram (64, 1 + 100 n / rate), float32: dB relative to its largest value.
    100 frames a second, values from -80 to 0; silence and bands above half of `rate` lie at -80."""
    librosa = third_party.librosa()
    # Padded by half a window at either end, so that the shortest clip has a frame.
    samples = np.pad(soxr.resample(samples, rate, MEL_RATE), WINDOW // 2)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=MEL_RATE, n_fft=WINDOW, hop_length=HOP, center=False, n_mels=BANDS, fmin=LOW, fmax=HIGH
    )
    return np.maximum(librosa.power_to_db(mel, ref=max(mel.max(), SILENCE), amin=1e-20, top_db=None), FLOOR)


def sound_profile(mel: np.ndarray) -> np.ndarray:
    """Mel spectrogram in dB (64, frames) -> (194,): mean, deviation over time and mean step of each band, logarithm of
    the number of frames, deviation of the loudness over time. Features of a sound without training."""
    steps = np.abs(np.diff(mel, axis=1)).mean(1) if mel.shape[1] > 1 else np.zeros(len(mel))
    return np.concatenate([mel.mean(1), mel.std(1), steps, [np.log(mel.shape[1]), mel.mean(0).std()]])


def concentration(table: pd.DataFrame) -> pd.DataFrame:
    """Concentration of each class on few uploaders: a row a class that occurs, indexed by code, taxonomy order.

    clips; uploaders; largest, the share of the uploader with most clips, in [0, 1]; five_largest; effective, the
    number of equally busy uploaders that would be as diverse (exponential of the Shannon entropy, Hill number of
    order 1). A clip without an uploader counts as an uploader of its own.
    """
    uploader, rows = table["uploader"].where(table["uploader"] != "", "clip " + table["sound_id"]), {}
    for code, names in uploader.groupby(table["code"]):
        share = names.value_counts(normalize=True).to_numpy()
        effective = np.exp(-(share * np.log(share)).sum())
        rows[code] = {"clips": len(names), "uploaders": len(share)}
        rows[code] |= {"largest": share[0], "five_largest": share[:5].sum(), "effective": effective}
    return pd.DataFrame.from_dict(rows, orient="index").reindex([code for code in CLASSES if code in rows])


def class_axis(axes: Axes, names: bool = True) -> np.ndarray:
    """Classes from top to bottom in taxonomy order, top levels as bands -> y coordinate of each class (23,)."""
    places = -(np.arange(len(CLASSES)) + 0.6 * PARENT)  # a gap between top levels
    axes.set_yticks(places, [f"{NAMES[code]} ({code})" if names else code for code in CLASSES])
    axes.set_ylim(places[-1] - 0.7, 0.7)
    axes.grid(axis="y", visible=False)
    for parent, top in enumerate(TOP_LEVELS):
        inside = places[parent == PARENT]
        axes.axhspan(inside.min() - 0.55, inside.max() + 0.55, color=COLOURS[top], alpha=0.07, lw=0, zorder=0)
    colour_labels(axes.get_yticklabels())
    axes.tick_params(axis="y", labelsize="small")
    return places


def draw_spectrogram(axes: Axes, samples: np.ndarray, rate: int, title: str = "") -> None:
    """Draw the `mel_decibels` of float samples (n,) at `rate` Hz, over seconds and kHz (mel scale)."""
    extent = (0, len(samples) / rate, -0.5, BANDS - 0.5)
    axes.imshow(mel_decibels(samples, rate), origin="lower", aspect="auto", extent=extent, **MEL_COLOURS)
    centres = third_party.librosa().mel_frequencies(BANDS + 2, fmin=LOW, fmax=HIGH)[1:-1]
    ticks = [100, 500, 1000, 2000, 4000, 8000]
    axes.set_yticks(np.interp(ticks, centres, range(BANDS)), [f"{tick / 1000:g}" for tick in ticks])
    axes.set(xlabel="time (s)", ylabel="frequency (kHz)")
    axes.set_title(drawable(title), fontsize="small")
    axes.grid(visible=False)


def clip_figure(clip: pd.Series, samples: np.ndarray | None, rate: int) -> Figure:
    """One clip: waveform, spectrogram and metadata; `clip` is a row of the clips table, samples None = no audio."""
    figure = plt.figure(figsize=(10, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(2, 1), height_ratios=(1, 2))
    wave, spectrogram = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    card = figure.add_subplot(grid[:, 1])
    card.axis("off")
    text = drawable("\n".join(f"{name}: {value}" for name, value in describe(clip).items()))
    card.text(0, 1, text, va="top", fontsize="small", wrap=True, transform=card.transAxes)
    if samples is None:
        for axes in (wave, spectrogram):
            axes.set(xticks=[], yticks=[])
            axes.annotate("no audio", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.4")
    else:
        end = len(samples) / rate
        colour = CLASS_COLOURS.get(clip["code"], "0.4")
        # Minimum and maximum of short stretches, since a clip has more samples than the figure has pixels.
        stretches = np.array_split(samples, min(len(samples), 1200))
        low, high = [part.min() for part in stretches], [part.max() for part in stretches]
        wave.fill_between(np.linspace(0, end, len(stretches)), low, high, color=colour, lw=0.6, ec=colour)
        wave.set(xlim=(0, end), ylim=(-1.05, 1.05), ylabel="amplitude")
        wave.tick_params(labelbottom=False)
        draw_spectrogram(spectrogram, samples, rate)
    name = f"{NAMES[clip['code']]} ({clip['code']})" if clip["code"] in NAMES else "class unknown"
    figure.suptitle(drawable(f"Clip {clip['sound_id']}: {name}"), x=0.01, ha="left", weight="bold")
    return figure


def drawable(text: str) -> str:
    """Text of strangers for a figure: no formula, and a box for each character that the font lacks."""
    font = get_font(findfont("DejaVu Sans"))  # comes with matplotlib
    drawn = "".join(sign if sign == "\n" or font.get_char_index(ord(sign)) else "□" for sign in text)
    return drawn.replace("$", r"\$")


def describe(clip: pd.Series, width: int = 240) -> dict[str, str]:
    """Metadata of a clip to be shown, name -> text of at most `width` characters."""
    shown = {}
    for name in ("title", "tags", "description", "uploader", "confidence", "license", "text"):
        value = clip.get(name, "")
        words = f"{value:g}" if isinstance(value, float) else str(value)
        value = "" if value is None or value != value else " ".join(words.split())  # NaN differs from itself
        shown[name] = (value[: width - 1] + "…" if len(value) > width else value) or "(none)"
    return shown


def gap_figure(high: pd.Series, low: pd.Series, names: tuple[str, str], label: str, title: str = "") -> Figure:
    """Two scores of each class and the gap between them. high, low: Series by code, NaN = no clip."""
    figure, axes = plt.subplots(figsize=(8, 5.4))
    places = class_axis(axes)
    first, second = (values.reindex(CLASSES).to_numpy(dtype=float) for values in (high, low))
    colours = list(CLASS_COLOURS.values())
    axes.hlines(places, first, second, color=colours, lw=3, alpha=0.5)
    axes.scatter(first, places, c=colours, s=40, label=names[0], zorder=3)
    axes.scatter(second, places, facecolors="white", edgecolors=colours, s=40, lw=1.6, label=names[1], zorder=3)
    axes.set(xlabel=label, xlim=(-2, 102), title=title)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")
    for handle, face in zip(legend.legend_handles, ("0.3", "white"), strict=True):
        handle.set(facecolor=face, edgecolor="0.3")
    return figure
