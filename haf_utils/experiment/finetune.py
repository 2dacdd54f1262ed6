"""From a configuration to a finished run folder, `finetune(config)`, and how runs are found again.

A run is what it used: its parameters, the rows of its own parts, and the checkpoint that it started from. Where a
folder of its name holds another run, it gets a folder beside it; nothing that is finished is ever deleted or trained
over. Code is recorded and is no part of what a run is: a finished run of other code is used, and marked in tables.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import haf_utils
from haf_utils.config import LOCATION_FIELDS, FinetuneConfig, Recipe, parameters, resolve
from haf_utils.corpus import Corpus
from haf_utils.experiment.assembly import (
    Assembled,
    agreeing,
    assemble,
    checkpoint_digest,
    checkpoint_used,
    corpus_of,
    initialisation_of,
    soft_labels,
    third_input,
)
from haf_utils.experiment.code import changed_files, code_digests
from haf_utils.experiment.workspace import clips_digest
from haf_utils.folds import PARTS
from haf_utils.inference import predict
from haf_utils.io.checkpoints import load_training, read_weights, save_training, weights_digest, write_state
from haf_utils.io.files import atomic_write, write_json
from haf_utils.io.layouts import read_csv
from haf_utils.io.progress import line
from haf_utils.losses import targets
from haf_utils.metrics import hierarchical_scores
from haf_utils.runs import Predictions, Run, RunError, digest, finished, load_run, write_predictions
from haf_utils.taxonomy import CLASSES
from haf_utils.training import fit

__all__ = ["SCORED", "Place", "add_part", "close_run", "data_digest", "find", "finetune", "locate", "open_run",
           "config_of", "other_code", "predict_rows", "rows_of", "unpredicted"]  # fmt: skip

SCORED = ("validation", "test", "evaluation")  # parts that a run predicts
# Seconds between saved states, and as many for every 100 MB of weights, whose state takes a second to write: a shorter
# run is cheaper to train again than to save.
_SAVE_EVERY = 15.0
# The checkpoint's digest stands for its path, which changes when runs are moved.
_NO_IDENTITY = (*LOCATION_FIELDS, "initialisation")


def finetune(config: FinetuneConfig, quiet: bool = False, retrain: bool = False) -> Path:
    """Train as `config` says and leave a run folder (see `haf_utils.runs`); returns its path.

    A finished run of the same parameters, rows and checkpoint is returned as it is, with predictions of the evaluation
    set added where these are not there yet; one that was interrupted goes on from its last saved epoch to the very same
    weights. `retrain`: train beside a finished run that was made by other code.
    Raises ValueError or TypeError for a wrong parameter.
    """
    recipe = resolve(config)
    assembled = assemble(recipe)
    corpus, model, inputs, checkpoint = assembled
    rows = rows_of(recipe, corpus)
    place = open_run(recipe, corpus, rows, checkpoint, quiet, retrain)
    if place.finished:
        _add_evaluation(place.folder, recipe, assembled, rows, quiet)
        return place.folder
    started, saved, events = time.monotonic(), [time.monotonic()], _events(place.folder)
    pause = _SAVE_EVERY * max(1.0, sum(p.nbytes for p in model.parameters()) / 1e8)

    def after_epoch(state: dict) -> None:
        history = state["state"]["history"]
        atomic_write(place.folder / "history.csv", lambda path: pd.DataFrame(history).to_csv(path, index=False))
        for name, value in history[-1].items() if events else ():
            events.add_scalar(name, value, len(history))
        left = (time.monotonic() - started) / (len(history) - begun) * (recipe.epochs - len(history))
        if inputs.live:
            scores = f"loss {history[-1]['loss']:.3f}, validation hF {100 * history[-1]['validation_hF']:.1f} %"
            line(f"  epoch {len(history)} of {recipe.epochs}: {scores}, at most {left / 60:.1f} min left", quiet)
        if time.monotonic() - saved[0] > pause:
            save_training(state, place.folder / "resume.pt")
            saved[0] = time.monotonic()

    resume = _resume(place.folder, quiet)
    begun = resume["state"]["epoch"] if resume else 0
    soft = training_targets(recipe, corpus)
    best, history = fit(model, inputs, soft, corpus.labels, rows, recipe, resume, after_epoch, quiet)
    if events:
        events.close()
    predictions = {part: predict_rows(best, recipe, assembled, rows[part]) for part in SCORED if len(rows[part])}
    close_run(place.folder, corpus.labels[rows["train"]], history, predictions, best, started)
    return place.folder


def _events(folder: Path):
    """With HAF_TENSORBOARD=1 in the environment a writer of each epoch's scores, for `tensorboard --logdir runs`."""
    if os.environ.get("HAF_TENSORBOARD", "0") == "0":
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("HAF_TENSORBOARD=1 needs the package tensorboard: pip install tensorboard") from error
    return SummaryWriter(str(folder))


