"""The main job, `make run`: dataset, notebooks, results table.

    python -m tools.run_notebooks [--data FOLDER] [--extra FOLDER] [--evaluation FOLDER] [--profile mini|full] ...

Notebooks run headless, one after the other, into `<runs>/<dataset>-<profile>/notebooks/`. What is up to date is not
run again; what was interrupted goes on from the notebook that it was in, and there from the run that it was in.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import hashlib
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import yaml
from nbclient.exceptions import DeadKernelError

from haf_utils.config import FOLDS, FinetuneConfig, check
from haf_utils.datasets import load_bsd
from haf_utils.experiment.code import imported_digests
from haf_utils.experiment.workspace import Workspace, caveat, workspace
from haf_utils.io.files import state, walk, writable, write_json
from haf_utils.io.progress import FORESEEABLE, adapt
from haf_utils.profiles import PROFILES, REPOSITORY, profile
from tools import leave
from tools.preflight import PreflightError, preflight

__all__ = ["Step", "main", "read_set", "steps"]

# For the processes of notebooks on a CPU: a thread that waits for the others soon sleeps. On a machine with other work
# to do, waiting by spinning slows everything down tenfold. And glibc keeps freed memory, so that the tensors of the
# next step need not fault their pages in again.
_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}


def _digest(notebook: Path, parameters: dict, files: str, before: str) -> str:
    """What a notebook's result depends on: its cells, their imports, the parameters, the data, the notebooks before."""
    digest = hashlib.sha256(before.encode())
    cells = nbformat.read(notebook, as_version=4).cells
    for cell in cells:
        digest.update(f"{cell.cell_type}\0{cell.source}\0".encode())
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    digest.update(json.dumps(imported_digests(code)).encode())
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    digest.update(files.encode())
    return digest.hexdigest()


def _files_digest(space: Workspace) -> str:
    """Digest of the names, sizes and times of every file of the datasets and the checkpoint."""
    digest = hashlib.sha256()
    weights = [REPOSITORY / (space.checkpoint or profile(space.profile).checkpoint), space.tokenizer, space.passt]
    for root in (space.dataset, space.extra, space.evaluation, space.fsd50k, space.nsynth, space.posteriors, *weights):
        files = walk(root) if root and Path(root).is_dir() else filter(None, [root])
        for file in files:  # through links too: audio/ may lie on another disk
            size, mtime = state(file)
            digest.update(f"{file} {size} {mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _absolute(folder: str) -> str:
    """A folder as a notebook can find it from any working directory; "" stays "", as the repository has it."""
    return str(Path(folder).expanduser().resolve()) if folder else ""


def _run_notebook(notebook: Path, output: Path, parameters: dict) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters=parameters,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(output.parent),
        extra_arguments=["--log-level=CRITICAL"],  # not what the kernel says of its own transport and shutdown
    )


def _title(notebook: Path) -> str:
    first = nbformat.read(notebook, as_version=4).cells[0].source.splitlines()[0]
    return first.lstrip("# ").strip()


@dataclass(frozen=True)
class Step:
    """A notebook to run: parameters are those of what was given that it declares, and its own; key: where its output
    and state are kept."""

    notebook: Path
    parameters: dict
    key: str


def steps(notebooks: Sequence[Path], shared: Mapping, own: Mapping[str, Mapping], ours_first: bool) -> list[Step]:
    """The notebooks in the order in which they run. shared: parameters of every notebook; own: of one alone, by number.

    ours_first: notebook 06 runs for "ours" before continued pretraining, again for all systems after it, and the
    ablations and what lies beyond them come last. Raises ValueError that lists the parameters of the notebook for one
    that it does not have.
    """
    known = {path: papermill.inspect_notebook(str(path)) for path in notebooks}
    order = [(path, {}, path.name) for path in notebooks]
    if ours_first and not shared.get("systems_of"):
        by_number = {path.name[:2]: entry for path, entry in zip(notebooks, order, strict=True)}
        ensemble = by_number["06"][0]
        by_number["06, ours"] = ensemble, {"systems_of": "ours"}, f"{ensemble.stem}_ours.ipynb"
        order = [by_number[number] for number in ("00", "01", "02", "04", "06, ours", "03", "06", "05", "07")]
    numbers = {path.name[:2] for path in notebooks}
    for number in own:
        if number not in numbers:
            raise ValueError(f"SET {number}: there is no such notebook, only {', '.join(sorted(numbers))}")
    found = []
    for path, extra, key in order:
        declared, mine = known[path], own.get(path.name[:2], {})
        for name, value in mine.items():
            if problem := _problem(name, value, declared):
                raise ValueError(f"SET {path.name[:2]}.{name}={value!r}: {problem}")
        parameters = {name: value for name, value in (shared | extra).items() if name in declared} | mine
        if isinstance(parameters.get("folds"), int) and declared["folds"]["inferred_type_name"] == "list":
            parameters["folds"] = list(range(parameters["folds"]))
        found.append(Step(path, parameters, key))
    return found


