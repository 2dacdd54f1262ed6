"""The audio store: every clip once, as prepared; resumable, one writer at a time, lost clips with reasons."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import soundfile

import haf_utils.io.store as store_module
from haf_utils.audio import prepare

RATE = 16_000


def build_store(table, folder, rate, prepare=prepare, **options):
    return store_module.build_store(table, folder, rate, prepare, **options)


def tone(frames=4000, seed=0) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).standard_normal(frames).astype(np.float32)


@pytest.fixture
def clips(tmp_path):
    """Twelve readable clips as a clips table."""
    rows = []
    for number in range(12):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, tone(2000 + 100 * number, number), RATE)
        rows.append((f"{number:03d}", str(path)))
    return pd.DataFrame(rows, columns=["sound_id", "path"])


def test_the_store_holds_every_clip_as_prepared(clips, tmp_path, capsys):
    store = build_store(clips, tmp_path / "store", 8_000)
    assert len(store.index) == len(clips) and store.sample_rate == 8_000 and store.lost.empty
    for sound_id, path in clips.itertuples(index=False):
        np.testing.assert_array_equal(store.samples(sound_id), prepare(path, 8_000))
        assert sound_id in store
    assert "12 clips" in capsys.readouterr().out
    with pytest.raises(ValueError, match="read-only"):
        store.samples("000")[0] = 1
    with pytest.raises(KeyError):
        store.samples("nobody")
    assert isinstance(store.samples("000").base, np.memmap) or isinstance(store._samples.base, np.memmap)


def test_nothing_is_decoded_twice_and_a_changed_file_is(clips, tmp_path):
    build_store(clips, tmp_path / "store", RATE)
    decoded = []

    def counted(path, rate):
        decoded.append(path)
        return prepare(path, rate)

    build_store(clips, tmp_path / "store", RATE, counted)
    assert decoded == []
    changed = clips["path"][4]
    soundfile.write(changed, tone(999, 99), RATE)
    store = build_store(clips, tmp_path / "store", RATE, counted)
    assert decoded == [changed]
    np.testing.assert_array_equal(store.samples("004"), prepare(changed, RATE))
    np.testing.assert_array_equal(store.samples("005"), prepare(clips["path"][5], RATE))
    build_store(clips, tmp_path / "store", 8_000, counted)
    assert len(decoded) == 1 + len(clips)


def test_part_of_a_table_uses_the_same_store(clips, tmp_path):
    build_store(clips, tmp_path / "store", RATE)
    store = build_store(clips[::-2], tmp_path / "store", RATE, None)
    assert store.index["sound_id"].tolist() == clips["sound_id"][::-2].tolist()


def test_samples_nobody_wants_any_more_do_not_pile_up(clips, tmp_path):
    for seed in range(4):
        for path in clips["path"]:
            soundfile.write(path, tone(4000, seed), RATE)
        store = build_store(clips, tmp_path / "store", RATE)
        np.testing.assert_array_equal(store.samples("003"), prepare(clips["path"][3], RATE))
    assert (tmp_path / "store" / str(RATE) / "samples.int16").stat().st_size == 2 * 4000 * len(clips)


def test_lost_clips_are_listed_with_reasons_and_the_job_goes_on(clips, tmp_path):
    soundfile.write(clips["path"][1], np.zeros(500), RATE)
    os.remove(clips["path"][7])
    store = build_store(clips, tmp_path / "store", RATE)
    assert store.lost["sound_id"].tolist() == ["001", "007"]
    assert store.lost["reason"].tolist() == ["silent: peak 0.0e+00", "missing: no such file"]
    assert len(store.index) == 10 and "001" not in store
    soundfile.write(clips["path"][7], tone(), RATE)  # it comes back
    assert "007" in build_store(clips, tmp_path / "store", RATE)


def test_too_many_lost_clips_stop_the_job(clips, tmp_path):
    for path in clips["path"][:4]:
        os.remove(path)
    with pytest.raises(ValueError, match=r"4 of 12 clips cannot be used \(\{'missing': 4\}\)"):
        build_store(clips, tmp_path / "store", RATE)
    assert len(build_store(clips, tmp_path / "store", RATE, max_lost=0.5).index) == 8


def test_bad_tables_and_full_disks_are_said(clips, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'000' occurs more than once"):
        build_store(pd.concat([clips, clips[:1]]), tmp_path / "store", RATE)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda folder: _Usage)
    with pytest.raises(OSError, match="make room or choose another scratch"):
        build_store(clips, tmp_path / "store", RATE)


class _Usage:
    free = 1000


def test_a_killed_build_goes_on_where_it_stopped(clips, tmp_path):
    """A process dies by SIGKILL in its second chunk; half a line and stray samples are left behind."""
    clips.to_csv(tmp_path / "clips.csv", index=False)
    program = f"""
        import os, signal
        import pandas as pd
        from haf_utils import audio
        from haf_utils.io import store
        store._CHUNK = 4
        calls = []
        def prepare(path, rate):
            calls.append(path)
            if len(calls) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return audio.prepare(path, rate)
        table = pd.read_csv({str(tmp_path / "clips.csv")!r}, dtype=str)
        store.build_store(table, {str(tmp_path / "store")!r}, {RATE}, prepare, workers=1)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    folder = tmp_path / "store" / str(RATE)
    assert (folder / "index.csv").read_text().count("\n") == 1 + 4
    with open(folder / "index.csv", "a") as file:
        file.write('004,"/some/pa')
    with open(folder / "samples.int16", "ab") as file:
        file.write(b"stray")
    decoded = []
    store = build_store(clips, tmp_path / "store", RATE, lambda path, rate: decoded.append(path) or prepare(path, rate))
    assert sorted(decoded) == sorted(clips["path"][4:])
    for sound_id, path in clips.itertuples(index=False):
        np.testing.assert_array_equal(store.samples(sound_id), prepare(path, RATE))


