"""PaSST as an audio encoder: hear21passt's network with this project's mel front end.

hear21passt's front end needs torchaudio, builds its filter bank at every call and prints; `log_mel` gives the same
values without that. The network (Koutini et al., "Efficient Training of Audio Transformers with Patchout", 2022) is
built from `profiles.PasstConfig` without its AudioSet heads. Its classifier is `model.LinearClassifier`: as in PaSST, a
LayerNorm and a linear layer on the mean of the two class tokens.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute
from transformers.audio_utils import mel_filter_bank

from haf_utils import fast
from haf_utils.audio import to_float
from haf_utils.io.checkpoints import CheckpointError, read_state, state_differences
from haf_utils.io.third_party import hear21passt
from haf_utils.profiles import PasstConfig

__all__ = ["PasstNetwork", "build_passt", "log_mel", "official_weights"]

# The front end as hear21passt.base builds it (AugmentMelSTFT in evaluation mode).
SAMPLE_RATE = 32_000  # Hz
PRE_EMPHASIS = 0.97
N_FFT, WINDOW, HOP = 1024, 800, 320  # samples
MEL_BINS, FMIN, FMAX = 128, 0.0, 15_000.0  # Kaldi mel bands, Hz; fmax is half the rate less half its training jitter
FLOOR = 1e-5  # added to the power before the logarithm
SHIFT, SCALE = 4.5, 5.0  # PaSST's fixed normalisation: (x + 4.5) / 5
SHORTEST = N_FFT // 2 + 2  # samples: pre-emphasis removes one, and the reflected padding needs more than half a frame

# hear21passt's models supported here -> SHA-256 of the weights, as several public projects state it (PaSST does not).
SHA256 = {"passt_s_swa_p16_128_ap476": "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c"}


@cache
def _window_and_filters(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Hann window (800,) and mel filters (128, 513), float32."""
    filters = mel_filter_bank(
        N_FFT // 2 + 1, MEL_BINS, FMIN, FMAX, SAMPLE_RATE, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    window = torch.hann_window(WINDOW, periodic=False)
    return window.to(device), torch.from_numpy(filters.T).float().contiguous().to(device)


def log_mel(waveforms: torch.Tensor) -> torch.Tensor:
    """Waveforms (B, samples) at 32 kHz, in [-1, 1] or int16 -> log-mel (B, 128, frames), as PaSST's at evaluation.

    frames = (samples - 1) // 320 + 1, of 10 ms; values in about [-1.4, 2]. Always float32, on the waveforms' device.
    Values do not depend on the rest of the batch. Raises ValueError unless (B, samples), samples >= 514.
    """
    shape = tuple(waveforms.shape)
    if len(shape) != 2 or shape[1] < SHORTEST:
        raise ValueError(f"waveforms must be (batch, samples) with at least {SHORTEST} samples, got {shape}")
    with torch.autocast(waveforms.device.type, enabled=False):
        if waveforms.device.type != "cpu":
            return _log_mel(waveforms)
        # Clip by clip, so that the spectrum stays in the processor's cache.
        return torch.cat([_log_mel(clip) for clip in waveforms.split(1)])


def _log_mel(waveforms: torch.Tensor) -> torch.Tensor:
    window, filters = _window_and_filters(waveforms.device)
    waveforms = to_float(waveforms) if waveforms.dtype == torch.int16 else waveforms.float()
    emphasised = waveforms[:, 1:] - PRE_EMPHASIS * waveforms[:, :-1]
    spectrum = torch.stft(emphasised, N_FFT, HOP, WINDOW, window=window, center=True, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return ((filters @ power + FLOOR).log() + SHIFT) / SCALE


class PasstNetwork(nn.Module):
    """hear21passt's network without its classification heads, from waveforms to embeddings.

    In training, whole rows and columns of patches are left out at random (structured patchout), the same ones for all
    clips of a batch, drawn from torch's global generator as dropout is. Weights are random until a state is loaded.
    """

    def __init__(self, config: PasstConfig):
        super().__init__()
        self.config = config
        grid = {"img_size": (MEL_BINS, config.frames), "patch_size": config.patch, "stride": config.stride}
        sizes = {"embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads}
        self.network = hear21passt().PaSST(**grid, **sizes, num_classes=0, distilled=True)
        self.network.head = self.network.head_dist = nn.Identity()
        self.recompute_activations = False  # True: activation checkpointing, less memory and a third more work

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, window_samples) at 32 kHz, in [-1, 1] or int16 -> embeddings (B, dim), float32, not normalised.

        Raises ValueError for another length: cut or repeat clips first (`audio.windows`, `audio.random_window`).
        """
        if waveforms.shape[-1] != self.config.window_samples:
            needed, shape = self.config.window_samples, tuple(waveforms.shape)
            raise ValueError(f"PaSST reads {needed} samples at once, got {shape}: use haf_utils.audio.windows")
        return self.embed_mel(log_mel(waveforms))

    def embed_mel(self, mel: torch.Tensor) -> torch.Tensor:
        """Log-mel (B, 128, frames) of a window -> embeddings (B, dim), float32."""
        net = self.network
        # Frames beyond the last whole patch are dropped, as the position embeddings have the size of the configuration.
        patches = net.patch_embed.proj(mel[:, None, :, : self.config.frames])  # (B, dim, rows, columns)
        patches = patches + net.time_new_pos_embed + net.freq_new_pos_embed
        if self.training:
            patches = _patchout(patches, self.config.patchout_time, dim=3)
            patches = _patchout(patches, self.config.patchout_frequency, dim=2)
        class_tokens = torch.cat([net.cls_token, net.dist_token], dim=1) + net.new_pos_embed
        x = torch.cat([class_tokens.expand(len(mel), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        again = self.recompute_activations and torch.is_grad_enabled()
        for block in net.blocks:
            run = partial(_fused, block) if fast.enabled() else block
            x = recompute(run, x, use_reentrant=False) if again else run(x)
        return net.norm(x[:, :2]).float().mean(dim=1)


def _fused(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """hear21passt's block on tokens (B, N, dim) by PyTorch's fused attention, which keeps no (N, N) matrix."""
    own = block.attn
    qkv = own.qkv(block.norm1(x)).unflatten(2, (3, own.num_heads, -1)).permute(2, 0, 3, 1, 4)
    x = x + own.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def _patchout(patches: torch.Tensor, count: int, dim: int) -> torch.Tensor:
    """Patches without `count` rows (dim 2) or columns (dim 3), chosen at random; the others keep their order."""
    size = patches.shape[dim]
    kept = torch.randperm(size)[: size - count].sort().values
    return patches.index_select(dim, kept.to(patches.device))


def build_passt(config: PasstConfig, weights: str | Path = "random", seed: int = 0) -> PasstNetwork:
    """A PaSST network of the sizes in `config`, on the CPU, in training mode.

    weights: "random" (drawn from `seed`); the name of a hear21passt model (`official_weights`); a file of PaSST's own
    format, whose AudioSet heads are left out; or the folder of a run that fine-tuned PaSST.
    Raises CheckpointError, which names the weights, if the file is missing, damaged or does not fit `config`.
    """
    with torch.random.fork_rng(devices=[]):  # hear21passt initialises from the global generator
        torch.manual_seed(seed)
        network = PasstNetwork(config)
    if weights != "random":
        path = official_weights(weights) if weights in SHA256 else Path(weights)
        path = path / "model.safetensors" if path.is_dir() else path
        network.network.load_state_dict(_fitting(read_state(path), network.network.state_dict(), path))
    return network


def _fitting(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path) -> dict:
    """`state` without its classifiers, if it has exactly the other names and shapes of `expected`."""
    state = {name.removeprefix("backbone.network.network."): value for name, value in state.items()}  # of a run folder
    heads = ("head.", "head_dist.", "classifier.")
    state = {name: value for name, value in state.items() if not name.startswith(heads)}
    if differences := state_differences(state, expected):
        some = {what: names[:3] + ["..."] * (len(names) > 3) for what, names in differences.items()}
        listed = "; ".join(f"{len(differences[what])} {what} ({', '.join(names)})" for what, names in some.items())
        raise CheckpointError(f"{path} does not fit this PaSST network: {listed}")
    return state


def official_weights(name: str = "passt_s_swa_p16_128_ap476") -> Path:
    """The file with PaSST's AudioSet weights, in torch's cache; downloaded (345 MB) and checked where it is absent.

    The address is hear21passt's own. Raises OSError, with what to do, where it cannot be fetched; ValueError for a
    name that is not known.
    """
    if name not in SHA256:
        raise ValueError(f"PaSST weights {name!r} are unknown: choose one of {', '.join(SHA256)}")
    url = hear21passt().default_cfgs[name]["url"]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256[name])
        except URLError as error:
            advice = f"with a network, run python data/download.py passt, and copy the file to {path}"
            raise OSError(f"PaSST's weights cannot be fetched from {url} ({error.reason}): {advice}") from error
        except RuntimeError as error:  # torch's way to say that the hash is wrong; it has deleted the file
            raise OSError(f"{url}: {error}") from error
    return path
