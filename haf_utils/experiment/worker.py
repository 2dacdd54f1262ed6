"""What one worker of a sweep does: many runs in one process, since to import torch costs more than a small run.

Workers and the sweep that started them talk through files in the sweep's folder, because that works the same between
two processes and between two machines of a cluster. For a run called NAME:

    NAME.claimed    a worker took it
    NAME.done       it finished; the path of its folder
    NAME.failed     it raised; the traceback stands in <runs>/errors/NAME.txt
    watched         is there as long as somebody waits for local workers: without it they end
"""

import dataclasses
import os
import threading
import time
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission

from haf_utils.config import FinetuneConfig, resolve
from haf_utils.experiment.assembly import corpus_of, embedded
from haf_utils.experiment.finetune import finetune
from haf_utils.io.files import atomic_write, lives, writable

__all__ = ["Worker", "error_file"]


@dataclass(frozen=True)
class Worker:
    """Calls `finetune` for one of `configs` after the other, leaving out those that another worker has claimed.

    folder: the sweep's; threads: torch's; retrain: beside runs of other code; launcher: process id of the sweep that
    this worker must not outlive (None on a cluster, where the scheduler sees to that); gpu: which GPU a run on "cuda"
    gets; visible: the launcher's CUDA_VISIBLE_DEVICES.
    """

    configs: tuple[FinetuneConfig, ...]
    folder: str
    threads: int
    retrain: bool = False
    launcher: int | None = None
    gpu: int = 0
    visible: str | None = None

    def __call__(self) -> None:
        if self.launcher is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides all GPUs from local jobs
            if self.visible is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
            threading.Thread(target=self._end_with_launcher, daemon=True).start()
        torch.set_num_threads(self.threads)
        for config in self.configs:
            if not self._claim(config.name):
                continue
            if config.device == "cuda" and self.launcher is not None:
                config = dataclasses.replace(config, device=f"cuda:{self.gpu % torch.cuda.device_count()}")
            self._run(config)

    def checkpoint(self) -> DelayedSubmission:
        """What Slurm starts when it puts a job back into the queue: the same again, and finished runs are skipped."""
        return DelayedSubmission(self)

    def _mark(self, name: str, what: str) -> Path:
        return Path(self.folder) / f"{name}.{what}"

    def _claim(self, name: str) -> bool:
        """Whether this worker is the one to do the run. A job that was put back into the queue keeps its claims."""
        owner = os.environ.get("SLURM_JOB_ID") or str(os.getpid())
        try:
            with open(self._mark(name, "claimed"), "x") as file:
                file.write(owner)
        except FileExistsError:
            ended = self._mark(name, "done").exists() or self._mark(name, "failed").exists()
            return not ended and self._mark(name, "claimed").read_text() == owner
        return True

    def _run(self, config: FinetuneConfig) -> None:
        try:
            if config.train == "head":
                _prepare(_source(config))
            folder = finetune(config, quiet=True, retrain=self.retrain)
        except UncompletedJobError:  # raised by a signal handler when the job's time is over: not the run's fault
            raise
        except Exception:
            text = traceback.format_exc()
            atomic_write(error_file(config), lambda path: path.write_text(text, "utf-8"))
            self._mark(config.name, "failed").touch()
        else:
            error_file(config).unlink(missing_ok=True)
            atomic_write(self._mark(config.name, "done"), lambda path: path.write_text(str(folder), "utf-8"))

    def _end_with_launcher(self) -> None:
        """Runs in a thread: a worker whose sweep was interrupted, or killed without a chance to clean up, ends too."""
        while lives(self.launcher) and (Path(self.folder) / "watched").exists():
            time.sleep(0.5)
        os._exit(1)


def error_file(config: FinetuneConfig) -> Path:
    """Where the traceback of a run that failed is kept: beside the run folders, which may hold another run."""
    return Path(config.runs) / "errors" / f"{config.name}.txt"


def _source(config: FinetuneConfig) -> FinetuneConfig:
    """`config` without what does not change the embeddings, so that runs that share them are equal here."""
    names = "dataset extra extra_weight evaluation scratch weights tokenizer runs profile initialisation whole_model"
    kept = {name: getattr(config, name) for name in (*names.split(), "device", "train")}
    seed = config.seed if config.initialisation == "random" else 0
    kept["initialisation"] = config.initialisation.replace("{fold}", str(config.fold))  # that of its own fold
    return resolve(FinetuneConfig(**kept, seed=seed, name="source"))


@cache
def _prepare(source: FinetuneConfig) -> None:
    """Decode the audio and compute the embeddings that head runs share, if nobody has: one worker does, others wait."""
    with FileLock(writable(source.scratch or source.runs) / "embeddings.lock"):
        embedded(source, corpus_of(source))
