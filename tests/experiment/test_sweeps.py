import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import HAF, REPOSITORY, hear_interrupts
from filelock import FileLock

from haf_utils.cli import main
from haf_utils.config import FinetuneConfig
from haf_utils.experiment import sweeps
from haf_utils.experiment.finetune import find
from haf_utils.experiment.grids import grid, read_grid
from haf_utils.experiment.sweeps import Outcome, sweep
from haf_utils.experiment.worker import Worker
from haf_utils.runs import RunError, load_run
from haf_utils.taxonomy import CLASSES
from haf_utils.training import finetune

BASE = FinetuneConfig(dataset="/data", runs="/runs", profile="tiny", train="head")


def features_only(root: Path, clips: int = 8, text_noise: float = 3.0) -> Path:
    """A dataset in BSD10k's layout with embeddings and no audio: a head run on it takes a fraction of a second."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, len(CLASSES), 512)).astype(np.float32)
    rows = []
    for label, code in enumerate(CLASSES):
        for clip in range(clips):
            sound_id = 100 * (label + 1) + clip
            rows.append((sound_id, code, label, code, 5, f"user{clip}", "url", f"title {code}", "tag,other", "told"))
            for modality, centre, noise in zip(("audio", "text"), centres, (3.0, text_noise), strict=True):
                folder = root / "features" / f"clap_{modality}_embeddings"
                folder.mkdir(parents=True, exist_ok=True)
                vector = centre[label] + noise * rng.standard_normal(512).astype(np.float32)
                np.save(folder / f"{sound_id}.npy", vector / np.linalg.norm(vector))
    columns = "sound_id,class,class_idx,class_top,confidence,uploader,license,title,tags,description".split(",")
    (root / "metadata").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata" / "BSD10k_metadata.csv", index=False)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return str(features_only(tmp_path_factory.mktemp("own")))


@pytest.fixture
def base(dataset, tmp_path) -> FinetuneConfig:
    return FinetuneConfig(dataset=dataset, runs=str(tmp_path / "runs"), profile="tiny", train="head")


def test_a_damaged_folder_fails_one_run_and_not_the_sweep(base):
    configs = grid(base, [{"seed": [0, 1]}])
    first = sweep(configs[:1], workers=1, quiet=True)
    (first.folders[0] / "predictions.npz").write_bytes(b"nothing")
    outcome = sweep(configs, workers=1, quiet=True)
    assert list(outcome.failed) == [configs[0].name] and "predictions.npz" in outcome.failed[configs[0].name]
    assert [load_run(folder).name for folder in outcome.folders] == [configs[1].name]


def test_a_sweep_in_a_folder_that_cannot_be_written_to_says_what_to_do(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)
    options = ["--dataset", base.dataset, "--profile", "tiny", "--runs", base.runs]
    assert main(["sweep", "train=head", *options, "--workers", "1"]) == 2
    assert "sweeps cannot be written to: name another folder (runs=…" in capsys.readouterr().err


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # A zombie is dead too, its parent just has not asked.
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def until(condition, seconds: float = 300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


# The grid ------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_once():
    configs = grid(BASE, [{"mixup": [True, False], "fold": [0, 1, 2]}, {"mixup": [True], "fold": [2, 3]}])
    assert [(c.mixup, c.fold) for c in configs] == [
        (True, 0),
        (True, 1),
        (True, 2),
        *[(False, f) for f in range(3)],
        (True, 3),
    ]
    assert configs[3].name == "haf-head_mixup=False_f0_s0" and configs[3].dropout == 0.3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"smoothin": ["none"]}, "smoothin.*did you mean 'smoothing'"),
        ({"qqqqq": [1]}, "qqqqq.*choose from"),
        ({"smoothing": ["nonne"]}, "smoothing='nonne' is unknown: choose one of none, uniform, hierarchical"),
        ({"feature_noise": ["1e-4"]}, "feature_noise='1e-4' is of type str"),
        ({"fold": [5]}, "fold=5 must lie in 0 to 4"),
        ({"mixup": [1]}, "mixup=1 is of type int"),
        ({"seed": []}, "a list of one value or more"),
        ({"modality": "text"}, "a list of one value or more"),
        ([["seed"]], "a grid maps parameters"),
        ({"name": ["same"], "seed": [0, 1]}, "two different runs would be called 'same'"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_starts(parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        grid(BASE, parameters)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_where_there_is_none():
    with pytest.raises(ValueError, match="asks for a GPU, but this PyTorch sees 0"):
        grid(BASE, {"device": ["cuda"]})


def test_grids_from_files_and_arguments(tmp_path):
    (tmp_path / "a.yaml").write_text("- {smoothing: [none, uniform], fold: 0}\n- {ema: [no]}\n")
    (tmp_path / "b.json").write_text(json.dumps({"mixup": [False]}))
    found = read_grid([str(tmp_path / "a.yaml"), str(tmp_path / "b.json"), "seed=0,1", "feature_noise=0,1.0e-3"])
    extension = {"seed": [0, 1], "feature_noise": [0, 0.001]}
    assert found == [
        {"smoothing": ["none", "uniform"], "fold": [0]} | extension,
        {"ema": [False]} | extension,
        {"mixup": [False]} | extension,
    ]
    assert read_grid(["fold=0,1"]) == [{"fold": [0, 1]}]
    with pytest.raises(ValueError, match=r"absent\.yaml.*neither name=value"):
        read_grid([str(tmp_path / "absent.yaml")])
    with pytest.raises(ValueError, match="'fold=\\[0' is neither"):
        read_grid(["fold=[0"])
    (tmp_path / "c.yaml").write_text("just text")
    with pytest.raises(ValueError, match="c.yaml: a grid maps"):
        read_grid([str(tmp_path / "c.yaml")])


def test_the_recipes_that_ship_are_grids():
    files = sorted((REPOSITORY / "recipes").glob("*.yaml"))
    assert files
    for file in files:
        runs = grid(FinetuneConfig("/data", "/runs", extra="/extra", profile="full"), read_grid([str(file)]))
        assert sorted(run.fold for run in runs) == [0, 1, 2, 3, 4] and {run.seed for run in runs} == {0}
    winner = grid(FinetuneConfig("/data", "/runs"), read_grid([str(files[0])]))
    assert {(run.train, run.fusion, run.classifier_rate, run.backbone_rate) for run in winner} == {
        ("joint", "concatenation", 4e-6, 4e-6)
    }


def test_the_command_line_names_what_is_wrong_and_what_it_would_do(dataset, tmp_path, capsys):
    where = ["--dataset", dataset, "--runs", str(tmp_path), "--profile", "tiny"]
    assert main(["sweep", "train=head", "smothing=none", *where]) == 2
    assert "did you mean 'smoothing'" in capsys.readouterr().err
    assert main(["sweep", "train=head", "--runs-per-job", "5", *where]) == 2
    assert "--runs-per-job is for a Slurm cluster: pass --slurm" in capsys.readouterr().err
    assert main(["sweep", "train=head", "fold=0,1", "--plan", *where]) == 0
    plan = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert plan == [["to do", "haf-head_f0_s0"], ["to do", "haf-head_f1_s0"]]
    assert not list(tmp_path.iterdir())


# Sweeps --------------------------------------------------------------------------------------------------------------


def test_a_sweep_does_skips_reports_and_retries(base, tmp_path):
    # Joint training cannot be done without audio: a run that raises among others that do not.
    configs = grid(base, {"fold": [0, 1], "seed": [0, 1]}) + grid(base, {"train": ["joint"]})
    outcome = sweep(configs, workers=2, quiet=True)
    assert [folder.name for folder in outcome.folders] == [c.name for c in configs[:4]] and not outcome.skipped
    assert list(outcome.failed) == ["haf-joint_f0_s0"] and not outcome.absent
    assert "Traceback" in outcome.failed["haf-joint_f0_s0"] and "embeddings but no audio" in str(outcome)
    assert (tmp_path / "runs" / "errors" / "haf-joint_f0_s0.txt").read_text() == outcome.failed["haf-joint_f0_s0"]
    run = load_run(outcome.folders[3])
    assert (run.config["config"]["fold"], run.config["config"]["seed"]) == (1, 1)

    started = []
    real = sweeps._start_locally
    try:
        sweeps._start_locally = lambda pending, *rest: started.append([c.name for c in pending]) or real(pending, *rest)
        again = sweep(configs, workers=2, quiet=True)
        assert not started and again.skipped == [c.name for c in configs[:4]] and again.failed == outcome.failed
        (outcome.folders[0] / "metrics.json").unlink()  # as if it had been interrupted
        third = sweep(configs, workers=1, retry_failed=True, quiet=True)
    finally:
        sweeps._start_locally = real
    assert started == [["haf-head_f0_s0", "haf-joint_f0_s0"]]
    assert len(third.folders) == 4 and list(third.failed) == ["haf-joint_f0_s0"]
    assert str(Outcome([], [], {}, ["a"])).endswith("no worker was left: a")


def test_a_finished_run_counts_only_for_the_same_parameters_and_data(base):
    (config,) = grid(base, {"epochs": [1]})
    folder = finetune(config, quiet=True)
    record = json.loads((folder / "config.json").read_text())
    assert find(config).folder == folder
    (folder / "config.json").write_text(json.dumps(record | {"digests": {"data": "other", "checkpoint": "other"}}))
    assert find(config) is None
    assert find(config, look_at_data=False).folder == folder
    record["config"]["mixup"] = False
    (folder / "config.json").write_text(json.dumps(record))
    beside = sweep([config], workers=1, quiet=True)
    assert not beside.skipped and beside.folders[0].name.startswith(f"{config.name}~")
    (folder / "config.json").write_text('{"config": ')
    with pytest.raises(RunError, match="damaged"):
        find(config)
    assert "damaged" in sweep([config], quiet=True).failed[config.name]


def test_a_killed_worker_is_reported_and_the_others_go_on(base, tmp_path):
    stuck, *others = grid(base, [{"scratch": [str(tmp_path / "held")], "seed": [9]}, {"fold": [0, 1, 2]}])
    outcome = {}
    with FileLock(tmp_path / "held" / "embeddings.lock"):  # the worker that takes this run waits for the lock
        thread = threading.Thread(target=lambda: outcome.update(it=sweep([stuck, *others], workers=2, quiet=True)))
        thread.start()
        claim = until(lambda: list((tmp_path / "runs").glob(f"sweeps/*/{stuck.name}.claimed")))[0]
        worker = int(until(claim.read_text))
        until(lambda: all(list((tmp_path / "runs").glob(f"{c.name}/metrics.json")) for c in others))
        os.kill(worker, signal.SIGKILL)
        thread.join(300)
    assert not thread.is_alive()
    assert [folder.name for folder in outcome["it"].folders] == [c.name for c in others]
    assert "was killed" in outcome["it"].failed[stuck.name]
    assert (tmp_path / "runs" / "errors" / f"{stuck.name}.txt").exists()


def devices_of(pending, monkeypatch, cards=3, workers=None) -> dict[str, str]:
    """Device of each run where there are so many GPUs: workers are called in turn, and each takes the next run."""
    taken, started = {}, []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(Worker, "_end_with_launcher", lambda self: None)
    monkeypatch.setattr(Worker, "_run", lambda self, config: taken.update({config.name: config.device}))
    monkeypatch.setattr(Worker, "_claim", lambda self, name: name not in taken and len(taken) <= self.gpu)
    monkeypatch.setattr(sweeps.submitit.LocalExecutor, "submit", lambda self, worker: started.append(worker))
    folder = Path(pending[0].runs)
    sweeps._start_locally(pending, folder, workers, None, False)
    threads, visible = torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        for worker in started:
            worker()
    finally:
        torch.set_num_threads(threads)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    return taken


@pytest.mark.parametrize(
    ("device", "workers", "devices"),
    [
        ("cuda", None, ["cuda:0", "cuda:1", "cuda:2"]),  # one a card
        ("cuda", 5, ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]),  # cards are shared where more are asked for
        ("cuda:1", None, ["cuda:1"]),  # a card that is named is the only one
        ("cuda:1", 2, ["cuda:1", "cuda:1"]),
        ("cpu", 2, ["cpu", "cpu"]),
    ],
)
def test_the_runs_are_shared_among_the_cards(base, monkeypatch, device, workers, devices):
    pending = [dataclasses.replace(config, device=device) for config in grid(base, {"seed": list(range(7))})]
    taken = devices_of(pending, monkeypatch, workers=workers)
    assert list(taken.values()) == devices


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_no_orphan(base, tmp_path, how):
    command = [HAF, "sweep", "train=head", "fold=0,1", "--profile", "tiny", "--workers", "1"]
    command += ["--dataset", base.dataset, "--runs", str(tmp_path), "--scratch", str(tmp_path / "held")]
    with FileLock(tmp_path / "held" / "embeddings.lock"):
        pipe = subprocess.PIPE
        launcher = subprocess.Popen(command, stderr=pipe, preexec_fn=hear_interrupts, start_new_session=True)
        claim = until(lambda: list(tmp_path.glob("*/sweeps/*/*.claimed")))[0]
        worker = int(until(claim.read_text))
        assert not gone(worker)
        send = os.killpg if how == signal.SIGINT else os.kill  # a terminal interrupts all that it has started
        send(launcher.pid, how)
        launcher.wait(300)
        until(lambda: gone(worker))
    if how == signal.SIGINT:
        assert launcher.returncode == 130
        assert launcher.stderr.read() == b"\ninterrupted; the same command goes on from there\n"


def test_a_job_put_back_into_the_queue_goes_on_with_its_own_runs(base, tmp_path, monkeypatch):
    configs = tuple(grid(base, {"fold": [0, 1, 2]}))
    for config, owner in zip(configs, ("7", "7", "8"), strict=True):
        (tmp_path / f"{config.name}.claimed").write_text(owner)
    (tmp_path / f"{configs[0].name}.done").touch()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    worker = Worker(configs, str(tmp_path), threads=1)
    again = worker.checkpoint()
    assert again.function == worker
    again.function(*again.args, **again.kwargs)
    done = {path.name for path in (tmp_path / "runs").iterdir() if (path / "metrics.json").exists()}
    assert done == {configs[1].name}
