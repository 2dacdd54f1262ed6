"""Target distributions, and the losses between them and the model's logits.

A target is a distribution over the 23 classes, a row a clip. Targets are smoothed before mixup interpolates them, so
that the smoothing mass stays on related classes.
"""

import torch
import torch.nn.functional as F

from haf_utils.config import SMOOTHINGS
from haf_utils.taxonomy import CLASSES, PARENT, TOP_LEVELS

__all__ = ["hierarchical_targets", "one_hot_targets", "soft_cross_entropy", "targets", "top_level",
           "top_level_cross_entropy", "uniform_targets"]  # fmt: skip

_PARENT = torch.from_numpy(PARENT.copy())
_SIBLING = (_PARENT[:, None] == _PARENT[None, :]) & ~torch.eye(len(CLASSES), dtype=torch.bool)
_TO_TOP = F.one_hot(_PARENT, len(TOP_LEVELS)).float()  # (23, 5)


def _check(labels: torch.Tensor, smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} must lie in [0, 1)")
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"labels must be a (B,) integer tensor, got {tuple(labels.shape)} of {labels.dtype}")
    if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < len(CLASSES)):
        raise ValueError(f"labels must lie in 0..{len(CLASSES) - 1}, got {int(labels.min())}..{int(labels.max())}")


def one_hot_targets(labels: torch.Tensor) -> torch.Tensor:
    """(B,) int labels -> (B, 23) float, all mass on the class."""
    _check(labels, 0.0)
    return F.one_hot(labels, len(CLASSES)).float()


def uniform_targets(labels: torch.Tensor, smoothing: float = 0.1) -> torch.Tensor:
    """(B,) int labels -> (B, 23) float: 1 - smoothing on the class, the rest spread over all 23 (Szegedy, 2016)."""
    _check(labels, smoothing)
    return (1 - smoothing) * one_hot_targets(labels) + smoothing / len(CLASSES)


def hierarchical_targets(labels: torch.Tensor, smoothing: float = 0.1) -> torch.Tensor:
    """(B,) int labels -> (B, 23) float: 1 - smoothing on the class, the rest shared equally by its siblings.

    Report, section 4: the smoothing mass stays under the same top-level parent; 0.1 is the report's factor. Rows sum
    to 1. Raises ValueError for labels outside 0..22 and a smoothing outside [0, 1).
    """
    _check(labels, smoothing)
    siblings = _SIBLING.to(labels.device)[labels].float()
    return (1 - smoothing) * one_hot_targets(labels) + smoothing * siblings / siblings.sum(1, keepdim=True)


def targets(labels: torch.Tensor, kind: str, smoothing: float = 0.1) -> torch.Tensor:
    """Targets of the `kind` "none", "uniform" or "hierarchical": (B,) int -> (B, 23) float."""
    if kind not in SMOOTHINGS:
        raise ValueError(f"smoothing={kind!r} is unknown: choose one of {', '.join(SMOOTHINGS)}")
    if kind == "none":
        return one_hot_targets(labels)
    return {"uniform": uniform_targets, "hierarchical": hierarchical_targets}[kind](labels, smoothing)


def soft_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """-sum(target * log softmax(logits)) over the batch, divided by the sum of `target`: the mean over its clips.

    logits, target (B, C) -> scalar. The target row of a clip of weight w sums to w: mixup, which blends targets, blends
    weights as well. Computed in float32, whatever the precision of the network.
    """
    return -(target * F.log_softmax(logits.float(), dim=-1)).sum() / target.sum()


def top_level(probabilities: torch.Tensor) -> torch.Tensor:
    """Posteriors of the 23 classes (..., 23) -> posteriors of the five top levels (..., 5): sums over the leaves."""
    return probabilities @ _TO_TOP.to(probabilities)


def top_level_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between top-level target and top-level posterior, both sums over leaves; scalar, as above.

    An auxiliary loss, off by default: in the report the top level enters through the targets alone."""
    log_posterior = F.log_softmax(logits.float(), dim=-1)
    # log of a sum of posteriors, without leaving the log domain
    groups = [torch.logsumexp(log_posterior[:, _PARENT == parent], dim=-1) for parent in range(len(TOP_LEVELS))]
    return -(top_level(target) * torch.stack(groups, dim=-1)).sum() / target.sum()
