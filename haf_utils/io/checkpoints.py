"""CLAP checkpoints on disk: LAION's ``.pt`` files, read without running code in them, and this project's.

LAION's format is a pickled dict with ``state_dict`` (keys prefixed ``module.``, ``position_ids`` left by old
transformers), epoch and optimizer state; it holds numpy scalars and may use pickle protocol 4, both of which
``torch.load(weights_only=True)`` refuses. `read_pickle` reads it through an unpickler that allows a short list of names
only. This project writes safetensors.
"""

import _codecs
import collections
import hashlib
import io
import json
import os
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from haf_utils.io.files import atomic_write

__all__ = ["CheckpointError", "load_training", "match_state", "read_pickle", "read_state", "read_weights",
           "safetensors_copy", "save_training", "state_differences", "weights_digest", "write_state"]  # fmt: skip

# Pickled by torch.save in its old format, before a zip archive became the default (torch.serialization.MAGIC_NUMBER).
_OLD_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


# What others wrap a network in: (Distributed)DataParallel, Lightning, torch.compile, laion-clap's CLAP_Module.
# Whatever stands before the names of a CLAP's parts, but for a run's backbone; of other networks, the usual wrappers.
_PARTS = r"(?:(?:audio|text)_(?:branch|model|projection|transform)\.|logit_scale_[at]$)"
_WRAPPERS = re.compile(rf"^(?!backbone\.|{_PARTS})(?:\w+\.)+?(?={_PARTS})|^(?:(?:module|model|_orig_mod|net)\.)+")
# Names of transformers' ClapModel -> LAION's, in turn (its convert_clap_original_pytorch_to_hf.py, reversed).
_TRANSFORMERS = {
    r"^text_model\.": "text_branch.",
    r"^audio_model\.audio_encoder\.": "audio_branch.",
    r"^(audio_branch\..*)attention\.output\.dense": r"\1attn.proj",
    r"^(audio_branch\..*)attention\.self\.": r"\1attn.",
    r"^(audio_branch\..*)intermediate\.dense": r"\1mlp.fc1",
    r"^(audio_branch\..*)output\.dense": r"\1mlp.fc2",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"^audio_branch\.batch_norm": "audio_branch.bn0",
    r"_projection\.linear1": "_projection.0",
    r"_projection\.linear2": "_projection.2",
}


class CheckpointError(ValueError):
    """A file that is no usable checkpoint; the message names the file, what is wrong and what to do."""


def _plain_number(dtype: np.dtype, data: bytes) -> bool | int | float | complex:
    """In place of numpy.core.multiarray.scalar: numbers only, never objects."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc" or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a numpy scalar that is not a plain number")
    return np.frombuffer(data, dtype, count=1)[0].item()


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): _plain_number,
    ("numpy._core.multiarray", "scalar"): _plain_number,
    ("_codecs", "encode"): _codecs.encode,  # how pickle protocol 2 writes bytes
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which no CLAP checkpoint needs") from None


# torch.load derives its unpickler from this one; by itself it resolves only names of storages.
_RESTRICTED = types.SimpleNamespace(
    __name__="restricted", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)


def read_pickle(path):
    """The content that `torch.save` wrote: tensors, numbers, strings and containers of them, on the CPU.

    Raises CheckpointError if the file is missing, cut short, no checkpoint at all, or needs a name that is not on the
    list; nothing in it is executed.
    """
    path, options = Path(path), {"map_location": "cpu", "weights_only": False, "pickle_module": _RESTRICTED}
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("constants.pkl") for name in archive.namelist()):
                    raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint")
            return torch.load(path, mmap=True, **options)
        if _OLD_MAGIC in start:
            # From memory: torch.load would first try a real file as a tar archive.
            return torch.load(io.BytesIO(path.read_bytes()), **options)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} was refused: it holds {error}. Nothing in it was executed.") from error
    except CheckpointError:
        raise
    except Exception as error:  # an unpickler may raise any exception on damaged bytes
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from error
    raise CheckpointError(f"{path} is {_kind(start)}")


def _kind(start: bytes) -> str:
    if start[:2] == b"PK":
        return "half a checkpoint: the end of the archive is missing, download it again"
    if start[:1] == b"\x80":
        return "a pickle, but not one that torch.save wrote: it was not read"
    if not start:
        return "empty"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"a text file, no checkpoint: it begins {start[:40].decode('ascii')!r}"
    return "no checkpoint of any known format"


def read_state(path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of either format, under CLAP's own names.

    `state_dict` (or what others call it) is taken out, the names of wrappers and ``position_ids`` are removed, those of
    transformers' ClapModel translated. Raises CheckpointError, also for weights that are not finite.
    """
    path = Path(path)
    content: object
    if path.suffix == ".safetensors":
        try:
            content = load_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} does not exist") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged, cut short or no safetensors file: {error}") from error
    else:
        content = read_pickle(path)
    state = content if isinstance(content, Mapping) else None
    for key in ("state_dict", "model_state_dict", "model", "net") if state else ():
        state = state[key] if isinstance(state.get(key), Mapping) else state
    inner = [value for value in (state or {}).values() if isinstance(value, Mapping)]
    inner = [value for value in inner if any(map(torch.is_tensor, value.values()))]
    state = inner[0] if len(inner) == 1 else state  # under another name, alone
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds a {type(content).__name__} without weights")
    if wrong := [name for name, value in state.items() if not (isinstance(name, str) and torch.is_tensor(value))]:
        raise CheckpointError(f"{path} holds no state dict: {wrong[0]!r} is no tensor")
    numbers = [name for name, value in state.items() if value.is_floating_point()]
    # A sum is finite where all are, unless it overflows, and takes no memory.
    if wrong := [n for n in numbers if not state[n].sum().isfinite() and not state[n].isfinite().all()]:
        raise CheckpointError(f"{path} holds weights that are not finite, first {wrong[0]}: it cannot be used")
    plain = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    if len(plain) < len(state):
        raise CheckpointError(f"{path} holds several networks under different names: save one of them alone")
    if any(name.startswith("audio_model.audio_encoder.") for name in plain):
        try:
            plain = _from_transformers(plain)
        except RuntimeError as error:  # of torch.cat
            raise CheckpointError(f"{path} holds a damaged ClapModel: {error}") from error
    for name in ("position_ids", "token_type_ids"):
        plain.pop(f"text_branch.embeddings.{name}", None)
    return plain


