import io
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402

from haf_utils.audio import AudioError  # noqa: E402
from haf_utils.plots import data as look  # noqa: E402
from haf_utils.plots import widgets  # noqa: E402
from haf_utils.plots.widgets import data_explorer  # noqa: E402
from haf_utils.taxonomy import CLASSES  # noqa: E402


def tone(frequency, rate, seconds=1.0):
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    """Two classes: two good recordings, one damaged, one without a file; texts with signs that could be markup."""
    soundfile.write(tmp_path / "1.wav", tone(440, 8000, 0.3), 8000)
    soundfile.write(tmp_path / "2.flac", np.column_stack([tone(100, 48000, 0.1)] * 2), 48000)
    (tmp_path / "3.wav").write_bytes(b"no sound at all")
    paths = [str(tmp_path / "1.wav"), str(tmp_path / "2.flac"), str(tmp_path / "3.wav"), None]
    return pd.DataFrame(
        {
            "sound_id": ["1", "2", "3", "4"],
            "path": pd.Series(paths, dtype=object),
            "code": ["m-sp", "m-sp", "fx-o", "fx-o"],
            "title": ["$x_1^", "犬の声 <b>bold</b>", "<script>alert(1)</script>", "plain"],
            "tags": ["a,b", "", "", ""],
            "description": ["", "long " * 200, "", ""],
            "uploader": ["ann", "ann", "", ""],
            "confidence": [5.0, np.nan, 1.0, 2.0],
            "text": ["x", "", "", "plain"],
        }
    )


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    plt.close("all")


def test_levels():
    peak, rms = look.levels(tone(1000, 48000))
    assert peak == pytest.approx(0, abs=0.01) and rms == pytest.approx(-3.01, abs=0.01)
    assert look.levels(np.zeros(5, np.float32)) == (-120, -120)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 192000])
def test_a_tone_lies_in_its_mel_band_at_any_rate(rate):
    mel = look.mel_decibels(tone(1000, rate), rate)
    assert mel.shape == (64, 101)
    assert mel.max() == pytest.approx(0, abs=1e-5) and mel.min() == look.FLOOR
    # Slaney's scale as published: 200/3 Hz a mel up to 1 kHz, then 27 mels to a factor of 6.4.
    low, high = 50 / (200 / 3), 15 + 27 * np.log(14) / np.log(6.4)
    assert mel.mean(1).argmax() == round(65 * (15 - low) / (high - low)) - 1


def test_frequency_ticks_stand_where_tones_are_drawn():
    axes = plt.figure().subplots()
    look.draw_spectrogram(axes, tone(4000, 32_000), 32_000)
    (image,) = axes.images
    row = image.get_array().mean(1).argmax()
    place = dict(zip([text.get_text() for text in axes.get_yticklabels()], axes.get_yticks(), strict=True))["4"]
    assert image.origin == "lower" and image.get_extent()[2:] == [-0.5, 63.5] and abs(place - row) <= 0.5
    assert image.get_extent()[:2] == [0, 1]


@pytest.mark.parametrize("samples, rate", [(1, 44100), (7, 1), (300, 44100), (100, 1)])
def test_the_shortest_and_slowest_clips_have_a_spectrogram(samples, rate):
    mel = look.mel_decibels(np.ones(samples, np.float32), rate)
    assert mel.shape[0] == 64 and mel.shape[1] >= 1 and np.isfinite(mel).all()
    assert np.isfinite(look.sound_profile(mel)).all() and len(look.sound_profile(mel)) == 194


def test_silence_has_a_spectrogram():
    assert (look.mel_decibels(np.zeros(8000, np.float32), 8000) == look.FLOOR).all()


def test_no_more_than_the_beginning_of_a_long_recording_is_decoded(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.full(200, 0.1), 1)  # 200 s at 1 Hz
    samples, rate = look.load_excerpt(tmp_path / "long.wav")
    assert rate == 1 and len(samples) == 31


@pytest.mark.parametrize("content", ["missing", "text", "empty", "nan"])
def test_a_recording_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "clip.wav"
    if content == "text":
        path.write_text("not a sound")
    elif content != "missing":
        samples = np.full(10, np.nan) if content == "nan" else np.zeros(0)
        soundfile.write(path, samples, 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="clip.wav"):
        look.load_excerpt(path)


