import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from haf_utils.metrics import expected_calibration_error
from haf_utils.plots import training as draw
from haf_utils.plots.ablations import severity_bars
from haf_utils.plots.ensemble import posterior_card
from haf_utils.plots.style import confusion_matrix
from haf_utils.taxonomy import CLASSES


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("modality", ["both", "audio", "text"])
@pytest.mark.parametrize("fusion", ["attention", "concatenation", "mean"])
def test_the_model_shows_its_shapes_and_weights(modality, fusion):
    parameters = {"audio": 111_000, "text": 222_000, "fusion": 10, "classifier": 5_911}
    shown = texts(draw.model_drawing(512, 256, parameters, modality, fusion, gating=False, dropout=0.1, title="T"))
    assert "B × 512" in shown and "B × 256" in shown and "dropout 0.1" in shown and "gate" not in shown
    assert ("111,000" in shown) == (modality != "text") and ("222,000" in shown) == (modality != "audio")


def test_target_maps_say_how_much_stays_under_the_parent():
    uniform = np.full((23, 23), 1 / 23)
    shown = texts(draw.target_maps({"one-hot": np.eye(23), "uniform": uniform}))
    assert "100.0 % of the mass" in shown and "23.3 % of the mass" in shown  # (9 + 25 + 9 + 64 + 16) / 23²
    texts(draw.target_maps({"one-hot": np.eye(23)}))  # no mass off the diagonal


@pytest.mark.parametrize("audio", [True, False])
def test_the_card_of_a_clip_shows_each_decision_and_frames_the_true_class(audio):
    members = pd.DataFrame(np.eye(23)[[3, 7]] * 0.7, index=["one", "two"], columns=list(CLASSES))
    weights = pd.DataFrame({"audio": [0.3, 1], "text": [0.7, 0]}, index=["one", "two"])
    samples = np.arange(-500, 500, dtype=np.int16) if audio else None
    figure = posterior_card(np.full(23, 1 / 23), members, weights, 3, "T", samples, 8000)
    shown = texts(figure)
    assert f"{CLASSES[3]} 70 %  ✓" in shown and f"{CLASSES[7]} 70 %" in shown and f"{CLASSES[7]} 70 %  ✓" not in shown
    assert ("no audio" in shown) == (not audio)
    framed = [label.get_text() for label in figure.axes[1].get_yticklabels() if label.get_bbox_patch()]
    assert len(framed) == 1 and framed[0].endswith(f"({CLASSES[3]})")


def test_top_levels_are_framed_in_the_confusion_matrix():
    figure = confusion_matrix(np.arange(23), np.arange(23))
    frames = [(patch.get_x(), patch.get_width()) for patch in figure.axes[0].patches]
    assert frames == [(0, 3), (3, 5), (8, 3), (11, 8), (19, 4)]


def test_mixup_with_embeddings_shorter_than_the_picture():
    rng = np.random.default_rng(0)
    target = rng.dirichlet(np.ones(23), 3)
    shown = texts(draw.mixup_picture("ABC", rng.normal(size=(3, 8)), np.zeros((3, 8)), np.zeros(3), target))
    assert "audio embedding (8 of 8)" in shown


def test_fusion_weights_where_a_class_or_every_text_is_missing():
    labels = np.array([0, 0, 5, 22])
    weights = np.array([[0.3, 0.7], [1, 0], [0.5, 0.5], [1, 0]])
    for presence in (np.array([1, 0, 1, 0]), np.zeros(4)):
        shown = texts(draw.fusion_weights(weights, labels, presence, "title"))
        assert "ss-s" in shown and "title" in shown


def test_calibration_and_curves():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(23), 50)
    _, bins = expected_calibration_error(probabilities, rng.integers(0, 23, 50), bins=10)
    assert "confidence" in texts(draw.calibration({"one": bins, "two": bins}))
    steps = pd.DataFrame({"step": [0, 1], "raw_loss": [3, 2], "ema_loss": [3, 2], "raw_hF": [0, 1], "ema_hF": [0, 1]})
    assert "their average" in texts(draw.ema_curves(steps))


def test_severity_says_which_share_of_the_errors_stays_inside_the_parent():
    figure = severity_bars(pd.DataFrame({"right_parent": [0.2, 0], "wrong_parent": [0.1, 0]}, index=["a", "b"]))
    assert "67 % inside" in texts(figure) and "no errors" in texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    tops = figure.axes[0].get_yticks()
    assert tops[0] > tops[1]  # a above b
