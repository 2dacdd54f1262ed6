"""Widgets for JupyterLab. Their content is there as plain figures too, since a headless notebook has no widgets."""

import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
import soxr
from IPython.display import Audio, display
from matplotlib.figure import Figure

from haf_utils.audio import AudioError
from haf_utils.io.progress import headless
from haf_utils.plots.data import clip_figure, load_excerpt
from haf_utils.taxonomy import CLASSES, NAMES

__all__ = ["as_wav", "data_explorer", "excerpt", "prediction_explorer", "show"]

LISTED = 500  # clips in a menu; longer menus are slow


def show(make: Callable[..., ipywidgets.Widget], *arguments) -> None:
    """Display the widget `make(*arguments)`; headless, print that JupyterLab has one here, without making it."""
    if headless():  # a saved notebook has no kernel, and would keep the widget's images in its metadata
        print("(in JupyterLab a widget stands here; run all cells to use it)")
    else:
        display(make(*arguments))


def _explorer(
    groups: Mapping[str, Sequence], draw: Callable[[str], tuple[Figure, bytes | None]], first: str | None = None
) -> ipywidgets.VBox:
    """Menus of a group and of its clips, and below them the figure and the player of the chosen clip.

    groups: name -> options of the second menu; draw: sound_id -> figure, and WAV bytes or None; what it prints or
    raises is shown too. first: the group at the start. Raises ValueError if there is no group.
    """
    if not groups:
        raise ValueError("there is no clip to explore: all groups are empty")
    group = ipywidgets.Dropdown(options=list(groups), value=first or next(iter(groups)), description="clips")
    clip = ipywidgets.Dropdown(options=groups[group.value], description="clip", layout={"width": "40em"})
    group.observe(lambda change: setattr(clip, "options", groups[change.new]), "value")

    def draw_clip(sound_id: str | None) -> None:
        if sound_id is None:  # while the menu of clips changes
            return
        figure, wav = draw(sound_id)
        display(figure)
        plt.close(figure)
        if wav is not None:
            display(Audio(data=wav))

    shown = ipywidgets.interactive_output(draw_clip, {"sound_id": clip})
    return ipywidgets.VBox([ipywidgets.HBox([group, clip]), shown])


def data_explorer(table: pd.DataFrame, sound_id: str = "") -> ipywidgets.VBox:
    """Menus of class and clip; waveform, spectrogram and metadata of the clip, and a player.

    table: clips table with `text`; sound_id: the clip shown first ("" = the first of the first class).
    Raises ValueError if there is no such clip.
    """
    clips, groups, first = table.set_index("sound_id", drop=False), {}, None
    if sound_id and sound_id not in clips.index:
        raise ValueError(f"sound_id={sound_id!r} is not in the table")
    for code in [code for code in CLASSES if (table["code"] == code).any()]:
        rows, name = table[table["code"] == code], f"{NAMES[code]} ({code})"
        rows = rows.sort_values("sound_id", key=lambda ids: ids != sound_id, kind="stable").head(LISTED)
        titles = rows["sound_id"] + "  " + rows["title"].str.slice(0, 60)
        groups[name] = list(zip(titles, rows["sound_id"], strict=True))
        if sound_id and rows["sound_id"].iloc[0] == sound_id:
            first = name

    def draw(sound_id: str) -> tuple[Figure, bytes | None]:
        clip, samples, rate = clips.loc[sound_id], None, 0
        try:
            if clip["path"] is not None:
                samples, rate = load_excerpt(clip["path"])
        except AudioError as error:
            print(error)
        return clip_figure(clip, samples, rate), None if samples is None else as_wav(samples, rate)

    return _explorer(groups, draw, first)


def prediction_explorer(
    groups: Mapping[str, Sequence[str]], picture: Callable[[str], Figure], sound: Callable[[str], bytes] | None = None
) -> ipywidgets.VBox:
    """Menus of a group of clips and of a clip; the clip's predictions, and a player.

    groups: name -> sound_ids; empty groups are left out. picture: sound_id -> figure; sound: sound_id -> WAV bytes,
    None where there is no audio. Raises ValueError if there is no clip at all.
    """
    groups = {f"{name} ({len(ids)})": list(ids)[:LISTED] for name, ids in groups.items() if len(ids)}
    return _explorer(groups, lambda sound_id: (picture(sound_id), sound(sound_id) if sound else None))


def as_wav(samples: np.ndarray, rate: int) -> bytes:
    """Samples (n,), int16 or float in [-1, 1], at `rate` Hz -> the bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, "PCM_16", format="WAV")
    return file.getvalue()


def excerpt(samples: np.ndarray, rate: int, seconds: float = 1.2) -> Audio:
    """A player of the first `seconds` of samples (n,), int16 or float in [-1, 1], at `rate` Hz, for saved notebooks:
    16 kHz, Ogg Vorbis, some 8 kB a second."""
    file, small = io.BytesIO(), soxr.resample(samples[: int(seconds * rate)], rate, 16_000)
    soundfile.write(file, small, 16_000, format="OGG", subtype="VORBIS", compression_level=0.95)
    player = Audio(data=file.getvalue())
    player.mimetype = "audio/ogg"
    return player
