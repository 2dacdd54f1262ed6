"""The manifest: what is measured of a recording, and when it is measured again."""

import os
import tracemalloc

import numpy as np
import pytest
import soundfile

from haf_utils.experiment import manifest
from haf_utils.experiment.manifest import default_path, measure, update
from haf_utils.io import recordings


@pytest.fixture
def tone(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(np.arange(8000) / 5), 8000)
    return path


def test_what_is_measured(tone):
    row = measure(tone)
    assert (row["frames"], row["rate"], row["channels"], row["problem"]) == (8000, 8000, 1, "")
    assert row["peak"] == pytest.approx(0.5, abs=1e-3) and row["rms"] == pytest.approx(0.5 / 2**0.5, abs=1e-3)
    assert len(row["audio_hash"]) == 32


def test_the_same_sound_has_one_hash_in_every_lossless_form(tone, tmp_path):
    samples, rate = soundfile.read(tone, dtype="int16")
    soundfile.write(tmp_path / "tone.flac", samples, rate)
    soundfile.write(tmp_path / "tone24.wav", samples.astype(np.int32) << 16, rate, subtype="PCM_24")
    hashes = {measure(tmp_path / name)["audio_hash"] for name in ("tone.wav", "tone.flac", "tone24.wav")}
    assert len(hashes) == 1
    soundfile.write(tmp_path / "faster.wav", samples, 2 * rate)
    assert measure(tmp_path / "faster.wav")["audio_hash"] not in hashes


def test_levels_do_not_depend_on_the_block(tmp_path, monkeypatch):
    samples = np.random.default_rng(0).uniform(-0.7, 0.7, (1001, 6)).astype(np.float32)
    soundfile.write(tmp_path / "six.wav", samples, 48_000, subtype="FLOAT")
    whole = measure(tmp_path / "six.wav")
    monkeypatch.setattr(recordings, "_BLOCK", 600)
    blocks = measure(tmp_path / "six.wav")
    assert whole["channels"] == 6 and whole["peak"] == np.abs(samples).max()
    assert blocks.pop("rms") == pytest.approx(whole.pop("rms"), rel=1e-5)
    assert blocks == whole


def write_bad(folder, tone):
    """One file of each kind -> {name: beginning of its problem}."""
    data = tone.read_bytes()
    samples, rate = soundfile.read(tone)
    soundfile.write(folder / "mp3.wav", samples, rate, format="MP3")
    soundfile.write(folder / "flac_cut.flac", np.random.default_rng(0).uniform(-1, 1, 30_000), rate)
    flac = (folder / "flac_cut.flac").read_bytes()
    (folder / "flac_cut.flac").write_bytes(flac[: len(flac) // 2])
    (folder / "cut.wav").write_bytes(data[:4000])
    (folder / "text.wav").write_text("this is not a recording")
    (folder / "bytes.wav").touch()
    soundfile.write(folder / "none.wav", samples[:0], rate)
    soundfile.write(folder / "nan.wav", np.append(samples, np.nan), rate, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.append(-np.inf, samples), rate, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(4000), rate)
    soundfile.write(folder / "whisper.wav", np.full(4000, 1e-6), rate, subtype="FLOAT")
    soundfile.write(folder / "7ms.wav", samples[:56], rate)
    soundfile.write(folder / "slow.wav", samples[:36_000], 1)
    return {
        "mp3.wav": "wrong extension: MP3 named .wav",
        "flac_cut.flac": "damaged",
        "cut.wav": "damaged: cut short, 3956 of 16000 bytes",
        "text.wav": "damaged: a text or a web page, no recording: it begins 'this is",
        "bytes.wav": "empty: the file has no bytes",
        "none.wav": "empty",
        "nan.wav": "not finite",
        "inf.wav": "not finite",
        "silent.wav": "silent: peak 0",
        "whisper.wav": "silent",
        "7ms.wav": "short: 7.0 ms",
        "slow.wav": "too long: 2.2 h of 1 channels at 1 Hz",
        "absent.wav": "missing",
    }


def test_every_kind_of_bad_file_is_named(tmp_path, tone):
    for name, problem in write_bad(tmp_path, tone).items():
        assert measure(tmp_path / name)["problem"].startswith(problem), name


def test_headers_of_writers_that_could_not_seek_are_not_called_cut(tmp_path, tone):
    data = bytearray(tone.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "streamed.wav").write_bytes(data)
    row = measure(tmp_path / "streamed.wav")
    assert row["frames"] == 8000 and row["problem"] == ""


def test_memory_does_not_grow_with_the_clip(tmp_path):
    def peak(frames):
        soundfile.write(tmp_path / "long.wav", np.ones(frames, np.int16), 8000)
        tracemalloc.start()
        measure(tmp_path / "long.wav")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(4_000_000) < 1.2 * peak(400_000) < 10e6


def test_only_new_and_changed_files_are_read_again(tmp_path, tone, monkeypatch):
    other = tmp_path / 'other, "quoted".wav'
    soundfile.write(other, np.ones(100) / 2, 8000)
    read = []
    original = measure
    monkeypatch.setattr(manifest, "measure", lambda file: read.append(os.path.basename(file)) or original(file))
    path = tmp_path / "cache" / "m.csv"
    first = update(path, [tone, other])
    assert sorted(read) == sorted([other.name, "tone.wav"]) and list(first.frames) == [8000, 100]
    again = update(path, [other, tone], workers=1)
    assert len(read) == 2 and list(again.frames) == [100, 8000]
    assert again.iloc[1].to_dict() == first.iloc[0].to_dict()
    soundfile.write(other, np.ones(200) / 2, 8000)
    assert list(update(path, [tone, other]).frames) == [8000, 200] and read[2:] == [other.name]
    other.unlink()
    assert update(path, [tone, other]).problem[1].startswith("missing")
    assert len(update(path, [])) == 0


def test_a_killed_run_goes_on_and_a_torn_row_does_no_harm(tmp_path, monkeypatch):
    files = []
    for i in range(6):
        files.append(tmp_path / f"{i}.wav")
        soundfile.write(files[-1], np.full(100 + i, 0.5), 8000)
    path = tmp_path / "m.csv"
    monkeypatch.setattr(manifest, "_BATCH", 2)
    original, calls = measure, []

    def killed(file):
        calls.append(file)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(file)

    monkeypatch.setattr(manifest, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        update(path, files, workers=1)
    path.write_bytes(path.read_bytes()[:-9])
    calls[:] = range(10)
    table = update(path, files, workers=1)
    assert list(table.frames) == [100, 101, 102, 103, 104, 105]
    assert 3 <= len(calls) - 10 <= 5
    before = len(calls)
    assert update(path, files).equals(table) and len(calls) == before


def test_another_file_is_not_taken_for_a_manifest(tmp_path, tone):
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="notes.csv is not a manifest"):
        update(tmp_path / "notes.csv", [tone])
    with pytest.raises(ValueError, match="workers=0"):
        update(tmp_path / "m.csv", [tone], workers=0)


def test_the_default_place_is_the_users_cache_and_knows_folders_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = default_path("/data/a/BSD10k"), default_path("/data/b/BSD10k")
    assert one.parent == two.parent == tmp_path / "haf-clap" and one != two
