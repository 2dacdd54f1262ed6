import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from haf_utils.plots.ablations import severity_bars
from haf_utils.plots.ensemble import posterior_card
from haf_utils.plots.style import confusion_matrix
from haf_utils.taxonomy import CLASSES, NAMES


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("audio", [True, False])
def test_the_card_of_a_clip_shows_each_decision_and_frames_the_true_class(audio):
    members = pd.DataFrame(np.eye(23)[[3, 7]] * 0.7, index=["one", "two"], columns=list(CLASSES))
    weights = pd.DataFrame({"audio": [0.3, 1], "text": [0.7, 0]}, index=["one", "two"])
    samples = np.arange(-500, 500, dtype=np.int16) if audio else None
    figure = posterior_card(np.full(23, 1 / 23), members, weights, 3, "T", samples, 8000)
    shown = texts(figure)
    right, wrong = (f"70 % {NAMES[CLASSES[label]]}" for label in (3, 7))
    assert f"{right}  ✓" in shown and wrong in shown and f"{wrong}  ✓" not in shown
    assert ("no audio" in shown) == (not audio)
    framed = [label.get_text() for label in figure.axes[1].get_yticklabels() if label.get_bbox_patch()]
    assert len(framed) == 1 and framed[0].endswith(f"({CLASSES[3]})")


def test_top_levels_are_framed_in_the_confusion_matrix():
    figure = confusion_matrix(np.arange(23), np.arange(23))
    frames = [(patch.get_x(), patch.get_width()) for patch in figure.axes[0].patches]
    assert frames == [(0, 3), (3, 5), (8, 3), (11, 8), (19, 4)]


def test_numbers_on_a_heat_map_can_be_read():
    labels = np.repeat(np.arange(10), 10)
    predicted = np.where(np.tile(np.arange(10), 10) < labels, labels, 22)  # shares of 0, 10, … 90 %, and the rest
    axes = confusion_matrix(labels, predicted).axes[0]
    axes.figure.canvas.draw()
    shades = axes.collections[0].get_facecolors()[:, 0].reshape(23, 23)
    colours = {"black": 0.0, "white": 1.0}
    for text in axes.texts:
        column, row = (int(place) for place in text.get_position())
        dark, light = sorted(
            ((shade + 0.055) / 1.055) ** 2.4 for shade in (shades[row, column], colours[text.get_color()])
        )
        assert not text.get_text() or (light + 0.05) / (dark + 0.05) >= 4.5, text


def test_severity_says_which_share_of_the_errors_stays_inside_the_parent():
    figure = severity_bars(pd.DataFrame({"right_parent": [0.2, 0], "wrong_parent": [0.1, 0]}, index=["a", "b"]))
    assert "67 % inside" in texts(figure) and "no errors" in texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    tops = figure.axes[0].get_yticks()
    assert tops[0] > tops[1]  # a above b
