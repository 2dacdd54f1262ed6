"""A working copy of the notebooks, `make lab`: git does not see it, and a reader's edits are never overwritten.

    python -m tools.lab

Copies notebooks/ into work/, where a file is absent or as it was copied, and trusts the copies, so that JupyterLab
plays their sounds. Figures and tables of what is tried there go to work/results, and leave those of the main job alone.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat.sign import NotebookNotary

from haf_utils.io.files import writable, write_json
from haf_utils.io.progress import FORESEEABLE
from haf_utils.profiles import REPOSITORY

__all__ = ["SETTINGS", "WORK", "become_lab", "main", "working_copy"]

WORK = REPOSITORY / "work"
SETTINGS = Path(__file__).parent / "jupyterlab"  # JupyterLab's, without its question about news; the demo's page
_COPIED = ".copied.json"  # file -> digest of what was copied


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def working_copy(source: Path, target: Path) -> list[str]:
    """Copy the notebooks of `source` into `target` and trust them -> those that differ and were left as they are."""
    record = target / _COPIED
    try:
        copied = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    except ValueError:  # damaged: all that differs counts as a reader's own
        copied = {}
    different = []
    for file in sorted(source.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in file.parts:
            continue
        name = file.relative_to(source).as_posix()
        copy = target / name
        now = _digest(file)
        if copy.is_file() and _digest(copy) not in (copied.get(name), now):
            different.append(name)
            continue
        if not copy.is_file() or _digest(copy) != now:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        copied[name] = now
        NotebookNotary().sign(nbformat.read(copy, as_version=4))
    write_json(record, copied)
    return different


def become_lab(page: str, *arguments: str) -> None:
    """Replace this process by JupyterLab, which opens `page`, listens on loopback and asks nobody for news."""
    os.environ.setdefault("HAF_OUTPUTS", str(WORK / "results"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    lab = Path(sys.executable).with_name("jupyter-lab")
    options = {
        "ServerApp.root_dir": REPOSITORY,
        "LabApp.default_url": f"/{page}",
        "LabApp.app_settings_dir": SETTINGS,
        "ServerApp.ip": "127.0.0.1",
        "LabApp.news_url": None,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
    }
    given = {argument.partition("=")[0] for argument in arguments}  # takes the place of ours
    ours = [f"--{name}={value}" for name, value in options.items() if f"--{name}" not in given]
    os.execv(lab, [str(lab), *ours, *arguments])


def main() -> int:
    """Make the working copy and become JupyterLab."""
    try:
        different = working_copy(REPOSITORY / "notebooks", writable(WORK))
    except FORESEEABLE as error:
        print(f"error: {error or type(error).__name__}; it copies notebooks there: use your own clone", file=sys.stderr)
        return 2
    for name in different:
        place = f"{WORK.name}/{name}"
        print(f"{place} is your own version, kept as it is; notebooks/{name} is the repository's", flush=True)
    become_lab(f"lab/tree/{WORK.name}", *sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
