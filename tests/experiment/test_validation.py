"""validate(): everything that can be wrong with a folder, each named, nothing else lost."""

import json
import os
import subprocess

import numpy as np
import pytest
import soundfile
from conftest import HAF, need_shared
from test_datasets import bsd_row, make_bsd, make_fsd50k
from test_manifest import write_bad

from haf_utils.audio import prepare
from haf_utils.cli import main
from haf_utils.datasets import load
from haf_utils.experiment.validation import NOTES, validate
from haf_utils.io.recordings import UNUSABLE
from haf_utils.io.store import build_store


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def sound(path, seed=0, frames=8000):
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, frames), 8000)


@pytest.fixture
def good(tmp_path):
    root = make_bsd(tmp_path / "good", [bsd_row("1"), bsd_row("2", "ss-n"), bsd_row("3", "fx-other")])
    sound(root / "audio" / "1.wav", 1)
    sound(root / "audio" / "2.wav", 2)
    return root


def test_a_good_folder(good, capsys):
    report = validate(good)
    assert report.ok and report.findings.empty
    assert report.hours == pytest.approx(2 / 3600)
    assert "2 clips" in str(report) and "fx-other 1" in str(report) and "nothing is wrong" in str(report)
    assert main(["validate", str(good)]) == 0
    assert "8000 Hz × 2" in capsys.readouterr().out
    assert not list(good.rglob("*.csv.lock"))


def test_a_folder_whose_metadata_lost_all_rows_is_not_right(good, capsys):
    (file,) = (good / "metadata").glob("*_metadata.csv")
    file.write_text(file.read_text("utf-8").split("\n")[0] + "\n")
    assert main(["validate", str(good)]) == 2
    assert "its metadata lists no clip of the task: restore" in capsys.readouterr().err


@pytest.fixture
def bad(tmp_path):
    root = tmp_path / "bad"
    (root / "zoo").mkdir(parents=True)
    sound(root / "zoo" / "tone.wav")
    kinds = write_bad(root / "zoo", root / "zoo" / "tone.wav")
    rows = [bsd_row(name.split(".")[0]) for name in kinds]
    rows += [bsd_row("tone"), bsd_row("copy"), bsd_row("tone"), bsd_row("what", "xx-y"), bsd_row("odd", title="OLD")]
    make_bsd(root, rows)
    (root / "audio").rmdir()
    (root / "zoo").rename(root / "audio")
    samples, rate = soundfile.read(root / "audio" / "tone.wav")
    soundfile.write(root / "audio" / "copy.flac", samples, rate)
    sound(root / "audio" / "what.wav", 5)
    sound(root / "audio" / "odd.wav", 6)
    sound(root / "audio" / "stranger.wav", 7)
    metadata = root / "metadata" / "BSD10k_metadata.csv"
    metadata.write_bytes(metadata.read_bytes().replace(b"OLD", b"caf\xe9"))
    return root


def test_each_problem_is_named_and_nothing_else_is_lost(bad):
    report = validate(bad)
    found = {(row.category, row.sound_id) for row in report.findings.itertuples()}
    assert found == {
        ("wrong extension", "mp3"),
        ("damaged", "flac_cut"),
        ("damaged", "cut"),
        ("damaged", "text"),
        ("empty", "bytes"),
        ("empty", "none"),
        ("not finite", "nan"),
        ("not finite", "inf"),
        ("silent", "silent"),
        ("silent", "whisper"),
        ("short", "7ms"),
        ("too long", "slow"),
        ("missing", "absent"),
        ("duplicate id", "tone"),
        ("duplicate audio", "copy"),
        ("out of taxonomy", "what"),
        ("not UTF-8", ""),
        ("not listed", "stranger"),
    }
    assert not report.ok and len(report.problems) == len(report.findings) - 2
    assert len(report.clips) == 17 and len(report.manifest) == 16
    kept = report.manifest.set_index("sound_id")
    assert kept.frames["tone"] == kept.frames["odd"] == 8000 and kept.problem["odd"] == ""
    text = str(report)
    assert "problem: 3 × damaged" in text and "note: 1 × short" in text and "copy: same sound as tone" in text


def test_the_command_and_its_exit_codes(bad, good, tmp_path, capsys):
    written = ["--json", str(tmp_path / "report.json"), "--manifest", str(tmp_path / "m.csv")]
    assert main(["validate", str(bad), *written]) == 1
    content = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert content["counts"]["damaged"] == 3 and content["ok"] is False and content["clips"] == 17
    assert (tmp_path / "m.csv").is_file()
    assert main(["validate", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["validate", str(bad / "audio")]) == 2
    run = subprocess.run([HAF, "validate", str(good)], capture_output=True, text=True)
    assert run.returncode == 0 and "nothing is wrong" in run.stdout and run.stderr == ""


def test_metadata_alone_is_a_note(tmp_path):
    report = validate(make_bsd(tmp_path))
    assert report.ok and list(report.findings.category) == ["no audio"] and report.manifest_path is None


def test_other_layouts(tmp_path):
    make_fsd50k(tmp_path)
    sound(tmp_path / "FSD50K.eval_audio" / "20.wav")
    report = validate(tmp_path)
    assert list(report.manifest.sound_id) == ["20"] and set(report.problems.category) == {"missing"}


def test_real_recordings_are_all_right(tmp_path):
    real = need_shared("real_audio")
    rows = (real / "metadata" / "BSD10k_metadata.csv").read_text("utf-8").splitlines()
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "BSD10k_metadata.csv").write_text("\n".join([*rows[:1], *rows[1::12]]), "utf-8")
    (tmp_path / "audio").symlink_to(real / "audio")
    report = validate(tmp_path)
    assert report.ok and len(report.manifest) == 49 and set(report.findings.category) <= set(NOTES)
    assert set(report.manifest.channels) == {1, 2} and report.hours > 0.02


def test_deep_looks_at_unchanged_files_and_at_audio_stores(good, tmp_path):
    validate(good)
    clips = load(good)
    build_store(clips, tmp_path / "runs" / "a" / "stores" / "good", 8000, prepare)
    samples = tmp_path / "runs" / "a" / "stores" / "good" / "8000" / "samples.int16"
    for file in (good / "audio" / "2.wav", samples):
        data, before = bytearray(file.read_bytes()), os.stat(file)
        data[200:400] = bytes(200)
        file.write_bytes(data)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert validate(good).ok
    report = validate(good, deep=True, stores=tmp_path / "runs")
    assert [(row.category, row.sound_id) for row in report.findings.itertuples()] == [("stored samples", "1")]
    assert validate(good, deep=True, stores=tmp_path / "nowhere").ok


def test_the_store_and_prediction_say_what_validation_says(bad, tmp_path):
    report = validate(bad)
    clips = report.clips[report.clips.path.notna()]
    store = build_store(clips, tmp_path / "stores", 8000, prepare, max_lost=1)
    problems = report.manifest.set_index("sound_id").problem
    unusable = problems[problems.str.split(":").str[0].isin(UNUSABLE)]
    assert store.lost.set_index("sound_id").reason.to_dict() == unusable.to_dict() and len(unusable) > 6
