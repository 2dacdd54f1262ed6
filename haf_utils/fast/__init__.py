"""Faster forward passes of the networks of laion-clap and transformers, with the same results.

`haf_utils.clap` holds the plain equivalents and uses them where the environment has `HAF_FAST=0`. This folder is a
leaf: it imports nothing else of this project, and openvino in its own file. `threads` computes nothing: no switch.
"""

import os
from collections.abc import Callable
from functools import cache

import torch

__all__ = ["compiled", "enabled"]


def enabled() -> bool:
    """Whether fast implementations are used: HAF_FAST is 1 (the default) or 0. Raises ValueError for another value."""
    if not (fast := _switch("HAF_FAST", "1")) and _switch("HAF_COMPILE", "0"):
        raise ValueError("HAF_COMPILE=1 in the environment compiles what HAF_FAST=0 does without: choose one of them")
    return fast


def compiled(function: Callable, training: bool, dynamic: bool | None = None) -> Callable:
    """`function`; in training, and where the environment has HAF_COMPILE=1 (default: 0), compiled by torch.compile into
    fewer kernels: the same values and gradients within rounding, by the same random draws.

    dynamic: whether shapes differ from call to call, as for torch.compile. The first call takes a minute or more, and
    raises PyTorch's error where it cannot be compiled: that takes Triton on a GPU, a C++ compiler on a CPU.
    """
    return _compiled(function, dynamic) if training and _switch("HAF_COMPILE", "0") else function


@cache
def _compiled(function: Callable, dynamic: bool | None) -> Callable:
    from torch._dynamo.exc import TorchDynamoException  # takes seconds

    # An error instead of parts that are not compiled; dropout's own kernels, which draw as without compiling.
    done = torch.compile(function, fullgraph=True, dynamic=dynamic, options={"fallback_random": True})

    def call(*arguments):
        try:
            return done(*arguments)
        except TorchDynamoException as error:
            error.add_note("HAF_COMPILE=1 in the environment asks for compiling: without it, training goes on")
            raise

    return call


def _switch(name: str, default: str) -> bool:
    value = os.environ.get(name, default)
    if value not in ("0", "1"):
        raise ValueError(f"{name}={value} in the environment: choose 1 or 0 (default: {default})")
    return value == "1"
