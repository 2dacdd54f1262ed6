"""LAION-CLAP: laion-clap's networks built from one configuration, and the embedding of recordings and texts.

HTSAT and the projections (``clap_module``), RoBERTa, every name in the state dict and the preparation of audio and text
are laion-clap's. Three things differ: the log-mel is computed by FFT instead of convolutions with a DFT matrix, texts
are not padded to 77 tokens, and a long clip is embedded as the average over fixed windows instead of one random crop.

`ClapNetwork` has two implementations with the same results: the plain one, which calls laion-clap's and transformers'
forward, and that of `haf_utils.fast`, the default (`HAF_FAST=0` takes the plain one).
"""

import dataclasses
import hashlib
import json
import math
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

from haf_utils import fast
from haf_utils.audio import prepare, to_float, windows
from haf_utils.fast import frontend, htsat, openvino, roberta
from haf_utils.fast.threads import gate, in_threads
from haf_utils.io.checkpoints import CheckpointError, match_state, read_state, safetensors_copy, write_state
from haf_utils.io.files import atomic_write, write_json
from haf_utils.io.progress import bar
from haf_utils.io.third_party import clap_networks
from haf_utils.profiles import REPOSITORY, AudioConfig, ClapConfig
from haf_utils.taxonomy import prompts

__all__ = ["ENGINES", "KNOWN", "Clap", "ClapNetwork", "empty_windows", "load_clap", "pad_tokens", "save_clap"]

PAD = 1  # RoBERTa's
# Name -> file in the hub repository `LAION`: the unfused checkpoints with HTSAT-tiny.
KNOWN = {"630k": "630k-best.pt", "630k-audioset": "630k-audioset-best.pt"}
LAION, ROBERTA = "lukewys/laion_clap", "FacebookAI/roberta-base"
ENGINES = ("auto", "torch", "openvino")
# From these on, OpenVINO saves what it costs to import it and to convert the network, even at its first use.
_CLIPS_FOR_OPENVINO, _LAION_DIM = 512, 96  # the width of HTSAT-tiny


