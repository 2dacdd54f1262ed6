"""Widgets for a person in JupyterLab. Whatever they show also exists as a plain figure, so that nobody without a live
kernel misses anything; `show` leaves them out where the notebook runs headless."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
from IPython.display import display
from matplotlib.figure import Figure

from haf_utils.audio import AudioError
from haf_utils.plots_data import clip_figure, load_excerpt
from haf_utils.progress import headless
from haf_utils.taxonomy import CLASSES, NAMES

__all__ = ["as_wav", "data_explorer", "prediction_explorer", "show"]

LISTED = 500  # clips that a menu offers: longer ones are slow, and nobody reads them


def show(make: Callable[..., ipywidgets.Widget] | ipywidgets.Widget, *arguments) -> None:
    """Display the widget `make(*arguments)`, or say where to see it: a saved notebook holds no kernel that could
    answer. Headless, it is not even made, since its pictures would be saved in the notebook's metadata."""
    if headless():
        print("(in JupyterLab a widget stands here; run all cells to use it)")
    else:
        display(make(*arguments) if callable(make) else make)


def data_explorer(table: pd.DataFrame, sound_id: str = "") -> ipywidgets.VBox:
    """Menus of class and clip; waveform, spectrogram and metadata of the clip, and its sound.

    table: clips table with `text`; sound_id: the clip shown first ("" = the first of the first class).
    Raises ValueError if there is no such clip.
    """
    if sound_id and sound_id not in set(table["sound_id"]):
        raise ValueError(f"sound_id={sound_id!r} is not in the table")
    clips = table.set_index("sound_id", drop=False)
    codes = [code for code in CLASSES if (table["code"] == code).any()]
    first = clips.loc[sound_id or table.loc[table["code"] == codes[0], "sound_id"].iloc[0]]
    chosen_class = ipywidgets.Dropdown(
        options=[(f"{code}  {NAMES[code]}", code) for code in codes], value=first["code"], description="class"
    )
    chosen_clip = ipywidgets.Dropdown(description="clip", layout={"width": "40em"})
    picture, sound = ipywidgets.Image(format="png"), ipywidgets.Audio(format="wav", autoplay=False, loop=False)
    note = ipywidgets.HTML()

    def offer(change=None) -> None:
        own = table[table["code"] == chosen_class.value].head(LISTED)
        if change is None and first["sound_id"] not in set(own["sound_id"]):
            own = pd.concat([own, first.to_frame().T])
        titles = own["title"].str.slice(0, 60)
        chosen_clip.options = list(zip(own["sound_id"] + "  " + titles, own["sound_id"], strict=True))

    def draw(change=None) -> None:
        if chosen_clip.value is None:
            return
        clip, samples, rate, problem = clips.loc[chosen_clip.value], None, 0, ""
        if clip["path"] is not None:
            try:
                samples, rate = load_excerpt(clip["path"])
            except AudioError as error:
                problem = str(error)
        figure, png = clip_figure(clip, samples, rate), io.BytesIO()
        figure.savefig(png, format="png", dpi=80)
        plt.close(figure)
        sound.value = b"" if samples is None else as_wav(samples, rate)
        picture.value, note.value = png.getvalue(), html.escape(problem)
        sound.layout.display = "none" if samples is None else ""

    offer()
    chosen_clip.value = first["sound_id"]
    draw()
    chosen_class.observe(offer, "value")
    chosen_clip.observe(draw, "value")
    return ipywidgets.VBox([ipywidgets.HBox([chosen_class, chosen_clip]), picture, sound, note])


def as_wav(samples: np.ndarray, rate: int, seconds: float | None = None) -> bytes:
    """Samples (n,), int16 or float in [-1, 1], at `rate` Hz -> the bytes of a WAV file; of the first `seconds` only
    where given."""
    file = io.BytesIO()
    soundfile.write(file, samples[: None if seconds is None else int(seconds * rate)], rate, "PCM_16", format="WAV")
    return file.getvalue()


def prediction_explorer(
    groups: Mapping[str, Sequence[str]],
    picture: Callable[[str], Figure],
    sound: Callable[[str], bytes] | None = None,
) -> ipywidgets.VBox:
    """Choose a clip from a group of clips; see what the members say of it, and hear it.

    groups: name -> sound_ids; empty groups are left out. picture: sound_id -> figure; sound: sound_id -> WAV bytes,
    None where there is no audio. Raises ValueError if there is no clip at all.
    """
    groups = {f"{name} ({len(ids)})": list(ids)[:LISTED] for name, ids in groups.items() if len(ids)}
    if not groups:
        raise ValueError("there is no clip to explore: all groups are empty")
    group = ipywidgets.Dropdown(options=list(groups), description="clips")
    clip = ipywidgets.Dropdown(options=next(iter(groups.values())), description="clip")
    image, audio = ipywidgets.Image(format="png"), ipywidgets.Audio(format="wav", autoplay=False, loop=False)

    def draw(_=None) -> None:
        if clip.value is None:  # between two groups
            return
        figure, png = picture(clip.value), io.BytesIO()
        figure.savefig(png, format="png", dpi=80)
        plt.close(figure)
        image.value = png.getvalue()
        if sound is not None:
            audio.value = sound(clip.value)

    def offer(_) -> None:
        clip.options = groups[group.value]

    group.observe(offer, "value")
    clip.observe(draw, "value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([group, clip]), image, *([audio] if sound is not None else [])])
