"""Fine-tuning: one training step, one epoch, and `fit` (report, section 4). Nothing here knows of folders.

One loop serves head and joint training, HAF-CLAP, Text-Aux CLAP and PaSST: they differ in what embeds and in what
classifies (`haf_utils.model`), not in how they are trained.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from haf_utils.config import FinetuneConfig, Recipe
from haf_utils.fast.threads import ahead
from haf_utils.inference import classify, embed_rows
from haf_utils.inputs import Batch, CachedInputs, LiveInputs, clip_generator, torch_seed
from haf_utils.io.progress import bar
from haf_utils.losses import soft_cross_entropy, top_level_cross_entropy
from haf_utils.metrics import hierarchical_scores
from haf_utils.model import Features, Model
from haf_utils.regularizers import Ema, add_noise, drop_texts, mixup

__all__ = ["batch_loss", "finetune", "fit", "generators", "optimizer_of", "train_epoch", "training_step"]


def finetune(config: FinetuneConfig, quiet: bool = False) -> Path:
    """From a configuration to a finished run folder: `haf_utils.experiment.finetune.finetune`."""
    from haf_utils.experiment.finetune import finetune as run  # the one arrow from the method to the machinery

    return run(config, quiet)


def generators(seed: int, epoch: int) -> dict[str, torch.Generator]:
    """One random stream a regularizer, so that switching one off leaves the draws of the others unchanged."""
    names = ("text dropout", "mixup", "noise")
    return {name: torch.Generator().manual_seed(torch_seed(seed, epoch, name)) for name in names}


def batch_loss(
    model: Model, features: Features, target: torch.Tensor, recipe: Recipe, streams: Mapping[str, torch.Generator]
) -> torch.Tensor:
    """Loss of a batch, a scalar: regularizers on its embeddings and targets (B, 23), the classifier, cross-entropy."""
    features = drop_texts(features, streams["text dropout"], recipe.text_dropout)
    if recipe.mixup:
        features, target = mixup(features, target, streams["mixup"], recipe.mixup_alpha, recipe.mixup_probability)
    features = add_noise(features, streams["noise"], recipe.feature_noise)
    logits = model.classifier(features).logits
    loss = soft_cross_entropy(logits, target)
    if recipe.top_level_weight:
        loss = loss + recipe.top_level_weight * top_level_cross_entropy(logits, target)
    if recipe.system == "text_aux":
        loss = loss + model.classifier.auxiliary_loss(features, target)
    return loss


def training_step(
    model: Model,
    inputs: CachedInputs | LiveInputs,
    parts: Sequence[torch.Tensor | Batch],
    target: torch.Tensor,
    recipe: Recipe,
    streams: Mapping[str, torch.Generator],
    optimizer: torch.optim.Optimizer,
    ema: Ema,
) -> float:
    """One optimizer step on a batch with targets (B, 23), prepared by `inputs` in one or several parts -> the loss.

    Several parts need less memory: the batch is embedded without gradients, the loss is that of the whole batch (its
    weights, mixup's partners and shares), and each part is embedded again to carry its gradients on (gradient caching,
    Gao et al., 2021). BatchNorm, twice, and patchout inside the backbone see a part alone.
    Raises FloatingPointError where the loss or its gradient is not finite, before a weight changes.
    """
    cached = inputs.live and len(parts) > 1
    # Dropout and patchout draw the same both times.
    seeds = [int(torch.randint(2**62, ())) if cached else None for _ in parts]
    with torch.set_grad_enabled(not cached):
        embedded = [_embed(model, inputs, part, seed) for part, seed in zip(parts, seeds, strict=True)]
    features = Features.concatenate(embedded)
    if cached:
        features = features._replace(audio=features.audio.requires_grad_(), text=features.text.requires_grad_())
    loss = batch_loss(model, features, target.to(features.audio.device), recipe, streams)
    loss.backward()
    if cached:
        gradients = [_gradient(values).split([len(e.presence) for e in embedded]) for values in features[:2]]
        for part, seed, *of_part in zip(parts, seeds, *gradients, strict=True):
            again = _embed(model, inputs, part, seed)
            pairs = [pair for pair in zip(again[:2], of_part, strict=True) if pair[0].requires_grad]
            torch.autograd.backward(*zip(*pairs, strict=True))
    norm = nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
    if not torch.isfinite(loss.detach() + norm):  # only here, since it waits for a GPU
        raise FloatingPointError(f"the loss became {loss.item()}, the length of its gradient {norm.item()}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    ema.update(model)
    return loss.item()


def _embed(model: Model, inputs: CachedInputs | LiveInputs, part: torch.Tensor | Batch, seed: int | None) -> Features:
    if seed is None:
        return inputs.embed(model, part)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return inputs.embed(model, part)


def _gradient(values: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(values) if values.grad is None else values.grad


def train_epoch(
    model: Model,
    inputs: CachedInputs | LiveInputs,
    rows: np.ndarray,
    target: torch.Tensor,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    ema: Ema,
    epoch: int,
    quiet: bool = False,
) -> float:
    """One pass over `rows` (R,) of the inputs; returns the mean loss. All that is random follows from (seed, epoch).

    target (N, 23): of every row of the inputs; the row of a clip of weight w sums to w.
    Raises FloatingPointError that names epoch, batch and rows where the loss is not finite.
    """
    model.train()
    streams, key = generators(recipe.seed, epoch), (recipe.seed, epoch)
    batches = _batches(rows, recipe.batch, clip_generator(*key, "order"))

    def prepare(chunk: np.ndarray) -> tuple[np.ndarray, list[torch.Tensor | Batch]]:
        parts = np.array_split(chunk, min(recipe.accumulation, len(chunk)))
        return chunk, [inputs.prepare(part, key) for part in parts]

    options = {"description": f"epoch {epoch + 1}", "unit": "batch", "quiet": quiet or not inputs.live}
    prepared, total = ahead(prepare, batches, inputs.device), 0.0
    for number, (chunk, parts) in enumerate(bar(prepared, total=len(batches), **options)):
        try:
            loss = training_step(model, inputs, parts, target[chunk], recipe, streams, optimizer, ema)
        except FloatingPointError as error:
            where = f"in epoch {epoch + 1}, batch {number + 1} (rows {', '.join(map(str, chunk[:10]))}, …)"
            raise FloatingPointError(f"{error} {where}: lower classifier_rate or backbone_rate") from error
        scheduler.step()
        total += loss * len(chunk)
    return total / len(rows)


def _batches(rows: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled batches; a last one of a single clip joins the one before, since mixup needs a partner."""
    rows = rng.permutation(rows)
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def optimizer_of(model: Model, classifier_rate: float, backbone_rate: float) -> torch.optim.Adam:
    """Adam with the classifier's rate and the backbone's (report, section 4)."""
    groups = [{"params": list(model.classifier.parameters()), "lr": classifier_rate}]
    if model.backbone is not None:
        groups.append({"params": list(model.backbone.parameters()), "lr": backbone_rate})
    return torch.optim.Adam(groups, fused=True)


