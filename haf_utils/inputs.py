"""Inputs of a model: cached embeddings, or audio windows and tokens.

`head` training keeps the backbone frozen: its embeddings are computed once (`CachedInputs`). `joint` training runs the
backbone on waveforms and tokens (`LiveInputs`). Everything after the embeddings is the same code for both.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from haf_utils.audio import random_window, windows
from haf_utils.clap import empty_windows, pad_tokens
from haf_utils.corpus import Corpus
from haf_utils.model import Features, Model

__all__ = ["Batch", "CachedInputs", "LiveInputs", "clip_generator", "torch_seed"]

_WINDOWS = 32  # that a network embeds at once outside training


def clip_generator(*key: int | str) -> np.random.Generator:
    """The random generator of a clip, view or epoch: its draws depend on `key` alone, not on what else is drawn."""
    numbers = (zlib.crc32(p.encode("utf-8", "surrogateescape")) if isinstance(p, str) else p for p in key)
    return np.random.default_rng(list(numbers))


def torch_seed(*key: int | str) -> int:
    """A seed for torch's generators, from a `key` as above."""
    return int(clip_generator(*key).integers(2**62))


@dataclass
class CachedInputs:
    """Embeddings computed beforehand: audio (N, E), text (N, E), presence (N,), float32, row by row of the corpus;
    posteriors (N, 23) as in `Features`, or None."""

    audio: torch.Tensor
    text: torch.Tensor
    presence: torch.Tensor
    posteriors: torch.Tensor | None = None

    live = False  # windows cannot be drawn again

    @property
    def device(self) -> torch.device:
        return self.audio.device

    def prepare(self, rows: np.ndarray, key: tuple | None = None) -> torch.Tensor:
        return torch.from_numpy(rows).to(self.device)

    def embed(self, model: Model, batch: torch.Tensor) -> Features:
        return Features(self.audio, self.text, self.presence, self.posteriors).map(lambda part: part[batch])


@dataclass(frozen=True)
class Batch:
    """windows (W, samples) int16; clip (W,): the position of each window's clip in the batch; tokens, padded;
    presence (B,); posteriors (B, 23) or None."""

    windows: torch.Tensor
    clip: torch.Tensor
    tokens: dict[str, torch.Tensor]
    presence: torch.Tensor
    posteriors: torch.Tensor | None = None


class LiveInputs:
    """Waveforms and tokens for a backbone that is trained, or that embeds other windows in each view.

    corpus: clips and texts; window: samples that the network reads; tokens: input ids of each row's text (list of int
    lists); presence (N,) of the texts; device; precision "fp32" or "bf16" (autocast; the mel front ends stay in fp32).
    """

    live = True
    posteriors: torch.Tensor | None = None  # (N, 23) as in `Features`, where a third input is read

    def __init__(
        self, corpus: Corpus, window: int, tokens: list[list[int]], presence: np.ndarray, device: str, precision: str
    ):
        self.corpus, self.window, self.tokens = corpus, window, tokens
        self.device, self.precision = torch.device(device), precision
        self.presence = torch.from_numpy(presence)
        self.ids = corpus.table["sound_id"].to_numpy()

    def prepare(self, rows: np.ndarray, key: tuple | None = None) -> Batch:
        """Cut the windows of `rows` and pad their tokens, on the CPU.

        Without a `key`: the fixed windows of each clip. With a `key` (seed and epoch, or seed and view): one random
        window a clip, drawn from `key` and the clip's id alone.
        """
        if key is None:
            cut = [windows(self.corpus.samples(row), self.window) for row in rows]
            number = [len(clip_windows) for clip_windows in cut]
            waveforms = empty_windows(sum(number), self.window, self.device)
            np.concatenate(cut, out=waveforms.numpy())
        else:
            number, waveforms = [1] * len(rows), empty_windows(len(rows), self.window, self.device)
            for row, place in zip(rows, waveforms.numpy(), strict=True):
                random_window(self.corpus.samples(row), clip_generator(*key, self.ids[row]), place)
        return Batch(
            waveforms,
            torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(number)),
            pad_tokens([self.tokens[row] for row in rows]),
            self.presence[rows],
            None if self.posteriors is None else self.posteriors[rows],
        )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def embed_audio(self, model: Model, batch: Batch) -> torch.Tensor:
        """(B, E): the windows' embeddings averaged over each clip, and for CLAP L2-normalised again."""
        # Memory must not grow with the length of clips. A training step is whole.
        parts = [batch.windows] if model.training else batch.windows.split(_WINDOWS)
        with self.autocast():
            embedded = [model.backbone.embed_audio(part.to(self.device, non_blocking=True)) for part in parts]
        embeddings = torch.cat(embedded)
        sums = embeddings.new_zeros((len(batch.presence), embeddings.shape[1]), dtype=torch.float32)
        # Counted on the CPU and copied asynchronously: counting on the GPU would force a synchronisation.
        number = torch.bincount(batch.clip, minlength=len(sums))[:, None].to(self.device, non_blocking=True)
        clip = batch.clip.to(self.device, non_blocking=True)
        mean = sums.index_add(0, clip, embeddings.float()) / number
        return F.normalize(mean, dim=1) if model.backbone.normalised else mean

    def embed(self, model: Model, batch: Batch) -> Features:
        """Embeddings of a batch; the text of a clip without text is zero."""
        presence = batch.presence.to(self.device, non_blocking=True)
        tokens = {name: values.to(self.device, non_blocking=True) for name, values in batch.tokens.items()}
        audio = self.embed_audio(model, batch)
        with self.autocast():
            text = model.backbone.embed_text(tokens)
        third = batch.posteriors if batch.posteriors is None else batch.posteriors.to(self.device, non_blocking=True)
        return Features(audio, text.float() * presence[:, None], presence, third)
