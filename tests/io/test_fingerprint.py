"""Fingerprints: the same recording is found after coding, resampling, gain and cutting; others are not."""

import io

import numpy as np
import pytest
import soundfile
import soxr
from conftest import need_shared

import haf_utils.io.fingerprint as module
from haf_utils.datasets import load
from haf_utils.io.fingerprint import fingerprint, fingerprints, matches

RATE = 22_050


def noise_bursts(seed: int, seconds: float = 3.0):
    """Decaying tones and noises at random times: something with a shape in time and frequency."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(int(seconds * RATE), np.float32)
    for start in rng.uniform(0, seconds - 0.3, int(8 * seconds)):
        time = np.arange(int(0.3 * RATE)) / RATE
        burst = np.sin(2 * np.pi * rng.uniform(200, 3000) * time) + rng.normal(0, 0.3, len(time))
        at = int(start * RATE)
        samples[at : at + len(time)] += 0.1 * burst * np.exp(-time * rng.uniform(5, 40))
    return samples


def coded(samples, rate, form, subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")


CHANGES = {
    "same": lambda x: (x, RATE),
    "ogg": lambda x: coded(x, RATE, "OGG", "VORBIS"),
    "mp3": lambda x: coded(x, RATE, "MP3"),
    "8 bit": lambda x: coded(x, RATE, "WAV", "PCM_U8"),
    "44.1 kHz": lambda x: (soxr.resample(x, RATE, 44_100), 44_100),
    "8 kHz": lambda x: (soxr.resample(x, RATE, 8_000), 8_000),
    "quieter": lambda x: (0.05 * x, RATE),
    "turned over": lambda x: (-x, RATE),
    "cut": lambda x: (x[int(0.4 * RATE) : int(2.9 * RATE)], RATE),
}


@pytest.fixture(scope="module")
def library():
    return [fingerprint(noise_bursts(seed), RATE) for seed in range(30)]


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_recording_is_found_and_no_other(library, change):
    changed = [fingerprint(*CHANGES[change](noise_bursts(seed))) for seed in (3, 17, 99)]
    found = matches(changed, library)
    assert sorted(zip(found.a, found.b, strict=True)) == [(0, 3), (1, 17)]
    assert (found.errors < 0.25).all() and (found.seconds > 2).all()
    expected = -0.4 if change == "cut" else 0.0
    assert found.offset.to_numpy() == pytest.approx(expected, abs=0.04)


def test_different_recordings_differ_in_half_of_the_bits(library):
    found = matches(library, library, most_errors=0.4)
    assert (found.a == found.b).all() and len(found) == 30 and (found.errors == 0).all()


def test_short_recordings_of_one_length_are_compared_even_where_no_word_is_whole(monkeypatch):
    short = [noise_bursts(seed, 0.5) for seed in range(12)]
    rough = [x + np.random.default_rng(i).normal(0, 0.01 * np.abs(x).max(), len(x)) for i, x in enumerate(short)]
    prints = [[fingerprint(x, RATE) for x in recordings] for recordings in (rough, short)]
    found = matches(*prints)
    assert (found.a == found.b).all() and len(found) >= 10
    monkeypatch.setattr(module, "COMMON", 0)  # as if no word were whole
    assert len(matches(*prints)) >= 10
    monkeypatch.setattr(module, "SHORT_FRAMES", 0)
    assert matches(*prints).empty


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE), np.ones(RATE), np.zeros(0), np.ones(1), np.full(100, 0.5)],
    ids=["silence", "constant", "nothing", "one sample", "5 ms"],
)
def test_what_has_no_shape_matches_nothing(library, samples):
    query = [fingerprint(samples.astype(np.float32), RATE)]
    assert query[0].dtype == np.uint32
    assert matches(query, library).empty and matches(query, query).empty


def test_empty_lists(library):
    assert matches([], library).empty and matches(library, []).empty and matches([], []).empty


def test_unreadable_recordings_are_named_and_match_nothing(tmp_path):
    soundfile.write(tmp_path / "good.wav", noise_bursts(0), RATE)
    soundfile.write(tmp_path / "slow.wav", noise_bursts(0), 1)
    (tmp_path / "text.wav").write_text("no recording")
    paths = [tmp_path / name for name in ("good.wav", "text.wav", "absent.wav", "slow.wav")]
    with pytest.warns(UserWarning, match=r"3 recordings have no fingerprint: .*absent.wav.*slow.wav.*1 Hz.*text.wav"):
        found = fingerprints(paths)
    assert [len(one) > 0 for one in found] == [True, False, False, False]
    assert list(matches(found, found).a) == [0]


def test_real_recordings_are_told_apart_after_coding():
    table = load(need_shared("real_audio"))
    paths = list(table.path[::48])
    originals = fingerprints(paths)
    again = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        again.append(fingerprint(*coded(samples.mean(1), rate, "OGG", "VORBIS")))
    found = matches(again, originals)
    assert (found.a == found.b).all()
    long_enough = sum(np.count_nonzero(one) >= 20 for one in originals)
    assert len(found) >= 0.9 * long_enough
