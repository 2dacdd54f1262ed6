"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import nn

__all__ = ["Ema"]


class Ema:
    """A shadow copy of `model` that follows it slowly; used for validation and inference.

    Floating-point parameters and buffers are averaged, all others (HTSAT's relative_position_index, BatchNorm's
    num_batches_tracked) copied: averaging integers destroys them. The decay warms up as
    min(decay, (1 + t) / (10 + t)) at update t, so that a short training is not held at its initial weights.
    The EMA of a model that does not change equals it bit for bit.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must lie in [0, 1)")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move one step towards `model` (same architecture). To be called after each optimiser step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        pairs = zip(_tensors(self.model), _tensors(model), strict=True)
        averaged, copied = [], []
        for shadow, current in pairs:
            (averaged if shadow.is_floating_point() else copied).append((shadow, current))
        # shadow + (1 - decay) (current - shadow): exact where the two agree, unlike the weighted sum.
        torch._foreach_lerp_(*map(list, zip(*averaged, strict=True)), 1 - decay)
        for shadow, current in copied:
            shadow.copy_(current)

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> chain:
    """All that `update` moves. Cheaper than a state dict, which a small head would spend a tenth of its training on."""
    return chain(model.parameters(), model.buffers())
