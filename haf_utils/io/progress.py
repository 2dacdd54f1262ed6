"""One place that decides how long work reports: a bar for a person, plain lines where nobody watches.

A bar needs a terminal or a live JupyterLab. In a batch run (papermill, a Slurm log) it would leave dozens of half-drawn
outputs; there `HAF_PROGRESS=lines`, which `make run` sets, prints one line a step instead.
"""

from __future__ import annotations

import os
import sys

from tqdm.auto import tqdm

__all__ = ["bar", "headless", "line"]


def headless() -> bool:
    """Whether nobody watches: HAF_PROGRESS=lines says so, or a stderr that is neither terminal nor Jupyter shows it."""
    if "HAF_PROGRESS" in os.environ:
        return os.environ["HAF_PROGRESS"] == "lines"
    return "ipykernel" not in sys.modules and not sys.stderr.isatty()


def bar(iterable=None, *, description: str = "", quiet: bool = False, **options):
    """tqdm over `iterable` (or with `total`, to be updated by hand); silent where headless or `quiet`."""
    return tqdm(iterable, desc=description, disable=quiet or headless(), leave=False, **options)


def line(text: str, quiet: bool = False) -> None:
    """Print one plain line of progress, where bars are off."""
    if headless() and not quiet:
        print(text, flush=True)
