"""HTSAT's forward pass on a CPU by OpenVINO, where it is installed and `haf_utils.clap.load_clap` asks for it."""

import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from weakref import WeakKeyDictionary

import torch
from torch import nn

from haf_utils.fast.threads import in_threads

__all__ = ["encoder", "library"]

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_KEPT = 8  # converted networks in the cache, as large as their weights; the least recently used is removed first
# One for good: where one of several is closed, OpenVINO 2026.4.1 leaves signals a freed stack (DataLoader: SIGCHLD).
_core = cache(lambda: library().Core())
_COMPILED: WeakKeyDictionary = WeakKeyDictionary()  # network -> (digest, {(precision, threads): compiled network})


def library():
    """The package openvino. Raises ImportError, with what to do, if it cannot be imported.

    Where openvino-telemetry is installed, importing openvino would report to an outside service and write into the home
    directory. So this process cannot import openvino-telemetry from now on, and openvino does without.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # an import of it raises ImportError
    try:
        import openvino
    except ImportError as error:
        advice = "pip install --no-deps openvino==2026.4.1, or choose engine 'torch'"
        raise ImportError(f"OpenVINO cannot be imported ({error}): {advice}") from error
    return openvino


def encoder(htsat: nn.Module, precision: str = "fp32") -> Callable[[torch.Tensor], torch.Tensor]:
    """HTSAT in eval mode with its current weights, as a function for inference on a CPU.

    Images (B, 1, spec_size, spec_size), float32 -> embeddings (B, D), float32: the "embedding" of laion-clap's
    `forward_features` within rounding. precision: "fp32" or "bf16". Images are embedded one by one, each on one core,
    so that no embedding depends on the batch. Later changes of the weights have no effect on it.

    A network is converted once and kept by the SHA-256 of its weights in $XDG_CACHE_HOME or ~/.cache, in haf-clap.
    Raises ImportError as `library` does.
    """
    openvino, threads, digest = library(), torch.get_num_threads(), _digest(htsat)
    if _COMPILED.get(htsat, ("",))[0] != digest:
        _COMPILED[htsat] = digest, {}
    compiled, key = _COMPILED[htsat][1], (precision, threads)
    if key not in compiled:
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # other processes may be bound to the same cores
        }
        compiled[key] = _core().compile_model(_converted(openvino, htsat, digest), "CPU", settings)
    requests: SimpleQueue = SimpleQueue()
    for _ in range(threads):
        requests.put(compiled[key].create_infer_request())

    def embed(image: torch.Tensor) -> torch.Tensor:
        request = requests.get()
        try:
            return torch.from_numpy(request.infer([image.numpy()])[0])
        finally:
            requests.put(request)

    return lambda images: torch.cat(list(in_threads(embed, images.float().split(1), images.device)))


class _Pooled(nn.ModuleList):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self[0].forward_features(image)["embedding"]


def _digest(htsat: nn.Module) -> str:
    digest = hashlib.sha256(f"{library().get_version()} {torch.__version__} {htsat}".encode())
    for name, value in htsat.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy())
    return digest.hexdigest()[:16]


def _converted(openvino, htsat: nn.Module, digest: str):
    """The network in OpenVINO's form: from the cache, or converted and written into it."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "haf-clap"
    folder = kept / f"openvino-{digest}"
    try:
        os.utime(folder)
        return _core().read_model(folder / "htsat.xml")
    except (OSError, RuntimeError):  # it is not there, or is damaged
        pass
    # Batch 1: the trace keeps the number of windows as a constant, and other numbers would come out wrong.
    pooled, shape = _Pooled([htsat]).eval(), (1, 1, *htsat.patch_embed.img_size)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # on tracing, of which OpenVINO makes use
        network = openvino.convert_model(pooled, input=[shape], example_input=torch.zeros(shape), share_weights=False)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="openvino-", dir=kept) as beside:
            openvino.save_model(network, Path(beside) / "new" / "htsat.xml", compress_to_fp16=False)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(Path(beside) / "new", folder)
        for old in sorted(kept.glob("openvino-*"), key=os.path.getmtime)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"the network converted for OpenVINO could not be kept in {kept}: {error}", stacklevel=2)
    return network
