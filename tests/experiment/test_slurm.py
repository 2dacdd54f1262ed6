"""Sweeps on a real Slurm: on only where HAF_TEST_SLURM=1, which .ci/run sets after .ci/slurm has started one."""

import os
import signal
import subprocess
import threading

import pytest
from conftest import HAF, hear_interrupts
from filelock import FileLock
from test_sweeps import features_only, until

from haf_utils.config import FinetuneConfig
from haf_utils.experiment.grids import grid
from haf_utils.experiment.sweeps import Slurm, sweep
from haf_utils.runs import finished

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("HAF_TEST_SLURM") != "1", reason="HAF_TEST_SLURM=1 is for a machine with a Slurm of its own"
    ),
]
SLURM = Slurm(partition="test", time=5, runs_per_job=2, cpus=1, poll=0.5)


def queue(*states: str) -> list[str]:
    """Numbers of the sweeps' jobs in the queue, in any of `states` if given."""
    command = ["squeue", "--noheader", "--format", "%A %T %j"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    jobs = [line.split() for line in listed if "haf-sweep-" in line]
    return [number for number, state, _ in jobs if not states or state in states]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return str(features_only(tmp_path_factory.mktemp("own")))


@pytest.fixture
def base(dataset, tmp_path) -> FinetuneConfig:
    return FinetuneConfig(dataset=dataset, runs=str(tmp_path / "runs"), profile="tiny", train="head")


def test_a_sweep_on_a_cluster(base, tmp_path):
    configs = grid(base, [{"fold": [0, 1]}, {"train": ["joint"]}])  # joint training fails: there is no audio
    outcome = sweep(configs, slurm=SLURM, quiet=True)
    assert [folder.name for folder in outcome.folders] == ["haf-head_f0_s0", "haf-head_f1_s0"]
    assert "embeddings but no audio" in outcome.failed["haf-joint_f0_s0"]
    logs = [path.read_text() for path in (tmp_path / "runs" / "sweeps").rglob("*_log.out")]
    assert len(logs) == 2 and all("Job completed successfully" in log for log in logs)  # two jobs for three runs
    assert not queue()
    again = sweep(configs, slurm=SLURM, quiet=True)
    assert len(again.skipped) == 2 and list(again.failed) == ["haf-joint_f0_s0"]


def test_a_job_put_back_into_the_queue_goes_on(base, tmp_path):
    configs = grid(base, {"fold": [0, 1], "scratch": [str(tmp_path / "held")]})
    outcome = {}
    with FileLock(tmp_path / "held" / "embeddings.lock"):  # the job waits for the lock in the middle of its first run
        thread = threading.Thread(target=lambda: outcome.update(it=sweep(configs, slurm=SLURM, quiet=True)))
        thread.start()
        claim = until(lambda: list((tmp_path / "runs").glob("sweeps/*/*.claimed")))[0]
        job = until(claim.read_text)
        subprocess.run(["scontrol", "requeue", job], check=True)
        until(lambda: job in queue("PENDING"))
        assert not finished(tmp_path / "runs" / configs[0].name)
    thread.join(300)
    assert len(outcome["it"].folders) == 2 and not outcome["it"].failed
    assert not (tmp_path / "runs" / "sweeps").exists() or not list((tmp_path / "runs" / "sweeps").iterdir())


def test_an_interrupt_cancels_the_jobs(base, tmp_path):
    command = [HAF, "sweep", "train=head", "fold=0,1,2", "--profile", "tiny", "--slurm"]
    command += ["--partition", "test", "--time", "5", "--runs-per-job", "1", "--cpus", "1", "--poll", "0.5"]
    command += ["--dataset", base.dataset, "--runs", str(tmp_path), "--scratch", str(tmp_path / "held")]
    with FileLock(tmp_path / "held" / "embeddings.lock"):
        launcher = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=hear_interrupts)
        until(lambda: len(queue()) >= 2)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(300) == 130
        assert not queue("PENDING", "RUNNING")
    until(lambda: not queue())
