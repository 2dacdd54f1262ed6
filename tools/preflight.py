"""Before hours are spent: what a run will do, what it needs, whether that is there, and what is done already."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from haf_utils.config import FinetuneConfig, Recipe, resolve
from haf_utils.datasets import load
from haf_utils.experiment.assembly import checkpoint_of, checkpoint_used, corpus_of, load_source
from haf_utils.experiment.continued import NOTES
from haf_utils.experiment.finetune import candidates, data_digest, find, locate, other_code, rows_of, unpredicted
from haf_utils.experiment.members import BEYOND, MEMBERS, kind_of, member_configs, systems_called
from haf_utils.experiment.workspace import Workspace, caveat, finetune_config
from haf_utils.folds import small_classes
from haf_utils.losses import hierarchical_targets, soft_cross_entropy
from haf_utils.model import ClapBackbone, Features, HafClassifier, Model
from haf_utils.passt import build_passt
from haf_utils.posteriors import read_fold
from haf_utils.profiles import profile
from haf_utils.runs import RunError, finished

__all__ = ["PreflightError", "Step", "measure_step", "memory_of", "preflight"]

_SAMPLED = 50  # clips whose length is looked at: the disk estimate needs no more
_VARIANTS = 31  # recipes of notebook 05, further seeds of the recipe itself counted in
_LEVERS = 9  # recipes of notebook 07, its teachers counted in

# Of the networks at full size, for a window of 10 s: multiply-accumulates forward in training and at evaluation
# (PaSST's patchout is for training alone), bytes that a training step keeps for its backward pass under bf16, and
# parameters. Counted on a CPU with torch's FlopCounterMode and saved-tensor hooks; CLAP's bytes measured on a GPU;
# PaSST's of fused attention, which counts a fifth less than hear21passt's own.
_COSTS = {"CLAP": (9e9, 9e9, 75e6, 158e6), "PaSST": (45e9, 127e9, 350e6, 86e6)}
_CARD = 24e9  # bytes of the card that the plan speaks of where there is none


class PreflightError(ValueError):
    """Something that the run needs is not there; the message says what and where to get it."""


@dataclass(frozen=True)
class Step:
    """One joint training step: seconds, and peak GPU memory in bytes (0 on a CPU)."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class _Data:
    """A dataset of the workspace: clips that are used, their mean length (s), clips with a recording."""

    table: pd.DataFrame
    used: int
    seconds: float
    recorded: int


