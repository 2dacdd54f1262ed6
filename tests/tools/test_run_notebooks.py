"""The main job on the tiny dataset: every notebook runs, a second run does nothing, an interrupted one goes on."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from conftest import REPOSITORY, hear_interrupts

from haf_utils.experiment.workspace import finetune_config, workspace
from tools import run_notebooks
from tools.run_notebooks import main, read_set, steps

NOTEBOOKS = sorted(path.stem for path in (REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Results of the main job at tiny size."""
    if os.environ.get("HAF_TEST_MAIN_JOB") != "1":
        pytest.skip("HAF_TEST_MAIN_JOB=1 runs the main job here too; .ci/run runs it by itself, twice")
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
        start_new_session=True,  # an interrupt of the job is not one of these tests
    )
    printed = ""
    for character in iter(lambda: job.stdout.read(1), ""):
        printed += character
        if character == "…" and NOTEBOOKS[-1] in printed:  # the last notebook has begun
            break
    time.sleep(min(2.0, seconds / 4))
    os.kill(job.pid, signal.SIGINT)
    assert job.wait(60) == 130
    said = job.stderr.read().strip()
    assert said.startswith("interrupted in") and said.endswith("the same command goes on from there")
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
        (["--profile", "tiny", "--predictions", "/nowhere"], "--predictions /nowhere is no folder"),
        (["--profile", "tiny", "--seeds", "0"], "--seeds 0"),
        (["--profile", "tiny", "--folds", "6"], "--folds 6: 1 to 5"),
        (["--profile", "tiny", "--batch", "1"], "batch=1 must lie in"),
        (["--profile", "tiny", "--precision", "fp8"], "precision='fp8'"),
        (["--profile", "tiny", "--systems", "mine"], "mine"),
        (["--profile", "tiny", "--checkpoint", "/nowhere.pt"], "checkpoint=/nowhere.pt does not exist"),
        (["--profile", "tiny", "--set", "06.folds=9"], "SET 06.folds=9: it must lie in 1 to 5 (official folds"),
        (["--profile", "tiny", "--set", "06.folds=[1"], "'[1' is no YAML value"),
        (["--profile", "tiny", "--set", "08.folds=5"], "SET 08: there is no such notebook"),
        (["--profile", "tiny", "--set", "folds=5"], "write NOTEBOOK.PARAMETER=VALUE"),
    ],
)
def test_wrong_arguments_stop_before_anything_runs(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--runs", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ipynb"))


