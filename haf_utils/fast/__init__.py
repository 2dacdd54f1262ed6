"""Faster forward passes of the networks of laion-clap and transformers, with the same results.

`haf_utils.clap` holds the plain equivalents and uses them where the environment has `HAF_FAST=0`. This folder is a
leaf: it imports nothing else of this project, and openvino in its own file. `threads` computes nothing: no switch.
"""

import os

__all__ = ["enabled"]


def enabled() -> bool:
    """Whether fast implementations are used: HAF_FAST is 1 (the default) or 0. Raises ValueError for another value."""
    value = os.environ.get("HAF_FAST", "1")
    if value not in ("0", "1"):
        raise ValueError(f"HAF_FAST={value} in the environment: choose 1 (fast, the default) or 0 (plain)")
    return value == "1"
