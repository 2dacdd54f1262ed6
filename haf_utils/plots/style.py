"""The look of every figure, and the pictures that several notebooks draw.

A figure's title states its finding; axes carry units; classes are coloured by top level and read in grey as well, since
the five colours differ in lightness too.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from haf_utils.io.files import atomic_write
from haf_utils.metrics import confusion
from haf_utils.taxonomy import CLASSES, NAMES, PARENT, TOP_LEVELS, TOP_NAMES

__all__ = [
    "AUDIO",
    "CLASS_COLOURS",
    "COLOURS",
    "TEXT",
    "colour_labels",
    "confusion_matrix",
    "frame_top_levels",
    "learning_curves",
    "per_class_bars",
    "save",
    "style",
    "top_level_legend",
]

# One colour a top level (Okabe and Ito's colour-blind safe set), ordered so that lightness differs between neighbours.
COLOURS: dict[str, str] = {"m": "#0072B2", "is": "#E69F00", "sp": "#882255", "fx": "#009E73", "ss": "#56B4E9"}
CLASS_COLOURS: dict[str, str] = {code: COLOURS[code.split("-")[0]] for code in CLASSES}
AUDIO, TEXT = COLOURS["fx"], COLOURS["sp"]  # colours of the two modalities


def style() -> None:
    """Set the look of all figures; each notebook calls it once."""
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.85)
    plt.rcParams |= {
        "figure.dpi": 80,
        "savefig.dpi": 120,
        "savefig.bbox": "tight",
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "figure.constrained_layout.use": True,
    }


def save(figure: Figure, folder: str | Path, name: str) -> Figure:
    """Write `figure` to `<folder>/<name>.png` atomically and return it, for the notebook to show."""
    # Without the software's version in the file, the same figure gives the same bytes.
    atomic_write(Path(folder) / f"{name}.png", lambda path: figure.savefig(path, metadata={"Software": None}))
    return figure


def colour_labels(labels) -> None:
    """Colour tick labels that start with a class code or a top-level code by their top level."""
    for label in labels:
        top = label.get_text().split(" ")[0].split("-")[0]
        if top in COLOURS:
            label.set_color(COLOURS[top])
            label.set_fontweight("bold")


def top_level_legend(axes: Axes, **options) -> None:
    """A legend of the five top levels and their colours."""
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[top]) for top in TOP_LEVELS]
    axes.legend(handles, [TOP_NAMES[top] for top in TOP_LEVELS], **({"frameon": False, "fontsize": "small"} | options))


def frame_top_levels(axes: Axes, corner: float = 0.0) -> None:
    """Frame the classes of each top level on a (23, 23) matrix whose first cell begins at (`corner`, `corner`)."""
    for parent, top in enumerate(TOP_LEVELS):
        inside = np.flatnonzero(parent == PARENT)
        place, size = (inside[0] + corner,) * 2, len(inside)
        axes.add_patch(Rectangle(place, size, size, fill=False, lw=2.5, ec=COLOURS[top], clip_on=False, zorder=3))


def confusion_matrix(y_true, y_pred, title: str = "") -> Figure:
    """Confusion matrix in taxonomy order, rows normalised to the clips of the true class, top levels framed.

    What lies inside a frame has the right parent. y_true, y_pred: labels or codes (N,). Empty rows: no such clip.
    """
    counts = confusion(y_true, y_pred)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(8.6, 7.6))
    sns.heatmap(
        pd.DataFrame(100 * share, CLASSES, CLASSES),
        ax=axes,
        cmap="Greys",
        vmin=0,
        vmax=100,
        square=True,
        linewidths=0.3,
        linecolor="0.9",
        annot=np.where(share >= 0.05, np.round(100 * share).astype(int).astype(str), ""),
        fmt="",
        annot_kws={"fontsize": 7},
        cbar_kws={"label": "share of the true class (%)", "shrink": 0.6},
    )
    frame_top_levels(axes)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)  # otherwise seaborn rotates them depending on the room
    colour_labels([*axes.get_xticklabels(), *axes.get_yticklabels()])
    return figure


def learning_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Training loss and validation hF by epoch, from a run's history.csv (columns loss, validation_hF, …)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot(history["epoch"], history["loss"], color="0.2", marker=".", label="training (soft targets)")
    left.plot(
        history["epoch"], history["validation_loss"], color="0.55", ls="--", marker=".", label="validation (true class)"
    )
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    left.legend(frameon=False)
    best = history["validation_hF"].idxmax()
    right.plot(history["epoch"], 100 * history["validation_hF"], color="0.2", marker=".", label="hF")
    right.plot(
        history["epoch"], 100 * history["validation_accuracy"], color="0.55", ls="--", marker=".", label="accuracy"
    )
    right.plot(history["epoch"][best], 100 * history["validation_hF"][best], "o", color="0.2", label="best, kept")
    right.set(xlabel="epoch", ylabel="on validation clips (%)")
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def per_class_bars(values: pd.Series, title: str = "", label: str = "hF (%)", low=None, high=None) -> Figure:
    """Horizontal bars, one a class in taxonomy order, coloured by top level. values: Series by code, NaN = no clip;
    low, high: ends of intervals, Series by code, or None."""
    figure, axes = plt.subplots(figsize=(7.5, 5.6))
    places = np.arange(len(CLASSES))[::-1]
    numbers = values.reindex(CLASSES).to_numpy(dtype=float)
    axes.barh(places, numbers, color=[CLASS_COLOURS[code] for code in CLASSES], height=0.75)
    if low is not None and high is not None:
        ends = np.array([low.reindex(CLASSES), high.reindex(CLASSES)], dtype=float)
        axes.errorbar(numbers, places, xerr=np.abs(ends - numbers), fmt="none", ecolor="0.2", elinewidth=1)
    axes.set_yticks(places, [f"{code}  {NAMES[code]}" for code in CLASSES])
    axes.set(xlabel=label, title=title, ylim=(-0.7, len(CLASSES) - 0.3))
    axes.grid(axis="y", visible=False)
    top_level_legend(axes, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
