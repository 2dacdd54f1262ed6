"""Figures of fine-tuning: the model, its targets, mixup, the moving average, the fusion and calibration."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from haf_utils.plots.style import AUDIO, CLASS_COLOURS, COLOURS, TEXT, colour_labels, frame_top_levels, top_level_legend
from haf_utils.taxonomy import CLASSES, PARENT

__all__ = ["calibration", "ema_curves", "fusion_weights", "mixup_picture", "model_drawing", "target_maps"]

PLAIN = "0.35"  # colour of what is neither audio nor text
SHOWN = 64  # dimensions of an embedding in the picture of mixup


def model_drawing(
    embedding: int,
    latent: int,
    parameters: dict[str, int],
    modality: str = "both",
    fusion: str = "attention",
    gating: bool = True,
    dropout: float = 0.3,
    title: str = "",
) -> Figure:
    """HAF-CLAP as boxes, with the shapes of what flows between them (B clips a batch).

    parameters: number of weights of the parts "audio", "text", "fusion", "classifier"; a part that `modality` leaves
    out is drawn in pale grey.
    """
    figure, axes = plt.subplots(figsize=(11, 3.7))
    axes.set(xlim=(0, 110), ylim=(0, 37), title=title)
    axes.axis("off")

    def box(x, y, width, height, text, colour):
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.4", fc="white", ec=colour, lw=1.8))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color="0.15")

    def arrow(x, y, to_x, to_y, colour, shape="", right=0.0, up=1.2):
        axes.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.5})
        if shape:
            axes.text((x + to_x) / 2 + right, (y + to_y) / 2 + up, shape, ha="center", fontsize=8, color=colour)

    refine = f"{'gate × ' if gating else ''}MLP\n+ residual, norm"
    rows = {"audio": (25, AUDIO, "waveform", "HTSAT"), "text": (5, TEXT, "title, tags,\ndescription", "RoBERTa")}
    for name, (y, colour, given, encoder) in rows.items():
        colour = colour if modality in ("both", name) else "0.8"
        box(1, y, 11, 7, given, colour)
        box(18, y, 11, 7, f"CLAP\n{encoder}", colour)
        box(39, y, 13, 7, f"projection\ndropout {dropout:g}", colour)
        box(60, y, 14, 7, refine, colour)
        arrow(12.6, y + 3.5, 17.4, y + 3.5, colour)
        arrow(29.6, y + 3.5, 38.4, y + 3.5, colour, f"B × {embedding}")
        arrow(52.6, y + 3.5, 59.4, y + 3.5, colour, f"B × {latent}")
        above = name == "audio"
        arrow(74.6, y + 3.5, 81.2, 20.5 if above else 17.5, colour, f"B × {latent}", 4.4 if above else -4.4, 0.6)
        if modality in ("both", name):
            axes.text(56, y - 2.6, f"{parameters[name]:,} weights", fontsize=8, color=colour, ha="center")
    single = {"audio": "audio alone", "text": "text alone"}
    box(82, 15.5, 9, 7, single.get(modality, fusion.replace("concatenation", "concat-\nenation")), PLAIN)
    box(99, 15.5, 9.5, 7, "linear\n23 classes", PLAIN)
    arrow(91.6, 19, 98.4, 19, PLAIN, f"B × {latent}")
    axes.text(86.5, 12.4, f"{parameters['fusion']:,}", fontsize=8, color=PLAIN, ha="center")
    axes.text(103.7, 12.4, f"{parameters['classifier']:,}", fontsize=8, color=PLAIN, ha="center")
    if modality == "both":
        axes.text(34, 18.8, "mixup and noise act on both embeddings", fontsize=9, style="italic", ha="center")
        for end, start in ((27.5, 21), (11.5, 18)):
            axes.annotate("", (34, end), (34, start), arrowprops={"arrowstyle": "->", "color": "0.5"})
        pointer = {"arrowstyle": "->", "color": TEXT}
        axes.annotate("no text? weight 0", (84, 14.8), (77, 7), fontsize=8, color=TEXT, arrowprops=pointer)
    return figure


def target_maps(targets: dict[str, np.ndarray], title: str = "") -> Figure:
    """Target distributions side by side, a heat map each: row = class of the clip, column = probability mass.

    targets: name -> (23, 23), rows sum to 1. Top levels are framed; the colour scale ends above the largest mass on
    another class, since the mass on the class itself would hide the others.
    """
    figure, axes = plt.subplots(1, len(targets), figsize=(4.1 * len(targets), 4.3), sharey=True, squeeze=False)
    off = ~np.eye(len(CLASSES), dtype=bool)
    top = 1.6 * max(max(values[off].max() for values in targets.values()), 1e-3)
    for panel, (name, values) in zip(axes[0], targets.items(), strict=True):
        image = panel.imshow(values, cmap="Greys", vmin=0, vmax=top)
        frame_top_levels(panel, -0.5)
        inside_mass = np.mean([values[row][PARENT == PARENT[row]].sum() for row in range(len(CLASSES))])
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(f"{100 * inside_mass:.1f} % of the mass under the right parent", fontsize=8)
        panel.set_xticks(range(len(CLASSES)), CLASSES, rotation=90, fontsize=8)
        panel.set_yticks(range(len(CLASSES)), CLASSES, fontsize=8)
        panel.grid(visible=False)
        colour_labels([*panel.get_xticklabels(), *panel.get_yticklabels()])
    axes[0, 0].set_ylabel("class of the clip")
    figure.colorbar(image, ax=axes[0], shrink=0.7, label=f"target (black: {top:.2g} and more)")
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def mixup_picture(
    names: Sequence[str], audio: np.ndarray, text: np.ndarray, presence: np.ndarray, target: np.ndarray, title: str = ""
) -> Figure:
    """The effect of mixup, a row a clip: its embeddings as stripes, its presence of text, and its target as bars.

    names: of R rows; audio, text (R, E), presence (R,), target (R, 23).
    """
    rows, shown = len(names), min(SHOWN, audio.shape[1])
    size, widths = (11, 1.25 * rows + 0.7), (4, 4, 0.7, 5)
    figure, axes = plt.subplots(rows, 4, figsize=size, width_ratios=widths, squeeze=False)
    scale = np.abs(np.concatenate([audio[:, :SHOWN], text[:, :SHOWN]])).max()
    for row in range(rows):
        for column, values in ((0, audio), (1, text)):
            panel = axes[row, column]
            panel.imshow(values[row, None, :SHOWN], aspect="auto", cmap="RdBu_r", vmin=-scale, vmax=scale)
            panel.set(xticks=[], yticks=[])
            panel.grid(visible=False)
        axes[row, 0].set_ylabel(names[row], rotation=0, ha="right", va="center", fontsize=9)
        axes[row, 2].bar([0], [presence[row]], color=TEXT, width=0.6)
        axes[row, 2].set(ylim=(0, 1), xlim=(-0.6, 0.6), xticks=[])
        axes[row, 2].set_yticks([0, 1], ["0", "1"], fontsize=8)
        axes[row, 3].bar(range(len(CLASSES)), target[row], color=[CLASS_COLOURS[code] for code in CLASSES])
        axes[row, 3].set(ylim=(0, 1), xlim=(-0.7, len(CLASSES) - 0.3))
        axes[row, 3].set_yticks([0, 1], ["0", "1"], fontsize=8)
        axes[row, 3].set_xticks([])
        axes[row, 3].grid(visible=False)
    headings = f"audio embedding ({shown} of {audio.shape[1]})", f"text embedding ({shown})", "text?", "target"
    for panel, heading in zip(axes[0], headings, strict=True):
        panel.set_title(heading, fontsize=9, loc="center", weight="normal")
    axes[-1, 3].set_xticks(range(len(CLASSES)), CLASSES, rotation=90, fontsize=8)
    colour_labels(axes[-1, 3].get_xticklabels())
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def ema_curves(steps: pd.DataFrame, title: str = "") -> Figure:
    """Scores of the raw weights and of their moving average (EMA), by training step.

    steps: columns step, and raw_loss, ema_loss (nats), raw_hF, ema_hF (fractions) on validation clips.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    scores = ("loss", 1, "validation cross-entropy (nats)"), ("hF", 100, "validation hF (%)")
    for panel, (name, factor, label) in zip(axes, scores, strict=True):
        panel.plot(steps["step"], factor * steps[f"raw_{name}"], color="0.6", lw=1, label="raw weights")
        panel.plot(steps["step"], factor * steps[f"ema_{name}"], color=COLOURS["m"], lw=2, label="their average")
        panel.set(xlabel="training step", ylabel=label)
        panel.legend(frameon=False)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def fusion_weights(weights: np.ndarray, labels: np.ndarray, presence: np.ndarray, title: str = "") -> Figure:
    """The fusion weight of the text: a dot a clip, classes in taxonomy order.

    weights (N, 2) of audio and text, labels (N,), presence (N,): 0 where a clip has no text. A bar is the median of
    the clips with text; clips without are hollow and lie at 0.
    """
    figure, axes = plt.subplots(figsize=(10, 3.6))
    rng = np.random.default_rng(0)
    for label, code in enumerate(CLASSES):
        members = labels == label
        place = label + rng.uniform(-0.3, 0.3, members.sum())
        has_text = presence[members] > 0
        share = 100 * weights[members, 1]
        axes.plot(place[has_text], share[has_text], "o", ms=3.5, color=CLASS_COLOURS[code], alpha=0.75, mew=0)
        axes.plot(place[~has_text], share[~has_text], "o", ms=3.5, mfc="none", mec=CLASS_COLOURS[code])
        if has_text.any():
            axes.plot([label - 0.38, label + 0.38], [np.median(share[has_text])] * 2, color="0.15", lw=2)
    axes.axhline(50, color="0.6", lw=1, ls=":")
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=90)
    axes.set(ylim=(-3, 103), xlim=(-0.7, len(CLASSES) - 0.3), ylabel="weight of the text (%)", title=title)
    axes.grid(axis="x", visible=False)
    colour_labels(axes.get_xticklabels())
    top_level_legend(axes, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def calibration(tables: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Reliability diagram: accuracy of clips by the model's confidence in them, with their number below.

    tables: name -> table of `metrics.expected_calibration_error`, at most three.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.6, 5.2), sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    above.plot([0, 1], [0, 1], color="0.6", lw=1, ls=":")
    below.set_ylabel("clips")
    width = 0.9 / max(len(tables), 1)
    looks = (COLOURS["m"], "-"), (COLOURS["is"], "--"), ("0.5", ":")
    for number, ((name, table), (colour, style)) in enumerate(zip(tables.items(), looks, strict=False)):
        above.plot(table["confidence"], table["accuracy"], ls=style, marker="o", ms=4, color=colour, label=name)
        bins = table["high"] - table["low"]
        below.bar(table["low"] + bins * (0.05 + width * (number + 0.5)), table["clips"], bins * width, color=colour)
    above.text(0.04, 0.93, "above the line: too modest", fontsize=8, color="0.4", transform=above.transAxes)
    above.text(0.96, 0.05, "below: too sure", fontsize=8, color="0.4", ha="right", transform=above.transAxes)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    above.legend(frameon=False, loc="center left")
    below.set_xlabel("confidence: the largest posterior")
    return figure