def training_targets(recipe: Recipe, corpus: Corpus) -> torch.Tensor:
    """Targets (N, 23) of every row of the corpus; the row of a clip of BSD35k-CS sums to `extra_weight`, and is
    (1 − λ)·hard + λ·soft where a teacher has posteriors of it; that of a clip of BSD10k sums to 1, or to its weight.

    Raises as `soft_labels`, and ValueError where clips are to be weighted and none has a confidence.
    """
    soft = targets(torch.tensor(corpus.labels).clamp(min=0), recipe.smoothing, recipe.smoothing_factor)
    if recipe.teacher:
        taught = soft_labels(recipe, corpus)
        known = taught.any(1)
        soft[known] = torch.lerp(soft[known], taught[known], recipe.soft_weight)
    if recipe.confidence_weight:
        soft *= torch.from_numpy(_confidence(recipe, corpus))[:, None]
    soft[torch.tensor((corpus.table["origin"] == "bsd35k-cs").to_numpy(copy=True))] *= recipe.extra_weight
    return soft


def _confidence(recipe: Recipe, corpus: Corpus) -> np.ndarray:
    """The annotators' confidence, 1 to 5, as weights (N,) of 0.2 to 1; 1 where nobody noted one, as in BSD35k-CS."""
    noted = corpus.table["confidence"]
    if noted.isna().all():
        raise ValueError(f"confidence_weight=True: no clip of {recipe.dataset} has a confidence, as in BSD10k-v1.2")
    return (noted.fillna(5.0).clip(1, 5) / 5).to_numpy(np.float32)


def predict_rows(model: torch.nn.Module, recipe: Recipe, assembled: Assembled, rows: np.ndarray) -> Predictions:
    """`inference.predict` of rows of the corpus, with the views, noise and seed of `recipe`."""
    clips = assembled.corpus.table["sound_id"].to_numpy().astype(str)[rows], assembled.corpus.labels[rows]
    options = {"deviation": recipe.feature_noise, "seed": recipe.seed, "batch": recipe.batch}
    return predict(model, assembled.inputs, rows, *clips, views=recipe.tta_views, **options)


def _add_evaluation(folder: Path, recipe: Recipe, assembled: Assembled, rows: Mapping, quiet: bool) -> None:
    """The evaluation set came after the training, or another one did: predict it with the weights that are there."""
    if not len(unpredicted(folder, assembled.corpus, rows["evaluation"])):
        return
    line(f"{folder.name}: predicts the evaluation set, with the weights that are there", quiet)
    assembled.model.load_state_dict(read_weights(folder))
    add_part(folder, "evaluation", predict_rows(assembled.model, recipe, assembled, rows["evaluation"]))


def unpredicted(folder: Path, corpus: Corpus, rows: np.ndarray, part: str = "evaluation") -> np.ndarray:
    """Those of `rows`, of the evaluation set or, with part="extra", of BSD35k-CS, that the finished run in `folder` has
    not predicted. Raises RunError for a damaged run."""
    known = load_run(folder).predictions.get(part)
    ids = corpus.table["sound_id"].to_numpy().astype(str)[rows]
    return rows if known is None else rows[~np.isin(ids, known.ids)]


def add_part(folder: Path, part: str, predictions: Predictions) -> None:
    """Add a part, evaluation or extra, to a finished run; what it predicted there of other clips is kept in a file."""
    file = folder / "predictions.npz"
    run = load_run(folder)
    known, split = run.predictions, run.split
    if part in known:
        stamp = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        shutil.copyfile(file, folder / f"predictions-before-{stamp}.npz")
    split = pd.concat([split[split["part"] != part], pd.DataFrame({"sound_id": predictions.ids, "part": part})])
    atomic_write(folder / "split.csv", lambda path: split.to_csv(path, index=False))
    write_predictions(file, known | {part: predictions})


# What a run is, and where it is --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """folder of a run; finished; other_code: files in which the code that made it differs from today's."""

    folder: Path
    finished: bool
    other_code: tuple[str, ...] = ()


def config_of(run: Run, **changes) -> FinetuneConfig:
    """The configuration of a run, wherever its folder is now, without a scratch folder that was left behind; `changes`:
    fields that differ here (dataset, device). Raises RunError for parameters that this version does not know.
    """
    recorded = run.config["config"]
    if unknown := sorted(recorded.keys() - parameters(FinetuneConfig("", "")).keys()):
        version = run.config.get("versions", {}).get("haf_utils", "another version")
        advice = f"is unknown to this one, {haf_utils.__version__}: use that version, or train it again"
        raise RunError(f"{run.folder} was made by haf_utils {version}, whose parameter {', '.join(unknown)} {advice}")
    here = {"runs": str(run.folder.parent)} | ({} if Path(recorded.get("scratch", "")).is_dir() else {"scratch": ""})
    return FinetuneConfig(**{"dataset": ""} | recorded | here | changes)


