"""From a recipe to what the training needs: the corpus, the model and its inputs, and what these come from."""

import dataclasses
import hashlib
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer

from haf_utils.clap import KNOWN, Clap, ClapNetwork, load_clap, load_tokenizer
from haf_utils.config import FinetuneConfig, Recipe
from haf_utils.controls import neighbour_posteriors
from haf_utils.corpus import Corpus, load_corpus
from haf_utils.experiment.code import code_digests
from haf_utils.folds import PARTS
from haf_utils.inputs import CachedInputs, LiveInputs
from haf_utils.io.checkpoints import read_weights
from haf_utils.io.files import atomic_write, read_npz
from haf_utils.model import ClapBackbone, HafClassifier, LinearClassifier, Model, PasstBackbone, TextAuxClassifier
from haf_utils.passt import build_passt
from haf_utils.posteriors import Posteriors, read_fold
from haf_utils.profiles import REPOSITORY, Profile, profile
from haf_utils.runs import Run, RunError, load_run
from haf_utils.taxonomy import CLASSES

__all__ = ["Assembled", "agreeing", "assemble", "checkpoint_digest", "checkpoint_of", "checkpoint_used",
           "classifier_of", "corpus_of", "embedded", "embeddings", "initialisation_of", "load_source", "soft_labels",
           "text_order", "third_input"]  # fmt: skip

SHIPPED = "embeddings shipped with the dataset"  # stands where a checkpoint's digest would


class Assembled(NamedTuple):
    """corpus; model, untrained, on the device; inputs, a row a clip of the corpus; checkpoint: digest of the weights
    that the backbone starts from."""

    corpus: Corpus
    model: Model
    inputs: CachedInputs | LiveInputs
    checkpoint: str


def corpus_of(recipe: Recipe) -> Corpus:
    """The corpus of a run, decoded at the rate that its backbone reads; BSD35k-CS only where it has a weight."""
    extra = recipe.extra if recipe.extra_weight else ""
    return load_corpus(recipe.dataset, extra, recipe.evaluation, str(recipe.stores), recipe.sample_rate)


def assemble(recipe: Recipe) -> Assembled:
    """Raises ValueError where the corpus lacks what the training asks for (audio, for joint training), RunError where
    the run to start from knows clips that this one scores, or cannot be continued, and as `third_input`."""
    corpus, source = corpus_of(recipe), checkpoint_of(recipe)
    if recipe.train == "joint" and corpus.features is not None:
        raise ValueError(f"{recipe.dataset} has embeddings but no audio: pass train='head', or unpack audio.zip")
    order, start = text_order(corpus, recipe.shuffle_texts), start_of(recipe, corpus)
    if recipe.train == "head":
        audio, text = embedded(recipe, corpus)
        arrays = (audio, text, corpus.presence[order])
        inputs = CachedInputs(*(torch.from_numpy(np.ascontiguousarray(a)).to(recipe.device) for a in arrays))
        backbone, width = None, audio.shape[1]
    elif recipe.system == "passt":
        network = build_passt(recipe.sizes.passt, source, recipe.seed)
        inputs = _live(recipe, corpus, recipe.sizes.passt.window_samples)
        backbone, width = PasstBackbone(network), recipe.sizes.passt.dim
    else:
        clap = load_source(source, recipe.seed, recipe.sizes, recipe.device, recipe.precision, recipe.tokenizer)
        tokens = [encoding.ids for encoding in clap.tokenizer.encode_batch(corpus.table["text"].iloc[order].tolist())]
        inputs = _live(recipe, corpus, clap.config.audio.window_samples, tokens, corpus.presence[order])
        backbone, width = ClapBackbone(clap.network), clap.config.embedding
    if backbone is not None:
        backbone.network.recompute_activations = recipe.activation_checkpointing
    if (third := third_input(recipe, corpus)) is not None:
        inputs.posteriors = third.to("cpu" if inputs.live else recipe.device)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        classifier = classifier_of(recipe, width)
    model = Model(backbone, classifier)
    if recipe.whole_model and start:
        try:
            model.load_state_dict(read_weights(start.folder))
        except RuntimeError as error:
            raise RunError(f"{start.folder} is another model than is to be continued: {error}") from error
    model.to(recipe.device)
    return Assembled(corpus, model, inputs, checkpoint_used(recipe, corpus))


def checkpoint_used(recipe: Recipe, corpus: Corpus) -> str:
    """Digest of the weights that the backbone starts from. Embeddings that the dataset ships come from a checkpoint of
    their own, whatever `initialisation` names."""
    return SHIPPED if corpus.features is not None else checkpoint_digest(checkpoint_of(recipe), recipe.seed)