def _from_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a ClapModel under LAION's names; query, key and value of HTSAT's attention are one matrix there."""
    found = {}
    for name, value in state.items():
        for theirs, ours in _TRANSFORMERS.items():
            name = re.sub(theirs, ours, name)
        found[name] = value
    for name in [name for name in found if "attn.query" in name]:
        parts = [found.pop(name.replace("query", part), torch.zeros(0)) for part in ("query", "key", "value")]
        found[name.replace("query", "qkv")] = torch.cat(parts)
    return found


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a finished run, compared with the digest in its metrics.json. Raises CheckpointError."""
    noted = json.loads((folder / "metrics.json").read_text("utf-8")).get("weights")
    if noted and noted != weights_digest(folder):
        raise CheckpointError(f"{folder / 'model.safetensors'} is not as its run wrote it: move the run away")
    return read_state(folder / "model.safetensors")


def weights_digest(folder: Path) -> str:
    """SHA-256 of model.safetensors in `folder`. Raises OSError."""
    with open(folder / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def match_state(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path) -> None:
    """Compare names and shapes of a checkpoint with those of the network that is to take it. Raises CheckpointError
    that names the differences and the configuration that fits."""
    if differences := state_differences(state, expected):
        listed = "; ".join(f"{len(names)} {what} (first {names[0]})" for what, names in differences.items())
        raise CheckpointError(f"{path} does not fit this network: {listed}. {_advice(state)}")


def state_differences(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """What is wrong -> the weights of `state` of which it is true; empty where names and shapes are those expected."""
    missing, surplus = ([name for name in a if name not in b] for a, b in ((expected, state), (state, expected)))
    unlike = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    shapes = [f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}" for name in unlike]
    kinds = {"weights missing": missing, "not expected": surplus, "of another shape": shapes}
    return {what: names for what, names in kinds.items() if names}


def _advice(state: Mapping[str, torch.Tensor]) -> str:
    if any("fusion_model" in name or "mel_conv2d" in name for name in state):
        return "It is a fusion checkpoint (four mel channels); this project uses unfused ones: 630k or 630k-audioset."
    patches = state.get("audio_branch.patch_embed.proj.weight")
    if patches is None:
        branches = any(name.startswith(("audio_branch.", "text_branch.", "audio_encoder.")) for name in state)
        kind = "It is a CLAP, but has no HTSAT audio branch" if branches else "It is no CLAP with an HTSAT audio branch"
        return f"{kind}: its weights are called {', '.join(list(state)[:3])}, …"
    if "text_branch.embeddings.word_embeddings.weight" not in state:
        return "Its text branch is not RoBERTa."
    model = {96: "tiny", 128: "base", 256: "large"}.get(patches.shape[0])
    width = f"htsat_dim={patches.shape[0]}" + (f" (HTSAT-{model})" if model else "")
    blocks = collections.Counter(
        int(name.split(".")[2]) for name in state if name.startswith("audio_branch.layers.") and ".norm1.weight" in name
    )
    depths = tuple(blocks[layer] for layer in sorted(blocks))
    words = tuple(state["text_branch.embeddings.word_embeddings.weight"].shape)
    return f"Its own configuration is {width}, depths={depths}, vocab_size={words[0]}, text_dim={words[1]}."


def write_state(state: Mapping[str, torch.Tensor], path) -> None:
    """Write safetensors atomically: a kill or a full disk (OSError) leaves the old file unchanged."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:  # how the library reports a full disk
            raise RuntimeError(f"{path} could not be written: {error}") from error

    atomic_write(path, write, _bytes(tensors))


def save_training(state: Mapping, path) -> None:
    """Write the state of a training, nested tensors and numbers, atomically."""
    atomic_write(path, lambda temporary: torch.save(state, temporary), _bytes(state))


def load_training(path) -> dict:
    """What `save_training` wrote. Raises CheckpointError where a byte of it is not as it was written: torch, which
    keeps a CRC of each tensor in the file, does not compare them."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{damaged} has another checksum")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise any exception on damaged bytes
        raise CheckpointError(f"{path} is damaged ({error}): delete it, and training begins again") from error


def _bytes(state) -> int:
    values = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return state.nbytes if torch.is_tensor(state) else sum(map(_bytes, values))


def safetensors_copy(path) -> Path:
    """The weights of a pickled checkpoint as safetensors in the user's cache, written at first use.

    The copy is keyed by the file's path, size and time of change. Where it cannot be written, the checkpoint itself is
    used, with a warning. Raises CheckpointError as `read_state` does.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file")
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "haf-clap"
    copy = cache / f"{path.stem}-{key}.safetensors"
    if not copy.exists():
        try:
            write_state(read_state(path), copy)
        except OSError as error:
            warnings.warn(f"no safetensors copy of {path} could be kept: {error}", stacklevel=2)
            return path
    return copy
