import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from haf_utils.plots import widgets  # noqa: E402
from haf_utils.plots.widgets import as_wav, prediction_explorer, show  # noqa: E402


@pytest.fixture
def asked():
    return []


@pytest.fixture
def picture(asked):
    def draw(sound_id):
        asked.append(sound_id)
        return plt.figure(figsize=(1, 1))

    return draw


@pytest.fixture
def shown(monkeypatch):
    """What the explorers display, in order."""
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    return shown


def test_the_explorer_shows_the_clip_that_is_chosen(asked, picture, shown):
    explorer = prediction_explorer({"mistakes": ["a", "b"], "none": [], "all": ["a", "b", "c"]}, picture, str.encode)
    group, clip = explorer.children[0].children
    assert list(group.options) == ["mistakes (2)", "all (3)"] and asked == ["a"]
    assert isinstance(shown[0], Figure) and shown[1].data == b"a"
    clip.value = "b"
    assert asked == ["a", "b"] and shown[3].data == b"b"
    group.value = "all (3)"
    assert clip.options == ("a", "b", "c") and clip.value == "a" and asked == ["a", "b", "a"]
    assert not plt.get_fignums()  # no figure is left open


def test_without_audio_there_is_no_player(picture, shown):
    prediction_explorer({"all": ["a"]}, picture)
    assert len(shown) == 1 and isinstance(shown[0], Figure)


def test_nothing_to_explore(picture):
    with pytest.raises(ValueError, match="no clip"):
        prediction_explorer({"all": []}, picture)


def test_wav_bytes_are_the_samples():
    samples = np.arange(-100, 100, dtype=np.int16)
    back, rate = soundfile.read(io.BytesIO(as_wav(samples, 100)), dtype="int16")
    assert rate == 100 and (back == samples).all()
    assert len(soundfile.read(io.BytesIO(as_wav(samples, 100, seconds=0.5)))[0]) == 50


def test_headless_no_widget_is_made(monkeypatch, capsys, picture, asked, shown):
    monkeypatch.setenv("HAF_PROGRESS", "lines")
    show(prediction_explorer, {"all": ["a"]}, picture)
    assert "JupyterLab" in capsys.readouterr().out and not asked
    monkeypatch.setenv("HAF_PROGRESS", "bars")
    show(prediction_explorer, {"all": ["a"]}, picture)
    assert asked == ["a"] and shown[-1].children[0].children[1].value == "a"