def _problem(name: str, value: object, declared: Mapping[str, Mapping]) -> str:
    """Why a notebook with the parameters `declared` cannot take this one, "" where it can."""
    if name not in declared:
        close = difflib.get_close_matches(name, declared, n=1)
        meant = f", did you mean {close[0]}?" if close else ":"
        return f"this notebook has no such parameter{meant} There are {', '.join(declared)}"
    kind, default, says = (declared[name][key] for key in ("inferred_type_name", "default", "help"))
    default = ast.literal_eval(default)
    if value == default and type(value) is type(default):
        return ""
    fits = {"int": int, "float": (int, float), "bool": bool, "str": str, "list": list}.get(kind, object)
    if not isinstance(value, fits) or isinstance(value, bool) and kind != "bool":
        example = {"float": ", such as 1.0e-4 (not 1e-4, in YAML)", "list": ", such as [0, 1]"}.get(kind, "")
        return f"it must be {kind}{example} ({says})"
    if name == "folds" and kind == "int":
        return "" if value in range(1, FOLDS + 1) else f"it must lie in 1 to {FOLDS} ({says})"
    fields = {"folds": "fold", "seeds": "seed", "recipe_seeds": "seed", "shares": "data_share"}
    field = fields.get(name, name)
    if field not in {each.name for each in dataclasses.fields(FinetuneConfig)}:
        low = int(default != 0)  # where 0 says "as the profile has it"
        return f"it must be at least {low} ({says})" if kind == "int" and value < low else ""
    if kind == "list" and name in fields and not value:
        return f"it must have one value or more ({says})"
    taught = {"teacher": "its table", "extra_weight": 1.0} if field == "soft_weight" else {}
    try:
        for each in value if kind == "list" else [value]:
            check(FinetuneConfig("", "", **taught | {field: each}))
    except (TypeError, ValueError) as error:
        return f"{error} ({says})"
    return ""


def read_set(text: str) -> dict[str, dict]:
    """Parameters by notebook from `06.folds=5 04.epochs=2`; values as in YAML. Raises ValueError for other texts."""
    found: dict[str, dict] = {}
    for item in shlex.split(text):
        name, separator, value = item.partition("=")
        number, dot, parameter = name.partition(".")
        if not (separator and dot):
            raise ValueError(f"SET {item!r}: write NOTEBOOK.PARAMETER=VALUE, such as 06.folds=5")
        try:
            found.setdefault(number, {})[parameter] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"SET {item!r}: {value!r} is no YAML value") from error
    return found