@pytest.mark.parametrize(
    "given, message",
    [
        ("06.fold=5", "no such parameter, did you mean folds? There are dataset, extra"),
        ("06.folds=five", "it must be int (official folds"),
        ("06.extra_weight=true", "it must be float"),
        ("05.folds=3", "it must be list, such as [0, 1]"),
        ("05.folds=[0,7]", "fold=7 must lie in 0 to 4 (folds that are pooled"),
        ("05.seeds=[]", "it must have one value or more"),
        ("04.smoothing=flat", "choose one of none, uniform, hierarchical"),
        ("04.dropout=2", "must lie in 0 to 0.99"),
        ("04.seed=null", "it must be int"),
        ("06.workers=-1", "it must be at least 0 (processes"),
        ("06.views=0", "it must be at least 1"),
    ],
)
def test_a_parameter_of_a_notebook_is_named_with_what_it_may_be(given, message):
    notebooks = [REPOSITORY / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
    with pytest.raises(ValueError, match="^SET 0") as caught:
        steps(notebooks, {}, read_set(given), ours_first=False)
    assert str(caught.value).startswith(f"SET {given.partition('=')[0]}=") and message in str(caught.value)


def test_a_parameter_of_a_notebook_may_be_what_its_default_says():
    own = read_set("03.epochs=0 04.epochs=null 06.workers=0 06.extra_weight=0 05.shares=[0.5] 07.soft_weight=0.5")
    found = steps([REPOSITORY / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS], {}, own, ours_first=False)
    assert {step.key[:2]: step.parameters for step in found if step.parameters} == own


@pytest.mark.parametrize("command, code", [("tools.run_notebooks", 130), ("tools.site", -signal.SIGINT)])
def test_an_interrupt_while_packages_are_imported_is_a_sentence(command, code):
    script = (
        f"import sys; sys.orig_argv = ['python', '-m', '{command}']; import tools, os; os.kill(os.getpid(), 2); input()"
    )
    options = {"cwd": REPOSITORY, "preexec_fn": hear_interrupts, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", script], **options)
    assert (done.stderr, done.returncode) == ("\ninterrupted; run the same command again\n", code)


def test_an_empty_folder_names_the_layout_it_should_have(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["--data", str(tmp_path / "empty")]) == 2
    assert "BSD10k" in capsys.readouterr().err


def test_a_misspelt_parameter_is_named(tmp_path):
    space = workspace(profile="tiny", runs=str(tmp_path))
    with pytest.raises(TypeError, match="mixpu"):
        finetune_config(space, mixpu=True)


PATHS = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test_a_notebook_gets_the_parameters_that_it_declares_and_its_own():
    given = {"dataset": "/data", "epochs": 2, "folds": 2, "surname": "Doe", "passt": "/w.pt", "tta_views": 1}
    found = {step.key[:2]: step.parameters for step in steps(PATHS, given, read_set("06.folds=5 04.epochs=7"), False)}
    assert list(found) == [path.name[:2] for path in PATHS]
    assert found["01"] == {"dataset": "/data"} == found["02"]
    assert found["03"] == {"dataset": "/data", "epochs": 2}
    assert found["04"] == {"dataset": "/data", "epochs": 7, "tta_views": 1}
    assert found["05"] == {"dataset": "/data", "folds": [0, 1]}
    assert found["06"] == given | {"folds": 5}


def test_ours_goes_first_and_the_ablations_last_where_members_take_hours():
    order = [(step.key[:2], step.parameters.get("systems_of")) for step in steps(PATHS, {}, {}, True)]
    numbers = "00 01 02 04 06 03 06 05 07".split()
    assert order == [(number, "ours" if place == 4 else None) for place, number in enumerate(numbers)]
    assert len({step.key for step in steps(PATHS, {}, {}, True)}) == 9
    alone = steps(PATHS, {"systems_of": "report"}, {}, True)
    assert [step.key[:2] for step in alone].count("06") == 1


def test_values_are_read_as_yaml():
    text = "06.systems_of='a b' 04.mixup=false 04.dropout=0.5 05.shares=[0.1]"
    expected = {"06": {"systems_of": "a b"}, "04": {"mixup": False, "dropout": 0.5}, "05": {"shares": [0.1]}}
    assert read_set(text) == expected


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_make_knows_its_variables(tmp_path):
    wrong = make("-n", "run", "BATCHES=3")
    assert wrong.returncode != 0 and "unknown variable BATCHES" in wrong.stderr and "ACCUMULATION" in wrong.stderr
    command = make("-n", "run", "DATA=/my data", "EXTRA_WEIGHT=0", "RETRAIN=1", "SET=06.folds=5 04.epochs=2").stdout
    for part in ('--data "/my data"', '--extra-weight "0"', "--retrain", '--set "06.folds=5 04.epochs=2"'):
        assert part in command
    assert "--evaluation" not in command


def test_every_variable_of_make_run_is_an_option_of_the_main_job(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    lines = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ").splitlines()
    names = next(line for line in lines if line.startswith("SETTINGS")).split(":=")[1].split()
    assert len(names) > 20
    for name in names:
        assert f"--{name.lower().replace('_', '-')} " in printed


def test_make_clean_leaves_trained_models_and_removing_them_is_asked_for(tmp_path):
    assert "runs" not in make("-n", "clean").stdout
    model = tmp_path / "embedded-mini" / "haf-head_f0_s0" / "model.safetensors"
    namesake = tmp_path / "bsd10k-tiny-0c7e07" / "haf-head_f0_s0" / "model.safetensors"
    other = tmp_path / "thesis" / "model.safetensors"
    for file in (model, namesake, other):
        file.parent.mkdir(parents=True)
        file.touch()
    listed = make("clean-runs", f"RUNS={tmp_path}").stdout
    assert f"{tmp_path}/embedded-mini" in listed and "1 trained models" in listed and "nothing was removed" in listed
    assert model.is_file()
    make("clean-runs", f"RUNS={tmp_path}", "CONFIRM=1")
    assert not model.exists() and not namesake.exists() and other.is_file()


def test_members_that_notebook_06_left_out_are_named_below_the_table(tmp_path, capsys):
    (tmp_path / "results.csv").write_text("system,hF\nours,50.0 %\n")
    output = nbformat.v4.new_output("display_data", {"text/markdown": "- Left out: *PaSST*: damaged\n- *ours*: made"})
    for name in ("06_ours", "06_all"):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("say()", outputs=[output])])
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    run_notebooks._print_results(tmp_path, SimpleNamespace(profile="full", dataset="", scratch=str(tmp_path)), True)
    printed = capsys.readouterr().out
    assert printed.count("- Left out: *PaSST*: damaged\n") == 1 and "made" not in printed


def test_a_notebook_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    ran = []

    def fail_first(notebook, output, parameters):
        ran.append(notebook.name[:2])
        if len(ran) == 1:
            raise run_notebooks.DeadKernelError("killed")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()

    monkeypatch.setattr(run_notebooks, "_run_notebook", fail_first)
    arguments = ["--profile", "tiny", "--runs", str(tmp_path), "--only", "01,02"]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert ran == ["01", "02"] and "want of memory" in printed.err and "failed: 01_data" in printed.err
    assert main(arguments) == 0 and ran == ["01", "02", "01", "02"]  # what came after it, again


def test_an_interrupted_notebook_is_told_in_one_sentence(tmp_path, monkeypatch, capsys, caplog):
    def interrupt(notebook, output, parameters):
        for name in ("papermill", "asyncio"):
            logging.getLogger(name).error("Kernel died")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_notebooks, "_run_notebook", interrupt)
    assert main(["--profile", "tiny", "--runs", str(tmp_path), "--only", "01"]) == 130
    assert capsys.readouterr().err.strip().startswith("interrupted in 01_data_exploration.ipynb") and not caplog.records


