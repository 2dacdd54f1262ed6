"""CLAP's front end in fp32: log-mel by FFT in pieces that fit the cache, SpecAugment, and bicubic interpolation.

`haf_utils.clap` calls these functions and holds their plain equivalents.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["hide_stripes", "log_mel", "stretch"]

_FRAMES = 256  # frames at once on a CPU, so that their spectra fit the cache


def log_mel(waveforms: torch.Tensor, window: torch.Tensor, hop: int, mel: torch.Tensor) -> torch.Tensor:
    """Waveforms (B, samples), float32 -> log-mel (B, mel_bins, frames) in dB with a floor of 1e-10.

    window: (n_fft,), of centred frames with reflected ends. mel: filters (bins, mel_bins) of the lowest frequency bins,
    up to the highest that a filter uses.
    """
    if waveforms.device.type != "cpu":
        return _log_mel(waveforms, window, hop, mel, waveforms.shape[1])
    return torch.cat([_log_mel(clip, window, hop, mel, _FRAMES) for clip in waveforms.split(1)])


def _log_mel(waveforms: torch.Tensor, window: torch.Tensor, hop: int, mel: torch.Tensor, at_once: int) -> torch.Tensor:
    ends = len(window) // 2  # reflected by hand, since PyTorch's padding is slow
    around = waveforms[:, 1 : ends + 1].flip(1), waveforms, waveforms[:, -ends - 1 : -1].flip(1)
    power = []
    for frames in torch.cat(around, 1).unfold(1, len(window), hop).split(at_once, dim=1):
        squares = torch.view_as_real(torch.fft.rfft(frames * window)[..., : len(mel)]).square()
        power.append((squares[..., 0] + squares[..., 1]) @ mel)
    return 10.0 * torch.cat(power, 1).mT.contiguous().clamp_(min=1e-10).log10_()


def hide_stripes(augmenter: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Log-mel (B, 1, frames, mel_bins) times torchlibrosa's random stripes of zeros, drawn as `augmenter` draws them.

    torchlibrosa writes each stripe into x, which copies the gradient each time; here it writes into a mask of ones for
    each axis.
    """
    batch, _, frames, bins = x.shape
    in_time = augmenter.time_dropper(torch.ones(batch, 1, frames, 1)).to(x.device, non_blocking=True)
    in_frequency = augmenter.freq_dropper(torch.ones(batch, 1, 1, bins)).to(x.device, non_blocking=True)
    return x * (in_time * in_frequency)


def stretch(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Log-mel (B, 1, frames before, mel_bins) -> (B, 1, frames, mel_bins) by bicubic interpolation.

    Equals the interpolation in laion-clap's `reshape_wav2img`, but as weighted sums of four rows, which are faster on a
    CPU. On other devices, and if it has at least `frames` frames, x is returned unchanged.
    """
    batch, _, before, bins = x.shape
    if before >= frames or x.device.type != "cpu":
        return x
    source, weight = _bicubic(before, frames)
    source = (source + before * torch.arange(batch, device="cpu")[:, None, None]).flatten(0, 1)
    rows, weight = x.reshape(-1, bins), weight.to(x.dtype).repeat(batch, 1)
    return F.embedding_bag(source, rows, per_sample_weights=weight, mode="sum").view(batch, 1, frames, bins)


@cache
@torch.inference_mode(False)  # cached inference tensors could not serve training
def _bicubic(before: int, after: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights (after, 4) of the four of `before` values that bicubic interpolation sums for each output.

    Read off PyTorch's interpolation of the unit matrix.
    """
    unit = torch.eye(before, device="cpu")[None, None]
    shares = F.interpolate(unit, (after, before), mode="bicubic", align_corners=True)[0, 0]
    source = shares.abs().topk(min(4, before)).indices
    return source, shares.gather(1, source)