def fit(
    model: Model,
    inputs: CachedInputs | LiveInputs,
    target: torch.Tensor,
    labels: np.ndarray,
    rows: Mapping[str, np.ndarray],
    recipe: Recipe,
    resume: Mapping | None = None,
    after_epoch: Callable[[dict], None] = lambda state: None,
    quiet: bool = False,
) -> tuple[Model, pd.DataFrame]:
    """Train until the epochs or the patience end -> the best model by validation hF of the EMA weights, a row an epoch.

    target (N, 23), labels (N,): of every row of the inputs; rows: index arrays "train" and "validation". `after_epoch`
    is given the whole state of the training; `resume` takes one, and the training goes on to the very same weights.
    Raises FloatingPointError where the loss is not finite.
    """
    rates = recipe.rates
    optimizer = optimizer_of(model, recipe.classifier_rate, recipe.backbone_rate)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, rates.halving_steps, rates.step_factor)
    # Without EMA the "average" forgets at once: the same code path, and exactly the raw weights.
    ema = Ema(model, recipe.sizes.ema if recipe.ema else 0.0)
    trained = {"model": model, "ema": ema, "optimizer": optimizer, "scheduler": scheduler}
    state = {"epoch": 0, "history": [], "best": None, "best_hF": -1.0, "best_epoch": 0}
    if resume is not None:
        for name, part in trained.items():
            part.load_state_dict(resume[name])
        state = dict(resume["state"])
    with bar(total=recipe.epochs, initial=state["epoch"], description=recipe.name, unit="epoch", quiet=quiet) as shown:
        while state["epoch"] < recipe.epochs:
            halved = scheduler.last_epoch >= rates.halving_steps
            if halved and state["epoch"] - state["best_epoch"] >= rates.patience:
                break
            epoch = state["epoch"]
            # Dropout draws from torch's global generator: forked, and seeded by the epoch, so that a resumed run draws
            # what an uninterrupted one would have drawn.
            with torch.random.fork_rng():
                torch.manual_seed(torch_seed(recipe.seed, epoch, "dropout"))
                loss = train_epoch(
                    model, inputs, rows["train"], target, recipe, optimizer, scheduler, ema, epoch, quiet
                )
            scores = _validate(ema.model, inputs, rows["validation"], labels, recipe.batch)
            state["epoch"] = epoch + 1
            state["history"] = [*state["history"], {"epoch": epoch + 1, "loss": loss, **scores}]
            if scores["validation_hF"] > state["best_hF"]:
                best = {name: value.detach().cpu().clone() for name, value in ema.model.state_dict().items()}
                state |= {"best": best, "best_hF": scores["validation_hF"], "best_epoch": epoch + 1}
            after_epoch({name: part.state_dict() for name, part in trained.items()} | {"state": state})
            shown.update()
            shown.set_postfix(loss=f"{loss:.3f}", hF=f"{100 * scores['validation_hF']:.1f}")
    ema.model.load_state_dict(state["best"])
    return ema.model, pd.DataFrame(state["history"])


def _validate(
    model: Model, inputs: CachedInputs | LiveInputs, rows: np.ndarray, labels: np.ndarray, batch: int
) -> dict[str, float]:
    """Scores of the EMA weights on fixed windows, without views."""
    probabilities, _ = classify(model, embed_rows(model, inputs, rows, batch))
    labels = labels[rows]
    scores = hierarchical_scores(labels, probabilities.argmax(1))
    loss = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()
    return {"validation_loss": float(loss)} | {f"validation_{name}": scores[name] for name in ("hF", "accuracy")}
