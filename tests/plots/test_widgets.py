import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import nbformat  # noqa: E402
import numpy as np  # noqa: E402
import papermill  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from nbformat.v4 import new_code_cell, new_notebook  # noqa: E402

from haf_utils.plots import widgets  # noqa: E402
from haf_utils.plots.widgets import as_wav, excerpt, prediction_explorer, show  # noqa: E402


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


def test_an_excerpt_is_the_beginning_and_small_enough_for_a_notebook():
    seconds = np.arange(3 * 44_100) / 44_100
    tone = (8_000 * np.sin(2 * np.pi * 1_000 * seconds * (seconds < 1.2))).astype(np.int16)
    for samples in (tone, tone / np.float32(32_768)):
        sound = excerpt(samples, 44_100)
        heard, rate = soundfile.read(io.BytesIO(sound.data))
        assert rate == 16_000 and len(heard) == 19_200 and len(sound.data) < 15_000 and sound.mimetype == "audio/ogg"
        assert np.abs(np.fft.rfft(heard)).argmax() == pytest.approx(1_200, abs=2)  # 1 kHz
    noise = np.random.default_rng(0).standard_normal(88_200) / 4
    assert len(excerpt(noise, 44_100).data) < 15_000


def test_headless_no_widget_is_made(monkeypatch, capsys, picture, asked, shown):
    monkeypatch.setenv("HAF_PROGRESS", "lines")
    show(prediction_explorer, {"all": ["a"]}, picture)
    assert "JupyterLab" in capsys.readouterr().out and not asked
    monkeypatch.setenv("HAF_PROGRESS", "bars")
    show(prediction_explorer, {"all": ["a"]}, picture)
    assert asked == ["a"] and shown[-1].children[0].children[1].value == "a"


def test_papermill_makes_no_widget_and_no_bar(tmp_path, monkeypatch):
    monkeypatch.delenv("HAF_PROGRESS", raising=False)  # a user's own `papermill notebook.ipynb out.ipynb`
    uses = "from haf_utils.io.progress import headless\nfrom haf_utils.plots.widgets import ipywidgets, show\n"
    code = new_code_cell(uses + "show(ipywidgets.Button)\nprint(headless())")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[code], metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", progress_bar=False)
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    assert output.text.splitlines() == ["(in JupyterLab a widget stands here; run all cells to use it)", "True"]