def classifier_of(recipe: Recipe, width: int) -> torch.nn.Module:
    """The untrained classifier on embeddings of `width` dimensions."""
    if recipe.system == "passt":
        return LinearClassifier(width)
    if recipe.system == "text_aux":
        return TextAuxClassifier(width, recipe.sizes.latent, recipe.dropout, recipe.text_at_inference)
    choices = recipe.modality, recipe.fusion, recipe.gating, bool(recipe.posteriors)
    return HafClassifier(width, recipe.sizes.latent, recipe.dropout, *choices)


def start_of(recipe: Recipe, corpus: Corpus) -> Run | None:
    """The run that `initialisation` names, None where it is no run of ours. Raises RunError where that run was trained
    on clips that this one scores, or for another fold, whose teacher was."""
    folder = initialisation_of(recipe)
    if not (Path(folder) / "split.csv").is_file():
        return None
    run, part = load_run(folder), corpus.parts(recipe.split, recipe.fold)
    theirs = run.config["config"]
    scored = corpus.table["sound_id"].astype(str)[np.isin(part, PARTS[1:3])]
    seen = scored[scored.isin(run.split.loc[run.split["part"] == "train", "sound_id"])]
    if len(seen) or (theirs["split"], theirs["fold"]) != (recipe.split, recipe.fold):
        used = f"for fold {theirs['fold']} of the {theirs['split']} split, on {len(seen)} of the clips that"
        advice = f"fold {recipe.fold} ({recipe.split}) scores: start from a run of that fold"
        raise RunError(f"initialisation={folder} was trained {used} {advice}")
    return run


def _looked_up(table: Posteriors, corpus: Corpus) -> tuple[np.ndarray, torch.Tensor]:
    """Of every row of the corpus, its row in the table (N,), -1 for none, and posteriors (N, 23) float32, then zero."""
    rows = pd.Index(table.ids).get_indexer(corpus.table["sound_id"].astype(str))
    known = torch.zeros(len(rows), len(CLASSES))
    known[rows >= 0] = torch.from_numpy(table.probabilities[rows[rows >= 0]]).float()
    return rows, known


def soft_labels(recipe: Recipe, corpus: Corpus) -> torch.Tensor:
    """The teacher's posteriors (N, 23) float32 of BSD35k-CS's clips; zero for those it has no row for, and all others.

    Warns of what it lacks. Raises ValueError where there is no clip to label, where a model of another fold, which
    trained on test clips of this one, labels one, where the table knows some test clips of this fold only, as one made
    for another split does, and as `posteriors.read`.
    """
    table, ids = read_fold(recipe.teacher, recipe.fold), corpus.table["sound_id"].astype(str)
    (rows, known), part = _looked_up(table, corpus), corpus.parts(recipe.split, recipe.fold)
    crowd = (corpus.table["origin"] == "bsd35k-cs").to_numpy() & (part == "train")
    if not (rows[crowd] >= 0).any():
        if not crowd.any():
            raise ValueError(f"teacher={recipe.teacher} labels BSD35k-CS's clips, and there are none: pass extra=…")
        table.for_ids(ids[crowd])  # raises
    tested, where, notes = rows[part == "test"], f"fold {recipe.fold} of the {recipe.split} split", []
    if lacking := int((rows[crowd] < 0).sum()):
        notes.append(f"has no row for {lacking} of {crowd.sum()} clips of BSD35k-CS, which keep their labels")
    if table.folds is None:
        notes.append("has no column fold, and counts as made without any of BSD10k's labels, as by a language model")
    elif others := int((table.folds[rows[crowd & (rows >= 0)]] != recipe.fold).sum()):
        advice = f"test clips of {where}: pass a teacher of that fold"
        raise ValueError(f"{table.source} labels {others} clips by models that trained on {advice}")
    elif 0 < (unseen := int((tested >= 0).sum())) < len(tested):
        advice = "it is of another: make it by models of this one"
        raise ValueError(f"{table.source} scores {unseen} of {len(tested)} test clips of {where}: {advice}")
    if notes:
        warnings.warn(f"{table.source} {'; it '.join(notes)}", stacklevel=1)  # once a process
    known[~crowd] = 0
    return known


