"""Faster ways through the networks of laion-clap and transformers, with the same results.

`haf_utils.clap` has the plain way beside each. A leaf: it imports torch and nothing else of this project. The modules
are the user's to switch off: with the environment variable `HAF_FAST=0` everything takes the plain way.
"""

from __future__ import annotations

import os

__all__ = ["enabled"]


def enabled() -> bool:
    """Whether the fast ways are taken: HAF_FAST is 1 (the default) or 0. Raises ValueError for another value."""
    value = os.environ.get("HAF_FAST", "1")
    if value not in ("0", "1"):
        raise ValueError(f"HAF_FAST={value} in the environment: choose 1 (fast, the default) or 0 (plain)")
    return value == "1"