class ClapNetwork(nn.Module):
    """CLAP with HTSAT and RoBERTa at the sizes of `config`; the state dict has exactly the names of LAION's.

    Weights are random until a state is loaded. The parts that no embedding depends on (HTSAT's AudioSet head, the two
    `transform` networks of an optional loss) keep their place in the state dict and are frozen.
    """

    def __init__(self, config: ClapConfig):
        super().__init__()
        networks, audio = clap_networks(), config.audio
        self.config = config
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")  # laion-clap calls it in the old way
            self.audio_branch = networks.HTSAT(
                spec_size=config.spec_size,
                patch_size=config.patch_size,
                patch_stride=(config.patch_stride, config.patch_stride),
                num_classes=config.audioset_classes,
                embed_dim=config.htsat_dim,
                depths=list(config.depths),
                num_heads=list(config.heads),
                window_size=config.attention_window,
                config=types.SimpleNamespace(**vars(audio), window_size=audio.n_fft, hop_size=audio.hop),
            )
        # The share of frames that laion-clap's SpecAugment masks at most: 64 of 1,001.
        frames = audio.window_samples // audio.hop + 1
        self.audio_branch.spec_augmenter.time_dropper.drop_width = max(1, round(64 * frames / 1001))
        self.text_branch = networks.RobertaModel(
            networks.RobertaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.text_dim,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.text_heads,
                intermediate_size=config.text_feedforward,
                max_position_embeddings=config.text_positions,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
            )
        )
        joint = config.embedding
        self.text_transform = nn.ModuleDict({"sequential": _projection(joint, joint).insert(2, nn.Dropout(0.1))})
        self.text_projection = _projection(config.text_dim, joint)
        self.audio_transform = nn.ModuleDict({"sequential": _projection(joint, joint).insert(2, nn.Dropout(0.1))})
        self.audio_projection = _projection(self.audio_branch.num_features, joint)
        self.logit_scale_a = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # laion-clap's initial temperatures
        self.logit_scale_t = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("hann", torch.hann_window(audio.n_fft), persistent=False)
        for unused in (self.audio_branch.tscam_conv, self.audio_branch.head, self.text_transform, self.audio_transform):
            unused.requires_grad_(False)
        # True: activation checkpointing of HTSAT's blocks, for less memory in training and a third more work.
        self.recompute_activations = False
        # In place of HTSAT's forward pass: images (B, 1, spec_size, spec_size) -> (B, D), for inference.
        self.encoder: Callable[[torch.Tensor], torch.Tensor] | None = None

    def log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, samples), in [-1, 1] or int16 -> log-mel (B, mel_bins, frames) in dB, always in fp32. As
        laion-clap's: Hann window, centred frames, reflected ends, Slaney mel bands, 10 log10 with a floor of 1e-10."""
        audio, mel = self.config.audio, self.audio_branch.logmel_extractor.melW  # (n_fft / 2 + 1, mel_bins)
        waveforms = to_float(waveforms) if waveforms.dtype == torch.int16 else waveforms.float()
        with torch.autocast(waveforms.device.type, enabled=False):
            if fast.enabled():
                bins = int(audio.fmax * audio.n_fft / audio.sample_rate) + 1  # no mel band reaches further
                return frontend.log_mel(waveforms, self.hann, audio.hop, mel[:bins])
            spectrum = torch.stft(
                waveforms, audio.n_fft, audio.hop, window=self.hann, pad_mode="reflect", return_complex=True
            )
            return 10 * (mel.T @ spectrum.abs().square()).clamp(min=1e-10).log10()

    def spectrogram_image(self, waveforms: torch.Tensor, augment: bool = False) -> torch.Tensor:
        """Waveforms (B, window_samples), in [-1, 1] or int16 -> HTSAT's images (B, 1, spec_size, spec_size), in fp32.
        `augment`: SpecAugment's random stripes of time and frequency, as in laion-clap's training (train mode only)."""
        branch = self.audio_branch
        with torch.autocast(waveforms.device.type, enabled=False):
            # Frames come last: on (B, mel_bins, frames, 1) PyTorch 2.13 gives BatchNorm wrong gradients.
            x = branch.bn0(self.log_mel(waveforms)[:, :, None]).permute(0, 2, 3, 1)  # (B, 1, frames, mel_bins)
            if augment:
                x = frontend.hide_stripes(branch.spec_augmenter, x) if fast.enabled() else branch.spec_augmenter(x)
            if fast.enabled():
                x = frontend.stretch(x, branch.spec_size * branch.freq_ratio)
            return branch.reshape_wav2img(x)

    def audio_embedding(self, waveforms: torch.Tensor, augment: bool = False) -> torch.Tensor:
        """Waveforms (B, window_samples), in [-1, 1] or int16 -> embeddings (B, 512), float32, L2-normalised. `augment`:
        as for `spectrogram_image`. Raises ValueError for activation checkpointing without `fast`."""
        image = self.spectrogram_image(waveforms, augment)
        recompute = self.recompute_activations and torch.is_grad_enabled()
        if self.encoder is not None:
            pooled = self.encoder(image)
        elif fast.enabled():
            pooled = fast.compiled(htsat.encode, self.training)(self.audio_branch, image, recompute)
        elif recompute:
            raise ValueError("laion-clap's HTSAT has no activation checkpointing: do without, or set HAF_FAST=1")
        else:
            pooled = self.audio_branch.forward_features(image)["embedding"]
        return _project(self.audio_projection, pooled)

    def text_embedding(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T), int64, and their mask -> embeddings (B, 512), float32, L2-normalised."""
        if fast.enabled():
            pooled = roberta.encode(self.text_branch, input_ids, attention_mask)
        else:
            pooled = self.text_branch(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return _project(self.text_projection, pooled)

    def forward(
        self, waveforms: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor, augment: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio and text embeddings of a batch of pairs, as `audio_embedding` and `text_embedding` give them."""
        return self.audio_embedding(waveforms, augment), self.text_embedding(input_ids, attention_mask)


def _projection(width: int, joint: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, joint), nn.ReLU(), nn.Linear(joint, joint))


