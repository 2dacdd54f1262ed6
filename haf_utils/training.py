"""Fine-tuning: one function from a configuration to a finished run folder, `finetune(config)`.

One loop serves head and joint training, HAF-CLAP, Text-Aux CLAP and PaSST: they differ in what embeds and what
classifies (`haf_utils.model`), not in how they are trained (report, section 4).
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import platform
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

import haf_utils
from haf_utils.config import WHERE, FinetuneConfig, resolve
from haf_utils.corpus import PARTS, Corpus
from haf_utils.experiment.assembly import assemble
from haf_utils.fast.threads import ahead
from haf_utils.inference import classify, embed_rows, predict
from haf_utils.inputs import CachedInputs, LiveInputs, clip_generator, torch_seed
from haf_utils.io.files import atomic_write, write_json
from haf_utils.io.progress import bar, line
from haf_utils.losses import soft_cross_entropy, targets, top_level_cross_entropy
from haf_utils.metrics import hierarchical_scores
from haf_utils.model import Model
from haf_utils.profiles import profile
from haf_utils.regularizers import Ema, add_noise, drop_texts, mixup
from haf_utils.runs import Predictions, RunError, finished, write_predictions
from haf_utils.taxonomy import CLASSES

__all__ = ["SCORED", "FinetuneConfig", "close_run", "finetune", "open_run", "recorded"]

SCORED = ("validation", "test", "evaluation")  # parts that a run predicts
_SAVE_EVERY = 15.0  # seconds between saved states: a shorter run is cheaper to train again than to save


def finetune(config: FinetuneConfig, quiet: bool = False) -> Path:
    """Train as `config` says and leave a run folder (see `haf_utils.runs`); returns its path.

    A finished run of the same parameters on the same data is returned as it is; one whose data, checkpoint or code
    changed is trained again; one that was interrupted goes on from its last saved epoch to the very same weights.
    Raises ValueError or TypeError for a wrong parameter, RunError if the folder's name is taken by other parameters.
    """
    config = resolve(config)
    folder = Path(config.runs) / config.name
    corpus, system, inputs, digests = assemble(config)
    rows = open_run(config, corpus, digests, quiet)
    if rows is None:
        return folder
    started = time.monotonic()
    best, history = _fit(config, corpus, system, inputs, rows, folder, quiet)
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    predictions = {
        name: predict(
            best,
            inputs,
            rows[name],
            ids[rows[name]],
            corpus.labels[rows[name]],
            views=config.tta_views,
            deviation=config.feature_noise,
            seed=config.seed,
            batch=config.batch,
        )
        for name in SCORED
        if len(rows[name])
    }
    close_run(folder, corpus.labels[rows["train"]], history, predictions, best, started)
    return folder


def open_run(config: FinetuneConfig, corpus: Corpus, digests: dict, quiet: bool = False) -> dict | None:
    """Begin, or go on with, the run folder of a resolved `config` -> rows of the corpus by part.

    None where the folder holds this very run, finished. Raises RunError if it belongs to other parameters, ValueError
    if a part has no clips.
    """
    folder = Path(config.runs) / config.name
    if _reusable(config, digests, quiet):
        return None
    part = corpus.parts(config.split, config.fold)
    rows = {name: np.flatnonzero(part == name) for name in PARTS}
    rows["train"] = _training_rows(config, corpus, rows["train"])
    for name in ("train", "validation", "test"):
        if len(rows[name]) == 0:
            raise ValueError(f"{config.dataset}: no clip is left for {name}: the dataset is too small for five folds")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", _record(config, digests))
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    split = pd.DataFrame([(ids[row], name) for name in PARTS for row in rows[name]], columns=["sound_id", "part"])
    atomic_write(folder / "split.csv", lambda path: split.to_csv(path, index=False))
    return rows


def close_run(
    folder: Path,
    training_labels: np.ndarray,
    history: pd.DataFrame,
    predictions: dict[str, Predictions],
    model: torch.nn.Module | None,
    started: float,
) -> None:
    """Write what `open_run` did not: history, predictions, scores, the weights of `model`, if it has any to keep.

    training_labels (N,): of the clips trained on; started: `time.monotonic()` when training began.
    """
    atomic_write(folder / "history.csv", lambda path: history.to_csv(path, index=False))
    write_predictions(folder / "predictions.npz", predictions)
    if model is not None:
        weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        atomic_write(folder / "model.safetensors", lambda path: save_file(weights, path))
    scores = {
        name: hierarchical_scores(p.labels, p.probabilities.argmax(1))
        for name, p in predictions.items()
        if name != "evaluation"
    }
    numbers = {
        "parameters": 0 if model is None else sum(p.numel() for p in model.parameters()),
        "epochs": len(history),
        "seconds": round(time.monotonic() - started, 1),
        "absent_classes": sorted(set(range(len(CLASSES))) - set(training_labels.tolist())),
    }
    (folder / "resume.pt").unlink(missing_ok=True)
    write_json(folder / "metrics.json", scores | numbers)  # last: it marks the run as finished


def _record(config: FinetuneConfig, digests: dict) -> dict:
    """What config.json holds."""
    versions = {"haf_utils": haf_utils.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"config": dataclasses.asdict(config), "digests": digests, "versions": versions}


def recorded(config: FinetuneConfig) -> dict[str, str] | None:
    """The digests with which the run folder of a resolved `config` was begun; None where there is no such folder.

    Raises RunError if its config.json is damaged, or holds other parameters.
    """
    folder = Path(config.runs) / config.name
    if not (folder / "config.json").is_file():
        return None
    try:
        known = json.loads((folder / "config.json").read_text("utf-8"))
        parameters, digests = known["config"], known["digests"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} is damaged ({error}): delete the folder and train again") from error
    differing = [
        f"{name}: {parameters.get(name)!r} there, {value!r} here"
        for name, value in dataclasses.asdict(config).items()
        if name not in WHERE and parameters.get(name) != value
    ]
    if differing:
        raise RunError(
            f"{folder} belongs to a run of other parameters ({'; '.join(differing)}): choose another name or delete it"
        )
    return digests


def _reusable(config: FinetuneConfig, digests: dict[str, str], quiet: bool) -> bool:
    """Whether the run is there, finished. Clears its folder where data, checkpoint or code changed."""
    folder = Path(config.runs) / config.name
    known = recorded(config)
    if known is None:
        (folder / "resume.pt").unlink(missing_ok=True)  # nobody knows whose
        return False
    if known != digests:
        changed = [name for name, digest in digests.items() if known.get(name) != digest]
        line(f"{folder.name}: {' and '.join(changed)} changed since, training again", quiet)
        shutil.rmtree(folder)
        return False
    return finished(folder)


def _training_rows(config: FinetuneConfig, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    """The training clips that `extra_weight` and `data_share` leave; a share keeps each class's proportion."""
    if config.extra_weight == 0:
        rows = rows[corpus.table["origin"].to_numpy()[rows] != "bsd35k-cs"]
    if config.data_share == 1:
        return rows
    rng = np.random.default_rng([config.seed, 2])
    labels = corpus.labels[rows]
    kept = [
        rng.permutation(rows[labels == label])[: max(1, round(config.data_share * (labels == label).sum()))]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(kept))