def test_headers(table):
    found = look.headers(table.path)
    assert found.rate.tolist()[:2] == [8000, 48000] and found.channels.tolist()[:2] == [1, 2]
    assert found.seconds[0] == pytest.approx(0.3) and found.iloc[2:].isna().all(axis=None)


def test_concentration(table):
    found = look.concentration(table)
    assert found.index.tolist() == ["m-sp", "fx-o"]
    assert found.loc["m-sp"].tolist() == [2, 1, 1.0, 1.0, pytest.approx(1)]
    # clips without an uploader are each somebody else's
    assert found.loc["fx-o", "effective"] == pytest.approx(2) and found.loc["fx-o", "largest"] == 0.5


def test_a_gap_is_drawn_where_both_scores_are_there():
    figure = look.gap_figure(pd.Series({"m-sp": 50.0, "fx-o": np.nan}), pd.Series({"m-sp": 25.0}), ("a", "b"), "hF (%)")
    line = figure.axes[0].collections[0].get_segments()[CLASSES.index("m-sp")]
    assert line[:, 0].tolist() == [50, 25] and line[0, 1] == line[1, 1] == 0
    figure.canvas.draw()


def test_a_clip_is_shown_whatever_its_metadata_hold(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in (0, 1):
            clip = table.iloc[row]
            figure = look.clip_figure(clip, *look.load_excerpt(clip.path))
            figure.canvas.draw()
            shown = figure.axes[2].texts[0].get_text()
            assert ("$x_1^" in shown) if row == 0 else ("□□□ <b>bold</b>" in shown)
        look.clip_figure(table.iloc[3], None, 0)
    assert look.describe(table.iloc[1])["description"].endswith("…")
    assert look.describe(table.iloc[1])["confidence"] == "(none)"
    assert look.describe(pd.Series({"confidence": 4.0}))["confidence"] == "4"


def test_the_explorer_shows_and_plays_the_chosen_clip(table, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    classes, clips = data_explorer(table, "2").children[0].children
    assert list(classes.options) == ["Solo percussion (m-sp)", "Objects / House appliances (fx-o)"]
    assert classes.value == classes.options[0]
    assert clips.value == "2" and sorted(sound_id for _, sound_id in clips.options) == ["1", "2"]
    figure, player = shown
    assert "Clip 2" in figure.get_suptitle() and soundfile.info(io.BytesIO(player.data)).samplerate == 48000
    clips.value = "1"
    assert "Clip 1" in shown[2].get_suptitle() and len(soundfile.read(io.BytesIO(shown[3].data))[0]) == 2400
    classes.value = classes.options[1]
    assert [sound_id for _, sound_id in clips.options] == ["3", "4"]
    assert "3.wav" in capsys.readouterr().out and len(shown) == 5  # damaged: its error and metadata, no player
    clips.value = "4"
    assert "3.wav" not in capsys.readouterr().out and len(shown) == 6 and not plt.get_fignums()


def test_the_explorer_lists_the_clip_it_begins_with_and_no_more_than_its_limit(table, monkeypatch):
    monkeypatch.setattr(widgets, "LISTED", 1)
    monkeypatch.setattr(widgets, "display", lambda shown: None)
    classes, clips = data_explorer(table, "4").children[0].children
    assert classes.value.endswith("(fx-o)") and [sound_id for _, sound_id in clips.options] == ["4"]
    assert data_explorer(table).children[0].children[1].value == "1"


def test_the_explorer_names_an_unknown_clip(table):
    with pytest.raises(ValueError, match="'99'"):
        data_explorer(table, "99")


def test_classes_are_drawn_from_top_to_bottom():
    places = look.class_axis(plt.figure().subplots())
    assert len(places) == len(CLASSES) and (np.diff(places) < 0).all()


def test_few_uploaders_are_told_and_the_official_folds_shown():
    table = pd.DataFrame({"label": np.repeat([0, 5], 30), "uploader": "me", "sound_id": [str(n) for n in range(60)]})
    folds, note = look.folds_to_show(table)
    assert "1 uploaders are too few" in note
    assert [len(test) for _, _, test in folds] == [12] * 5
    table["uploader"] = [f"u{n % 20}" for n in range(60)]
    folds, note = look.folds_to_show(table)
    assert note == ""
    for train, validation, test in folds:
        assert not set(table.uploader.iloc[test]) & set(table.uploader.iloc[np.concatenate([train, validation])])
