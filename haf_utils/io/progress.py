"""Progress of long work: a bar in a terminal or a live JupyterLab, plain lines elsewhere.

In a batch run (papermill, a Slurm log) a bar would leave dozens of half-drawn outputs, and a widget has nobody to
answer: one line a step is printed there instead. `HAF_PROGRESS=lines` or `bars` decides it by hand.
"""

import atexit
import os
import shutil
import sys
import tempfile

from tqdm.auto import tqdm

__all__ = ["FORESEEABLE", "adapt", "bar", "headless", "line", "printable"]

# What a user can mend, and what libraries raise for it; a KeyError, say, is a mistake of the program.
FORESEEABLE = (EOFError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


def adapt() -> None:
    """Fit a command to its surroundings: letters that the terminal lacks are printed as escapes; where a user has no
    home (in containers), libraries that ask for it get an empty folder."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = tempfile.mkdtemp(prefix="haf-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)


def headless() -> bool:
    """Whether bars and widgets are off: HAF_PROGRESS=lines, a notebook in a batch, or a stderr that is no terminal."""
    if "HAF_PROGRESS" in os.environ:
        return os.environ["HAF_PROGRESS"] == "lines"
    kernel = "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython()
    if kernel and (asked := kernel.get_parent())["header"]["msg_type"] == "execute_request":
        return not asked["metadata"]  # JupyterLab and VS Code name the cell that runs; papermill and nbconvert do not
    return not kernel and not sys.stderr.isatty()


def bar(iterable=None, *, description: str = "", quiet: bool = False, **options):
    """tqdm over `iterable` (or with `total`, to be updated by hand); silent where headless or `quiet`."""
    return tqdm(iterable, desc=description, disable=quiet or headless(), leave=False, **options)


def printable(text: str) -> str:
    """A name or title from a stranger, as a terminal may show it: line breaks and control characters as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def line(text: str, quiet: bool = False) -> None:
    """Print one line of progress where bars are off."""
    if headless() and not quiet:
        print(text, flush=True)
