"""From a configuration to what the training loop needs: the corpus, the system and its inputs."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from haf_utils.clap import Clap, ClapNetwork, load_clap, load_tokenizer
from haf_utils.config import FinetuneConfig
from haf_utils.corpus import Corpus, load_corpus
from haf_utils.experiment.code import code_digests
from haf_utils.inputs import CachedInputs, LiveInputs
from haf_utils.io.files import atomic_write
from haf_utils.model import ClapBackbone, HafClassifier, LinearClassifier, Model, PasstBackbone, TextAuxClassifier
from haf_utils.passt import build_passt
from haf_utils.profiles import REPOSITORY, Profile, profile

__all__ = [
    "assemble",
    "checkpoint_digest",
    "checkpoint_of",
    "classifier_of",
    "corpus_of",
    "digests_of",
    "embeddings",
    "joined_digest",
    "load_source",
]

SHIPPED = "embeddings shipped with the dataset"  # stands where a checkpoint's digest would


def corpus_of(config: FinetuneConfig) -> Corpus:
    """The corpus that `config` names, decoded at the rate its backbone hears."""
    sizes = profile(config.profile)
    rate = sizes.passt.sample_rate if config.system == "passt" else sizes.clap.audio.sample_rate
    stores = str(Path(config.scratch or config.runs) / "stores")
    return load_corpus(config.dataset, config.extra, config.evaluation, stores, rate)


def assemble(config: FinetuneConfig) -> tuple[Corpus, Model, CachedInputs | LiveInputs, dict[str, str]]:
    """Corpus, system (on the device), inputs, and digests of the data and the checkpoint, of a resolved `config`.

    Raises ValueError where the corpus lacks what the training asks for (audio, for joint training).
    """
    corpus, sizes = corpus_of(config), profile(config.profile)
    source = checkpoint_of(config, sizes)
    # Embeddings that the dataset ships come from a checkpoint of their own, whatever `initialisation` says.
    digests = digests_of(config, corpus)
    if config.train == "joint" and corpus.features is not None:
        raise ValueError(f"{config.dataset} has embeddings but no audio: pass train='head', or unpack audio.zip")
    order = text_order(config, corpus)
    if config.train == "head":
        inputs, backbone, width = _cached(config, corpus, source, digests, order), None, sizes.clap.embedding
    elif config.system == "passt":
        inputs, backbone, width = _live_passt(config, corpus, source, sizes)
    else:
        inputs, backbone, width = _live_clap(config, corpus, source, sizes, order)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        classifier = classifier_of(config, sizes, width)
    return corpus, Model(backbone, classifier).to(config.device), inputs, digests


def digests_of(config: FinetuneConfig, corpus: Corpus) -> dict[str, str]:
    """Digests of the data, the checkpoint and the code that a run of `config` depends on, as config.json records."""
    source = checkpoint_of(config, profile(config.profile))
    checkpoint = checkpoint_digest(source, config.seed) if corpus.features is None else SHIPPED
    return {"data": corpus_digest(corpus), "checkpoint": checkpoint, "code": joined_digest(code_digests())}


def joined_digest(digests: dict[str, str]) -> str:
    """One digest of several by name."""
    return hashlib.sha256(" ".join(f"{name} {digest}" for name, digest in digests.items()).encode()).hexdigest()


def classifier_of(config: FinetuneConfig, sizes: Profile, width: int) -> torch.nn.Module:
    """The untrained classifier of a resolved `config` on embeddings of `width` dimensions."""
    if config.system == "passt":
        return LinearClassifier(width)
    if config.system == "text_aux":
        return TextAuxClassifier(width, sizes.latent, config.dropout, config.text_at_inference)
    return HafClassifier(width, sizes.latent, config.dropout, config.modality, config.fusion, config.gating)


def text_order(config: FinetuneConfig, corpus: Corpus) -> np.ndarray:
    """Whose text each row gets (N,): its own, unless texts are shuffled to plant an effect."""
    rows = np.arange(len(corpus.table))
    return np.random.default_rng(0).permutation(rows) if config.shuffle_texts else rows


def _cached(config, corpus: Corpus, source: str, digests: dict, order: np.ndarray) -> CachedInputs:
    seed = config.seed if source == "random" else 0  # a checkpoint embeds the same for every seed: one copy in memory
    audio, text = embeddings(corpus, source, seed, config.profile, _cache_file(config, digests), config.device)
    on_device = [torch.from_numpy(np.ascontiguousarray(a)).to(config.device) for a in (audio, text[order])]
    return CachedInputs(*on_device, torch.from_numpy(corpus.presence[order]).to(config.device))


def _cache_file(config: FinetuneConfig, digests: dict) -> str:
    key = hashlib.sha256(" ".join([*digests.values(), config.profile]).encode()).hexdigest()[:16]
    return str(Path(config.scratch or config.runs) / "embeddings" / f"{key}.npz")


@cache
def embeddings(
    corpus: Corpus, source: str, seed: int, profile_name: str, file: str, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """CLAP's embeddings of every clip, audio (N, 512) and text (N, 512), float32: those that the dataset ships, or
    computed once by the checkpoint `source` and kept in `file`.

    Long clips are heard through fixed windows, averaged; a missing text and an unreadable clip are zero.
    """
    if corpus.features is not None:
        audio, text = corpus.features
        return audio, text * corpus.presence[:, None]
    if not Path(file).is_file():
        clap = load_source(source, seed, profile(profile_name), device)
        audio = np.zeros((len(corpus.table), clap.config.embedding), np.float32)
        text = np.zeros_like(audio)
        readable = np.flatnonzero(corpus.table["readable"])
        audio[readable] = clap.embed_audio([corpus.samples(row) for row in readable])
        present = np.flatnonzero(corpus.presence)
        text[present] = clap.embed_text(corpus.table["text"].iloc[present].tolist())
        atomic_write(file, lambda path: np.savez(path, audio=audio, text=text))
    with np.load(file) as arrays:
        return arrays["audio"], arrays["text"]


def checkpoint_of(config: FinetuneConfig, sizes: Profile) -> str:
    """What `initialisation` means: "random", a known name, or the path of a checkpoint or run folder that exists."""
    source = config.initialisation
    if source == "pretrained":
        source = (sizes.passt_checkpoint or "random") if config.system == "passt" else sizes.checkpoint
    for path in (Path(source), REPOSITORY / source):
        if path.exists():
            return str(path.resolve())
    return source


@cache
def checkpoint_digest(source: str, seed: int) -> str:
    """Digest of the weights in `source`; of its name where there is no file yet."""
    path = Path(source)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        return f"{source}-{seed}" if source == "random" else source
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def corpus_digest(corpus: Corpus) -> str:
    """Digest of the ids, labels, texts and samples (or shipped embeddings) of all clips that a run depends on."""
    columns = corpus.table[["sound_id", "label", "text", "uploader", "origin", "readable"]].astype(str)
    digest = hashlib.sha256(columns.to_csv(index=False).encode())
    for store in corpus.stores.values():
        digest.update(store.index["crc"].to_numpy().tobytes())
    for values in corpus.features or ():
        digest.update(values.tobytes())
    return digest.hexdigest()


def tokenizer_of(sizes: Profile) -> Tokenizer:
    """The tokenizer of the profile's checkpoint, without its weights."""
    folder = REPOSITORY / sizes.checkpoint
    return load_tokenizer(folder if folder.is_dir() else None, sizes.clap)


