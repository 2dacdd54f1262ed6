"""Texts and captions: what is kept, what goes, and that it is always the same."""

import time

import numpy as np
import pandas as pd
import pytest
from conftest import need_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from haf_utils.captions import (
    MAX_CHARACTERS,
    MAX_WORDS,
    add_text,
    freesound_text,
    fsd50k_caption,
    nsynth_caption,
    pitch_name,
)
from haf_utils.datasets import load


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("door_slam.wav", "door slam"),
        ("Door-Slam 04.aiff", "Door Slam"),
        ("GlassBreaking2.mp3", "Glass Breaking 2"),
        ("20080805.birches.n.birds.00.wav", "birches n birds"),
        ("2011-03-09-dog-in-the-night.flac", "dog in the night"),
        ("04751 bad guy male laughter.WAV", "bad guy male laughter"),
        ("Bassoon - sustain - C5 (PSBassoon_C4_v2_1.wav)", "Bassoon - sustain - C5 (PSBassoon C4 v2 1)"),
        ("STE-038_cooking_espresso.wav", "cooking espresso"),
        ("A &amp; B <b>loud</b> dog.ogg", "A & B loud dog"),
        ("C4.wav", "C4"),
        ("yi.wav", "yi"),
        ("шум_дождя.wav", "шум дождя"),
        ("雨の音.wav", "雨の音"),
        ("Cafe\u0301.wav", "Café"),
    ],
)
def test_titles(title, text):
    assert freesound_text(title, "", "") == text


@pytest.mark.parametrize(
    "title",
    """DSC0012.wav DSCN1234 zoom0043.WAV STE-003.mp3 IMG_2231.mov R09_0012.wav 12345.wav 0.wav 20061030.wav
    2019-08-31.wav 4f9a8c7e12.wav 0a1b2c3d-1111-4222-8333-444455556666.wav ___.wav .wav""".split()
    + ["Track 1.wav", "untitled", "Untitled 2.aif", "Audio Track-3.mp3", "New Recording 5.m4a", "Sound 16", "", " "],
)
def test_names_that_recorders_and_cameras_give_are_missing(title):
    assert freesound_text(title, "", "") == ""


def test_title_then_new_tags_then_description():
    text = freesound_text("dog_barking.wav", "dog,barking,field-recording,Dog,park", "Our dog in the park.")
    assert text == "dog barking. field recording, park. Our dog in the park."
    assert freesound_text("zoom0043.wav", "rain,storm", "") == "rain, storm"
    assert freesound_text("", "", "A storm") == "A storm"
    assert freesound_text("A storm!", ["rain", "wind"]) == "A storm! rain, wind"
    assert freesound_text("dog bark", "", "Dog bark.") == "dog bark"


def test_missing_values_of_tables():
    assert freesound_text(None, None, float("nan")) == "" == freesound_text(float("nan"), float("nan"), None)


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ('By me (<a href="http://www.freesound.org/x?id=1" rel="nofollow">http://www.freesound.org/x</a>)', "By me"),
        ("Rain&nbsp;on a roof &amp;gt; loud<br/>and wind", "Rain on a roof > loud and wind"),
        ("See www.example.com/a or mail me@example.org now", "See or mail now"),
        ("A door. Licensed under CC-BY 3.0. It creaks.", "A door. It creaks."),
        ("A door. Please credit me! Feel free to use it for anything.", "A door."),
        ("Bells at noon. Recorded with a Zoom H4n and edited with Audacity 1.3.", "Bells at noon."),
        ("Bells at noon, recorded with a Zoom H4n.", "Bells at noon"),
        ("Rain. Sennheiser MKH 60 + MKH 30 into Shure FP24, Olympus LS10 recorder.", "Rain."),
        ("Recorded with Zoom H1 @44 kHz 16 bit Stereo", ""),
        ("Birds, 44.1kHz 24 bit", "Birds"),
        ("Recorded in Seville at night", "Recorded in Seville at night"),
        ("Tapping on a microphone", "Tapping on a microphone"),
        ("He rode the laptop, reaper and android", "He rode the laptop, reaper and android"),
        ("Rain. Part of a pack. More sounds in the same pack.", "Rain."),
        ("8 bit game sound", "8 bit game sound"),
        ("So funny :) ... enjoy!", "So funny..."),
        ("Дождь на крыше. 屋根の雨", "Дождь на крыше. 屋根の雨"),
        ("---\n***\n!!!", ""),
    ],
)
def test_descriptions(description, text):
    assert freesound_text("", "", description) == text


def test_tags_of_equipment_go():
    assert freesound_text("", "rain,zoom-h4n,Sennheiser-ME66,neumann-U87,audacity,roof") == "rain, roof"


def test_long_texts_are_bounded_and_quick():
    long = "<a <b &lt; word_" * 10_000 + "recorded " * 10_000 + "a@" * 10_000 + "a." * 10_000
    start = time.process_time()
    text = freesound_text(long, long, long)
    assert time.process_time() - start < 2
    assert len(text.split()) <= MAX_WORDS and len(text) <= MAX_CHARACTERS
    assert len(freesound_text("", "", "雨" * 100_000)) <= MAX_CHARACTERS
    for evil in (
        "a" * 20_000,
        "1" * 20_000,
        "-" * 20_000,
        " " * 20_000,
        "(" * 20_000,
        ". " * 10_000,
        "(," * 10_000,
        "recorded a " * 2_000,
        "[b" * 9_999,
    ):
        start = time.process_time()
        freesound_text(evil, evil, evil)
        assert time.process_time() - start < 2, evil[:20]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80), st.lists(st.text(max_size=12), max_size=5), st.text(max_size=200))
