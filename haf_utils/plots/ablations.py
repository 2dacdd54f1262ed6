"""Figures of ablations: differences with their intervals, and the severity of errors."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from haf_utils.statistics import decimals

__all__ = ["forest", "severity_bars"]

_UP, _DOWN, _OPEN = "#0072B2", "#D55E00", "0.55"  # above zero, below zero, covers zero


def forest(
    groups: Mapping[str, pd.DataFrame], title: str = "", label: str = "difference in hF (points)", reach: float = np.inf
) -> Figure:
    """Forest plot: a row a variant with its difference and 95 % interval, under a heading a group.

    groups: heading -> DataFrame indexed by variant with estimate, low, high (fractions) and p_value (McNemar).
    Filled markers: the interval excludes zero; hollow grey ones: it covers zero. reach: the axis ends at most this many
    points from zero, and an estimate beyond is a triangle at its end.
    """
    rows = sum(len(table) + 1.4 for table in groups.values())
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.27 * rows))
    place, ticks, names = 0.0, [], []
    right = axes.get_yaxis_transform()  # x in shares of the axes, y in data

    def write(height: float, text: str, points: float, **look) -> None:
        """Text in a column, `points` to the right of the axes."""
        where = {"xycoords": right, "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(text, (1, height), (points, 0), va="center", fontsize=8, **where, **look)

    for heading, table in groups.items():
        axes.text(-0.01, place, heading, transform=right, ha="right", va="center", weight="bold", fontsize=9)
        place += 1
        for name, row in table.iterrows():
            estimate, low, high = 100 * row["estimate"], 100 * row["low"], 100 * row["high"]
            significant = low > 0 or high < 0
            colour = (_UP if low > 0 else _DOWN) if significant else _OPEN
            axes.plot([low, high], [place, place], color=colour, lw=2.2 if significant else 1.4, solid_capstyle="butt")
            marker = "o" if abs(estimate) <= reach else "<" if estimate < 0 else ">"
            fill = colour if significant else "white"
            axes.plot(np.clip(estimate, -reach, reach), place, marker, ms=6, mec=colour, mfc=fill, clip_on=False)
            digits = decimals(low, high)
            write(place, f"{estimate:+z5.1f}  [{low:+z.{digits}f}, {high:+z.{digits}f}]", 8, family="monospace")
            p_value = "<.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}".lstrip("0")
            write(place, p_value, 145, family="monospace")
            ticks.append(place)
            names.append(str(name))
            place += 1
        place += 0.4
    write(-0.9, "estimate [95 % interval]", 8, weight="bold")
    write(-0.9, "McNemar p", 145, weight="bold")
    axes.axvline(0, color="0.2", lw=1)
    left, right_end = axes.get_xlim()
    axes.set_yticks(ticks, names)
    axes.set(xlim=(max(left, -reach), min(right_end, reach)), ylim=(place, -1.3), xlabel=label, title=title)
    axes.grid(axis="y", visible=False)
    return figure


def severity_bars(table: pd.DataFrame, title: str = "") -> Figure:
    """Stacked bars, one a system: clips classified wrongly inside the right parent, and under a wrong one. table:
    indexed by system, columns right_parent and wrong_parent, fractions of all clips (`metrics.error_severity`)."""
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(table)))
    places = np.arange(len(table))[::-1]
    inside, outside = 100 * table["right_parent"].to_numpy(), 100 * table["wrong_parent"].to_numpy()
    wrong = inside + outside
    axes.barh(places, inside, color="#56B4E9", label="wrong class, right parent", height=0.7)
    axes.barh(places, outside, left=inside, color="#882255", label="wrong parent", height=0.7)
    shares = zip(inside, wrong, strict=True)
    labels = [f"{100 * part / both:.0f} % inside" if both else "no errors" for part, both in shares]
    axes.bar_label(axes.containers[1], labels, padding=5, fontsize=8)
    axes.set_yticks(places, table.index)
    axes.set(xlabel="share of all clips (%)", title=title, xlim=(0, 1.25 * max(wrong.max(), 1)))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