def _optimiser(config: FinetuneConfig, system: Model) -> torch.optim.Adam:
    """Adam with the classifier's rate and the backbone's (report, section 4)."""
    groups = [{"params": list(system.classifier.parameters()), "lr": config.classifier_rate}]
    if system.backbone is not None:
        groups.append({"params": list(system.backbone.parameters()), "lr": config.backbone_rate})
    return torch.optim.Adam(groups, fused=True)


def _batches(rows: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled batches; a last one of a single clip joins the one before, since mixup needs a partner."""
    rows = rng.permutation(rows)
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def _train_epoch(config, corpus, system, inputs, rows, optimiser, ema, epoch, quiet) -> float:
    """One pass over `rows`; returns the mean loss. All that is random follows from (seed, epoch)."""
    system.train()
    # One stream each: a run without one of them draws the same for all others, and the comparison shows that one alone.
    names = "text dropout", "mixup", "noise"
    hide, blend, noise = (torch.Generator().manual_seed(torch_seed(config.seed, epoch, name)) for name in names)
    batches = _batches(rows, config.batch, clip_generator(config.seed, epoch, "order"))
    device = next(system.parameters()).device
    soft = targets(torch.tensor(corpus.labels).clamp(min=0), config.smoothing, config.smoothing_factor)
    soft[torch.tensor((corpus.table["origin"] == "bsd35k-cs").to_numpy(copy=True))] *= config.extra_weight
    prepared = ahead(lambda chunk: (chunk, inputs.prepare(chunk, (config.seed, epoch))), batches, device)
    total, steps = 0.0, math.ceil(len(batches) / config.accumulation)
    for number, (chunk, batch) in enumerate(
        bar(
            prepared, total=len(batches), description=f"epoch {epoch + 1}", unit="batch", quiet=quiet or not inputs.live
        )
    ):
        features = inputs.embed(system, batch)
        target = soft[chunk].to(device)
        features = drop_texts(features, hide, config.text_dropout)
        if config.mixup:
            features, target = mixup(features, target, blend, config.mixup_alpha, config.mixup_probability)
        features = add_noise(features, noise, config.feature_noise)
        logits = system.classifier(features).logits
        loss = soft_cross_entropy(logits, target)
        if config.top_level_weight:
            loss = loss + config.top_level_weight * top_level_cross_entropy(logits, target)
        if config.system == "text_aux":
            loss = loss + system.classifier.auxiliary_loss(features, target)
        if not torch.isfinite(loss):
            ids = ", ".join(corpus.table["sound_id"].iloc[chunk[:10]])
            raise FloatingPointError(
                f"the loss became {loss.item()} in epoch {epoch + 1}, batch {number + 1} (clips {ids}, …): lower "
                "classifier_rate or backbone_rate; the last saved state is kept"
            )
        last_of_step = (number + 1) % config.accumulation == 0 or number + 1 == len(batches)
        in_step = (
            config.accumulation
            if number // config.accumulation < steps - 1
            else (len(batches) - 1) % config.accumulation + 1
        )
        (loss / in_step).backward()
        if last_of_step:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            ema.update(system)
        total += loss.item() * len(chunk)
    return total / len(rows)


def _fit(config, corpus, system, inputs, rows, folder, quiet) -> tuple[Model, pd.DataFrame]:
    """Train until the epochs or the patience end; returns the best system by validation hF and the history."""
    rates = profile(config.profile).head if config.train == "head" else profile(config.profile).joint
    optimiser = _optimiser(config, system)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, rates.step_epochs, rates.step_factor)
    # Without EMA the "average" forgets at once: the same code path, and exactly the raw weights.
    ema = Ema(system, profile(config.profile).ema) if config.ema else Ema(system, 0.0)
    state = {"epoch": 0, "history": [], "best": None, "best_hF": -1.0, "best_epoch": 0}
    resume = folder / "resume.pt"
    if resume.is_file():
        try:
            saved = torch.load(resume, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise RunError(f"{resume} is damaged ({error}): delete it, and the run begins again") from error
        system.load_state_dict(saved["system"])
        ema.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        scheduler.load_state_dict(saved["scheduler"])
        state = saved["state"]
        line(f"{folder.name}: going on after epoch {state['epoch']}", quiet)

    saved_at = time.monotonic()
    with bar(total=config.epochs, initial=state["epoch"], description=folder.name, unit="epoch", quiet=quiet) as epochs:
        while state["epoch"] < config.epochs and state["epoch"] - state["best_epoch"] < rates.patience:
            epoch = state["epoch"]
            # Dropout draws from torch's global generator: forked, and seeded by the epoch, so that a resumed run draws
            # what an uninterrupted one would have drawn.
            with torch.random.fork_rng():
                torch.manual_seed(torch_seed(config.seed, epoch, "dropout"))
                loss = _train_epoch(config, corpus, system, inputs, rows["train"], optimiser, ema, epoch, quiet)
            scheduler.step()
            scores = _validate(config, corpus, ema.model, inputs, rows["validation"])
            state["epoch"] = epoch + 1
            state["history"].append({"epoch": epoch + 1, "loss": loss, **scores})
            if scores["validation_hF"] > state["best_hF"]:
                best = {name: value.detach().cpu().clone() for name, value in ema.model.state_dict().items()}
                state |= {"best": best, "best_hF": scores["validation_hF"], "best_epoch": epoch + 1}
            if time.monotonic() - saved_at > _SAVE_EVERY:
                _save(resume, system, ema, optimiser, scheduler, state)
                saved_at = time.monotonic()
            epochs.update()
            epochs.set_postfix(loss=f"{loss:.3f}", hF=f"{100 * scores['validation_hF']:.1f}")
            if inputs.live:
                line(f"  epoch {epoch + 1}: loss {loss:.3f}, hF {100 * scores['validation_hF']:.1f} %", quiet)
    ema.model.load_state_dict(state["best"])
    return ema.model, pd.DataFrame(state["history"])


def _save(resume, system, ema, optimiser, scheduler, state) -> None:
    content = {
        "system": system.state_dict(),
        "ema": ema.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "state": state,
    }
    atomic_write(resume, lambda path: torch.save(content, path))


def _validate(config, corpus: Corpus, system: Model, inputs: CachedInputs | LiveInputs, rows: np.ndarray) -> dict:
    """Scores of the EMA weights on fixed windows, without views."""
    probabilities, _ = classify(system, embed_rows(system, inputs, rows, config.batch))
    labels = corpus.labels[rows]
    scores = hierarchical_scores(labels, probabilities.argmax(1))
    loss = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()
    return {"validation_loss": float(loss)} | {f"validation_{name}": scores[name] for name in ("hF", "accuracy")}
