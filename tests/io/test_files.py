"""Atomic writes, what killed ones leave behind, and walking through links."""

import errno
import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from haf_utils.io import journal
from haf_utils.io.files import atomic_write, read_npz, walk, writable, write_json


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path):
    code = f"""
import os, signal
from haf_utils.io.files import atomic_write
def killed(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
atomic_write({str(tmp_path / "table.npz")!r}, killed)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (left,) = tmp_path.iterdir()
    living = tmp_path / f".a.{os.getppid()}@{platform.node()}.csv"
    elsewhere = tmp_path / left.name.replace(platform.node(), "another-machine")
    theirs = tmp_path / ".notes.123.txt"
    for file in (living, elsewhere, theirs):
        file.write_text("keep")
    atomic_write(tmp_path / "other.txt", lambda path: path.write_text("x"))
    assert not left.exists() and all(file.exists() for file in (living, elsewhere, theirs))
    with pytest.raises(OSError):
        atomic_write(tmp_path / "other.txt", lambda path: path.write_text("y") and path.rename("/nowhere/at/all"))
    assert (tmp_path / "other.txt").read_text() == "x" and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_place_that_cannot_be_written_to_is_named_with_what_to_do(tmp_path, monkeypatch, error):
    assert writable(tmp_path / "a/b").is_dir()
    advice = pytest.raises(PermissionError, match="/x cannot be written to: name another folder .*haf --runs, make run")
    with monkeypatch.context() as patch, advice:
        patch.setattr(os, "access", lambda *_: False)  # there, and on a read-only disk
        writable(tmp_path / "x")

    def refused(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(OSError, match="No space") if error == errno.ENOSPC else advice:
        atomic_write(tmp_path / "not/x/file", lambda path: path.touch())


def test_walking_follows_links_and_ends(tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "root"
    (disk / "deep").mkdir(parents=True)
    root.mkdir()
    (disk / "deep" / "1.wav").touch()
    (root / "audio").symlink_to(disk)
    (disk / "deep" / "up").symlink_to(root)
    (disk / "again").symlink_to(disk / "deep")
    (root / "gone.wav").symlink_to("nowhere")
    os.mkfifo(root / "pipe.wav")
    assert sorted(path.name for path in walk(root)) == ["1.wav", "gone.wav", "pipe.wav"]


def test_names_that_are_not_utf8_survive_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    write_json(tmp_path / "a.json", {"file": name, "title": "na\u00efve"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"file": name, "title": "na\u00efve"}


def test_a_journal_drops_what_is_torn_and_goes_on(tmp_path):
    path, fields = tmp_path / "j.csv", ("name", "value")
    rows = [('a, "b"', "1"), ("two\nlines", "2"), (os.fsdecode(b"\xff"), "3"), ("", "")]
    journal.append(path, fields, rows[:2])
    journal.append(path, fields, rows[2:])
    assert journal.read(path, fields) == (rows, 0)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept, torn = journal.read(path, fields)
        assert kept == rows[: len(kept)] and torn <= 1
        journal.append(path, fields, [("new", "5")])
        assert journal.read(path, fields)[0] in (kept + [("new", "5")], [*rows[: len(kept) + 1], ("new", "5")])
    for place in range(len("name,value,check\n"), len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert set(journal.read(path, fields)[0]) < set(rows)


def test_a_damaged_cache_is_none_and_says_so(tmp_path, capsys):
    path, rng = tmp_path / "cache.npz", np.random.default_rng(0)
    arrays = {"audio": rng.standard_normal((6, 4)).astype(np.float32), "text": np.ones((6, 2))}
    shapes = {name: array.shape for name, array in arrays.items()}
    assert read_npz(path, **shapes) is None and capsys.readouterr().out == ""
    np.savez(path, **arrays)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]):
            path.write_bytes(data)
            found = read_npz(path, **shapes)
            if found is None:
                assert "cache.npz cannot be used" in capsys.readouterr().out
            else:
                assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    path.write_bytes(whole)
    assert read_npz(path, audio=(6, 4), text=(5, 2)) is None and read_npz(path, **shapes) is not None
