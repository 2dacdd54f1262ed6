"""Controls in run folders: simpler models on the same clips, split and embeddings, evaluated as HAF-CLAP is.

Each writes a run folder in the format of `haf_utils.runs`, so that ablations, ensembles and tables read it like any
other run. None uses test-time augmentation.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from haf_utils.config import FinetuneConfig, Recipe, resolve
from haf_utils.controls import NEIGHBOURS, metadata_classifier, neighbour_posteriors, of_all_classes
from haf_utils.corpus import Corpus
from haf_utils.ensembles import blend_neighbours
from haf_utils.experiment.assembly import assemble, checkpoint_of, load_source, text_order
from haf_utils.experiment.finetune import SCORED, add_part, close_run, open_run, rows_of, unpredicted
from haf_utils.hatr import train_hatr
from haf_utils.inference import predict
from haf_utils.inputs import CachedInputs
from haf_utils.model import Model
from haf_utils.posteriors import read_fold
from haf_utils.profiles import profile
from haf_utils.runs import Predictions
from haf_utils.taxonomy import CLASSES

__all__ = ["CONTROLS", "run_control"]

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # ours: inverse regularisation of the linear probe, chosen on validation

# kind -> modalities that it reads
CONTROLS = {"zero-shot": "audio", "neighbours": "both", "linear": "both", "linear-audio": "audio"}
CONTROLS |= {"metadata": "text", "hatr": "both", "posteriors": "both", "votes": "both"}
# The fields of a configuration that a control reads; the others keep their defaults.
_USED = (
    "dataset runs extra evaluation scratch weights tokenizer name profile initialisation split fold seed extra_weight "
    "data_share shuffle_texts device"
).split()


@dataclass(frozen=True)
class ControlData:
    """Input of a control. rows: of the corpus by part; texts (N,) and inputs: of every row of the corpus."""

    config: Recipe
    corpus: Corpus
    inputs: CachedInputs
    rows: dict[str, np.ndarray]
    texts: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return self.corpus.labels


def run_control(config: FinetuneConfig, kind: str, quiet: bool = False) -> Path:
    """Train the control `kind` (one of `CONTROLS`) and write a run folder, control-<kind>_f<fold>_s<seed>.

    Of `config` it takes dataset, split, fold, seed, initialisation, `data_share`, `shuffle_texts`, and for HATR
    `epochs` (None: as the profile says). `extra_weight` 0 leaves BSD35k-CS out; any other counts its clips like all
    others. In config.json its `system` is control-<kind>. A finished run is returned as it is. Raises ValueError for an
    unknown kind and for zero-shot on embeddings without their CLAP.
    """
    if kind not in CONTROLS:
        raise ValueError(f"kind={kind!r} is unknown: choose one of {', '.join(CONTROLS)}")
    if kind == "posteriors" and not config.posteriors:
        raise ValueError("kind='posteriors' is what a table says: pass posteriors=…")
    used = {name: getattr(config, name) for name in _USED} | {"train": "head", "tta_views": None}
    used["posteriors"] = config.posteriors if kind == "posteriors" else ""
    if kind == "hatr":
        used["epochs"] = config.epochs if config.epochs is not None else profile(config.profile).hatr_epochs
    named = FinetuneConfig(**used | {"epochs": config.epochs if kind == "hatr" else None})
    name = config.name or resolve(named).name.replace("haf-head", f"control-{kind}", 1)
    recipe = resolve(FinetuneConfig(**used | {"name": name, "modality": CONTROLS[kind], "tta_views": 0}))

    corpus, _, inputs, checkpoint = assemble(recipe)
    if kind == "zero-shot" and corpus.features is not None:
        raise ValueError(f"{recipe.dataset} has embeddings without their CLAP: zero-shot needs its text branch")
    recipe = dataclasses.replace(recipe, system=f"control-{kind}")  # not to be taken for a run of HAF-CLAP
    rows = rows_of(recipe, corpus)
    place = open_run(recipe, corpus, rows, checkpoint, quiet)
    if place.finished and not len(unpredicted(place.folder, corpus, rows["evaluation"])):
        return place.folder
    texts = corpus.table["text"].to_numpy()[text_order(corpus, recipe.shuffle_texts)]
    data = ControlData(recipe, corpus, inputs, rows, texts)
    started = time.monotonic()
    if kind == "hatr":
        parts = rows["train"], rows["validation"]
        model, history = train_hatr(inputs, corpus.labels, *parts, recipe.seed, used["epochs"], quiet)
        model = Model(None, model)
        ids = corpus.table["sound_id"].to_numpy().astype(str)
        predictions = {
            part: predict(model, inputs, rows[part], ids[rows[part]], corpus.labels[rows[part]], views=0)
            for part in SCORED
            if len(rows[part])
        }
    else:
        model, history = None, pd.DataFrame(columns=["epoch", "loss"])
        predictions = _predictions(data, _FITS[kind](data), CONTROLS[kind])
    if place.finished:  # a control keeps no weights: it takes seconds to train again
        add_part(place.folder, "evaluation", predictions["evaluation"])
    else:
        close_run(place.folder, corpus.labels[rows["train"]], history, predictions, model, started)
    return place.folder


def _predictions(data: ControlData, posteriors: Callable, modality: str) -> dict[str, Predictions]:
    """`posteriors(rows) -> (R, 23)` of every scored part. Weights of a control that does not fuse are NaN."""
    weights = {"audio": (1.0, 0.0), "text": (0.0, 1.0), "both": (np.nan, np.nan)}[modality]
    ids, result = data.corpus.table["sound_id"].to_numpy().astype(str), {}
    for part in SCORED:
        rows = data.rows[part]
        if len(rows):
            probabilities = posteriors(rows)
            share = np.tile(weights, (len(rows), 1))
            result[part] = Predictions(ids[rows], data.labels[rows], probabilities[None], probabilities, share)
    return result


def _vectors(data: ControlData, modality: str) -> np.ndarray:
    """The vector of each clip for scikit-learn: audio embedding, for "both" also the text embedding and presence."""
    inputs = data.inputs
    parts = [inputs.audio] if modality == "audio" else [inputs.audio, inputs.text, inputs.presence[:, None]]
    return torch.cat(parts, dim=1).cpu().numpy()


def _zero_shot(data: ControlData) -> Callable:
    config = data.config
    clap = load_source(checkpoint_of(config), config.seed, config.sizes, config.device, tokenizer=config.tokenizer)
    audio = data.inputs.audio.cpu().numpy()
    return lambda rows: clap.zero_shot(audio[rows])


def _neighbours(data: ControlData, numbers: Sequence[int] = (NEIGHBOURS,)) -> Callable:
    """As many of `numbers` as do best on validation clips beside what is known without them: the shares of classes."""
    vectors, train, checked = _vectors(data, "both"), data.rows["train"], data.rows["validation"]
    known = vectors[train], data.labels[train]
    votes = {k: neighbour_posteriors(*known, vectors[checked], k) for k in numbers}
    shares = np.bincount(known[1], minlength=len(CLASSES)) / len(train)
    k, _ = blend_neighbours(np.tile(shares, (len(checked), 1)), votes, data.labels[checked])
    return lambda rows: neighbour_posteriors(*known, vectors[rows], k)


def _linear(data: ControlData) -> Callable:
    """Multinomial logistic regression, its strength chosen by the cross-entropy of the validation clips."""
    vectors = _vectors(data, data.config.modality)
    train, validation = data.rows["train"], data.rows["validation"]
    best, lowest = None, np.inf
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(vectors[train], data.labels[train])
        probabilities = of_all_classes(model.predict_proba(vectors[validation]), model.classes_)
        # Clipped, since a class without training clips has posterior 0; the penalty is the same for all strengths.
        loss = -np.log(probabilities[np.arange(len(validation)), data.labels[validation]].clip(1e-12)).mean()
        if loss < lowest:
            best, lowest = model, loss
    return lambda rows: of_all_classes(best.predict_proba(vectors[rows]), best.classes_)


def _metadata(data: ControlData) -> Callable:
    train = data.rows["train"]
    model = metadata_classifier().fit(data.texts[train].tolist(), data.labels[train])
    return lambda rows: model.predict_proba(data.texts[rows].tolist())


def _posteriors(data: ControlData) -> Callable:
    """What a table from outside says. Raises ValueError for clips that it has no row for."""
    table = read_fold(data.config.posteriors, data.config.fold)
    return lambda rows: table.for_ids(data.corpus.table["sound_id"].iloc[rows].astype(str)).probabilities


_FITS = {"zero-shot": _zero_shot, "neighbours": _neighbours, "linear": _linear, "linear-audio": _linear}
_FITS |= {"metadata": _metadata, "posteriors": _posteriors, "votes": partial(_neighbours, numbers=(5, 10, 20, 50))}