_FOLDERS = {  # flag -> parameter of the notebooks, help
    "data": ("dataset", "folder in BSD10k layout (default: the embedded dataset)"),
    "extra": ("extra", "BSD35k-CS, to train on as well"),
    "evaluation": ("evaluation", "the challenge's evaluation set, to predict"),
    "fsd50k": ("fsd50k", "FSD50K, for continued pretraining"),
    "nsynth": ("nsynth", "folder of nsynth-<split> folders, for continued pretraining"),
    "runs": ("runs", "folder for results (default: runs/ in the repository)"),
    "scratch": ("scratch", "folder for audio stores and embeddings (default: with the runs)"),
    "checkpoint": (
        "checkpoint",
        "CLAP weights, a file in LAION's format or a checkpoint folder (default: the profile's)",
    ),
    "tokenizer": ("tokenizer", "tokenizer.json or its folder (default: the checkpoint's, or RoBERTa's from the hub)"),
    "passt": ("passt", "PaSST weights, a file in PaSST's format (default: the profile's)"),
    "predictions": ("predictions", "real predictions in the official layout, for notebook 07 (default: its table)"),
    "posteriors": ("posteriors", "class probabilities, a table or a folder of nested ones, for members of ours"),
}
_SETTINGS = {  # flag -> parameter, type, help; a notebook gets those that it declares
    "precision": ("precision", str, "fp32 or bf16 (default: bf16 on a GPU)"),
    "batch": ("batch", int, "clips an optimizer step (notebooks 04 and 06)"),
    "accumulation": ("accumulation", int, "parts of a batch in joint training: less memory, a third more work"),
    "epochs": ("epochs", int, "of training, at most (notebooks 03, 04 and 06)"),
    "views": ("tta_views", int, "test-time views (notebooks 04 and 06)"),
    "workers": ("workers", int, "processes that train side by side (default: one a core, or a GPU)"),
    "folds": ("folds", int, "official folds of notebooks 05 and 06 (default: the profile's)"),
    "extra-weight": ("extra_weight", float, "weight of BSD35k-CS's clips in notebook 04 and in the report's systems"),
    "surname": ("surname", str, "for the name of the submission"),
    "institution": ("institution", str, "for the name of the submission"),
    "systems": ("systems_of", str, "ours or report: these systems alone (default: all)"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the main job; returns 0, 1 where a notebook failed, 2 for wrong arguments, 130 where interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help=f"one of {', '.join(PROFILES)} (default: mini)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    for flag, (_, text) in _FOLDERS.items():
        parser.add_argument(f"--{flag}", default="", metavar="PATH", help=text)
    for flag, (_, kind, text) in _SETTINGS.items():
        parser.add_argument(f"--{flag}", type=kind, metavar=kind.__name__.upper(), help=text)
    parser.add_argument("--set", default="", help='parameters of single notebooks: "06.views=20 04.epochs=5"')
    parser.add_argument("--only", default="", help="notebooks to run, by number: 04,06")
    parser.add_argument("--seeds", type=int, default=1, help="of every variant in notebook 05 (default: 1)")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--fresh", action="store_true", help="run every notebook again")
    parser.add_argument("--retrain", action="store_true", help="train again, beside them, runs that other code made")
    adapt()
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    given = parser.parse_args(arguments)
    os.environ["HAF_PROGRESS"] = "lines"
    os.environ.pop("HAF_OUTPUTS", None)  # of `make lab`: the main job's figures go with its runs
    if given.device == "cpu":
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    notebooks = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    wanted = tuple(number.strip() for number in given.only.split(",") if number.strip())
    try:
        if given.seeds < 1:
            raise ValueError(f"--seeds {given.seeds}: at least 1")
        if unknown := [number for number in wanted if not any(path.name.startswith(number) for path in notebooks)]:
            raise ValueError(f"--only {unknown[0]}: there is no such notebook")
        where = {name: _absolute(getattr(given, flag)) for flag, (name, _) in _FOLDERS.items()}
        where |= {"profile": given.profile, "device": given.device}
        settings = {name: getattr(given, flag.replace("-", "_")) for flag, (name, _, _) in _SETTINGS.items()}
        settings = {name: value for name, value in settings.items() if value is not None}
        if settings.get("folds", 1) not in range(1, FOLDS + 1):
            raise ValueError(f"--folds {settings['folds']}: 1 to {FOLDS}")
        own = read_set(given.set)
        own["05"] = {"seeds": list(range(given.seeds))} | own.get("05", {})
        shared = where | settings | ({"retrain": True} if given.retrain else {})
        if (folder := where.pop("predictions")) and not Path(folder).is_dir():
            raise ValueError(f"--predictions {given.predictions} is no folder")
        todo = steps(notebooks, shared, own, profile(given.profile).ours_first)
        space = workspace(**where, precision=settings.get("precision", ""))
        asked = {step.key: step.parameters for step in todo if not wanted or step.key.startswith(wanted)}
        for line in preflight(space, asked):
            print(line, flush=True)
        return 0 if given.plan else _run_all(space, todo, wanted, given.fresh)
    except (PreflightError, *FORESEEABLE) as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again", file=sys.stderr)
        return 130


def _run_all(space: Workspace, todo: Sequence[Step], wanted: tuple[str, ...], fresh: bool) -> int:
    """Run what is out of date. A notebook that fails is named, and the others go on."""
    for name in ("asyncio", "papermill"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # how a kernel ended is said here, in one sentence
    root = writable(space.runs)
    state_file = root / "pipeline.json"
    state = {} if fresh else _read_state(state_file)
    files, before, started, failed = _files_digest(space), "", time.monotonic(), []
    scored = False  # whether the table of results is of what was asked for now
    for step in todo:
        name = Path(step.key).stem
        before = _digest(step.notebook, step.parameters, files, before)
        if wanted and not step.key.startswith(wanted):
            continue
        if reason := _left_out(step.notebook, space):
            print(f"{name:<24} left out: {reason}", flush=True)
            continue
        output = root / "notebooks" / step.key
        if state.get(step.key, {}).get("digest") == before and output.is_file():
            print(f"{name:<24} up to date", flush=True)
            scored |= step.key.startswith("06")
            continue
        print(f"{name:<24} {_title(step.notebook)} …", end="", flush=True)
        begun = time.monotonic()
        try:
            _run_notebook(step.notebook, output, step.parameters)
        except KeyboardInterrupt:
            print(f"\ninterrupted in {step.key}; the same command goes on from there", file=sys.stderr)
            return 130
        except (DeadKernelError, papermill.PapermillExecutionError, *FORESEEABLE) as error:
            killed = "its kernel was killed, most likely for want of memory"
            reason = killed if isinstance(error, DeadKernelError) else f"{type(error).__name__}: {error}"
            reason = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else reason
            print(f" failed\n{reason}\nthe notebook up to its error: {_shown(output)}", file=sys.stderr, flush=True)
            failed.append(step.key)
            before += "failed"  # those after it run again once it works
            continue
        seconds = time.monotonic() - begun
        print(f" {seconds:.0f} s", flush=True)
        state[step.key] = {"digest": before, "seconds": round(seconds, 1)}
        write_json(state_file, state)
        scored |= step.key.startswith("06")
    print(f"done in {time.monotonic() - started:.0f} s\n")
    _print_results(root, space, scored)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _read_state(file: Path) -> dict:
    """What pipeline.json says of each notebook; {} where it is absent, or damaged: then all of them run again."""
    try:
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        if isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values()):
            return found
    except ValueError:
        pass
    print(f"{_shown(file)} is damaged: every notebook runs again", flush=True)
    return {}


def _table(file: Path) -> pd.DataFrame:
    """A CSV of the results; without rows where it is absent or damaged."""
    try:
        return pd.read_csv(file, dtype=str) if file.is_file() else pd.DataFrame()
    except ValueError as error:  # pandas' and Unicode's errors are ValueErrors
        print(f"{_shown(file)} cannot be read: {error}")
        return pd.DataFrame()


def _left_out(notebook: Path, space: Workspace) -> str:
    """Why a notebook cannot run on these datasets; "" where it can."""
    needs_audio = {"00": "it takes recordings apart", "03": "what it trains embeds audio"}
    if not (reason := needs_audio.get(notebook.name[:2])):
        return ""
    if notebook.name.startswith("03") and not (space.fsd50k or space.nsynth):
        return "it needs --fsd50k or --nsynth"
    return f"{reason}, and this dataset has none" if load_bsd(space.dataset)["path"].isna().all() else ""


def _shown(path: Path) -> str:
    """A path relative to where the user stands, if that is shorter."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def _said(root: Path, start: str) -> list[str]:
    """Lines of notebook 06's sentences that begin with `start`."""
    notebooks = [nbformat.read(file, as_version=4) for file in sorted(root.glob("notebooks/06_*.ipynb"))]
    outputs = [each for notebook in notebooks for cell in notebook.cells for each in cell.get("outputs", [])]
    lines = [line for each in outputs for line in each.get("data", {}).get("text/markdown", "").splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith(start)))  # ours alone, and all, say some twice


def _print_results(root: Path, space: Workspace, scored: bool) -> None:
    table = root / "results.csv"
    if len(results := _table(table)):
        if not scored:
            print(f"notebook 06 has not run: this table is of {time.ctime(table.stat().st_mtime)}")
        print(results.to_string(index=False))
        notes = [*_said(root, "- Left out: "), caveat(space.profile, space.dataset)]
        print("\n".join(filter(None, notes)), end="\n\n")
    lost = Path(space.scratch) / "stores" / "lost.csv"
    if count := len(_table(lost)):
        print(f"{count} recordings could not be used: {_shown(lost)} names each, with the reason")
    print(f"figures      {_shown(root / 'figures')}")
    print(f"notebooks    {_shown(root / 'notebooks')}")
    print(f"run folders  {_shown(root)}")
    for file in sorted((root / "submission").glob("*.csv")):
        print(f"submission   {_shown(file)}")


if __name__ == "__main__":
    sys.exit(main())
