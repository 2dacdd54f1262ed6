"""The main job on the tiny dataset: every notebook runs, a second run does nothing, an interrupted one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import REPOSITORY, hear_interrupts

from haf_utils.experiment.workspace import finetune_config, workspace
from tools import run_notebooks
from tools.preflight import PreflightError, measure_step, preflight
from tools.run_notebooks import main

NOTEBOOKS = sorted(path.stem for path in (REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Results of the main job at tiny size."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["--profile", "tiny", "--runs", str(runs)]) == 0
    return runs


def test_main_job_ends_with_a_table_figures_and_a_submission(finished, capsys):
    root = finished / "embedded-tiny"
    table = pd.read_csv(root / "results.csv")
    assert {"system", "members", "hF", "hP", "hR", "accuracy", "top-level accuracy"} <= set(table.columns)
    assert table["hF"].str.removesuffix(" %").astype(float).between(0, 100).all() and len(table) >= 2
    figures = {path.name[:2] for path in (root / "figures").glob("*.png")}
    assert figures == {name[:2] for name in NOTEBOOKS}
    assert sorted(path.stem for path in (root / "notebooks").glob("*.ipynb")) == NOTEBOOKS
    assert list((root / "submission").glob("*.output.csv"))


def test_second_run_finds_everything_up_to_date(finished, capsys):
    capsys.readouterr()
    assert main(["--profile", "tiny", "--runs", str(finished)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("up to date") == len(NOTEBOOKS)
    assert "hF" in printed and "figures" in printed


def test_interrupted_main_job_goes_on_from_its_notebook(finished):
    """Ctrl-C while a notebook runs: exit code 130, the notebooks before it stay done."""
    root = finished / "embedded-tiny"
    state = json.loads((root / "pipeline.json").read_text())
    last = NOTEBOOKS[-1] + ".ipynb"
    seconds = state.pop(last)["seconds"]
    (root / "pipeline.json").write_text(json.dumps(state))
    job = subprocess.Popen(
        [sys.executable, "-m", "tools.run_notebooks", "--profile", "tiny", "--runs", str(finished)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        preexec_fn=hear_interrupts,
    )
    for line in iter(lambda: job.stdout.read(1), ""):
        if line == "…":  # the last notebook has begun
            break
    time.sleep(min(2.0, seconds / 4))
    os.kill(job.pid, signal.SIGINT)
    assert job.wait(60) == 130
    assert "goes on from there" in job.stderr.read()
    assert json.loads((root / "pipeline.json").read_text()).keys() == state.keys()
    assert main(["--profile", "tiny", "--runs", str(finished)]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "/nowhere"], "/nowhere is not a folder"),
        (["--profile", "medium"], "choose one of full, mini, tiny"),
        (["--profile", "tiny", "--device", "cuda:7"], "GPU"),
        (["--profile", "tiny", "--device", "gpu"], "device='gpu'"),
        (["--profile", "tiny", "--only", "09"], "no such notebook"),
        (["--profile", "tiny", "--seeds", "0"], "--seeds 0"),
    ],
)
def test_wrong_arguments_stop_before_anything_runs(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--runs", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ipynb"))


def test_an_empty_folder_names_the_layout_it_should_have(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["--data", str(tmp_path / "empty")]) == 2
    assert "BSD10k" in capsys.readouterr().err


def test_the_plan_says_what_is_needed_and_runs_nothing(tmp_path, capsys):
    assert main(["--profile", "tiny", "--runs", str(tmp_path), "--plan"]) == 0
    printed = capsys.readouterr().out
    assert "h of audio" in printed and "GB for decoded audio" in printed and "checkpoint" in printed
    assert not list(tmp_path.rglob("*.ipynb"))


def test_too_small_a_disk_is_told_beforehand(tmp_path, monkeypatch):
    import tools.preflight

    space = workspace(profile="tiny", runs=str(tmp_path))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(tools.preflight.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PreflightError, match="GB free"):
        preflight(space)


def test_a_misspelt_parameter_is_named(tmp_path):
    space = workspace(profile="tiny", runs=str(tmp_path))
    with pytest.raises(TypeError, match="mixpu"):
        finetune_config(space, mixpu=True)


def test_a_step_at_real_size_can_be_measured():
    """One joint training step of the full networks, 158 M parameters, with random weights."""
    from haf_utils.clap import ClapNetwork
    from haf_utils.profiles import profile

    network = ClapNetwork(profile("full").clap)
    step = measure_step(network, batch=2, steps=1)
    assert step.seconds > 0 and step.memory == 0
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_changed_recording_behind_a_link_is_noticed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "audio").symlink_to(tmp_path / "disk")
    (tmp_path / "data" / "gone.wav").symlink_to("nowhere")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "data")
    recording = tmp_path / "disk" / os.fsdecode(b"caf\xe9.wav")
    recording.write_bytes(b"one")
    paths = dict.fromkeys(("extra", "evaluation", "fsd50k", "nsynth"), "")
    space = SimpleNamespace(dataset=str(tmp_path / "data"), profile="tiny", **paths)
    before = run_notebooks._files_digest(space)
    assert run_notebooks._files_digest(space) == before
    recording.write_bytes(b"other")
    assert run_notebooks._files_digest(space) != before
