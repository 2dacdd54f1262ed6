"""From a trained model to posteriors: plain prediction, test-time augmentation, probability averaging."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.special import softmax

from haf_utils.fast.threads import ahead
from haf_utils.inputs import CachedInputs, LiveInputs, clip_generator
from haf_utils.io.progress import bar
from haf_utils.model import Features, Model
from haf_utils.regularizers import shaken
from haf_utils.runs import Predictions

__all__ = ["average_probabilities", "classify", "embed_rows", "mean_logits", "predict"]


def average_probabilities(list_of_probabilities: Sequence[np.ndarray], weights=None) -> np.ndarray:
    """M arrays (N, 23) of posteriors -> (N, 23), their mean (report, equation 1) or their mean by `weights` (M,).

    Weights are normalised to sum 1. Raises ValueError where shapes differ, where there is nothing to average, and for
    weights that are negative, all zero or of another number than M.
    """
    if len(list_of_probabilities) == 0:
        raise ValueError("there are no probabilities to average")
    shapes = {np.shape(probabilities) for probabilities in list_of_probabilities}
    if len(shapes) > 1:
        raise ValueError(f"members differ in shape: {sorted(shapes)}")
    stack = np.asarray(list_of_probabilities, dtype=np.float64)
    weights = np.ones(len(stack)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(stack),) or (weights < 0).any() or not 0 < weights.sum() < np.inf:
        needed = f"one a model, {len(stack)} in all, at least 0 and not all 0"
        raise ValueError(f"weights must be {needed}, got {weights.tolist()}")
    return np.tensordot(weights / weights.sum(), stack, axes=1)


def mean_logits(list_of_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """M arrays (N, 23) of posteriors -> (N, 23), the softmax of their mean logits: their normalised geometric mean."""
    stack = np.asarray(list_of_probabilities, dtype=np.float64)
    return softmax(np.log(np.maximum(stack, 1e-12)).mean(axis=0), axis=1)


@torch.no_grad()
def embed_rows(model: Model, inputs: CachedInputs | LiveInputs, rows: np.ndarray, batch: int) -> Features:
    """Features of `rows`, on the inputs' device, of fixed windows. The model is left in eval mode."""
    model.eval()
    chunks = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    shown = bar(ahead(inputs.prepare, chunks, inputs.device), total=len(chunks), description="embedding", unit="batch")
    return Features.concatenate([inputs.embed(model, part) for part in shown])


@torch.no_grad()
def classify(model: Model, features: Features, batch: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors (N, 23) and fusion weights (N, 2), or (N, 3) with a third input, float32, of `features`."""
    model.eval()
    posteriors, weights = [], []
    for start in range(0, len(features.presence), batch):
        output = model.classifier(features.map(lambda part, start=start: part[start : start + batch]))
        posteriors.append(torch.softmax(output.logits.float(), dim=1).cpu())
        weights.append(output.weights.float().cpu())
    return torch.cat(posteriors).numpy(), torch.cat(weights).numpy()


def view_noise(ids: Sequence[str], seed: int, sizes: Sequence[int]) -> Iterator[list[np.ndarray]]:
    """For one view after the other, standard normal noise (N, size) on audio and text embeddings, and on posteriors.

    Drawn from (seed, sound_id) alone, so that a view repeats exactly and does not depend on the batch.
    """
    generators = [clip_generator(seed, id_, "noise") for id_ in ids]
    while True:
        noise = np.stack([generator.standard_normal(sum(sizes), np.float32) for generator in generators])
        yield np.split(noise, np.cumsum(sizes)[:-1], axis=1)


def predict(
    model: Model,
    inputs: CachedInputs | LiveInputs,
    rows: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    *,
    views: int = 5,
    deviation: float = 1e-4,
    seed: int = 0,
    batch: int = 64,
) -> Predictions:
    """Plain posteriors and those of `views` stochastic views (report, section 4: five) of `rows` -> `Predictions`.

    A view is a random window (a random offset of a short clip) and Gaussian noise of `deviation` on the embeddings.
    Cached embeddings have noise views only. What is equal in all views is computed once: the texts' embeddings, and
    all embeddings that are cached. ids (R,), labels (R,) belong to `rows` (R,).
    """
    plain = embed_rows(model, inputs, rows, batch)
    posteriors, weights = classify(model, plain)
    sizes = [part.shape[1] for part in (plain.audio, plain.text, plain.posteriors) if part is not None]
    of_views, noise = [], view_noise(ids, seed, sizes)
    for view in range(views):
        audio = embed_audio_view(model, inputs, rows, batch, (seed, view)) if inputs.live else plain.audio
        audio_noise, text_noise, *rest = (deviation * torch.from_numpy(n).to(audio) for n in next(noise))
        noisy = plain._replace(audio=audio + audio_noise, text=plain.text + text_noise)
        if plain.posteriors is not None:
            noisy = noisy._replace(posteriors=shaken(plain.posteriors, *rest))
        of_views.append(classify(model, noisy)[0])
    return Predictions(ids, labels, np.stack(of_views) if of_views else posteriors[None], posteriors, weights)


@torch.no_grad()
def embed_audio_view(model: Model, inputs: LiveInputs, rows: np.ndarray, batch: int, key: tuple) -> torch.Tensor:
    """Audio embeddings (R, E) of one random window of each of `rows`, drawn from `key` and the clip's id."""
    model.eval()
    chunks = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    prepared = ahead(lambda chunk: inputs.prepare(chunk, key), chunks, inputs.device)
    return torch.cat([inputs.embed_audio(model, part) for part in prepared])
