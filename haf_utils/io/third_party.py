"""Imports of packages that cannot be imported as they are: torchvision, laion-clap's networks, hear21passt, librosa.

The registry's torchvision is built for CUDA. Beside a CPU-only PyTorch its compiled operators cannot be loaded, and
``import torchvision`` (so timm, hear21passt and laion-clap's networks too) stops with "operator torchvision::nms does
not exist", because it registers shapes for operators that were never defined. The operators themselves are not needed
by any network here, so their schemas are enough.

Each function imports when it is called, as that takes seconds, and once a process.
"""

import atexit
import importlib.util
import shutil
import sys
import tempfile
import types
from functools import cache

__all__ = ["clap_networks", "hear21passt", "librosa", "provide_operators"]


@cache
def provide_operators() -> object | None:
    """Import torchvision; where that fails without its `nms` and `qnms`, define their schemas, so that it can be.

    Returns the definitions, which live as long as the process, or None. Raises ImportError if it is not installed.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # built for CUDA libraries, or another version of PyTorch
        schemas = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return schemas
    return None


@cache
def clap_networks() -> types.SimpleNamespace:
    """What CLAP is made of: HTSAT of laion-clap, RobertaConfig, RobertaModel and `no_init_weights` of transformers.

    laion-clap's package downloads three tokenizers when imported, its subpackage ``clap_module`` imports timm and
    wandb: the one module that is needed is imported from the folder. Raises ImportError if it is not installed.
    """
    provide_operators()
    librosa()  # which HTSAT takes its mel bands from
    package = importlib.util.find_spec("laion_clap")
    if package is None or package.submodule_search_locations is None:
        raise ImportError("laion-clap is not installed: install the packages that requirements.txt pins")
    folder = types.ModuleType("laion_clap_module")
    folder.__path__ = [f"{package.submodule_search_locations[0]}/clap_module"]
    sys.modules[folder.__name__] = folder
    from laion_clap_module.htsat import HTSAT_Swin_Transformer as HTSAT
    from transformers import RobertaConfig, RobertaModel
    from transformers.initialization import no_init_weights

    networks = {"HTSAT": HTSAT, "RobertaConfig": RobertaConfig, "RobertaModel": RobertaModel}
    return types.SimpleNamespace(**networks, no_init_weights=no_init_weights)


@cache
def librosa() -> types.ModuleType:
    """librosa, whose machine code numba keeps beside it or in the user's cache, and refuses to make where it can write
    to neither: then a folder of this process is given to it."""
    import librosa

    try:
        importlib.import_module("librosa.util.utils")
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        import numba

        print("librosa is compiled again, for half a minute: set NUMBA_CACHE_DIR to a folder of yours", file=sys.stderr)
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="haf-numba-")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)
    return librosa


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