def agreeing(recipe: Recipe, corpus: Corpus) -> np.ndarray:
    """Which rows (N,) bool may train: of BSD35k-CS those whose label has a probability of `agreement` at least, by the
    teacher, without one by the votes of the nearest training clips of BSD10k. Raises ValueError where none has."""
    kept, crowd = np.ones(len(corpus.table), bool), (corpus.table["origin"] == "bsd35k-cs").to_numpy()
    if recipe.agreement and crowd.any():
        if recipe.teacher:
            votes = soft_labels(recipe, corpus).numpy()[crowd]
        else:
            vectors, own = np.hstack(embedded(recipe, corpus)), corpus.parts(recipe.split, recipe.fold) == "train"
            own &= ~crowd
            votes = neighbour_posteriors(vectors[own], corpus.labels[own], vectors[crowd])
        kept[crowd] = votes[np.arange(crowd.sum()), corpus.labels[crowd]] >= recipe.agreement
        if not kept[crowd].any():
            raise ValueError(f"agreement={recipe.agreement} leaves no clip of BSD35k-CS: lower it")
    return kept


def third_input(recipe: Recipe, corpus: Corpus) -> torch.Tensor | None:
    """Posteriors (N, 23) float32 of every row of the corpus, zero where the table has none; None without a table.

    Warns of what a table lacks or has seen. Raises ValueError where a test clip was scored by a model of another fold,
    or a part of the split has no row at all, and as `posteriors.read`.
    """
    if not recipe.posteriors:
        return None
    table, part = read_fold(recipe.posteriors, recipe.fold), corpus.parts(recipe.split, recipe.fold)
    ids, (rows, known) = corpus.table["sound_id"].to_numpy().astype(str), _looked_up(table, corpus)
    there = rows >= 0
    for name in PARTS[:3]:
        if not there[part == name].any():
            table.for_ids(ids[part == name])  # raises
    table.for_ids(ids[there & (part == "test")]).check_unseen(fold=recipe.fold)
    notes = []
    if lacking := int((~there & (part != "")).sum()):
        notes.append(f"has no row for {lacking} of {(part != '').sum()} clips, which go without")
    if table.folds is None:
        notes.append("has no column fold, and counts as made without any of these labels, as by a language model")
    elif (table.folds[rows[there & np.isin(part, PARTS[:2])]] != recipe.fold).any():
        notes.append("was made by models that saw the test labels: as an input it carries them at second order")
    if notes:
        warnings.warn(f"{table.source} {'; it '.join(notes)}", stacklevel=1)  # once a process
    return known


def text_order(corpus: Corpus, shuffled: bool) -> np.ndarray:
    """Whose text each row gets (N,): its own, unless texts are shuffled to plant an effect."""
    rows = np.arange(len(corpus.table))
    return np.random.default_rng(0).permutation(rows) if shuffled else rows


def _live(recipe: Recipe, corpus: Corpus, window: int, tokens: list | None = None, presence=None) -> LiveInputs:
    """Inputs of a backbone that trains along; without tokens it reads no text."""
    rows = len(corpus.table)
    if tokens is None:
        tokens, presence = [[0]] * rows, np.zeros(rows, np.float32)
    return LiveInputs(corpus, window, tokens, presence, recipe.device, recipe.precision)


# Embeddings -----------------------------------------------------------------------------------------------------------