def test_two_builds_at_once_make_one_store(clips, tmp_path):
    clips.to_csv(tmp_path / "clips.csv", index=False)
    program = f"""
        import pandas as pd
        from haf_utils.audio import prepare
        from haf_utils.io.store import build_store
        table = pd.read_csv({str(tmp_path / "clips.csv")!r}, dtype=str)
        print(len(build_store(table, {str(tmp_path / "store")!r}, {RATE}, prepare).index))
    """
    both = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert all(output.endswith("12\n") for output in outputs)
    assert sum("audio store:" in output for output in outputs) == 1
    assert (tmp_path / "store" / str(RATE) / "index.csv").read_text().count("\n") == 1 + 12


def damage(file, what):
    """Change the middle of a file in one of the ways in which disks do."""
    data = bytearray(file.read_bytes())
    half = len(data) // 2
    if what == "cut":
        del data[half:]
    elif what == "zeroed":
        data[half : half + 500] = bytes(500)
    else:
        data[half] ^= 64
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["samples.int16", "index.csv"])
@pytest.mark.parametrize("what", ["cut", "zeroed", "flipped", "gone", "garbage"])
def test_a_damaged_store_is_mended(clips, tmp_path, capsys, what, name):
    build_store(clips, tmp_path / "store", RATE)
    file = tmp_path / "store" / str(RATE) / name
    if what == "gone":
        file.unlink()
    elif what == "garbage":
        file.write_bytes(np.random.default_rng(0).bytes(5000))
    else:
        damage(file, what)
    decoded = []
    capsys.readouterr()
    store = build_store(clips, tmp_path / "store", RATE, lambda path, rate: decoded.append(path) or prepare(path, rate))
    assert decoded and (what in ("gone", "garbage") or len(decoded) < len(clips))
    assert (name == "index.csv" and what == "gone") or "decoded again" in capsys.readouterr().out
    for sound_id, path in clips.itertuples(index=False):
        np.testing.assert_array_equal(store.samples(sound_id), prepare(path, RATE))
    assert len(build_store(clips, tmp_path / "store", RATE, None).index) == len(clips)


def test_a_flip_that_left_size_and_time_is_found_by_looking_at_all(clips, tmp_path):
    build_store(clips, tmp_path / "store", RATE)
    folder = tmp_path / "store" / str(RATE)
    before = os.stat(folder / "samples.int16")
    damage(folder / "samples.int16", "flipped")
    os.utime(folder / "samples.int16", ns=(before.st_atime_ns, before.st_mtime_ns))
    build_store(clips, tmp_path / "store", RATE, None)
    changed = store_module.changed_clips(folder)
    assert len(changed) == 1
    store = build_store(clips, tmp_path / "store", RATE)
    assert store_module.changed_clips(folder).empty
    sound_id, path = changed.iloc[0]
    np.testing.assert_array_equal(store.samples(sound_id), prepare(path, RATE))


def test_names_of_any_kind_are_kept(tmp_path):
    names = [b"caf\xe9.flac", 'na\u00efve, "quoted".flac'.encode(), b"two\nlines.flac"]
    paths = [os.path.join(tmp_path, os.fsdecode(name)) for name in names]
    for path in paths:
        with open(path, "wb") as file:
            soundfile.write(file, tone(), RATE, format="FLAC")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / ".#lock.wav").symlink_to("user@host.17")
    (tmp_path / "folder.wav").mkdir()
    paths += [str(tmp_path / name) for name in ("pipe.wav", ".#lock.wav", "folder.wav")]
    clips = pd.DataFrame({"sound_id": list("abcdef"), "path": paths})
    for function in (prepare, None):
        store = build_store(clips, tmp_path / "store", RATE, function, max_lost=0.5)
        assert list(store.index["sound_id"]) == ["a", "b", "c"] and list(store.lost["reason"]) == [
            "missing: a pipe or a device, not a file",
            "missing: a link to nothing",
            "missing: a folder, not a file",
        ]


def test_decoded_clips_wait_by_bytes(clips, tmp_path, monkeypatch):
    """No more clips than fit are decoded before they are written."""
    monkeypatch.setattr(store_module, "_CHUNK_BYTES", 10_000)
    rows = []
    append = store_module.journal.append
    monkeypatch.setattr(store_module.journal, "append", lambda *a: rows.append(len(a[2])) or append(*a))
    build_store(clips, tmp_path / "store", RATE)
    assert sum(rows) == 12 and max(rows) <= 3  # of 4,000 to 6,200 bytes