def preflight(space: Workspace, parameters: Mapping[str, Mapping] | None = None) -> Iterator[str]:
    """Lines that say what the main job in `space` will do and need, one by one as they are found.

    parameters: of the notebooks to be run, by file name; None: all with their defaults.
    Raises PreflightError where the GPU, the checkpoint or the disk space is not there, before anything is computed.
    """
    sizes, parameters = profile(space.profile), parameters or {"04": {}, "06": {}, "05": {}}
    yield f"profile    {sizes.name} on {space.device}, {space.precision}; results in {space.runs}"
    if note := caveat(space.profile, space.dataset):
        yield note
    data: dict[str, _Data] = {}
    for role in ("dataset", "extra", "evaluation", "fsd50k", "nsynth"):
        if root := getattr(space, role):
            table = load(root)
            recorded = table["path"].dropna()
            used = min(len(table), NOTES + NOTES // 10) if role == "nsynth" else len(table)
            data[role] = _Data(table, used, _mean_seconds(recorded), len(recorded))
            hours = data[role].seconds * len(recorded) / 3600
            share = f", {used} are used" if used < len(table) else ""
            yield f"{role:<11}{len(table)} clips{share}, {hours:.1f} h of audio, {root}"
            if role == "dataset" and (few := small_classes(table["label"])):
                named = ", ".join(f"{code} ({count})" for code, count in few.items())
                yield f"           too few clips to be scored, used for training only: {named}"
    try:
        groups, absent = _planned(space, parameters)
    except (TypeError, ValueError) as error:
        raise PreflightError(str(error)) from error
    recipes = {recipe.name: recipe for group in groups.values() for recipe in group}
    ids, known = data["dataset"].table["sound_id"].astype(str), []
    for fold in sorted({recipe.fold for recipe in recipes.values() if recipe.posteriors}):
        table = read_fold(space.posteriors, fold)
        known.append(int(ids.isin(table.ids).sum()) or len(table.for_ids(ids).ids))  # of no clip: raises
    if known:
        yield f"posteriors {min(known)} of {len(ids)} clips have a row in {space.posteriors}"
    hears = data["dataset"].recorded > 0
    ways = {"joint": "joint (backbone and classifier)", "head": "head (backbone frozen, embeddings computed once)"}
    how = {name: ways[min(group, key=lambda r: r.system == "passt").train] for name, group in groups.items()}
    shipped = "head on the embeddings that the dataset ships: no weights are needed"
    if groups:
        yield f"mode       {'; '.join(f'{name}: {way}' for name, way in how.items()) if hears else shipped}"
    for name, reason in absent.items():
        yield f"           left out: {name}: {reason}"
    passt = any(recipe.system == "passt" for recipe in recipes.values())
    done, clips, needed = _stores(space, data, sizes.passt.sample_rate if passt else 0)
    scratch = Path(space.scratch)
    free = shutil.disk_usage(next(folder for folder in (scratch, *scratch.parents) if folder.exists())).free
    yield f"decoded    {done} of {clips} recordings" + ", PaSST's at its own rate counted too" * passt
    yield f"disk       {needed / 1e9:.1f} GB for decoded audio in {scratch}, {free / 1e9:.0f} GB free"
    if needed > free:
        raise PreflightError(f"{scratch} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: --scratch")
    network = None
    if hears:
        source = checkpoint_of(finetune_config(space))
        try:
            network = load_source(source, 0, sizes, space.device, tokenizer=space.tokenizer).network
        except (OSError, ValueError) as error:
            raise PreflightError(f"checkpoint {source!r} cannot be had: {error}") from error
        yield f"checkpoint {source}: read, and it fits"
        if passt:
            source = checkpoint_of(finetune_config(space, system="passt"))
            try:
                build_passt(sizes.passt, source)
                yield f"PaSST      {source}: read, and it fits"
            except (OSError, ValueError) as error:
                yield f"PaSST      cannot be trained, the other members can: {error}"
    yield f"runs       {len(recipes)} of notebooks 04 and 06"
    states: dict[str, list[str]] = {}
    retrain = any(given.get("retrain") for given in parameters.values())
    for name, recipe in recipes.items():
        states.setdefault(_state(recipe, retrain, look_at_data=done == clips), []).append(name)
    for state, names in states.items():
        yield f"           {len(names)} {state}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    if sizes.preflight_steps:
        yield from _costs(space, groups, data, network, parameters)
    del network
    if torch.device(space.device).type == "cuda":
        torch.cuda.empty_cache()  # the notebooks, which are other processes, need the card


def _planned(space: Workspace, parameters: Mapping[str, Mapping]) -> tuple[dict[str, list[Recipe]], dict[str, str]]:
    """Recipes of the runs that notebooks 04 and 06 make, by what they are for, and the members left out."""
    hears = load(space.dataset)["path"].notna().any()
    fields = {f.name for f in dataclasses.fields(FinetuneConfig)} - {f.name for f in dataclasses.fields(Workspace)}
    groups: dict[str, list[Recipe]] = {"notebook 04": [], "ours": [], "report": []}
    absent: dict[str, str] = {}
    for notebook, given in parameters.items():
        own = {name: value for name, value in given.items() if name in fields}
        if notebook.startswith("04"):
            own["train"] = own.get("train") or ("joint" if hears else "head")
            groups["notebook 04"] = [resolve(finetune_config(space, **own))]
        if not notebook.startswith("06"):
            continue
        seed, train, weight = (own.pop(name, default) for name, default in _MEMBER_DEFAULTS.items())
        systems = systems_called(given.get("systems_of", ""), bool(space.posteriors))
        for fold in range(given.get("folds") or profile(space.profile).ensemble_folds):
            configs, left = member_configs(space, seed, fold, train, systems, weight, **own)
            for name in [name for name in left if space.fsd50k and "notebook 03" in left[name]]:
                if space.nsynth or "NSynth" not in name:  # notebook 03 will have made its checkpoint
                    start = MEMBERS[name]["initialisation"]
                    configs[name] = dataclasses.replace(configs["smoothing + mixup"], initialisation=start)
                    del left[name]
            absent |= left
            for name, config in configs.items():
                if kind_of(name) in ("CLAP", "PaSST"):
                    ours = "extra_weight" not in MEMBERS[name] or name in BEYOND
                    groups["ours" if ours else "report"].append(resolve(config))
    seen: set[str] = set()  # a run that several of them need is trained for the first
    for name, group in groups.items():
        groups[name] = [r for r in group if not (r.name in seen or seen.add(r.name))]
    return {name: group for name, group in groups.items() if group}, absent


_MEMBER_DEFAULTS = {"seed": 0, "train": "", "extra_weight": None}  # of notebook 06


def _stores(space: Workspace, data: Mapping[str, _Data], other_rate: int) -> tuple[int, int, float]:
    """Audio stores of CLAP's rate and of PaSST's: recordings decoded, recordings, bytes that are still needed."""
    rate, needed, done, clips = profile(space.profile).clap.audio.sample_rate, 0.0, 0, 0
    for role, found in data.items():
        captioned = role in ("fsd50k", "nsynth")
        folder = Path(space.scratch) / "stores" / (role if captioned else Path(getattr(space, role)).name)
        for hertz in {rate} if captioned or not other_rate else {rate, other_rate}:
            number, index = min(found.used, found.recorded), folder / str(hertz) / "index.csv"
            there = min(number, len(pd.read_csv(index, usecols=[0], dtype=str))) if index.is_file() else 0
            needed += 2 * hertz * found.seconds * (number - there)
            done, clips = done + there, clips + number
    return done, clips, needed


def _state(recipe: Recipe, retrain: bool, look_at_data: bool) -> str:
    """What there is of a run; its clips are compared where nothing has to be decoded for that."""
    try:
        known = find(recipe, retrain, look_at_data=False)
        if known is not None and look_at_data:
            corpus = corpus_of(recipe)
            rows = rows_of(recipe, corpus)
            known = locate(recipe, data_digest(recipe, corpus, rows), checkpoint_used(recipe, corpus), retrain)
            if not known.finished:
                return "to do: the finished run of that name used other clips or weights and is kept"
            if len(unpredicted(known.folder, corpus, rows["evaluation"])):
                return "finished, but for the evaluation set, which is predicted"
        if known is not None:
            return "finished" + (f", made by other code ({', '.join(known.other_code)})" if known.other_code else "")
        for folder, record in candidates(recipe):
            if not finished(folder):
                return "begun by other code: to do" if other_code(record) else "begun, to go on"
            return "to do: another run of that name is kept"
    except (RunError, OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return "to do"


# Time and memory ------------------------------------------------------------------------------------------------------


def _kind(recipe: Recipe) -> str:
    return "PaSST" if recipe.system == "passt" else "CLAP"


def memory_of(kind: str, batch: int, accumulation: int = 1, precision: str = "bf16") -> float:
    """Bytes of a joint training of the full-size network: weights, gradients, Adam's two and the EMA in fp32, and what
    a part of the batch keeps for its backward pass, twice as much in fp32."""
    _, _, activations, parameters = _COSTS[kind]
    return 20 * parameters + activations * math.ceil(batch / accumulation) * (1 if precision == "bf16" else 2)


def _costs(
    space: Workspace, groups: Mapping[str, list[Recipe]], data: Mapping[str, _Data], network, parameters: Mapping
) -> Iterator[str]:
    """Time and memory of every kind of member and of each notebook, as if nothing were finished."""
    device, sizes = torch.device(space.device), profile(space.profile)
    every = [recipe for group in groups.values() for recipe in group]
    joint = [recipe for recipe in every if recipe.train == "joint"]
    card, a_clip = _CARD, 0.0
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device).total_memory
    if network is not None:
        # On a CPU two clips, without an optimizer: a batch of 64 would take 17 GB. On a GPU the batch that is trained.
        part = 2
        if device.type == "cuda" and joint and memory_of("CLAP", joint[0].batch, joint[0].accumulation) < card:
            part = math.ceil(joint[0].batch / joint[0].accumulation)
        step = measure_step(network, part, sizes.preflight_steps if part > 2 else 1, space.precision, part > 2)
        a_clip = step.seconds / part
        peak = f", {step.memory / 1e9:.1f} GB of the card's {card / 1e9:.0f}" if step.memory else ""
        yield f"measured   {step.seconds:.2f} s a step of {part} clips, CLAP{peak}; times follow in proportion"
    trained = [_kind(recipe) for recipe in joint]
    if network is not None:  # the checkpoints of notebook 03
        trained += ["CLAP"] * (("fsd50k" in data) + ({"fsd50k", "nsynth"} <= data.keys()))
    sizes_of = [4e-9 * _COSTS[kind][3] for kind in trained]
    more = f", and {5 * max(sizes_of):.0f} GB to go on from while one trains" if trained else ""
    yield f"disk       {sum(sizes_of):.0f} GB for trained weights{more}, in {space.runs}"
    for kind, recipe in {_kind(recipe): recipe for recipe in joint}.items():
        need = memory_of(kind, recipe.batch, recipe.accumulation)
        line = f"memory     {kind}, batch {recipe.batch}: "
        if device.type == "cpu":
            here = memory_of(kind, recipe.batch, recipe.accumulation, recipe.precision)
            line += f"{here / 1e9:.0f} GB of this machine's for each process; "
        line += f"on a card, in bf16, {need / 1e9:.0f} GB, "
        if need > 0.95 * card:
            parts = next((n for n in (2, 4, 8, 16, 32) if memory_of(kind, recipe.batch, n) < 0.9 * card), 64)
            less = memory_of(kind, recipe.batch, parts)
            yield f"{line}which {card / 1e9:.0f} GB do not hold: ACCUMULATION={parts} takes {less / 1e9:.0f} GB"
        else:
            yield f"{line}which fits {card / 1e9:.0f} GB"
    window = sizes.clap.audio.window_samples / sizes.clap.audio.sample_rate
    head = _head_step(device)
    hours = {name: sum(_seconds(r, data, a_clip, head, window) for r in group) for name, group in groups.items()}
    given = {name[:2]: own for name, own in parameters.items()}
    if "05" in given:
        folds = len(given["05"].get("folds") or range(sizes.ablation_folds)) * len(given["05"].get("seeds") or [0])
        one = resolve(finetune_config(space, train="head"))
        hours["notebook 05"] = _VARIANTS * folds * _seconds(one, data, a_clip, head, window)
    if "07" in given:
        one = resolve(finetune_config(space, train="head", extra_weight=1.0))
        hours["notebook 07"] = _LEVERS * sizes.ablation_folds * _seconds(one, data, a_clip, head, window)
    if any(recipe.teacher for recipe in joint) and network is not None:
        labelling = [r for r in groups["ours"] if _kind(r) == "CLAP" and not (r.teacher or r.whole_model)]
        crowd = data["extra"].used * max(1.0, data["extra"].seconds / window)
        hours["labels of BSD35k-CS, stage 1"] = a_clip / 3 * len(labelling) * crowd
    if network is not None:
        sounds, notes = (data[role].used if role in data else 0 for role in ("fsd50k", "nsynth"))
        epochs = given.get("03", {}).get("epochs") or sizes.pretraining.epochs
        hours["notebook 03"] = a_clip * epochs * ((2 if notes else 1) * sounds + notes)
        own = [found for role, found in data.items() if role not in ("fsd50k", "nsynth")]
        hours["embeddings for heads"] = a_clip / 3 * sum(d.used * max(1.0, d.seconds / window) for d in own)
    for name, value in hours.items():
        if value:
            count = f", {len(groups[name])} runs" if name in groups else ""
            yield f"time       {name}: at most {value / 3600:.1f} h{count}"
    total = sum(hours.values()) / 3600
    yield f"           in all at most {total:.1f} h, with two cards, which share the runs, {total / 2:.1f} h"
    yield "           as if no run were finished; early stopping ends most of them sooner"


def _seconds(recipe: Recipe, data: Mapping[str, _Data], a_clip: float, head: float, window: float) -> float:
    """Of one run: training for all of its epochs, a validation after each, and the predictions of all views."""
    clips = len(data["dataset"].table)
    extra = data["extra"].used if "extra" in data and recipe.extra_weight else 0
    training, validation, test = 0.64 * clips + extra, 0.16 * clips, 0.2 * clips  # shares of the official folds
    scored = validation + test + (data["evaluation"].used if "evaluation" in data else 0)
    if recipe.train == "head":
        return recipe.epochs * training / recipe.batch * head
    forward, evaluation = (macs / _COSTS["CLAP"][0] * a_clip / 3 for macs in _COSTS[_kind(recipe)][:2])
    step = forward * (4 if recipe.accumulation > 1 else 3)  # a part of a batch is embedded twice
    windows = max(1.0, data["dataset"].seconds / window)
    predicted = recipe.epochs * validation * windows + scored * (windows + recipe.tta_views)
    return recipe.epochs * training * step + predicted * evaluation


def _head_step(device: torch.device) -> float:
    """Seconds of a training step of the classifier alone, batch 64: the fastest of 20."""
    system, times = HafClassifier(512).to(device), []
    target = hierarchical_targets(torch.arange(64) % 23).to(device)
    features = Features(*(torch.rand((64, 512), device=device) for _ in range(2)), torch.ones(64, device=device))
    for _ in range(20):
        begun = time.perf_counter()
        soft_cross_entropy(system(features).logits, target).backward()
        target.sum().item()  # waits for a GPU
        times.append(time.perf_counter() - begun)
    return min(times)


def _mean_seconds(paths) -> float:
    chosen = np.random.default_rng(0).permutation(np.array(paths, dtype=object))[:_SAMPLED]
    lengths = []
    for path in chosen:
        try:
            lengths.append(soundfile.info(path).duration)
        except (soundfile.SoundFileError, OSError):
            continue  # a damaged clip is reported when it is decoded
    return float(np.mean(lengths)) if lengths else 0.0


def measure_step(network, batch: int, steps: int = 3, precision: str = "fp32", update: bool = True) -> Step:
    """Median time of `steps` joint training steps, after a first one, of `batch` random clips and texts of full length;
    without `update` no optimizer's memory is taken and the weights stay."""
    device = next(network.parameters()).device
    audio = network.config.audio
    system = Model(ClapBackbone(network), HafClassifier(network.config.embedding)).to(device).train()
    optimizer = torch.optim.Adam(system.parameters(), 1e-6)
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.rand((batch, audio.window_samples), generator=generator).to(device) - 0.5
    tokens = torch.randint(5, network.config.vocab_size, (batch, network.config.tokens), generator=generator).to(device)
    target = hierarchical_targets(torch.arange(batch) % 23).to(device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            embedded = system.backbone.embed_audio(waveforms)
            text = system.backbone.embed_text({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        features = Features(embedded, text, embedded.new_ones(batch))
        soft_cross_entropy(system.classifier(features).logits, target).backward()
        if update:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return Step(float(np.median(times[1:])), torch.cuda.max_memory_allocated(device) if cuda else 0)