def test_anything_gives_one_clean_line_and_always_the_same(title, tags, description):
    text = freesound_text(title, tags, description)
    assert text == freesound_text(title, tags, description) == text.strip()
    assert "\n" not in text and "  " not in text and "<b>" not in text
    assert text == "" or any(character.isalnum() for character in text)


def test_fsd50k_captions():
    arguments = (("Bark", "Domestic_animals_and_pets"), "my_dog.wav", ["dog", "park"], "A dog in the park. Zoom H4n.")
    first = fsd50k_caption(*arguments)
    assert first == "The sound of bark and domestic animals and pets. my dog, park. A dog in the park."
    drawn = {fsd50k_caption(*arguments, rng=np.random.default_rng(seed)) for seed in range(40)}
    assert len(drawn) >= 4 and first in drawn
    assert all("bark" in caption.lower() for caption in drawn)
    assert fsd50k_caption((), "", "", "") == ""
    assert fsd50k_caption((), "rain.wav", "", "Heavy rain.") == "rain. Heavy rain."
    assert fsd50k_caption(("Rain",), "", "", "") == "The sound of rain"
    for seed in range(20):
        caption = fsd50k_caption(("Rain",), "", "", "", rng=np.random.default_rng(seed))
        assert "rain" in caption.lower() and ".." not in caption and not caption.startswith(".")


def record(**changes):
    fields = {
        "pitch": 60,
        "velocity": 75,
        "qualities_str": [],
        "instrument_family_str": "guitar",
        "instrument_source_str": "acoustic",
    }
    return fields | changes


def test_nsynth_captions():
    assert nsynth_caption(record()) == "An acoustic guitar note, C4, played at medium strength."
    note = record(pitch=49, velocity=127, qualities_str=["bright", "fast_decay", "reverb"])
    note |= {"instrument_family_str": "synth_lead", "instrument_source_str": "synthetic"}
    first = nsynth_caption(note)
    assert first == "A bright synthetic synth lead note, C sharp 3, played very loudly with a fast decay and reverb."
    drawn = {nsynth_caption(note, np.random.default_rng(seed)) for seed in range(40)}
    assert len(drawn) == 4
    for caption in drawn:
        for part in ("bright", "synth lead", "C sharp 3", "very loudly", "a fast decay and reverb"):
            assert part in caption.replace("Bright", "bright")


def test_nsynth_qualities_are_all_spoken_for():
    names = "bright dark distortion fast_decay long_release multiphonic nonlinear_env percussive reverb tempo-synced"
    plain = nsynth_caption(record())
    assert len({nsynth_caption(record(qualities_str=[name])) for name in names.split()} - {plain}) == 10


@pytest.mark.parametrize(
    ("pitch", "name"), [(0, "C-1"), (21, "A0"), (60, "C4"), (61, "C sharp 4"), (69, "A4"), (127, "G9")]
)
def test_pitch_names(pitch, name):
    assert pitch_name(pitch) == name


def test_a_record_without_a_field_is_named():
    broken = record(note_str="bass-1")
    del broken["velocity"]
    with pytest.raises(ValueError, match="'bass-1' has no field 'velocity'"):
        nsynth_caption(broken)


def mixed_table():
    rows = [
        {
            "source": "bsd10k",
            "title": "rain.wav",
            "tags": "roof",
            "description": "",
            "labels": np.nan,
            "record": np.nan,
        },
        {"source": "fsd50k", "title": "", "tags": "", "description": "", "labels": ("Rain",), "record": np.nan},
        {"source": "nsynth", "title": "", "tags": "", "description": "", "labels": np.nan, "record": record()},
        {"source": "evaluation", "title": "IMG_1.wav", "tags": "", "description": "", "labels": None, "record": None},
    ]
    return pd.DataFrame(rows, index=[5, 7, 9, 11])


def test_every_source_gets_its_text():
    table = add_text(mixed_table())
    expected = ["rain. roof", "The sound of rain", "An acoustic guitar note, C4, played at medium strength.", ""]
    assert list(table.text) == expected and list(table.index) == [5, 7, 9, 11]
    assert "text" not in mixed_table()


def test_phrasings_are_drawn_by_the_generator_alone():
    table = pd.concat([mixed_table()] * 10)
    first, again, other = (list(add_text(table, np.random.default_rng(seed)).text) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) > 6


def test_real_texts():
    table = add_text(load(need_shared("bsd10k_v1.2_sample")))
    assert (table.text != "").all()
    joined = "\n".join(table.text)
    for leftover in ("http", "<a", "rel=", "&gt;", "nofollow", ".wav.", "_", "Zoom H", "Please Credit"):
        assert sum(leftover in text for text in table.text) <= 1, leftover
    assert "església" in joined and "Estació de França" in joined
    start = time.process_time()
    table = add_text(load(need_shared("bsd10k_v1.0")))
    assert time.process_time() - start < 5
    assert (table.text == "").sum() == 0
    assert (add_text(load(need_shared("real_audio"))).text != "").all()