def embedded(recipe: Recipe, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """`embeddings` of the clips by the backbone that a run starts from, each with the text that the run gives it."""
    where = str(Path(recipe.scratch or recipe.runs) / "embeddings"), recipe.device, recipe.tokenizer
    audio, text = embeddings(corpus, checkpoint_of(recipe), recipe.seed, recipe.profile, *where)
    return audio, text[text_order(corpus, recipe.shuffle_texts)]


@cache
def embeddings(
    corpus: Corpus, source: str, seed: int, profile_name: str, folder: str, device: str = "cpu", tokenizer: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """CLAP's embeddings of every clip, audio (N, E) and text (N, E), float32: those that the dataset ships, or computed
    once by the checkpoint `source` and kept in `folder`, a file a dataset.

    Long clips are embedded through fixed windows, averaged; a missing text and an unreadable clip are zero.
    """
    if corpus.features is not None:
        audio, text = corpus.features
        width = max(audio.shape[1], text.shape[1])  # the narrower is filled up with zeros, which no layer minds
        audio, text = (np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in (audio, text))
        return audio, text * corpus.presence[:, None]
    seed = seed if source == "random" else 0  # a checkpoint embeds the same for every seed: one copy in memory
    clap, parts = None, []
    for origin in corpus.table["origin"].unique():
        rows = np.flatnonzero(corpus.table["origin"] == origin)
        weights = checkpoint_digest(source, seed), checkpoint_digest(tokenizer, 0)
        used = " ".join([*weights, profile_name, *code_digests("haf_utils.clap").values()])
        key = hashlib.sha256(used.encode() + corpus.row_hashes[rows].tobytes()).hexdigest()[:16]
        file = Path(folder) / f"{origin}-{key}.npz"
        shape = (len(rows), profile(profile_name).clap.embedding)
        kept = read_npz(file, audio=shape, text=shape)
        if kept is None:
            clap = clap or load_source(source, seed, profile(profile_name), device, tokenizer=tokenizer)
            kept = dict(zip(("audio", "text"), _embed(clap, corpus, rows), strict=True))
            atomic_write(file, lambda path, kept=kept: np.savez(path, **kept))
        parts.append((kept["audio"], kept["text"]))
    audio, text = (np.concatenate(values) for values in zip(*parts, strict=True))
    return audio, text


def _embed(clap: Clap, corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    audio = np.zeros((len(rows), clap.config.embedding), np.float32)
    text = np.zeros_like(audio)
    readable = np.flatnonzero(corpus.table["readable"].to_numpy()[rows])
    if len(readable):
        audio[readable] = clap.embed_audio([corpus.samples(row) for row in rows[readable]])
    present = np.flatnonzero(corpus.presence[rows])
    if len(present):
        text[present] = clap.embed_text(corpus.table["text"].iloc[rows[present]].tolist())
    return audio, text


# Checkpoints ----------------------------------------------------------------------------------------------------------


def checkpoint_of(config: FinetuneConfig) -> str:
    """Where the backbone comes from: "random", a known name, or the path of a checkpoint or run folder that exists.

    A head that is continued as a whole model stays on the embeddings that it was trained on. Raises RunError where the
    run to continue is absent, or what these came from has changed since.
    """
    source = initialisation_of(config)
    if not config.whole_model:
        return source
    if not (Path(source) / "split.csv").is_file():
        raise RunError(f"initialisation={source} is no run folder, which whole_model=True continues: put it back")
    run = load_run(source)
    if (theirs := run.config["config"])["train"] != config.train:
        raise RunError(f"{source} was trained with train={theirs['train']!r}: continue it as a whole model in that way")
    if config.train == "joint":
        return source
    whole, source = theirs.get("whole_model", False), theirs["initialisation"]
    source = checkpoint_of(dataclasses.replace(config, initialisation=source, whole_model=whole))
    if run.config["digests"]["checkpoint"] not in (SHIPPED, checkpoint_digest(source, config.seed)):
        raise RunError(f"{run.folder} was trained on another checkpoint than {source} is now: train it again")
    return source


def initialisation_of(config: FinetuneConfig) -> str:
    """What `initialisation` means; in a path {fold} stands for the fold. Paths are looked for as they are, in the
    repository and among the runs, where they are found again after runs and checkpoints were moved together."""
    source, sizes = config.initialisation.replace("{fold}", str(config.fold)), profile(config.profile)
    if source == "pretrained":
        source = config.weights or (sizes.passt_checkpoint if config.system == "passt" else sizes.checkpoint)
    if source == "random" or source in KNOWN:
        return source
    name = Path(source).expanduser()
    for path in (name, REPOSITORY / source, Path(config.runs) / source, Path(config.runs) / name.name):
        if path.exists():
            return str(path.resolve())
    return source


@cache
def checkpoint_digest(source: str, seed: int) -> str:
    """Digest of the weights in `source`; of its name where there is no file yet."""
    path = Path(source)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        return f"{source}-{seed}" if source == "random" else source
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tokenizer_of(sizes: Profile, tokenizer: str = "") -> Tokenizer:
    """The tokenizer in the file or folder `tokenizer`; "": that of the profile's checkpoint, without its weights."""
    folder = REPOSITORY / sizes.checkpoint
    return load_tokenizer(tokenizer or (folder if folder.is_dir() else None), sizes.clap)


def load_source(
    source: str, seed: int, sizes: Profile, device: str, precision: str = "fp32", tokenizer: str = ""
) -> Clap:
    """CLAP from a checkpoint folder or file, a known name, a joint run's folder, or with random weights.

    tokenizer: where it is not the checkpoint's own; one that was moved away since is looked for as if none was named.
    """
    path = Path(source)
    tokenizer = tokenizer if Path(tokenizer).exists() else ""
    if source == "random" or (path / "metrics.json").is_file():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = ClapNetwork(sizes.clap)
        clap = Clap(network, tokenizer_of(sizes, tokenizer), torch.device(device), precision)
        if source != "random":
            prefix = "backbone.network."
            state = read_weights(path)
            state = {name.removeprefix(prefix): value for name, value in state.items() if prefix in name}
            if not state:
                raise ValueError(f"initialisation={source}: this run trained a head, it has no backbone to start from")
            network.load_state_dict(state)
        network.to(device).eval()
        return clap
    return load_clap(source, tokenizer or None, device, precision)