def test_a_table_of_an_earlier_run_is_not_shown_as_new(tmp_path, capsys):
    space = workspace(profile="tiny", runs=str(tmp_path))
    root = tmp_path / "embedded-tiny"
    root.mkdir()
    (root / "results.csv").write_text("system,hF\nours,50.0 %\n")
    run_notebooks._print_results(root, space, scored=False)
    assert "notebook 06 has not run: this table is of" in capsys.readouterr().out
    run_notebooks._print_results(root, space, scored=True)
    assert "has not run" not in capsys.readouterr().out


def test_a_changed_recording_behind_a_link_is_noticed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "audio").symlink_to(tmp_path / "disk")
    (tmp_path / "data" / "gone.wav").symlink_to("nowhere")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "data")
    recording = tmp_path / "disk" / os.fsdecode(b"caf\xe9.wav")
    recording.write_bytes(b"one")
    names = "extra evaluation fsd50k nsynth posteriors checkpoint tokenizer passt"
    paths = dict.fromkeys(names.split(), "")
    space = SimpleNamespace(dataset=str(tmp_path / "data"), profile="tiny", **paths)
    before = run_notebooks._files_digest(space)
    assert run_notebooks._files_digest(space) == before
    recording.write_bytes(b"other")
    assert run_notebooks._files_digest(space) != before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"01.ipynb": "done"}', "\0"])
def test_a_damaged_record_of_the_notebooks_runs_them_again(tmp_path, capsys, content):
    (tmp_path / "pipeline.json").write_text(content)
    assert run_notebooks._read_state(tmp_path / "pipeline.json") == {}
    assert "pipeline.json is damaged: every notebook runs again" in capsys.readouterr().out
    (tmp_path / "results.csv").write_text("")
    assert (
        run_notebooks._table(tmp_path / "results.csv").empty and "results.csv cannot be read" in capsys.readouterr().out
    )