def _project(projection: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Pooled outputs (B, D) -> embeddings (B, 512), L2-normalised; in fp32 under autocast too, since bf16 is too
    coarse for the small differences between similar clips."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(projection(x.float()), dim=-1)


@dataclasses.dataclass
class Clap:
    """A CLAP network with its tokenizer, ready to embed. `precision`: "fp32" or "bf16" (autocast; mel in fp32).

    `engine`: see `load_clap`. Raises ValueError for an unknown one, or "openvino" on a GPU; ImportError for "openvino"
    where it is not installed.
    """

    network: ClapNetwork
    tokenizer: Tokenizer
    device: torch.device
    precision: str = "fp32"
    engine: str = "torch"

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is unknown: choose {', '.join(ENGINES)}")
        if self.engine == "openvino":
            if self.device.type != "cpu":
                raise ValueError(f"engine='openvino' is for a CPU, not for {self.device}: choose auto or torch")
            openvino.library()

    @property
    def config(self) -> ClapConfig:
        return self.network.config

    def autocast(self) -> torch.autocast:
        """The context in which forward passes of this precision run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def by_engine(self, clips: int) -> Iterator[None]:
        """In this context the network embeds audio by the engine for `clips` recordings, in eval mode and for inference
        alone. Where "auto" would take OpenVINO and cannot import it, a warning says so."""
        network, before = self.network.eval(), self.network.encoder
        large = clips >= _CLIPS_FOR_OPENVINO and self.config.htsat_dim >= _LAION_DIM
        auto = self.engine == "auto" and self.device.type == "cpu" and large and fast.enabled()
        if auto or self.engine == "openvino":
            try:
                network.encoder = openvino.encoder(network.audio_branch, self.precision)
            except ImportError as error:
                if not auto:
                    raise
                warnings.warn(f"{error}; PyTorch embeds audio instead", stacklevel=3)
        try:
            yield
        finally:
            network.encoder = before

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Texts -> {"input_ids", "attention_mask"}, int64 (N, longest), cut after `config.tokens` (77) tokens."""
        return pad_tokens([encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))])

    @torch.inference_mode()
    def embed_windows(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, window_samples), in [-1, 1] or int16 -> embeddings (B, 512), on this device."""
        self.network.eval()
        with self.autocast():
            return self.network.audio_embedding(waveforms.to(self.device, non_blocking=True))

    def embed_audio(self, clips: Sequence, batch: int | None = None, progress: bool = True) -> np.ndarray:
        """Recordings -> embeddings (N, 512), float32, L2-normalised, in the order given.

        `clips`: paths, or int16 samples at `config.audio.sample_rate` (of an audio store). The embedding of a clip
        longer than the window is the average over its fixed windows. Nothing is random, and no embedding depends on the
        batch. Apart from the result, memory does not grow with the number of clips.
        `batch`: clips decoded, and windows embedded, at once (by default at most 3 or 8, on a GPU 32).
        Raises AudioError that names the first recording that cannot be used.
        """
        audio, threads = self.config.audio, torch.get_num_threads()
        if batch is None:  # on a CPU a batch a core, of wide networks so small that malloc keeps its memory
            most = 3 if self.config.htsat_dim >= _LAION_DIM else 8
            batch = max(1, min(most, math.ceil(len(clips) / threads))) if self.device.type == "cpu" else 32
        mean = np.zeros((len(clips), self.config.embedding), np.float32)
        turn = gate(self.device)

        def cut(clip) -> np.ndarray:
            samples = clip if isinstance(clip, np.ndarray) else prepare(clip, audio.sample_rate)
            return windows(samples, audio.window_samples)

        def embed(first: int) -> np.ndarray:
            of_clips = [cut(clip) for clip in clips[first : first + batch]]
            ends = np.cumsum([len(of_clip) for of_clip in of_clips])
            waveforms = empty_windows(ends[-1], audio.window_samples, self.device)
            np.concatenate(of_clips, out=waveforms.numpy())
            with turn:
                embedded = torch.cat([self.embed_windows(part).float().cpu() for part in waveforms.split(batch)])
            return np.stack([of_clip.mean(axis=0) for of_clip in np.split(embedded.numpy(), ends[:-1])])

        starts = range(0, len(clips), batch)
        description = "audio embeddings"
        with self.by_engine(len(clips)), bar(total=len(clips), description=description, quiet=not progress) as shown:
            for first, embeddings in zip(starts, in_threads(embed, starts, self.device), strict=True):
                mean[first : first + batch] = embeddings
                shown.update(len(embeddings))
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    def embed_text(self, texts: Sequence[str], batch: int = 16, progress: bool = True) -> np.ndarray:
        """Texts -> embeddings (N, 512), float32, L2-normalised, in the order given. An empty text has one too. Texts of
        similar length share a batch; no embedding depends on the batch."""
        self.network.eval()
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        result = np.zeros((len(rows), self.config.embedding), np.float32)
        batches = [order[first : first + batch] for first in range(0, len(order), batch)]
        turn = gate(self.device)

        def embed(chosen: list[int]) -> np.ndarray:
            tokens = {name: values.to(self.device) for name, values in pad_tokens([rows[r] for r in chosen]).items()}
            with turn, torch.inference_mode(), self.autocast():
                return self.network.text_embedding(tokens["input_ids"], tokens["attention_mask"]).cpu().numpy()

        embedded = in_threads(embed, batches, self.device)
        shown = bar(embedded, total=len(batches), description="text embeddings", quiet=not progress)
        for chosen, embeddings in zip(batches, shown, strict=True):
            result[chosen] = embeddings
        return result

    @torch.inference_mode()
    def zero_shot(self, audio: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        """Posteriors (N, 23) of audio embeddings (N, 512) by similarity to one prompt a class: nothing is trained.

        `texts`: other prompts, one a column. As a control on BSD it is optimistic with LAION's checkpoints, which were
        trained on Freesound, the source of BSD's clips.
        """
        anchors = torch.from_numpy(self.embed_text(prompts() if texts is None else texts, progress=False))
        scale = self.network.logit_scale_a.exp().float().cpu()
        return (scale * torch.from_numpy(np.asarray(audio, np.float32)) @ anchors.T).softmax(dim=1).numpy()


def empty_windows(number: int, samples: int, device: torch.device) -> torch.Tensor:
    """An uninitialised int16 tensor (number, samples) on the CPU. For a GPU it is pinned: copies are asynchronous, and
    PyTorch reuses the memory for later batches."""
    return torch.empty((number, samples), dtype=torch.int16, pin_memory=device.type == "cuda")


def pad_tokens(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Token ids of N texts -> {"input_ids", "attention_mask"}, int64 (N, longest)."""
    ids = torch.full((len(rows), max(map(len, rows), default=0)), PAD)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


