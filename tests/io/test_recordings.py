"""The one reader: each kind of hard recording is read whole or named, whatever libsndfile thinks of its length."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import need_shared

from haf_utils.audio import prepare
from haf_utils.io.recordings import AudioError, decode, header, scan

RATE = 44_100


def noise(frames=RATE, channels=1, seed=0) -> np.ndarray:
    samples = 0.2 * np.random.default_rng(seed).standard_normal((frames, channels)).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def write(path, samples, rate=RATE, **kind) -> bytes:
    soundfile.write(path, samples, rate, **kind)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "opus"])
@pytest.mark.parametrize("channels", [1, 2])
def test_reading_by_blocks_is_reading_at_once(tmp_path, kind, channels, monkeypatch):
    monkeypatch.setattr("haf_utils.io.recordings._BLOCK", 5_000)
    path, rate = tmp_path / f"a.{kind}", 48_000
    options = {"format": "OGG", "subtype": "OPUS"} if kind == "opus" else {}
    write(path, noise(50_000, channels), rate, **options)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(decode(path)[0], whole.mean(axis=1))
    np.testing.assert_array_equal(decode(path, seconds=0.5)[0], whole.mean(axis=1)[:24_001])
    assert scan(path).problem == "" and header(path)[0] == pytest.approx(50_000 / rate, rel=0.01)


def info_frame(data: bytes) -> int:
    """Length of the first frame of an MP3 of 44.1 kHz, which holds the number of frames and no sound."""
    rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    return 144 * rates[data[2] >> 4] * 1000 // RATE + (data[2] >> 1 & 1)


def test_mp3_without_length_is_read_to_its_end(tmp_path):
    """With quiet first, libsndfile expects too many samples, with noise first too few."""
    for name, order in (("quiet_first", 1), ("noise_first", -1)):
        samples = np.concatenate([np.zeros(8 * RATE, np.float32), noise(4 * RATE)][::order])
        path = tmp_path / f"{name}.mp3"
        data = write(path, samples, bitrate_mode="VARIABLE", compression_level=0.3)
        assert scan(path).frames == len(samples)
        for tag, before, after in (("", b"", b""), ("junk", bytes(700), b""), ("id3", b"", b"TAG" + bytes(125))):
            file = tmp_path / f"{name}{tag}.mp3"
            file.write_bytes(before + data[info_frame(data) :] + after)
            sound = scan(file)
            assert sound.problem == "" and len(samples) <= sound.frames < len(samples) + 3 * 1152
        cut = tmp_path / f"{name}_cut.mp3"
        cut.write_bytes(data[: len(data) // 3])
        assert scan(cut).problem.startswith("damaged: ends after")
        cut.write_bytes(data + data)
        assert scan(cut).problem.startswith("damaged: goes on after")


def test_flac_is_read_to_its_end_whatever_its_header_counts(tmp_path):
    path = tmp_path / "a.flac"
    data = bytearray(write(path, noise(100_000)))
    for total, problem in (
        (0, ""),
        (1000, ""),
        (99_999, ""),
        (100_001, "damaged: ends after 100000 of 100001 samples"),
    ):
        data[21:26] = bytes([data[21] & 0xF0]) + total.to_bytes(4, "big")
        path.write_bytes(data)
        sound = scan(path)
        assert (sound.frames, sound.problem) == (100_000, problem)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert scan(path).problem.startswith("damaged:")


def test_ogg_pages_are_checked_and_joined_streams_all_read(tmp_path):
    path = tmp_path / "a.ogg"
    one, two = write(path, noise(200_000)), write(path, noise(40_000, seed=1))
    path.write_bytes(one + two)
    assert scan(path).problem == "" and scan(path).frames == 240_000
    second = one.index(b"OggS", len(one) // 3)
    after = one.index(b"OggS", second + 4)
    flipped = bytearray(one)
    flipped[second + 100] ^= 1
    kinds = {
        "cut short in an Ogg page": one[: second + 300],
        "cut short, the last Ogg page": one[:second],
        "an Ogg page is broken": bytes(flipped),
        "Ogg pages are missing": one[:second] + one[after:],
    }
    for problem, data in kinds.items():
        path.write_bytes(data)
        assert scan(path).problem.startswith(f"damaged: {problem}"), problem
    path.write_bytes(one + bytes(100))
    assert scan(path).problem == ""
    write(tmp_path / "b.ogg", noise(3000, 2), 32_000)
    path.write_bytes(one + (tmp_path / "b.ogg").read_bytes())
    assert "different rates or channels" in scan(path).problem


def test_wav_of_a_recorder_that_lost_power(tmp_path):
    path = tmp_path / "a.wav"
    data = bytearray(write(path, noise()))
    data[40:44] = bytes(4)
    path.write_bytes(data)
    assert scan(path).frames == RATE and scan(path).problem == ""
    path.write_bytes(data[:44] + b"LIST" + (4).to_bytes(4, "little") + b"INFO")
    assert scan(path).problem == "empty: no samples"


def test_codecs_that_cannot_seek(tmp_path):
    for subtype in ("GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW"):
        write(tmp_path / "a.wav", noise(8000), 8000, subtype=subtype)
        assert 8000 <= len(decode(tmp_path / "a.wav")[0]) < 8500 and scan(tmp_path / "a.wav").problem == ""


def test_channels_that_cancel_each_other(tmp_path):
    left = noise()
    for right in (-left, -0.995 * left):
        write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
        np.testing.assert_array_equal(decode(tmp_path / "a.wav")[0], left)
        assert scan(tmp_path / "a.wav").problem.startswith("out of phase")
    write(tmp_path / "a.wav", np.stack([0 * left, left, -left], axis=1), subtype="FLOAT")
    np.testing.assert_array_equal(decode(tmp_path / "a.wav")[0], left)
    write(tmp_path / "a.wav", np.stack([left, -0.5 * left], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "a.wav")[0], left / 4, rtol=1e-5)


@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31])
def test_floats_on_the_scale_of_integers_are_refused_with_their_peak(tmp_path, scale):
    write(tmp_path / "a.wav", noise() * scale, subtype="FLOAT")
    peak = np.abs(noise()).max() * scale
    with pytest.raises(AudioError, match=f"out of range: samples up to {peak:.0f}"):
        decode(tmp_path / "a.wav")
    write(tmp_path / "a.wav", noise() * 8, subtype="FLOAT")
    assert prepare(tmp_path / "a.wav", RATE).max() == 32_767


@pytest.mark.filterwarnings("error")
def test_absurd_floats_are_named_without_a_warning(tmp_path):
    data = write(tmp_path / "a.wav", noise(5000, 2), subtype="FLOAT")
    (tmp_path / "a.wav").write_bytes(data[:9001] + b"x" * 51 + data[9001:])
    assert scan(tmp_path / "a.wav").problem.split(":")[0] in ("not finite", "out of range")


def test_what_is_no_file_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("nowhere")
    (tmp_path / "page.mp3").write_text("<!DOCTYPE html>\n<html>Too many requests, caf\u00e9</html>")
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(0).bytes(5000))
    expected = {
        "pipe.wav": "missing: a pipe or a device, not a file",
        "link.wav": "missing: a link to nothing",
        "page.mp3": "damaged: a text or a web page, no recording: it begins '<!DOCTYPE html>",
        "noise.wav": "damaged: Format not recognised",
    }
    for name, problem in expected.items():
        assert scan(tmp_path / name).problem.startswith(problem)
        with pytest.raises(AudioError, match=name):
            header(tmp_path / name)


@pytest.mark.parametrize(
    "start", [b"\0\0\0\x20ftypM4A ", b"\0\0\0\x18ftypisom", b"\xff\xf1P\x80", b"\x30\x26\xb2\x75\x8e\x66"]
)
@pytest.mark.parametrize("name", ["a.m4a", "named.wav", "named.mp3"])
def test_formats_that_are_not_read_are_unsupported_not_damaged(tmp_path, start, name):
    (tmp_path / name).write_bytes(start + bytes(2_000))
    assert scan(tmp_path / name).problem == "unsupported: M4A, AAC, WMA, WebM or AMR: convert it to WAV or FLAC"


def test_what_would_not_fit_into_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("haf_utils.io.recordings.MOST_VALUES", 10_000)
    monkeypatch.setattr("haf_utils.io.recordings._BLOCK", 1000)
    for kind in ("wav", "flac", "ogg"):
        write(tmp_path / f"a.{kind}", noise(5001, 2))
        seen = []
        assert (
            scan(tmp_path / f"a.{kind}", lambda block, _, seen=seen: seen.append(len(block))).problem[:8] == "too long"
        )
        assert sum(seen) <= (0 if kind == "wav" else 5000)
        write(tmp_path / f"a.{kind}", noise(5000, 2))
        assert scan(tmp_path / f"a.{kind}").problem == ""


def test_memory_grows_with_the_mono_sound_alone(tmp_path):
    """Peak memory of preparing 10 s and 120 s of eight channels at 44.1 kHz: float32 at both rates and int16, mono."""
    peaks = []
    for seconds in (10, 120):
        path = tmp_path / f"{seconds}.wav"
        with soundfile.SoundFile(path, "w", RATE, 8) as file:
            for _ in range(seconds):
                file.write(noise(RATE, 8))
        code = f"""
import resource
from haf_utils.audio import prepare
prepare({str(tmp_path / "10.wav")!r}, 48000)
prepare({str(path)!r}, 48000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"""
        peaks.append(
            int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        )
    unit = 1 if sys.platform == "darwin" else 1024
    assert (peaks[1] - peaks[0]) * unit < 110 * (2 * 4 * 48_000 + 2 * 48_000) * 1.3


def test_hard_recordings_from_outside():
    folder = need_shared("hard_inputs")
    expected = {
        "cbr_without_info_header.mp3": (89_856, ""),
        "gsm.wav": (12_160, ""),
        "ogg_cut_at_two_thirds.ogg": (0, "damaged: cut short"),
        "ogg_two_joined.ogg": (132_300, ""),
        "float_int16_scale.wav": (66_150, "out of range: samples up to 13524"),
        "stereo_out_of_phase.wav": (66_150, "out of phase"),
        "html_error.mp3": (0, "damaged: a text or a web page"),
        "datasize_0_riff_ok.wav": (66_150, ""),
    }
    for name, (frames, problem) in expected.items():
        sound = scan(folder / name)
        assert sound.frames == frames and sound.problem.startswith(problem) and bool(sound.problem) == bool(problem), (
            name
        )
