"""The main job, `make run`: dataset, notebooks, results table.

    python -m tools.run_notebooks [--data FOLDER] [--extra FOLDER] [--evaluation FOLDER] [--profile mini|full] ...

Notebooks run headless, one after the other, into `<runs>/<dataset>-<profile>/notebooks/`. What is up to date is not
run again; what was interrupted goes on from the notebook that it was in, and there from the run that it was in.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import papermill
from nbclient.exceptions import DeadKernelError

from haf_utils.experiment.code import imported_digests
from haf_utils.experiment.workspace import Workspace, workspace
from haf_utils.io.files import state, walk, write_json
from haf_utils.profiles import PROFILES, REPOSITORY, profile
from tools.preflight import PreflightError, preflight

__all__ = ["main"]

# For the processes of notebooks on a CPU: a thread that waits for the others soon sleeps. On a machine with other work
# to do, waiting by spinning slows everything down tenfold. And glibc keeps freed memory, so that the tensors of the
# next step need not fault their pages in again.
_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}

_NEEDS = {"03": ("fsd50k", "nsynth")}  # a notebook is left out where it has none of the datasets that it needs


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
    checkpoint = REPOSITORY / profile(space.profile).checkpoint
    for root in (space.dataset, space.extra, space.evaluation, space.fsd50k, space.nsynth, checkpoint):
        for file in walk(root) if root else ():  # through links too: audio/ may lie on another disk
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


def main(arguments: list[str] | None = None) -> int:
    """Run the main job; returns 0, 1 where a notebook failed, 2 for wrong arguments, 130 where interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="folder in BSD10k layout (default: the embedded dataset)")
    parser.add_argument("--extra", default="", help="BSD35k-CS, to train on as well")
    parser.add_argument("--evaluation", default="", help="the challenge's evaluation set, to predict")
    parser.add_argument("--fsd50k", default="", help="FSD50K, for continued pretraining")
    parser.add_argument("--nsynth", default="", help="folder of nsynth-<split> folders, for continued pretraining")
    parser.add_argument("--profile", default="mini", help=f"one of {', '.join(PROFILES)} (default: mini)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--runs", default="", help="folder for results (default: runs/ in the repository)")
    parser.add_argument("--scratch", default="", help="folder for audio stores and embeddings (default: with the runs)")
    parser.add_argument("--only", default="", help="notebooks to run, by number: 04,06")
    parser.add_argument("--seeds", type=int, default=1, help="of every variant in notebook 05 (default: 1)")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--fresh", action="store_true", help="run every notebook again")
    given = parser.parse_args(arguments)
    os.environ["HAF_PROGRESS"] = "lines"
    if given.device == "cpu":
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    try:
        parameters = {
            "dataset": _absolute(given.data),
            "extra": _absolute(given.extra),
            "evaluation": _absolute(given.evaluation),
            "fsd50k": _absolute(given.fsd50k),
            "nsynth": _absolute(given.nsynth),
            "runs": _absolute(given.runs),
            "scratch": _absolute(given.scratch),
            "profile": given.profile,
            "device": given.device,
        }
        space = workspace(**parameters)
        print("\n".join(preflight(space)))
    except (PreflightError, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted before the first notebook; run the same command again", file=sys.stderr)
        return 130
    if given.plan:
        return 0
    if given.seeds < 1:
        print(f"error: --seeds {given.seeds}: at least 1", file=sys.stderr)
        return 2
    wanted = [number.strip() for number in given.only.split(",") if number.strip()]
    notebooks = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    unknown = [number for number in wanted if not any(path.name.startswith(number) for path in notebooks)]
    if unknown:
        print(f"error: --only {unknown[0]}: there is no such notebook", file=sys.stderr)
        return 2
    own = {"05": {"seeds": list(range(given.seeds))}}
    return _run_all(space, parameters, own, notebooks, wanted, given.fresh)


def _run_all(
    space: Workspace,
    shared: dict,
    own: dict[str, dict],
    notebooks: list[Path],
    wanted: list[str],
    fresh: bool,
) -> int:
    """Run what is out of date. shared: parameters of every notebook; own: those of one alone, by its number."""
    root = Path(space.runs)
    state_file = root / "pipeline.json"
    state = json.loads(state_file.read_text("utf-8")) if state_file.is_file() and not fresh else {}
    files, before, started = _files_digest(space), "", time.monotonic()
    for notebook in notebooks:
        parameters = shared | own.get(notebook.name[:2], {})
        before = _digest(notebook, parameters, files, before)
        if wanted and not any(notebook.name.startswith(number) for number in wanted):
            continue
        needs = _NEEDS.get(notebook.name[:2], ())
        if needs and not any(getattr(space, name) for name in needs):
            print(f"{notebook.stem:<24} left out: it needs {' or '.join(f'--{name}' for name in needs)}", flush=True)
            continue
        output = root / "notebooks" / notebook.name
        if state.get(notebook.name, {}).get("digest") == before and output.is_file():
            print(f"{notebook.stem:<24} up to date", flush=True)
            continue
        print(f"{notebook.stem:<24} {_title(notebook)} …", end="", flush=True)
        begun = time.monotonic()
        try:
            _run_notebook(notebook, output, parameters)
        except KeyboardInterrupt:
            print(f"\ninterrupted in {notebook.name}; the same command goes on from there", file=sys.stderr)
            return 130
        except DeadKernelError:
            print(f" failed\n{notebook.name}: its kernel was killed, most likely for want of memory", file=sys.stderr)
            return 1
        except papermill.PapermillExecutionError as error:
            print(
                f" failed\n{error.ename}: {error.evalue}\nthe notebook up to its error: {_shown(output)}",
                file=sys.stderr,
            )
            return 1
        seconds = time.monotonic() - begun
        print(f" {seconds:.0f} s", flush=True)
        state[notebook.name] = {"digest": before, "seconds": round(seconds, 1)}
        write_json(state_file, state)
    print(f"done in {time.monotonic() - started:.0f} s\n")
    _print_results(root, Path(space.scratch))
    return 0


def _shown(path: Path) -> str:
    """A path relative to where the user stands, if that is shorter."""
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)


def _print_results(root: Path, scratch: Path) -> None:
    table = root / "results.csv"
    if table.is_file():
        results = pd.read_csv(table, dtype=str)
        print(results.to_string(index=False))
        print()
    lost = scratch / "stores" / "lost.csv"
    if lost.is_file() and (count := len(pd.read_csv(lost))):
        print(f"{count} recordings could not be used: {_shown(lost)} names each, with the reason")
    print(f"figures      {_shown(root / 'figures')}")
    print(f"notebooks    {_shown(root / 'notebooks')}")
    print(f"run folders  {_shown(root)}")
    for file in sorted((root / "submission").glob("*.csv")):
        print(f"submission   {_shown(file)}")


if __name__ == "__main__":
    sys.exit(main())
