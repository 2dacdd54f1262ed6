"""Many runs: a grid of parameters, seeds and folds, in local workers or on a Slurm cluster.

    haf sweep train=head smoothing=none,uniform,hierarchical fold=0,1,2,3,4 seed=0,1,2
    haf sweep grid.yaml --slurm --partition gpu --gres gpu:1 --time 240 --runs-per-job 10

A grid maps parameters of `FinetuneConfig` to lists of values (`experiment.grids`); a YAML or JSON file may hold a list
of grids.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit
import torch
from submitit.helpers import environment_variables

from haf_utils.config import FinetuneConfig, Recipe
from haf_utils.experiment.finetune import find
from haf_utils.experiment.grids import unique
from haf_utils.experiment.worker import Worker, error_file
from haf_utils.io.decoding import cores
from haf_utils.io.files import atomic_write, writable
from haf_utils.io.progress import bar, line

__all__ = ["Outcome", "Slurm", "state", "sweep"]

# glibc keeps freed memory, so that the tensors of the next step need not fault their pages in again.
_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}


@dataclass(frozen=True)
class Slurm:
    """How jobs are run on a cluster. The folders of data, runs and package must be the same on its nodes, which need
    no network; `scratch` of the runs may be a disk of the node, and is filled there."""

    partition: str = ""
    account: str = ""
    gres: str = ""  # such as gpu:1
    time: int = 240  # minutes a job; what does not fit is put back into the queue and goes on
    runs_per_job: int = 10
    cpus: int = 2  # a job
    memory: str = ""  # a job, such as 16G
    poll: float = 10.0  # seconds between questions to the scheduler


@dataclass(frozen=True)
class Outcome:
    """folders: of the finished runs, in the order asked for; skipped: names of those that were finished before;
    failed: traceback by name; absent: names of those that no worker came to."""

    folders: list[Path]
    skipped: list[str]
    failed: dict[str, str]
    absent: list[str]

    def __str__(self) -> str:
        lines = [f"{len(self.folders)} runs finished, {len(self.skipped)} of them before"]
        reasons = {name: text.strip().splitlines()[-1] for name, text in self.failed.items()}
        for reason in dict.fromkeys(reasons.values()):
            lines.append(f"failed: {', '.join(name for name in reasons if reasons[name] == reason)}: {reason}")
        if self.absent:
            lines.append(f"not run, since no worker was left: {', '.join(self.absent)}")
        return "\n".join(lines)


def sweep(
    configs: Sequence[FinetuneConfig],
    workers: int | None = None,
    slurm: Slurm | None = None,
    retry_failed: bool = False,
    quiet: bool = False,
    retrain: bool = False,
) -> Outcome:
    """Do every run of `configs` that is not finished yet, in `workers` processes here, or on a cluster as `slurm` says.

    workers: None for one a core, or one a GPU. A run that raises is reported and does not stop the others; nor does a
    worker that is killed. Runs that failed before are reported again, unless `retry_failed`. An interrupt (Ctrl-C)
    ends all workers and jobs; the same call goes on from there.
    `retrain`: train again, beside them, the runs that other code made. On a cluster, whether the data changed since a
    run finished is not looked at: that would decode them here.
    Raises ValueError or TypeError for wrong parameters, before anything starts.
    """
    recipes = unique(configs)
    folders: dict[str, Path] = {}
    skipped, failed, pending = [], {}, []
    for recipe in recipes:
        try:
            place = find(recipe, retrain, look_at_data=slurm is None)
        except (OSError, ValueError) as error:  # a damaged folder or table fails its runs, not the sweep
            failed[recipe.name] = str(error)
            continue
        if place is not None:
            folders[recipe.name] = place.folder
            skipped.append(recipe.name)
            if place.other_code:
                line(f"{place.folder.name}: made by other code: {', '.join(place.other_code)}", quiet)
        elif error_file(recipe).is_file() and not retry_failed:
            failed[recipe.name] = error_file(recipe).read_text("utf-8")
        else:
            pending.append(recipe)
    marks = _carry_out(pending, workers, slurm, retrain, quiet) if pending else {"done": {}, "failed": set()}
    folders |= marks["done"]
    failed |= {r.name: error_file(r).read_text("utf-8") for r in pending if r.name in marks["failed"]}
    absent = [recipe.name for recipe in pending if recipe.name not in folders and recipe.name not in failed]
    return Outcome([folders[recipe.name] for recipe in recipes if recipe.name in folders], skipped, failed, absent)


def state(recipe: Recipe, retrain: bool = False) -> str:
    """What a sweep would do with a run: "finished", "other code" (finished, and used), "failed" before, or "to do"; by
    its parameters alone, as to look at the data would decode them."""
    place = find(recipe, retrain, look_at_data=False)
    if place is None:
        return "failed" if error_file(recipe).is_file() else "to do"
    return "other code" if place.other_code else "finished"


def _carry_out(pending: Sequence[Recipe], workers, slurm: Slurm | None, retrain: bool, quiet: bool) -> dict:
    """Start the workers, wait for them, end them -> "done": folders by name, "failed": names."""
    folder = Path(tempfile.mkdtemp(prefix="sweep-", dir=writable(Path(pending[0].runs) / "sweeps")))
    (folder / "watched").touch()
    jobs = []
    try:
        start = _start_locally if slurm is None else _start_on_cluster
        jobs = start(pending, folder, workers, slurm, retrain)
        marks = _watch(jobs, pending, folder, slurm, quiet)
    finally:
        (folder / "watched").unlink()  # local workers end when they miss it
        if slurm is not None:
            # By name: an interrupt may fall between a submission and its answer, which has the number.
            subprocess.run(["scancel", "--name", _job_name(folder)], check=False)
        _wait(jobs, folder, slurm)
    if len(marks["done"]) == len(pending):
        shutil.rmtree(folder, ignore_errors=True)  # claims and logs of a sweep in which all went well
    return marks


def _start_locally(pending, folder: Path, workers, slurm, retrain: bool) -> list[submitit.Job]:
    cards = {config.device for config in pending if config.device.startswith("cuda")}
    gpus = torch.cuda.device_count() if "cuda" in cards else len(cards)  # one that is named is one
    number = min(workers or gpus or cores(), len(pending))
    threads = max(1, cores() // number)
    executor = submitit.LocalExecutor(folder / "logs")
    executor.update_parameters(timeout_min=60 * 24 * 365)  # nobody waits for a local worker but its owner
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    worker = Worker(tuple(pending), str(folder), threads, retrain, launcher=os.getpid(), visible=visible)
    memory = {name: os.environ.get(name, value) for name, value in _MEMORY.items()}
    # Ctrl-C is for the sweep alone, which ends the workers: submitit's own processes would print how they were stopped.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with environment_variables(OMP_NUM_THREADS=str(threads), HAF_PROGRESS="lines", **memory):
            return [executor.submit(dataclasses.replace(worker, gpu=place)) for place in range(number)]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_on_cluster(pending, folder: Path, workers, slurm: Slurm, retrain: bool) -> list[submitit.Job]:
    executor = submitit.SlurmExecutor(folder / "logs", max_num_timeout=1000)
    settings = {"partition": slurm.partition, "account": slurm.account, "gres": slurm.gres, "mem": slurm.memory}
    executor.update_parameters(
        **{name: value for name, value in settings.items() if value},
        time=slurm.time,
        cpus_per_task=slurm.cpus,
        job_name=_job_name(folder),
        additional_parameters={"requeue": True},
        setup=[
            "export HF_HUB_OFFLINE=1 HAF_PROGRESS=lines",
            *(f"export {name}=${{{name}:-{value}}}" for name, value in _MEMORY.items()),
        ],
    )
    chunks = [pending[start : start + slurm.runs_per_job] for start in range(0, len(pending), slurm.runs_per_job)]
    with executor.batch():
        jobs = [executor.submit(Worker(tuple(chunk), str(folder), slurm.cpus, retrain)) for chunk in chunks]
    return jobs


def _job_name(folder: Path) -> str:
    return f"haf-{folder.name}"


def _alive(jobs, folder: Path, slurm: Slurm | None) -> bool:
    """Whether any job still waits or works. squeue answers also where a cluster keeps no accounts, sacct does not."""
    if slurm is None:
        return any(not job.done() for job in jobs)
    command = ["squeue", "--noheader", "--name", _job_name(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool(answer.stdout.strip()) or answer.returncode != 0  # a scheduler that does not answer is asked again


def _watch(jobs, pending, folder: Path, slurm: Slurm | None, quiet: bool) -> dict:
    """Count what the workers mark until all is done or no worker is left; then write down what died with one."""
    names = {config.name for config in pending}
    marks: dict[str, set[str]] = {"done": set(), "failed": set(), "claimed": set()}
    step, ended = max(1, len(names) // 10), 0
    with bar(total=len(names), description="runs", unit="run", quiet=quiet) as progress:
        while True:
            alive = _alive(jobs, folder, slurm)  # asked first: what a worker marked before it ended is then seen below
            before = ended
            for kind in marks:
                marks[kind] = {path.stem for path in folder.glob(f"*.{kind}")} & names
            ended = len(marks["done"] | marks["failed"])
            progress.update(ended - before)
            progress.set_postfix(failed=len(marks["failed"]))
            if ended // step > before // step:
                line(f"{ended} of {len(names)} runs, {len(marks['failed'])} failed", quiet)
            if ended == len(names) or not alive:
                break
            time.sleep(slurm.poll if slurm else 0.2)
    for config in pending:
        if config.name in marks["claimed"] - marks["done"] - marks["failed"]:
            text = f"The worker that did this run was killed (out of memory?); its log is in {folder / 'logs'}\n"
            atomic_write(error_file(config), lambda path, text=text: path.write_text(text, "utf-8"))
            marks["failed"].add(config.name)
    folders = {name: Path((folder / f"{name}.done").read_text("utf-8")) for name in marks["done"]}
    return {"done": folders, "failed": marks["failed"]}


def _wait(jobs, folder: Path, slurm: Slurm | None, seconds: float = 15.0) -> None:
    """Give the workers time to end."""
    end = time.monotonic() + seconds
    while _alive(jobs, folder, slurm) and time.monotonic() < end:
        time.sleep(0.2 if slurm is None else 1.0)
