"""Figures of `benchmarks`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

__all__ = ["growth_figure", "ratio_figure"]


def ratio_figure(table: pd.DataFrame, about: dict) -> Figure:
    """A bar a row: how many times as fast (median; whisker: lowest to highest round); a stroke: the target.

    table: columns of figures/bench.csv, from which the figure can be drawn again; about: cpu and threads.
    """
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.42 * len(table)))
    places = np.arange(len(table))[::-1]
    target = pd.to_numeric(table["target"])
    for place, row, aim in zip(places, table.itertuples(), target, strict=True):
        low, high = map(float, row.spread.split(" – "))
        colour = {"yes": "#009E73", "no": "#D55E00"}.get(row.reached, "0.65")
        axes.barh(place, float(row.ratio), color=colour, height=0.6)
        axes.plot([low, high], [place, place], color="0.15", lw=1.2)
        if pd.notna(aim):
            axes.plot([aim] * 2, [place - 0.42, place + 0.42], color="0.15", lw=2)
        beside = 1.07 * np.nanmax([high, aim])
        lines_off = {"fc": "white", "ec": "none", "pad": 1}
        axes.text(beside, place, f"{float(row.ratio):.3g} ×", va="center", fontsize="small", bbox=lines_off)
    axes.set_yticks(places, [f"{row.work}\nagainst {row.against}" for row in table.itertuples()], fontsize="small")
    axes.set(xscale="log", xlabel=f"times as fast ({about['cpu']}, {about['threads']} threads)")
    axes.set_xlim(right=axes.get_xlim()[1] * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.axvline(1, color="0.15", lw=0.8)
    axes.grid(axis="y", visible=False)
    judged, reached = target.notna().sum(), (table["reached"] == "yes").sum()
    title = f"{reached} of {judged} speed targets (strokes) are reached" if judged else "A rough look at the speed"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def growth_figure(grown: pd.DataFrame) -> Figure:
    """Time and memory by the number of clips, for the audio store and a training epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, colour, style in (("store", "#0072B2", "o-"), ("epoch", "#E69F00", "s--")):
        label = {"store": "building the audio store", "epoch": "a joint training epoch"}[name]
        left.plot(grown["clips"], 1000 * grown[f"{name}_seconds"] / grown["clips"], style, color=colour, label=label)
        right.plot(grown["clips"], grown[f"{name}_memory_MB"], style, color=colour, label=label)
    left.set(ylabel="milliseconds a clip", ylim=(0, None))
    right.set(ylabel="memory of the process (MB)", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="clips", xscale="log")
        axes.set_xticks(grown["clips"], [f"{clips:,}" for clips in grown["clips"]])
        axes.minorticks_off()
    left.legend(frameon=False)
    more = grown["clips"].iloc[-1] / grown["clips"].iloc[0]
    memory = grown["epoch_memory_MB"].iloc[-1] / grown["epoch_memory_MB"].iloc[0]
    figure.suptitle(f"{more:.0f} × the clips: memory × {memory:.2f}", x=0.01, ha="left", weight="bold")
    return figure
