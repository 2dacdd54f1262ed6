"""Decoding, preparation, windows, and a store that survives what happens to files and processes."""

import numpy as np
import pytest
import soundfile
from conftest import need_shared
from hypothesis import given
from hypothesis import strategies as st

from haf_utils import audio
from haf_utils.audio import AudioError, decode, fixed_windows, prepare, random_window, repeat_pad, to_float, windows

RATE = 16_000


def tone(frames=4000, seed=0) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).standard_normal(frames).astype(np.float32)


# Decoding and preparation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav PCM_16", "wav PCM_24", "wav FLOAT", "flac PCM_16", "ogg VORBIS"])
def test_formats_decode_to_mono_floats(tmp_path, kind):
    extension, subtype = kind.split()
    time = np.arange(4000) / 22_050
    stereo = 0.5 * np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 990 * time)], axis=1)
    soundfile.write(tmp_path / f"a.{extension}", stereo, 22_050, subtype=subtype)
    samples, rate = decode(tmp_path / f"a.{extension}")
    assert rate == 22_050 and samples.dtype == np.float32 and samples.shape == (4000,)
    assert np.corrcoef(samples, stereo.mean(axis=1))[0, 1] > 0.99


def test_each_way_to_be_unusable_has_its_reason(tmp_path):
    soundfile.write(tmp_path / "good.flac", tone(40_000), RATE)
    whole = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("<html>404 not found</html>")
    (tmp_path / "zero.wav").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.2]), RATE, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    reasons = {
        "half.flac": "damaged",
        "text.wav": "damaged",
        "zero.wav": "empty: the file has no bytes",
        "none.wav": "no samples",
        "nan.wav": "not finite",
        "folder.wav": "missing",
        "absent.wav": "missing",
    }
    for name, reason in reasons.items():
        with pytest.raises(AudioError, match=name) as error:
            decode(tmp_path / name)
        assert reason in error.value.reason


def test_prepare_is_what_laion_clap_prepares(tmp_path):
    """librosa.load at the target rate, then laion-clap's clip and quantisation: the same int16, bit for bit."""
    librosa = pytest.importorskip("librosa")
    for rate, channels, frames in [(44_100, 2, 12_345), (44_101, 1, 44_101), (48_000, 1, 999), (8_000, 1, 1)]:
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, 1.5 * np.random.default_rng(rate).standard_normal((frames, channels)), rate, "FLOAT")
        waveform, _ = librosa.load(path, sr=48_000)
        expected = (np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.int16)
        np.testing.assert_array_equal(prepare(path, 48_000), expected)


def test_prepare_agrees_with_librosa_on_real_recordings():
    librosa = pytest.importorskip("librosa")
    for path in sorted((need_shared("real_audio") / "audio").iterdir())[::60]:
        waveform, _ = librosa.load(path, sr=48_000)
        expected = (np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.int16)
        np.testing.assert_array_equal(prepare(path, 48_000), expected, err_msg=str(path))


def test_to_float_is_laion_claps_conversion():
    every = np.arange(-32767, 32768, dtype=np.int16)
    np.testing.assert_array_equal(to_float(every), (every / 32767.0).astype(np.float32))


# Windows --------------------------------------------------------------------------------------------------------------


@given(frames=st.integers(1, 300), window=st.integers(1, 300))
def test_repeat_pad_repeats_whole_times_then_zeros(frames, window):
    if frames > window:
        return
    samples = np.arange(1, frames + 1, dtype=np.int16)
    padded = repeat_pad(samples, window)
    times = window // frames
    np.testing.assert_array_equal(padded[: times * frames], np.tile(samples, times))
    assert not padded[times * frames :].any() and len(padded) == window and padded.dtype == np.int16


@given(frames=st.integers(1, 2000), window=st.integers(1, 300))
def test_fixed_windows_begin_at_the_start_end_at_the_end_and_cover(frames, window):
    starts = fixed_windows(frames, window)
    assert starts[0] == 0 and 1 <= len(starts) <= audio.MAX_WINDOWS
    cut = windows(np.arange(frames).astype(np.int16), window)
    assert cut.shape == (len(starts), window)
    if frames <= 1.01 * window:
        assert len(starts) == 1
    else:
        assert starts[-1] + window == frames
        assert (np.diff(starts) > 0).all() and np.ptp(np.diff(starts)) <= 1
        if frames <= audio.MAX_WINDOWS * window:
            assert (np.diff(starts) <= window).all()


def view(samples, window, seed):
    """A random window, written over what stood there."""
    return random_window(samples, np.random.default_rng(seed), np.full(window, -7, np.int16))


@given(frames=st.integers(1, 400), window=st.integers(2, 200), seed=st.integers(0, 99))
def test_random_windows_repeat_with_their_generator_and_stay_inside(frames, window, seed):
    samples = np.arange(1, frames + 1, dtype=np.int16)
    one, two = (view(samples, window, seed) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    if frames > window:
        assert (np.diff(one) == 1).all()
    else:
        shift = int(np.random.default_rng(seed).integers(window))
        np.testing.assert_array_equal(np.roll(repeat_pad(samples, window), shift), one)


def test_views_of_a_short_clip_differ():
    samples = (30_000 * tone(50)).astype(np.int16)
    views = {view(samples, 200, seed).tobytes() for seed in range(5)}
    assert len(views) > 1


def test_a_wav_that_is_cut_short_or_hours_long_is_refused(tmp_path):
    whole, cut, slow = (tmp_path / name for name in ("whole.wav", "cut.wav", "slow.wav"))
    soundfile.write(whole, np.full(8000, 0.5), 8000)
    cut.write_bytes(whole.read_bytes()[:9000])
    soundfile.write(slow, np.full(36_000, 0.5), 1)
    assert len(decode(whole)[0]) == 8000
    with pytest.raises(AudioError, match="cut.wav: damaged: cut short, 8956 of 16000 bytes"):
        decode(cut)
    with pytest.raises(AudioError, match="slow.wav: too long: 10.0 h of 1 channels at 1 Hz"):
        decode(slow)