# Loading and saving ---------------------------------------------------------------------------------------------------


def load_clap(checkpoint, tokenizer=None, device="cpu", precision: str = "fp32", engine: str = "torch") -> Clap:
    """A pretrained CLAP.

    `checkpoint`: a folder that `save_clap` wrote (absolute, or relative to here or to the repository), a file in
    LAION's format, a safetensors file, or a name in `KNOWN`, which is fetched from the hub into the user's cache if it
    is not there. `tokenizer`: a `tokenizers.Tokenizer`, its ``tokenizer.json``, or a folder with that file or with
    RoBERTa's ``vocab.json`` and ``merges.txt``; None: the one in the checkpoint's folder, or roberta-base of the hub.
    `precision`: "fp32" or "bf16" (for embedding and training; the mel front end stays in fp32).
    `engine` of `Clap.embed_audio`: "torch"; "openvino", on a CPU, the same embeddings within 1e-5 (in bf16 rounded
    elsewhere), for which HTSAT is converted once in seconds and kept in the user's cache; "auto": OpenVINO on a CPU for
    512 recordings or more by a network of at least HTSAT-tiny's width (96), unless HAF_FAST=0, else PyTorch.

    Raises CheckpointError if the checkpoint is missing, damaged, refused or another model's; OSError if it would have
    to be fetched and cannot be; ValueError and ImportError as `Clap` does.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r} is unknown: choose fp32 or bf16")
    path = _find(checkpoint)
    if path.is_dir():
        config, file = read_config(path / "config.json"), path / "model.safetensors"
        file = file if file.is_file() else next(path.glob("pytorch_model.bin"), file)  # transformers' older files
        tokenizer = path if tokenizer is None else tokenizer
    else:
        config, file = ClapConfig(), path
    state = read_state(file) if file.suffix == ".safetensors" else read_state(safetensors_copy(file))
    try:
        with clap_networks().no_init_weights():  # all are loaded below
            network = ClapNetwork(config)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a config.json of a network that cannot be built: {error}") from error
    expected = network.state_dict()
    unused = {name: torch.zeros_like(value) for name, value in expected.items() if name.startswith(_UNUSED)}
    state = unused | {name: value for name, value in expected.items() if _derived(name)} | state
    match_state(state, expected, checkpoint)
    network.load_state_dict(state)
    device = torch.device(device)
    return Clap(network.to(device).eval(), load_tokenizer(tokenizer, config), device, precision, engine)


def _find(checkpoint) -> Path:
    if str(checkpoint) in KNOWN:
        return _fetch(LAION, KNOWN[str(checkpoint)])
    for path in (Path(checkpoint).expanduser(), REPOSITORY / checkpoint):
        if path.exists():
            return path
    raise CheckpointError(f"there is no checkpoint {str(checkpoint)!r}: give a folder, a file, or {', '.join(KNOWN)}")


def _fetch(repository: str, name: str) -> Path:
    """A file of a hub repository: from the user's cache, without network, or fetched into it and verified."""
    try:
        return Path(hf_hub_download(repository, name, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        path = Path(hf_hub_download(repository, name))
    except (OSError, ValueError, HfHubHTTPError) as error:
        advice = f"not in the cache and could not be fetched ({error}); with a network: python data/download.py clap"
        raise OSError(f"{name} of the hub repository {repository} is {advice}") from error
    # The cache names a large file by the SHA-256 that the hub states; the client compares only the size.
    stated = path.resolve().name
    if len(stated) == 64:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != stated:
                path.resolve().unlink()
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not {stated}; it was removed, try again")
    return path


# No embedding depends on them, and transformers leaves them out.
_UNUSED = ("audio_branch.tscam_conv.", "audio_branch.head.", "text_transform.", "audio_transform.")
_TRANSFORMERS = {  # fields of ClapModel's configuration -> ClapConfig's
    "audio_config": {
        **{name: name for name in ("spec_size", "patch_size", "patch_stride", "depths")},
        **{"patch_embeds_hidden_size": "htsat_dim", "num_attention_heads": "heads", "window_size": "attention_window"},
    },
    "text_config": {
        **{"vocab_size": "vocab_size", "hidden_size": "text_dim", "num_hidden_layers": "text_layers"},
        **{"num_attention_heads": "text_heads", "intermediate_size": "text_feedforward"},
        "max_position_embeddings": "text_positions",
    },
}


def _derived(name: str) -> bool:
    """Whether an entry of the state dict follows from the configuration, so that this project does not store it."""
    return name.startswith(("audio_branch.spectrogram_extractor.", "audio_branch.logmel_extractor.")) or name.endswith(
        (".relative_position_index", ".attn_mask")
    )


def save_clap(network: ClapNetwork, tokenizer: Tokenizer, folder, half: bool = False) -> None:
    """Write `folder`/{model.safetensors, config.json, tokenizer.json}, each atomically. `half`: store large weights in
    fp16, half the size (they are fp32 again when loaded)."""
    folder = Path(folder)
    state = {name: value for name, value in network.state_dict().items() if not _derived(name)}
    if half:
        state = {name: value.half() if value.numel() > 2048 else value for name, value in state.items()}
    write_state(state, folder / "model.safetensors")
    text = tokenizer.to_str()
    atomic_write(folder / "tokenizer.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_json(folder / "config.json", dataclasses.asdict(network.config))


def read_config(path) -> ClapConfig:
    """The ClapConfig that `save_clap` wrote. Raises CheckpointError."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values.get("model_type") == "clap":  # transformers writes what differs from its defaults, which are LAION's
            found = {"embedding": values.get("projection_dim", ClapConfig.embedding)}
            for part, names in _TRANSFORMERS.items():
                there = values.get(part, {})
                found |= {ours: there[theirs] for theirs, ours in names.items() if theirs in there}
            values = {"audio": {}} | found
            values["patch_stride"] = np.ravel(values.get("patch_stride", ClapConfig.patch_stride)).tolist()[0]
        audio = AudioConfig(**values.pop("audio"))
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return ClapConfig(audio=audio, **{**values, **lists})
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: a checkpoint folder holds model.safetensors and it") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no configuration of a CLAP network: {error}") from error


def load_tokenizer(source, config: ClapConfig) -> Tokenizer:
    """`source` as in `load_clap`, set to cut texts after `config.tokens` tokens and not to pad. Raises CheckpointError
    if it is missing, damaged, or has more words than the network knows."""
    if not isinstance(source, Tokenizer):
        source = _read_tokenizer(Path(source) if source is not None else None)
    if source.get_vocab_size() > config.vocab_size:
        sizes = f"{source.get_vocab_size()} tokens, this network {config.vocab_size}"
        raise CheckpointError(f"the tokenizer has {sizes}: it belongs to another checkpoint")
    source.no_padding()
    source.enable_truncation(config.tokens)
    return source


def _read_tokenizer(path: Path | None) -> Tokenizer:
    if path is None:
        path = _fetch(ROBERTA, "tokenizer.json")
    file, vocabulary = path / "tokenizer.json" if path.is_dir() else path, path / "vocab.json"
    if not file.exists() and not vocabulary.exists():
        raise CheckpointError(f"there is no tokenizer at {file}: RoBERTa's is fetched with data/download.py clap")
    try:
        if file.exists():
            return Tokenizer.from_file(str(file))
        return roberta_tokenizer(models.BPE.from_file(str(vocabulary), str(path / "merges.txt")))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{file} is no tokenizer: {error}") from error


def roberta_tokenizer(model: models.BPE) -> Tokenizer:
    """A byte-level BPE model as RoBERTa uses it: text -> <s> tokens </s>, with the special tokens at RoBERTa's ids."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer
