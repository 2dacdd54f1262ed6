"""Classify any recordings with a trained model, or with the average of several.

`haf predict` on the command line. A run folder is all that is needed: the backbone is the run's own, or the checkpoint
that its head was trained on.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.audio import AudioError, prepare
from haf_utils.captions import freesound_text
from haf_utils.clap import KNOWN, Clap
from haf_utils.config import Recipe, resolve
from haf_utils.datasets import EXTENSIONS, read_csv
from haf_utils.experiment.assembly import (
    SHIPPED,
    assemble,
    checkpoint_digest,
    checkpoint_of,
    classifier_of,
    load_source,
)
from haf_utils.experiment.finetune import config_of, predict_rows, rows_of
from haf_utils.experiment.workspace import Workspace
from haf_utils.inference import average_probabilities, predict
from haf_utils.inputs import LiveInputs
from haf_utils.io.checkpoints import read_weights
from haf_utils.io.decoding import decoded
from haf_utils.io.files import walk
from haf_utils.io.progress import bar, printable
from haf_utils.model import ClapBackbone, Model, PasstBackbone
from haf_utils.passt import build_passt
from haf_utils.runs import Predictions, Run, RunError, load_run
from haf_utils.taxonomy import CLASSES, NAMES

__all__ = ["TrainedModel", "classify_files", "describe", "find_recordings", "load_system", "passed_over",
           "predict_again", "read_texts"]  # fmt: skip

_CHUNK = 64  # recordings decoded at a time: bounds memory


@dataclass(frozen=True)
class TrainedModel:
    """A trained model ready for recordings: model (in eval mode, with its backbone); clap (its tokenizer; None for
    PaSST, which reads no text); what it reads at once, `window` samples at `sample_rate` Hz; config of its run."""

    name: str
    model: Model
    clap: Clap | None
    window: int
    sample_rate: int
    config: Recipe

    @property
    def reads_text(self) -> bool:
        """Whether a text can change what it predicts."""
        c = self.config
        return c.system == "haf" and c.modality != "audio" or c.system == "text_aux" and c.text_at_inference


def load_system(run: Run | Path | str, device: str = "cpu", engine: str = "torch") -> TrainedModel:
    """The trained model of a run folder, on `device`. engine: of CLAP's audio embeddings, as for `load_clap`.

    Raises RunError if the folder is no finished run, was trained on embeddings that a dataset ships, or its head on a
    checkpoint that has changed since; ValueError for a device that is not there.
    """
    run = run if isinstance(run, Run) else load_run(run)
    weights = run.folder / "model.safetensors"
    if not weights.is_file():
        raise RunError(f"{run.folder} has no model.safetensors: this run cannot classify new recordings")
    config = config_of(run, device=device)
    if config.system.startswith("control-"):
        raise RunError(f"{run.folder} is a control, and controls cannot be loaded: name runs of HAF-CLAP")
    recipe = resolve(config)
    sizes, state, clap = recipe.sizes, read_weights(run.folder), None
    source, tokenizer = str(run.folder), run.folder / "tokenizer.json"  # an exported model has its own
    if recipe.train == "head" and "exported" not in run.config:
        source = checkpoint_of(recipe)
        recorded = run.config["digests"]["checkpoint"]
        if recorded == SHIPPED:
            raise RunError(f"{run.folder} was trained on the embeddings that its dataset ships: train on audio instead")
        if source != "random" and source not in KNOWN and not Path(source).exists():
            raise RunError(f"{run.folder} lacks its checkpoint {recipe.initialisation}: put it in {run.folder.parent}")
        if recorded != checkpoint_digest(source, recipe.seed):
            raise RunError(f"{run.folder} was trained on another checkpoint than {source} is now: train it again")
    if recipe.system == "passt":
        if engine == "openvino":
            raise RunError(f"{run.folder} is PaSST, which PyTorch alone embeds: choose the engine auto or torch")
        backbone, width, audio = PasstBackbone(build_passt(sizes.passt, source)), sizes.passt.dim, sizes.passt
    else:
        named = str(tokenizer) if tokenizer.is_file() else recipe.tokenizer
        clap = load_source(source, recipe.seed, sizes, device, recipe.precision, named)
        clap = replace(clap, engine=engine)
        backbone, width, audio = ClapBackbone(clap.network), clap.config.embedding, clap.config.audio
    classifier = classifier_of(recipe, width)
    prefix = "classifier."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        classifier.load_state_dict(own)
    except RuntimeError as error:
        raise RunError(f"{weights} does not hold the classifier of its configuration ({error})") from error
    model = Model(backbone, classifier).to(device).eval()
    return TrainedModel(run.name, model, clap, audio.window_samples, audio.sample_rate, recipe)


@dataclass(frozen=True)
class Recordings:
    """Decoded recordings in the place of a corpus: table with sound_id and text; decoded, int16 (n,) each."""

    table: pd.DataFrame
    decoded: list[np.ndarray]

    def samples(self, row: int) -> np.ndarray:
        return self.decoded[row]


def predict_all(model: TrainedModel, recordings: Recordings, views: int = 0) -> Predictions:
    """Predictions of decoded recordings: of fixed windows, and of `views` random views."""
    texts = recordings.table["text"].tolist()
    presence = np.array([text != "" for text in texts], np.float32)
    if model.clap is None:
        tokens, presence = [[0]] * len(texts), np.zeros_like(presence)
    else:
        tokens = [encoding.ids for encoding in model.clap.tokenizer.encode_batch(texts)]
    device = next(model.model.parameters()).device
    inputs = LiveInputs(recordings, model.window, tokens, presence, device, model.config.precision)
    clips = np.arange(len(texts)), recordings.table["sound_id"].to_numpy(), np.full(len(texts), -1)
    return predict(model.model, inputs, *clips, views=views, deviation=model.config.feature_noise, batch=32)


def predict_again(run: Run, part: str, views: int, space: Workspace) -> Predictions:
    """Predictions of a trained run on its own clips of `part` in any number of views; the first are those it recorded.
    space: where the datasets are now."""
    names = ("dataset", "extra", "evaluation", "scratch", "device")
    recipe = resolve(config_of(run, **{name: getattr(space, name) for name in names}, tta_views=views))
    assembled = assemble(recipe)
    assembled.model.load_state_dict(read_weights(run.folder))
    return predict_rows(assembled.model, recipe, assembled, rows_of(recipe, assembled.corpus)[part])


def classify_files(
    models: Sequence[TrainedModel],
    paths: Sequence[Path | str],
    texts: Mapping[str, str] | None = None,
    weights=None,
    views: int = 0,
    segments: bool = False,
) -> pd.DataFrame:
    """Classify recordings by the average of `models` -> DataFrame, a row a recording, in the order given.

    texts: see `match_texts`. weights (M,): of the models, equal by default. views: random views a model averages
    (test-time augmentation), drawn from a recording's name without extension, as in runs; 0: fixed windows.
    Columns: file; class, score (its posterior in [0, 1]); text (whether there was one); problem ("" or why the
    recording cannot be decoded: then class is "" and all numbers are NaN); and one column a class code, its posterior.
    segments: a row for each window of a recording, one after the other, the last flush with its end, and columns start
    and end (s). Otherwise at most five windows of a long recording are heard (`audio.fixed_windows`).
    Raises ValueError for wrong weights, and for texts as `match_texts`.
    """
    if not models:
        raise ValueError("there is no model to classify with")
    average_probabilities([np.ones((1, len(CLASSES)))] * len(models), weights)  # refuses wrong weights before the work
    paths = [Path(path) for path in paths]
    text_of = dict(zip(paths, match_texts(paths, texts or {}), strict=True))
    rows = []
    with bar(total=len(paths), description="recordings", unit="file") as progress, ExitStack() as engines:
        for model in models:
            if model.clap is not None:
                engines.enter_context(model.clap.by_engine(len(paths) * (1 + views)))
        for chunk, decoded in _decoded(paths, sorted({model.sample_rate for model in models}), segments):
            files, spans = len(chunk), [()] * len(chunk)
            if segments:
                seconds = max(model.window / model.sample_rate for model in models)
                chunk, spans, decoded = _segments(chunk, decoded, seconds)
            fine = [place for place, samples in enumerate(decoded) if not isinstance(samples, str)]
            table = pd.DataFrame({"sound_id": [unicodedata.normalize("NFC", chunk[p].stem) for p in fine]})
            table["text"] = pd.Series([text_of[chunk[p]] for p in fine], dtype=object)
            said = np.full((len(chunk), len(CLASSES)), np.nan)
            if fine:
                clips = [Recordings(table, [decoded[p][model.sample_rate] for p in fine]) for model in models]
                each = [predict_all(*pair, views).probabilities for pair in zip(models, clips, strict=True)]
                said[fine] = average_probabilities(each, weights)
            for place, path in enumerate(chunk):
                problem = decoded[place] if isinstance(decoded[place], str) else ""
                best = 0 if problem else int(said[place].argmax())
                named = "" if problem else CLASSES[best], said[place, best]
                rows.append((str(path), *spans[place], *named, bool(text_of[path]), problem, *said[place]))
            progress.update(files)
    times = ["start", "end"] if segments else []
    return pd.DataFrame(rows, columns=["file", *times, "class", "score", "text", "problem", *CLASSES])


def _segments(paths: list[Path], decoded: list, seconds: float) -> tuple[list[Path], list, list]:
    """Recordings cut into windows of `seconds`: paths, (start, end) in s, samples by rate, or the problem."""
    pieces = []
    for path, samples in zip(paths, decoded, strict=True):
        if isinstance(samples, str):
            pieces.append((path, (np.nan, np.nan), samples))
            continue
        length = min(len(mono) / rate for rate, mono in samples.items())
        for start in np.minimum(np.arange(0, max(length - seconds / 100, 1e-9), seconds), max(length - seconds, 0)):
            end = min(start + seconds, length)
            cut = {rate: mono[round(start * rate) : round(end * rate)] for rate, mono in samples.items()}
            silent = not all(mono.any() for mono in cut.values())
            pieces.append((path, (start, end), "silent: no sound in this segment" if silent else cut))
    return tuple(map(list, zip(*pieces, strict=True)))


def _decoded(paths: list[Path], rates: list[int], long: bool) -> Iterator[tuple[list[Path], list]]:
    """Chunks of paths, each with its samples by rate, or with the reason why it has none."""

    def work(path: Path) -> dict[int, np.ndarray] | str:
        try:
            return {rate: prepare(path, rate) for rate in rates}
        except AudioError as error:
            return error.reason

    size = _CHUNK // 16 if long else _CHUNK
    for first in range(0, len(paths), size):
        chunk = paths[first : first + size]
        yield chunk, list(decoded(work, chunk))


def find_recordings(given: Sequence[Path | str]) -> list[Path]:
    """The files given and, of each folder given, all sound files in it and below, sorted. A name that does not exist
    is kept: it is reported with the others; one that is given in several spellings counts once. Raises ValueError where
    a folder holds no sound file."""
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(file for file in walk(path) if file.suffix.lower() in EXTENSIONS)
            if not inside:
                raise ValueError(f"{path} holds no sound file ({', '.join(EXTENSIONS)})")
            found += inside
        else:
            found.append(path)
    return list({os.path.abspath(path): path for path in reversed(found)}.values())[::-1]


def match_texts(paths: Sequence[Path], texts: Mapping[str, str]) -> list[str]:
    """The text of each recording, "" for none: the one whose key is the longest end of its path, with its extension,
    without, or with another: "a/1" is a/1.wav's alone, "1" is that of the one recording called 1. Letters are compared
    in NFC.

    Raises ValueError for a key that fits several recordings, or where no key fits any."""
    found, users = [], {}
    for path in paths:
        place = os.path.abspath(path)
        full = unicodedata.normalize("NFC", place)
        ends = ["/".join(full.split("/")[n:]) for n in range(full.count("/") + 1)]
        other = ("", *EXTENSIONS, *map(str.upper, EXTENSIONS))
        keys = (key for end in ends for key in (end, *(os.path.splitext(end)[0] + e for e in other)))
        key = next((key for key in keys if key in texts), None)
        if key is not None and (first := users.setdefault(key, place)) != place:
            raise ValueError(
                f"the text of {key!r} fits {first} and {place}: add their folder's name, or rename one of them"
            )
        found.append("" if key is None else texts[key])
    if texts and found and not users:
        raise ValueError(f"no id of the texts matches a recording, e.g. {next(iter(texts))} and {paths[0].name}")
    return found


def passed_over(given: Sequence[Path | str]) -> str:
    """What `find_recordings` leaves out of the folders given, by extension: ".m4a (2), .txt (1)"; "" for nothing."""
    files = {file for path in map(Path, given) if path.is_dir() for file in walk(path)}
    kinds = Counter(kind for file in sorted(files) if (kind := file.suffix.lower() or file.name) not in EXTENSIONS)
    shown = ", ".join(f"{printable(kind)} ({count})" for kind, count in sorted(kinds.most_common(12)))
    return shown + f" and {len(kinds) - 12} other kinds" * (len(kinds) > 12)


def read_texts(path: Path | str) -> dict[str, str]:
    """Texts by id, as `match_texts` takes them, from a metadata CSV: a column sound_id, anonymous_id, id or file (a
    name or a path; its extension does not matter), and any of title, tags, description. Raises ValueError that names
    the columns if it has none of them, and for an id that occurs twice."""
    table = read_csv(path)
    key = next((name for name in ("sound_id", "anonymous_id", "id", "file") if name in table), None)
    fields = [name for name in ("title", "tags", "description") if name in table]
    if key is None or not fields:
        needed = "a column sound_id, anonymous_id, id or file, and one of title, tags, description"
        raise ValueError(f"{path} needs {needed}; it has {', '.join(table.columns)}")
    ids = table[key].str.strip().str.normalize("NFC").map(lambda name: os.path.normpath(name) if name else "")
    if (twice := ids.duplicated() & (ids != "")).any():
        raise ValueError(f"{path}: {key} {ids[twice].iloc[0]!r} occurs more than once: keep one of its rows")
    filled = [table[name] if name in fields else [""] * len(table) for name in ("title", "tags", "description")]
    if not any(ids):
        raise ValueError(f"{path} has no row with a {key}: there is no text in it")
    return {id_: freesound_text(*row) for id_, *row in zip(ids, *filled, strict=True) if id_}


def describe(row: pd.Series) -> str:
    """One line on a row of `classify_files`: its three likeliest classes with their posteriors, or its problem."""
    if row["problem"]:
        return f"not classified: {row['problem']}"
    best = row[list(CLASSES)].astype(float).sort_values(ascending=False, kind="stable")[:3]
    return "   ".join(f"{code:<5} {_cut(NAMES[code], 24):<24} {100 * p:5.1f} %" for code, p in best.items())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
