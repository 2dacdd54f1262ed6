"""CLAP's front end, in fp32: log-mel by FFT in pieces that fit the cache, its stretching, its random stripes.

Each function is called by `haf_utils.clap`, where the plain way stands.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["hide_stripes", "log_mel", "stretch"]

_FRAMES = 256  # on a CPU, frames at once: what lies between waveform and mel fits the cache


def log_mel(waveforms: torch.Tensor, window: torch.Tensor, hop: int, mel: torch.Tensor) -> torch.Tensor:
    """Waveforms (B, samples), float32 -> log-mel (B, mel_bins, frames) in dB with a floor of 1e-10.

    window: (n_fft,), of centred frames with reflected ends. mel: filters (bins, mel_bins), of the lowest frequency bins
    as far as any filter reaches.
    """
    if waveforms.device.type != "cpu":
        return _log_mel(waveforms, window, hop, mel, waveforms.shape[1])
    return torch.cat([_log_mel(clip, window, hop, mel, _FRAMES) for clip in waveforms.split(1)])


def _log_mel(waveforms: torch.Tensor, window: torch.Tensor, hop: int, mel: torch.Tensor, at_once: int) -> torch.Tensor:
    ends = len(window) // 2  # reflected here, since PyTorch's padding takes half as long as the transform
    around = waveforms[:, 1 : ends + 1].flip(1), waveforms, waveforms[:, -ends - 1 : -1].flip(1)
    power = []
    for frames in torch.cat(around, 1).unfold(1, len(window), hop).split(at_once, dim=1):
        squares = torch.view_as_real(torch.fft.rfft(frames * window)[..., : len(mel)]).square()
        power.append((squares[..., 0] + squares[..., 1]) @ mel)
    return 10.0 * torch.cat(power, 1).mT.contiguous().clamp_(min=1e-10).log10_()


def hide_stripes(augmenter: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Log-mel (B, 1, frames, mel_bins) times torchlibrosa's random stripes of zeros, drawn as `augmenter` draws them.

    It writes every stripe into x, which costs a copy of the gradient each; here it writes into a row of ones for either
    axis.
    """
    batch, _, frames, bins = x.shape
    in_time = augmenter.time_dropper(torch.ones(batch, 1, frames, 1)).to(x.device, non_blocking=True)
    in_frequency = augmenter.freq_dropper(torch.ones(batch, 1, 1, bins)).to(x.device, non_blocking=True)
    return x * (in_time * in_frequency)


def stretch(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Log-mel (B, 1, frames before, mel_bins) -> (B, 1, frames, mel_bins) by bicubic interpolation.

    As laion-clap's `reshape_wav2img` does it, but as sums of four rows, which are faster on a CPU. On other devices,
    and if no shorter than `frames`, x stays as it is.
    """
    batch, _, before, bins = x.shape
    if before >= frames or x.device.type != "cpu":
        return x
    place, weight = _bicubic(before, frames)
    place = (place + before * torch.arange(batch, device="cpu")[:, None, None]).flatten(0, 1)
    rows, weight = x.reshape(-1, bins), weight.to(x.dtype).repeat(batch, 1)
    return F.embedding_bag(place, rows, per_sample_weights=weight, mode="sum").view(batch, 1, frames, bins)


@cache
@torch.inference_mode(False)  # kept for training too, whatever asks first
def _bicubic(before: int, after: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which four of `before` values bicubic interpolation takes for each of `after`, and their weights: (after, 4).

    Read off PyTorch's interpolation of the unit matrix.
    """
    unit = torch.eye(before, device="cpu")[None, None]
    shares = F.interpolate(unit, (after, before), mode="bicubic", align_corners=True)[0, 0]
    place = shares.abs().topk(min(4, before)).indices
    return place, shares.gather(1, place)
