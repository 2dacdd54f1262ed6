"""Let `torchvision` be imported beside a CPU-only PyTorch.

The registry's torchvision is built for CUDA. Beside a CPU-only PyTorch its compiled operators cannot be loaded, and
``import torchvision`` (so timm, hear21passt and laion-clap's networks too) stops with "operator torchvision::nms does
not exist", because it registers shapes for operators that were never defined. The operators themselves are not needed
by any network here, so their schemas are enough.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch

__all__ = ["provide_operators"]


@cache
def provide_operators() -> torch.library.Library | None:
    """Define the schemas of torchvision's `nms` and `qnms`, only where its own compiled operators cannot be loaded.

    To be called before the first import of anything that imports torchvision. Returns the definitions (which live as
    long as the process: the result is cached), or None where torchvision's own operators were loaded.
    Raises ImportError if torchvision is not installed.
    """
    package = importlib.util.find_spec("torchvision")
    if package is None:
        raise ImportError("torchvision is not installed: install the packages that requirements.txt pins")
    for compiled in sorted(Path(package.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(compiled))
        except OSError:  # built for CUDA libraries, or another version of PyTorch
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    schemas = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return schemas
