"""The demo's answers to what it cannot use; test_browser.py has it answer a sound."""

import io
import sys

import numpy as np
import pytest
import soundfile

from haf_utils.audio import AudioError
from tools import demo, lab


def test_a_recording_is_read_at_every_rate_that_is_asked_for():
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(np.arange(8000)), 16_000, format="FLAC")
    samples = demo.reading("tone.flac", file.getvalue(), {16_000, 32_000})
    assert {rate: len(own) for rate, own in samples.items()} == {16_000: 8_000, 32_000: 16_000}
    assert samples[16_000].dtype == np.int16


@pytest.mark.parametrize(
    "content, reason",
    [(b"", "empty"), (b"<html>no sound", "a web page"), (b"x" * (demo.LIMIT + 1), "too large: 20.0 MB, 20 MB at most")],
)
def test_bad_files_are_answered_with_the_reason(content, reason):
    with pytest.raises(AudioError, match=f"^my.wav: .*{reason}"):
        demo.reading("my.wav", content, {16_000})


def test_without_runs_it_says_how_to_make_them(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "absent"):
        monkeypatch.setattr(sys, "argv", ["demo", str(folder)])
        with pytest.raises(SystemExit, match="make run"):
            demo.main()


def test_the_server_shows_its_own_folder_and_restores_nothing_that_was_open_elsewhere(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(demo, "trained_ours", lambda runs: ({}, [], []))
    monkeypatch.setattr(demo, "become_lab", lambda page, *arguments: started.extend(arguments))
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo.os, "environ", dict(demo.os.environ))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path)])
    demo.main()
    (own,) = tmp_path.glob("haf-demo-*")
    assert (own / "demo.ipynb").is_file()
    assert {f"--ServerApp.root_dir={own}", f"--LabApp.workspaces_dir={own}"} <= set(started)


def test_the_server_listens_here_alone_and_asks_nobody_for_news(monkeypatch):
    started = []
    monkeypatch.setattr(lab.os, "execv", lambda program, arguments: started.extend(arguments))
    monkeypatch.setattr(lab.os, "environ", dict(lab.os.environ))
    lab.become_lab("lab/tree/work", "--LabApp.default_url=/other")
    assert {"--ServerApp.ip=127.0.0.1", "--LabApp.news_url=None", "--LabApp.default_url=/other"} <= set(started)
    assert (
        any("NeverCheckForUpdate" in option for option in started)
        and "--LabApp.default_url=/lab/tree/work" not in started
    )