def rows_of(recipe: Recipe, corpus: Corpus) -> dict[str, np.ndarray]:
    """Rows of the corpus by part, the training clips after `extra_weight`, `agreement`, and `data_share`, which keeps
    each class's proportion. Raises ValueError if a part has no clips."""
    part = corpus.parts(recipe.split, recipe.fold)
    rows = {name: np.flatnonzero(part == name) for name in PARTS}
    if recipe.extra_weight == 0:
        rows["train"] = rows["train"][corpus.table["origin"].to_numpy()[rows["train"]] != "bsd35k-cs"]
    elif recipe.agreement:
        rows["train"] = rows["train"][agreeing(recipe, corpus)[rows["train"]]]
    if recipe.data_share < 1:
        rng, labels = np.random.default_rng([recipe.seed, 2]), corpus.labels[rows["train"]]
        kept = []
        for label in np.unique(labels):
            of_class = rng.permutation(rows["train"][labels == label])
            kept.append(of_class[: max(1, round(recipe.data_share * len(of_class)))])
        rows["train"] = np.sort(np.concatenate(kept)) if kept else rows["train"]
    for name in ("train", "validation", "test"):
        if len(rows[name]) == 0:
            raise ValueError(f"{recipe.dataset}: no clip is left for {name}: the dataset is too small for five folds")
    return rows


def data_digest(recipe: Recipe, corpus: Corpus, rows: Mapping[str, np.ndarray]) -> str:
    """Digest of the clips that a run trains on and is judged on, with what it uses of them: posteriors from outside and
    of a teacher, confidences; and of the whole model that it continues. Not of others, nor of the evaluation set."""
    digest, posteriors = hashlib.sha256(), third_input(recipe, corpus)
    if recipe.teacher:
        digest.update(soft_labels(recipe, corpus)[rows["train"]].numpy().tobytes())
    if recipe.confidence_weight:
        digest.update(_confidence(recipe, corpus)[rows["train"]].tobytes())
    if recipe.whole_model:
        digest.update(checkpoint_digest(initialisation_of(recipe), recipe.seed).encode())
    for name in ("train", "validation", "test"):
        digest.update(f"{name} {len(rows[name])} ".encode())
        digest.update(corpus.row_hashes[rows[name]].tobytes())
        if posteriors is not None:
            digest.update(posteriors[rows[name]].numpy().tobytes())
    return digest.hexdigest()


def _identity(config: Mapping, data: str, checkpoint: str) -> dict[str, object]:
    config = parameters(FinetuneConfig("", "")) | dict(config)  # a parameter that is younger than the run: as it was
    own = {name: value for name, value in config.items() if name not in _NO_IDENTITY}
    # The rows of a table are part of `data`; its place is not.
    tables = {name: bool(own[name]) for name in ("posteriors", "teacher")}
    return own | {"data": data, "checkpoint": checkpoint} | tables


def candidates(recipe: Recipe) -> Iterator[tuple[Path, dict]]:
    """Folders of the recipe's name, and of the name with a suffix that `open_run` gave, with their config.json.

    Raises RunError where that of the name itself is damaged.
    """
    root = Path(recipe.runs)
    for folder in (root / recipe.name, *sorted(root.glob(f"{recipe.name}~*"))):
        file = folder / "config.json"
        if not file.is_file():
            continue
        try:
            record = json.loads(file.read_text("utf-8"))
            _ = record["config"], record["digests"]["data"], record["digests"]["checkpoint"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error!r}): move the folder away and train again") from error
        yield folder, record


def other_code(record: Mapping) -> tuple[str, ...]:
    """Files in which the code that made a run differs from today's; ("unknown",) where it was not recorded by file."""
    return changed_files(record["code"]) if "code" in record else ("unknown",)


def locate(recipe: Recipe, data: str, checkpoint: str, retrain: bool = False) -> Place:
    """Where the run of `recipe` on these rows and this checkpoint is, or will be.

    Of several finished ones that of today's code is taken, else the newest, unless `retrain`; an unfinished one goes on
    only under the code that began it.
    """
    wanted = _identity(parameters(recipe), data, checkpoint)
    same = [
        Place(folder, finished(folder), other_code(record))
        for folder, record in candidates(recipe)
        if _identity(record["config"], record["digests"]["data"], record["digests"]["checkpoint"]) == wanted
    ]
    done = [place for place in same if place.finished and not (retrain and place.other_code)]
    if done:
        return min(done, key=lambda p: (bool(p.other_code), -(p.folder / "metrics.json").stat().st_mtime))
    for place in same:
        if not place.finished and not place.other_code:
            return place
    folder = Path(recipe.runs) / recipe.name
    if (folder / "config.json").is_file():  # of another run, or of other code
        content = json.dumps([wanted, code_digests()], sort_keys=True)
        folder = folder.with_name(f"{folder.name}~{hashlib.sha256(content.encode()).hexdigest()[:6]}")
    return Place(folder, False)


