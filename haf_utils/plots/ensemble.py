"""Pictures of ensembles: the scores of all subsets, and the predictions of members for one clip."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from haf_utils.audio import to_float
from haf_utils.plots.data import class_axis, draw_spectrogram, drawable
from haf_utils.plots.style import AUDIO, CLASS_COLOURS, COLOURS, INK, TEXT
from haf_utils.taxonomy import CLASSES, NAMES, PARENT, TOP_LEVELS

__all__ = ["posterior_card", "subset_scores"]


def subset_scores(table: pd.DataFrame, kinds: Sequence[str], chosen: Sequence[tuple[str, int, float]]) -> Figure:
    """hF of every subset over its size. table: as `ensembles.subsets` gives it; kinds: kind of each member; chosen:
    (name, M, hF in [0, 1]) of the systems to be marked. Colour and shape: how many kinds a subset mixes."""
    mixed = np.array([len({kinds[member] for member in members}) for members in table["members"]])
    places = table["M"] + np.random.default_rng(0).uniform(-0.25, 0.25, len(table))
    figure, axes = plt.subplots(figsize=(8.4, 4.2))
    looks = (
        {"fc": "none", "ec": "0.5", "marker": "o"},
        {"color": COLOURS["is"], "marker": "x"},
        {"color": COLOURS["m"], "marker": "o"},
    )
    for number in sorted(set(mixed)):
        rows = mixed == number
        look = looks[min(number, 3) - 1] | {"label": f"{number} kind{'s' if number > 1 else ''} of model"}
        axes.scatter(places[rows], 100 * table["hF"][rows], s=18, alpha=0.8, **look)
    mean = table.groupby("M")["hF"].mean()
    axes.plot(mean.index, 100 * mean, color="0.2", lw=1.5, label="mean")
    marked: list[float] = []
    for (name, members, score), marker in zip(chosen, "Ds^P*", strict=False):
        marked.append(100 * score)
        axes.scatter(members, marked[-1], s=90, marker=marker, fc="none", ec="0.1", lw=1.6, label=name, zorder=3)
    # A member far below all others is cut off, to leave room for the differences between ensembles.
    lowest = 100 * min(table.loc[table["M"] > 1, "hF"].quantile(0.02), table["hF"].quantile(0.1))
    lowest = min([lowest, *marked]) - 1
    below = int((100 * table["hF"] < lowest).sum())
    axes.set(xlabel="members M", ylabel="hF on test clips (%)", xticks=sorted(set(table["M"])))
    axes.set_ylim(bottom=lowest)
    if below:
        axes.text(0.99, 0.02, f"{below} below", transform=axes.transAxes, ha="right", fontsize="small", color="0.3")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def posterior_card(
    posterior: np.ndarray,
    members: pd.DataFrame,
    weights: pd.DataFrame,
    label: int,
    title: str = "",
    samples: np.ndarray | None = None,
    rate: int = 0,
) -> Figure:
    """One clip: its spectrogram, the ensemble's posterior by top level, each member's decision and fusion weights.

    posterior (23,); members: posteriors, a row a member, a column a class code; weights: columns audio, text, of the
    members' fusion; label 0..22, -1 unknown; int16 samples (n,) at `rate` Hz, None: no audio.
    """
    figure = plt.figure(figsize=(12.5, 6.6))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1), height_ratios=(1, 1.15))
    sound, bars = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[:, 1])
    decisions = figure.add_subplot(grid[1, 0])
    if samples is None:
        sound.axis("off")
        sound.text(0.5, 0.5, "no audio in this dataset", ha="center")
    else:
        draw_spectrogram(sound, to_float(samples), rate)

    places = class_axis(bars)
    bars.barh(places, 100 * posterior, color=list(CLASS_COLOURS.values()), height=0.8)
    if label >= 0:
        bars.get_yticklabels()[label].set_bbox({"fc": "none", "ec": "0.2", "pad": 1.5})
    bars.set(xlim=(0, 100), xlabel="posterior of the ensemble (%); at the right, of each top level")
    for parent, top in enumerate(TOP_LEVELS):
        inside = parent == PARENT
        share = f"{100 * posterior[inside].sum():.0f} %"
        bars.text(99, places[inside].mean(), share, ha="right", va="center", color=INK[top], weight="bold")

    for row, (name, values) in enumerate(members.iterrows()):
        best = values.idxmax()
        audio, text = weights.loc[name, ["audio", "text"]]
        decisions.barh(-row, audio, color=AUDIO, height=0.6)
        decisions.barh(-row, text, left=audio, color=TEXT, height=0.6)
        right = label >= 0 and best == CLASSES[label]
        said = f"{100 * values[best]:.0f} % {NAMES[best]}{'  ✓' * right}"
        decisions.text(1.03, -row, said, va="center", fontsize="small")
    decisions.set_yticks(-np.arange(len(members)), members.index, fontsize="small")
    decisions.set(xlim=(0, 2.9), xticks=(0, 0.5, 1), xlabel="fusion weights: audio (left), text (right); class")
    decisions.grid(visible=False)
    figure.suptitle(drawable(title), x=0.01, ha="left", weight="bold")
    return figure
