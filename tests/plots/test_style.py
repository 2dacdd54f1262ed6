import html
import re
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from nbconvert.filters import markdown2html

from haf_utils.io.files import inert
from haf_utils.plots import style
from haf_utils.plots.data import clip_figure
from haf_utils.plots.ensemble import posterior_card
from haf_utils.plots.style import AUDIO, COLOURS, INK, TEXT, literal, publish, synthetic_note
from haf_utils.profiles import REPOSITORY
from haf_utils.taxonomy import CLASSES


def space(dataset, profile="mini"):
    return SimpleNamespace(dataset=str(dataset), profile=profile)


@pytest.mark.parametrize("size, profile", [("mini", "mini"), ("tiny", "tiny"), ("mini", "full")])
def test_the_embedded_dataset_is_called_synthetic(size, profile):
    note = synthetic_note(space(REPOSITORY / "data" / size / "BSD10k", profile))
    assert note.startswith("> **Synthetic stand-in data.**") and "make_mini.py" in note


@pytest.mark.parametrize("folder", [REPOSITORY / "data" / "downloads" / "BSD10k", "/recordings/BSD10k"])
def test_other_recordings_are_not(folder):
    note = synthetic_note(space(folder, "mini"))
    assert "stand-in data" not in note and "A small network trained on synthetic sounds" in note
    assert synthetic_note(space(folder, "full")) == ""


def test_a_published_figure_is_written_closed_and_followed_by_its_finding(tmp_path, capsys):
    figure = plt.figure()
    publish(figure, tmp_path, "01_nothing", "Nothing is higher than nothing.")
    assert (tmp_path / "01_nothing.png").is_file() and not plt.fignum_exists(figure.number)
    assert "Markdown" in capsys.readouterr().out.splitlines()[-1]


def luminance(colour):
    """Relative luminance of WCAG 2, 0 (black) to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_classes_can_be_told_in_grey():
    lightness = sorted(116 * luminance(colour) ** (1 / 3) - 16 for colour in COLOURS.values())  # CIE L*, 0 to 100
    assert min(np.diff(lightness)) > 10 and lightness[-1] < 80


def test_coloured_words_stand_out_from_white():
    assert INK.keys() == COLOURS.keys()
    for colour in (*INK.values(), AUDIO, TEXT):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5


def test_a_published_figure_carries_its_finding_as_alternative_text(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(style, "display", lambda *args, **kwargs: shown.append(kwargs))
    publish(plt.figure(), tmp_path, "01_nothing", "Bars rise.")
    assert shown[0] == {"metadata": {"image/png": {"alt": "Bars rise."}}}


STRANGE = ["$100 and $$", "a_b*c* $\\frac{", "<script>alert(1)</script>", "[x](javascript:alert(1))", "# h\n- item",
           "![i](http://x/y.png)", "<img src=x onerror=a(1)>", "`a` | <https://x.y>", "$\\bad$ & $x"]  # fmt: skip


@pytest.mark.parametrize("text", STRANGE)
def test_text_of_strangers_is_shown_as_it_is(text, tmp_path):
    shown = markdown2html(f"- {literal(text)}\n")
    assert not re.search(r"<(?!/?(?:ul|li|p|span)\b)", shown), shown
    assert html.unescape(re.sub(r"<[^>]*>", "", shown)).strip() == " ".join(text.split())
    clip = pd.Series({"sound_id": text, "code": "fx-o", "title": text, "tags": text, "text": text})
    figures = [clip_figure(clip, np.full(16_000, 0.1, np.float32), 8_000)]
    members = pd.DataFrame([np.full(23, 1 / 23)], ["one"], list(CLASSES))
    weights = pd.DataFrame([(0.5, 0.5)], ["one"], ["audio", "text"])
    figures.append(posterior_card(np.full(23, 1 / 23), members, weights, 0, text))
    for figure in figures:
        style.save(figure, tmp_path, "a")
        plt.close(figure)


def test_formulas_do_not_reach_a_spreadsheet():
    found = inert(pd.Series(["=1+1", "+cmd|x", "@x", "-2", "\t=1", "rain = wet", ""], dtype=object)).tolist()
    assert found == ["'=1+1", "'+cmd|x", "'@x", "'-2", "'\t=1", "rain = wet", ""]