def find(recipe: Recipe, retrain: bool = False, look_at_data: bool = True) -> Place | None:
    """The finished run of `recipe` that lacks nothing, or None; without `look_at_data` by its parameters alone."""
    if not look_at_data:
        wanted = _identity(parameters(recipe), "", "")
        same = [
            Place(folder, True, other_code(record))
            for folder, record in candidates(recipe)
            if finished(folder) and _identity(record["config"], "", "") == wanted
        ]
        return next((place for place in same if not (retrain and place.other_code)), None)
    corpus = corpus_of(recipe)
    rows = rows_of(recipe, corpus)
    place = locate(recipe, data_digest(recipe, corpus, rows), checkpoint_used(recipe, corpus), retrain)
    lacks = place.finished and len(unpredicted(place.folder, corpus, rows["evaluation"]))
    return place if place.finished and not lacks else None


def open_run(
    recipe: Recipe, corpus: Corpus, rows: Mapping, checkpoint: str, quiet: bool = False, retrain: bool = False
) -> Place:
    """The folder of a run, found finished, or begun, or to go on with: then config.json and split.csv are written."""
    data = data_digest(recipe, corpus, rows)
    place = locate(recipe, data, checkpoint, retrain)
    if place.finished:
        if place.other_code:
            line(f"{place.folder.name}: made by other code: {', '.join(place.other_code)}", quiet)
        return place
    if (place.folder / "metrics.json").is_file():
        line(f"{place.folder.name} was finished, but one of its files is missing or empty: trained again", quiet)
        (place.folder / "metrics.json").rename(place.folder / "metrics-before.json")
    if place.folder.name != recipe.name:
        line(f"{recipe.name} holds another run and is kept: this one is {place.folder.name}", quiet)
    if not (place.folder / "config.json").is_file() and (place.folder / "resume.pt").is_file():
        (place.folder / "resume.pt").rename(place.folder / "resume-unknown.pt")  # nobody knows whose
    versions = {"haf_utils": haf_utils.__version__, "torch": torch.__version__, "python": platform.python_version()}
    own = (corpus.table["origin"] == "bsd10k").to_numpy()
    clips = clips_digest(corpus.table.loc[own, "sound_id"])
    dataset = hashlib.sha256(corpus.row_hashes[own].tobytes()).hexdigest()
    digests = {"data": data, "checkpoint": checkpoint, "clips": clips, "dataset": dataset}
    record = {"config": parameters(recipe), "digests": digests}
    write_json(place.folder / "config.json", record | {"code": code_digests(), "versions": versions})
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    split = pd.DataFrame([(ids[row], name) for name in PARTS for row in rows[name]], columns=["sound_id", "part"])
    atomic_write(place.folder / "split.csv", lambda path: split.to_csv(path, index=False))
    return place


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
        write_state(model.state_dict(), folder / "model.safetensors")
    weights = {} if model is None else {"weights": weights_digest(folder)}
    labelled = {name: p for name, p in predictions.items() if name != "evaluation"}
    scores = {name: hierarchical_scores(p.labels, p.probabilities.argmax(1)) for name, p in labelled.items()}
    numbers = {
        "parameters": 0 if model is None else sum(p.numel() for p in model.parameters()),
        "epochs": len(history),
        "seconds": round(time.monotonic() - started, 1),
        "absent_classes": sorted(set(range(len(CLASSES))) - set(training_labels.tolist())),
    }
    (folder / "resume.pt").unlink(missing_ok=True)
    record, metrics = json.loads((folder / "config.json").read_text("utf-8")), scores | numbers | weights
    run = Run(folder, record, read_csv(folder / "split.csv"), history, predictions, metrics)
    write_json(folder / "metrics.json", metrics | {"digest": digest(run)})  # last: it marks the run as finished


def _resume(folder: Path, quiet: bool) -> dict | None:
    """The saved state of a training that was interrupted. Raises CheckpointError where it is damaged."""
    if not (folder / "resume.pt").is_file():
        return None
    saved = load_training(folder / "resume.pt")
    line(f"{folder.name}: going on after epoch {saved['state']['epoch']}", quiet)
    return saved
