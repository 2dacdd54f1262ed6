"""Parallel batches on the cores of a CPU, one thread a batch, instead of all threads on every operation.

When all cores share every operation of a forward pass, they synchronise after each, and small operations do not divide
well. Independent batches do.

With a GPU, threads only prepare its inputs: they decode (`in_threads`), or cut the next batches (`ahead`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore

import torch

__all__ = ["ahead", "gate", "in_threads"]

_DECODERS = 4  # threads that decode for a GPU; more contend for the GIL


def in_threads(function: Callable, items: Sequence, device: torch.device) -> Iterator:
    """`map(function, items)`, several at a time, results in order. The first error ends it, as does Ctrl-C.

    On a CPU there are as many threads as PyTorch would use, and each computes its items on one core. With a GPU they
    read and decode, and share the GPU by `gate`.
    """
    on_cpu, threads = torch.device(device).type == "cpu", torch.get_num_threads()
    workers = threads if on_cpu else _DECODERS
    pool = ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1) if on_cpu else None)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # the initializer's setting holds for the whole process


def ahead(function: Callable, items: Iterable, device: torch.device | str = "cpu") -> Iterator:
    """`map(function, items)`, computed ahead in threads: the next batches are cut while the network runs.

    One thread and one item ahead on a CPU; several on a GPU, which is faster than one thread that cuts batches.
    """
    threads = 1 if torch.device(device).type == "cpu" else _DECODERS
    pool, pending = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def gate(device: torch.device) -> BoundedSemaphore:
    """Limits the threads that compute at once: on a CPU all of `in_threads`, on a GPU one, to bound its memory."""
    return BoundedSemaphore(torch.get_num_threads() if torch.device(device).type == "cpu" else 1)
