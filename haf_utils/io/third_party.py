"""Imports of three packages that cannot be imported as they are: torchvision, laion-clap's networks, hear21passt.

The registry's torchvision is built for CUDA. Beside a CPU-only PyTorch its compiled operators cannot be loaded, and
``import torchvision`` (so timm, hear21passt and laion-clap's networks too) stops with "operator torchvision::nms does
not exist", because it registers shapes for operators that were never defined. The operators themselves are not needed
by any network here, so their schemas are enough.

Each function imports when it is called, as that takes seconds, and once a process.
"""

import importlib.util
import os
import sys
import types
import warnings
from functools import cache
from pathlib import Path

import torch

__all__ = ["clap_networks", "hear21passt", "provide_operators"]


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
    for compiled in sorted(Path(package.origin or "").parent.glob("_C*")):
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


@cache
def clap_networks() -> types.SimpleNamespace:
    """What CLAP is made of: HTSAT and MLPLayers of laion-clap, RobertaConfig and RobertaModel, and `no_init_weights`.

    laion-clap's package downloads three tokenizers when imported; its subpackage ``clap_module`` does not, and is found
    once the package's folder is on the path. Raises ImportError if laion-clap is not installed.
    """
    provide_operators()
    package = importlib.util.find_spec("laion_clap")
    if package is None or package.submodule_search_locations is None:
        raise ImportError("laion-clap is not installed: install the packages that requirements.txt pins")
    folder = package.submodule_search_locations[0]
    sys.path.append(folder)
    numba_cache = os.environ.get("NUMBA_CACHE_DIR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # laion-clap imports an old name of timm's
            from clap_module.htsat import HTSAT_Swin_Transformer as HTSAT
            from clap_module.model import MLPLayers
        from transformers import RobertaConfig, RobertaModel
        from transformers.initialization import no_init_weights
    finally:
        sys.path.remove(folder)
        # laion-clap sets it to /tmp/, where other users may write.
        os.environ.pop("NUMBA_CACHE_DIR", None)
        if numba_cache is not None:
            os.environ["NUMBA_CACHE_DIR"] = numba_cache
    networks = {"HTSAT": HTSAT, "MLPLayers": MLPLayers, "RobertaConfig": RobertaConfig, "RobertaModel": RobertaModel}
    return types.SimpleNamespace(**networks, no_init_weights=no_init_weights)


@cache
def hear21passt() -> types.ModuleType:
    """hear21passt's module with the network. Raises ImportError, with what to do, if it is not installed."""
    if importlib.util.find_spec("hear21passt") is None:
        # It asks for torchaudio, which is not needed.
        raise ImportError("hear21passt is not installed: pip install --no-deps hear21passt==0.0.26")
    provide_operators()
    from hear21passt.models import passt

    passt.first_RUN = False  # otherwise its first forward pass prints shapes
    return passt
