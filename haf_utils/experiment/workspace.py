"""Where things are: what a notebook or the main job was given, resolved to absolute paths.

Notebooks take paths as parameters, "" meaning "as the repository has it", so that they run the same from JupyterLab,
papermill and any working directory.
"""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from haf_utils import profiles
from haf_utils.config import FinetuneConfig
from haf_utils.datasets import layout, load_bsd
from haf_utils.profiles import REPOSITORY

__all__ = ["Workspace", "caveat", "clips_digest", "finetune_config", "make_embedded", "workspace"]


@dataclass(frozen=True)
class Workspace:
    """Absolute paths ("" where there is none) and settings that every notebook gets as parameters."""

    dataset: str
    extra: str
    evaluation: str
    fsd50k: str
    nsynth: str
    runs: str
    scratch: str
    profile: str
    device: str
    precision: str  # bf16 on a GPU, fp32 on a CPU, unless it was given
    checkpoint: str = ""  # CLAP weights, tokenizer and PaSST weights as files; "": the profile's
    tokenizer: str = ""
    passt: str = ""
    posteriors: str = ""  # class probabilities from outside: a table, or a folder of nested ones; "": none

    @property
    def outputs(self) -> Path:
        """Where notebooks write figures and tables: `runs`, or below HAF_OUTPUTS where it is set (`make lab`), so that
        an experiment leaves those of the main job alone."""
        return Path(os.environ.get("HAF_OUTPUTS") or Path(self.runs).parent) / Path(self.runs).name


def make_embedded(size: str = "mini") -> Path:
    """The folder of the embedded dataset, made first where it is absent or incomplete."""
    root = REPOSITORY / "data" / size
    script = REPOSITORY / "data" / "make_mini.py"
    # From the repository's root, so that what it prints, also into a notebook, holds no path of this machine.
    command = [sys.executable, str(script), "--size", size, "--out", f"data/{size}"]
    writable = os.access(REPOSITORY / "data", os.W_OK)  # in a clone of somebody else's it is there, or cannot be made
    lock = FileLock(REPOSITORY / "data" / f".{size}.lock") if writable else nullcontext()
    with lock:  # of two processes at once, the second finds it made
        printed = _output(command)
    if "up to date" not in printed:
        print(printed, end="")
    return root


def _output(command: list[str]) -> str:
    """What a command prints. Ctrl-C reaches it too, and is given time there: `subprocess.run` would kill it after a
    quarter of a second, and its workers would stay behind."""
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise
    if process.returncode:
        raise RuntimeError(f"the embedded dataset could not be made: {command[1]} ended with {process.returncode}")
    return printed


def workspace(
    dataset: str = "",
    extra: str = "",
    evaluation: str = "",
    fsd50k: str = "",
    nsynth: str = "",
    runs: str = "",
    scratch: str = "",
    profile: str = "mini",
    device: str = "cpu",
    precision: str = "",
    checkpoint: str = "",
    tokenizer: str = "",
    passt: str = "",
    posteriors: str = "",
) -> Workspace:
    """Resolve what a notebook or the main job was given: without a `dataset`, the embedded one is made and used.

    The embedded FSD50K and NSynth go with the embedded dataset alone. Runs are kept in `<runs>/<dataset>-<profile>`;
    where runs of another dataset of the same folder name are there, with a digest of the clips behind the name.
    checkpoint, tokenizer, passt: files that take the place of the profile's, for machines without network.
    Raises FileNotFoundError or ValueError that names the folder and the layout it should have.
    """
    sizes = profiles.profile(profile)
    given = {"dataset": dataset, "extra": extra, "evaluation": evaluation, "fsd50k": fsd50k, "nsynth": nsynth}
    paths = {parameter: _folder(parameter, folder) for parameter, folder in given.items()}
    name = Path(dataset).resolve().name.lower() if dataset else "embedded"
    if not dataset:
        root = make_embedded(sizes.embedded or "mini")
        paths |= {"dataset": f"{root}/BSD10k", "extra": f"{root}/BSD35k-CS", "evaluation": f"{root}/evaluation"}
        if not (fsd50k or nsynth):
            paths |= {"fsd50k": f"{root}/FSD50K", "nsynth": str(root)}
    folder = Path(runs or REPOSITORY / "runs").expanduser().resolve() / f"{name}-{profile}"
    if dataset and not _holds_runs_of(folder, paths["dataset"]):
        folder = folder.with_name(f"{folder.name}-{clips_digest(load_bsd(paths['dataset'])['sound_id'])[:6]}")
    return Workspace(
        **paths,
        runs=str(folder),
        scratch=str(Path(scratch).expanduser().resolve() if scratch else folder),
        profile=profile,
        device=device,
        precision=precision or ("bf16" if device.startswith("cuda") else "fp32"),
        checkpoint=_weights("checkpoint", checkpoint),
        tokenizer=_weights("tokenizer", tokenizer),
        passt=_weights("passt", passt),
        posteriors=_weights("posteriors", posteriors),
    )


def caveat(profile: str, dataset: str) -> str:
    """What to know of scores under this profile; "" on the embedded dataset, which the small networks are made for, and
    on embeddings that a dataset ships, which no network of the profile makes."""
    embedded = Path(dataset).parent in [REPOSITORY / "data" / size for size in ("mini", "tiny")]
    note = profiles.profile(profile).caveat
    if not note or embedded or (dataset and load_bsd(dataset)["path"].isna().all()):
        return ""
    return f"note: {profile} is {note}"


def clips_digest(sound_ids) -> str:
    """Digest of the ids of a dataset's clips, in any order: the same wherever its folder is."""
    return hashlib.sha256("\n".join(sorted(map(str, sound_ids))).encode()).hexdigest()[:12]


def _holds_runs_of(folder: Path, dataset: str) -> bool:
    """Whether `folder` is free for runs of the dataset at this path, as its first run says."""
    for file in sorted(folder.glob("*/config.json")):
        try:
            record = json.loads(file.read_text("utf-8"))
            there, clips = record["config"]["dataset"], record["digests"]["clips"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no run, or one of the first version
        return there == dataset or clips == clips_digest(load_bsd(dataset)["sound_id"])
    return True


_KINDS = {"dataset": "bsd", "extra": "bsd", "evaluation": "evaluation", "fsd50k": "fsd50k", "nsynth": "nsynth"}


def _folder(parameter: str, folder: str) -> str:
    """Absolute path of a dataset's folder, which must have the layout that `parameter` is for; "" stays ""."""
    if not folder:
        return ""
    path = Path(folder).expanduser().resolve()
    if (found := layout(path)) != _KINDS[parameter]:
        raise ValueError(f"{parameter}={folder} should have the layout {_KINDS[parameter]!r}, it has {found!r}")
    return str(path)


def _weights(parameter: str, file: str) -> str:
    """Absolute path of a file or folder, of weights or posteriors, that must be there; "" stays ""."""
    if file and not (path := Path(file).expanduser().resolve()).exists():
        raise FileNotFoundError(f"{parameter}={file} does not exist")
    return str(path) if file else ""


def finetune_config(space: Workspace, **choices) -> FinetuneConfig:
    """The configuration of a run in `space`; `choices` are any other fields of `FinetuneConfig`. Raises TypeError that
    names a field that does not exist."""
    where = ("dataset", "extra", "evaluation", "runs", "scratch", "tokenizer", "profile", "device", "precision")
    weights = space.passt if choices.get("system") == "passt" else space.checkpoint
    return FinetuneConfig(**{name: getattr(space, name) for name in where} | {"weights": weights} | choices)
