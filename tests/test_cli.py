"""The command line answers at once, names what is wrong in one sentence, and keeps to its exit codes."""

import os
import subprocess
import sys
import tempfile

import pytest
from conftest import HAF

from haf_utils import cli
from haf_utils.io.progress import adapt

HEAVY = "torch", "sklearn", "scipy", "librosa", "transformers", "matplotlib"


def haf(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([HAF, *arguments], capture_output=True, text=True)


def heavy_after(*arguments: str) -> tuple[str, list[str]]:
    """The last line that a command leaves in a new process, and which slow packages it has imported."""
    program = f"""
import sys
import tempfile
from haf_utils.cli import main
try:
    code = main({list(arguments)})
except SystemExit as end:
    code = end.code
print(code, *(name for name in {HEAVY} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    code, *names = done.stdout.splitlines()[-1].split()
    return code, names


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], "0"),
        (["predict", "--help"], "0"),
        (["sweep", "--help"], "0"),
        (["validate", "--help"], "0"),
        (["submission", "check", "--help"], "0"),
        ([], "2"),
        (["predikt"], "2"),
        (["predict", "a", "b.wav", "--views", "many"], "2"),
        (["predict", "a", "b.wav", "--views", "-1"], "2"),
        (["sweep", "smothing=none"], "2"),
        (["sweep", "smoothing=nonne", "--profile", "tiny"], "2"),
        (["sweep", "absent.yaml"], "2"),
    ],
)
def test_help_and_wrong_arguments_need_nothing_slow(arguments, code):
    assert heavy_after(*arguments) == (code, [])


def test_a_list_goes_on_after_options_and_unknown_options_are_refused(capsys):
    assert cli.main(["sweep", "train=head", "--profile", "tiny", "smoothing=nonne"]) == 2
    assert "nonne" in capsys.readouterr().err
    assert cli.main(["predict", "absent", "a.wav", "--views", "-1", "b.wav"]) == 2
    assert "views" in capsys.readouterr().err
    for unknown in (["sweep", "train=head", "--nonsense"], ["leaderboard", "runs", "more"]):
        with pytest.raises(SystemExit):
            cli.main(unknown)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_the_installed_command_lists_its_commands():
    done = haf("--help")
    assert done.returncode == 0
    assert all(f"\n    {name}" in done.stdout for name in ("predict", "sweep", "validate", "submission"))


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (FileNotFoundError(2, "No such file", "x.csv"), 2, "error: [Errno 2] No such file: 'x.csv'\n"),
        (ValueError("fold=9"), 2, "error: fold=9\n"),
        (TypeError("mixup=1"), 2, "error: mixup=1\n"),
        (RuntimeError("CUDA out of memory"), 2, "error: CUDA out of memory\n"),
        (ImportError("hear21passt is not installed"), 2, "error: hear21passt is not installed\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted; the same command goes on from there\n"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(monkeypatch, capsys, error, code, printed):
    def fail(given):
        raise error

    monkeypatch.setattr(cli, "_validate", fail)
    assert cli.main(["validate", "folder"]) == code
    assert capsys.readouterr() == ("", printed)


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "_validate", lambda given: {}["key"])
    with pytest.raises(KeyError):
        cli.main(["validate", "folder"])


@pytest.mark.parametrize("arguments", [["submission", "check", "out.csv"], ["sweep", "--parameters"]])
def test_a_reader_that_stops_reading_gets_no_complaint(tmp_path, arguments):
    rows = "".join(f"{number},no-class,1\n" for number in range(20))
    (tmp_path / "out.csv").write_text(f"id,predicted_bst_second_level_class,prediction_score\n{rows}")
    arguments = [str(tmp_path / "out.csv") if each == "out.csv" else each for each in arguments]
    process = subprocess.Popen([HAF, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_the_options_of_a_cluster_are_the_fields_of_slurm():
    from haf_utils.experiment.sweeps import Slurm

    fields = Slurm.__dataclass_fields__
    assert list(fields) == list(cli._SLURM)
    for name, (kind, text) in cli._SLURM.items():
        default = fields[name].default
        assert type(default) is kind
        assert ("default" in text) == bool(default) and (not default or f"default: {default:g}" in text)


def test_a_terminal_without_the_letters_gets_escapes(tmp_path):
    (tmp_path / "ж.csv").write_text("id\n1\n", "utf-8")
    done = subprocess.run(
        [HAF, "submission", "check", str(tmp_path / "ж.csv")],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 1 and b"\\u0436.csv" in done.stdout and not done.stderr


def test_a_user_without_a_home_gets_an_empty_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    adapt()
    assert os.environ["HOME"].startswith(str(tmp_path)) and os.path.isdir(os.environ["HOME"])


def test_the_tilde_is_expanded_where_a_shell_leaves_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["submission", "check", "~/absent.csv", "--ids=~/ids.csv"]) == 2
    assert f"{tmp_path}/ids.csv" in capsys.readouterr().err


def test_a_cache_that_cannot_be_made_is_a_sentence_with_its_remedy(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "data/audio").mkdir(parents=True)
    (tmp_path / "data/audio/1.wav").touch()
    (tmp_path / "data/BSD10k_metadata.csv").write_text("sound_id,class,uploader,title,tags\n1,fx-o,u,t,\n")
    assert cli.main(["validate", str(tmp_path / "data")]) == 2
    assert "pass --manifest FILE, or set XDG_CACHE_HOME" in capsys.readouterr().err