def load_source(source: str, seed: int, sizes: Profile, device: str, precision: str = "fp32") -> Clap:
    """CLAP from a checkpoint folder or file, a known name, a joint run's folder, or with random weights."""
    path = Path(source)
    if source == "random" or (path / "predictions.npz").is_file():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = ClapNetwork(sizes.clap)
        clap = Clap(network, tokenizer_of(sizes), torch.device(device), precision)
        if source != "random":
            prefix = "backbone.network."
            state = {k.removeprefix(prefix): v for k, v in load_file(path / "model.safetensors").items() if prefix in k}
            if not state:
                raise ValueError(f"initialisation={source}: this run trained a head, it has no backbone to start from")
            network.load_state_dict(state)
        network.to(device).eval()
        return clap
    return load_clap(source, device=device, precision=precision)


def _live_passt(config, corpus: Corpus, source: str, sizes: Profile):
    network = build_passt(sizes.passt, source, config.seed)
    network.recompute_activations = config.activation_checkpointing
    no_tokens = [[0]] * len(corpus.table)  # PaSST reads no text
    inputs = LiveInputs(
        corpus,
        sizes.passt.window_samples,
        no_tokens,
        np.zeros(len(corpus.table), np.float32),
        config.device,
        config.precision,
    )
    return inputs, PasstBackbone(network), sizes.passt.dim


def _live_clap(config, corpus: Corpus, source: str, sizes: Profile, order: np.ndarray):
    clap = load_source(source, config.seed, sizes, config.device, config.precision)
    clap.network.recompute_activations = config.activation_checkpointing
    texts = corpus.table["text"].iloc[order].tolist()
    tokens = [encoding.ids for encoding in clap.tokenizer.encode_batch(texts)]
    window = clap.config.audio.window_samples
    inputs = LiveInputs(corpus, window, tokens, corpus.presence[order], config.device, config.precision)
    return inputs, ClapBackbone(clap.network), clap.config.embedding
