"""Independent pieces of work on all cores of a CPU: one thread each, instead of all of them on every operation.

A forward pass is a hundred operations; when all cores share each of them, they meet after every one, and small ones do
not divide well. Batches that have nothing to do with each other divide perfectly (measured on two cores: 7 % faster at
CLAP's real size, attention alone by a third).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore

import torch

__all__ = ["gate", "in_threads"]


def in_threads(function: Callable, items: Sequence, device: torch.device) -> Iterator:
    """`map(function, items)`, several at a time, results in order. The first error ends it, as does Ctrl-C.

    On a CPU there are as many threads as PyTorch would use, each of which computes alone. Beside a GPU there are half
    as many as cores, to read and decode; they take turns at the GPU by `gate`.
    """
    on_cpu, threads = torch.device(device).type == "cpu", torch.get_num_threads()
    workers = threads if on_cpu else max(2, (os.cpu_count() or 2) // 2)
    pool = ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1) if on_cpu else None)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the number for threads that are yet to come is one for the whole process


def gate(device: torch.device) -> BoundedSemaphore:
    """How many threads may compute at once: on a CPU all of `in_threads`, on a GPU one, for its memory's sake."""
    return BoundedSemaphore(torch.get_num_threads() if torch.device(device).type == "cpu" else 1)
