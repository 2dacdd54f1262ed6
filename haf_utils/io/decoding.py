"""Threads that read and decode recordings: soundfile and soxr release the GIL, so that processes are not needed."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

__all__ = ["MOST", "cores", "decoded"]

MOST = 4  # threads; more contend for the GIL


def cores() -> int:
    """CPU cores that this process may use; under Slurm fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoded(function: Callable, items: Iterable, workers: int | None = None) -> Iterator:
    """`map(function, items)` by several threads, results in order. The first error ends it, as does Ctrl-C. workers:
    threads; None: one a core, at most `MOST`. Raises ValueError for less than one."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more")
    pool = ThreadPoolExecutor(min(cores(), MOST) if workers is None else workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
