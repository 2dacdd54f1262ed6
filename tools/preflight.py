"""Before hours are spent: what a run will do, what it needs, and whether that is there."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from haf_utils.config import check
from haf_utils.datasets import load
from haf_utils.experiment.assembly import checkpoint_of, load_source
from haf_utils.experiment.members import MEMBERS
from haf_utils.experiment.workspace import Workspace, finetune_config
from haf_utils.folds import small_classes
from haf_utils.losses import hierarchical_targets, soft_cross_entropy
from haf_utils.model import ClapBackbone, Features, HafClassifier, Model
from haf_utils.profiles import Profile, profile

__all__ = ["PreflightError", "Step", "measure_step", "preflight"]

_SAMPLED = 50  # clips whose length is looked at: the disk estimate needs no more


class PreflightError(ValueError):
    """Something that the run needs is not there; the message says what and where to get it."""


@dataclass(frozen=True)
class Step:
    """One joint training step: seconds, and peak GPU memory in bytes (0 on a CPU)."""

    seconds: float
    memory: int


def preflight(space: Workspace) -> list[str]:
    """Lines that say what the main job in `space` will do and need.

    Raises PreflightError where the GPU, the checkpoint or the disk space is not there, before anything is computed.
    """
    sizes = profile(space.profile)
    config = finetune_config(space)
    try:
        check(config)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    lines, bytes_needed = [f"profile {sizes.name} on {space.device}, results in {space.runs}"], 0
    for role in ("dataset", "extra", "evaluation", "fsd50k", "nsynth"):
        root = getattr(space, role)
        if root:
            table = load(root)
            there = table["path"].notna()
            seconds = _mean_seconds(table.loc[there, "path"]) * int(there.sum())
            bytes_needed += 2 * seconds * sizes.clap.audio.sample_rate
            lines.append(f"{role:<11}{len(table)} clips, {seconds / 3600:.1f} h of audio, {root}")
            if role == "dataset" and (few := small_classes(table["label"])):
                named = ", ".join(f"{code} ({count})" for code, count in few.items())
                lines.append(f"           too few clips to be scored, used for training only: {named}")
    scratch = Path(space.scratch)
    there = next(folder for folder in (scratch, *scratch.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    lines.append(f"disk       {bytes_needed / 1e9:.1f} GB for decoded audio in {scratch}, {free / 1e9:.0f} GB free")
    if bytes_needed > free:
        raise PreflightError(
            f"{scratch} has {free / 1e9:.1f} GB free, {bytes_needed / 1e9:.1f} GB are needed: --scratch"
        )
    source = checkpoint_of(config)
    lines.append(f"checkpoint {source}")
    if sizes.preflight_steps:
        lines += _measured(space, sizes, source)
    return lines


def _measured(space: Workspace, sizes: Profile, source: str) -> list[str]:
    """Time and memory of training, from a few steps with the real checkpoint."""
    try:
        network = load_source(source, 0, sizes, space.device).network
    except (OSError, ValueError) as error:
        raise PreflightError(f"checkpoint {source!r} cannot be had: {error}") from error
    try:
        step = measure_step(network, sizes.joint.batch, sizes.preflight_steps, space.precision)
    except torch.OutOfMemoryError as error:
        raise PreflightError(
            f"a step of {sizes.joint.batch} clips does not fit into the memory of {space.device}: train with a smaller "
            "batch and accumulation, or with activation_checkpointing=True (parameters of notebook 04 and of sweeps)"
        ) from error
    finally:
        del network
        if torch.device(space.device).type == "cuda":
            torch.cuda.empty_cache()  # the notebooks, which are other processes, need the card
    # BSD10k's training clips are 64 % of it (official folds); BSD35k-CS trains whole.
    clips = 0.64 * len(load(space.dataset)) + (len(load(space.extra)) if space.extra else 0)
    run = step.seconds * clips / sizes.joint.batch * sizes.joint.epochs
    continued = bool(space.fsd50k or space.nsynth)  # makes the checkpoints that two of the members start from
    models = sum(name != "metadata" and (continued or "initialisation" not in own) for name, own in MEMBERS.items())
    lines = [
        f"time       {step.seconds:.2f} s a step of {sizes.joint.batch} clips: up to {run / 3600:.1f} h a model, "
        f"{models * run / 3600:.0f} h for all {models} (early stopping ends most of them sooner)"
    ]
    if step.memory:
        total = torch.cuda.get_device_properties(space.device).total_memory
        lines.append(f"GPU memory {step.memory / 1e9:.1f} GB of {total / 1e9:.0f} GB")
    return lines


def _mean_seconds(paths) -> float:
    chosen = np.random.default_rng(0).permutation(np.asarray(paths))[:_SAMPLED]
    lengths = []
    for path in chosen:
        try:
            lengths.append(soundfile.info(path).duration)
        except (soundfile.SoundFileError, OSError):
            continue  # a damaged clip is reported when it is decoded
    return float(np.mean(lengths)) if lengths else 0.0


def measure_step(network, batch: int, steps: int = 3, precision: str = "fp32") -> Step:
    """Median time of `steps` joint training steps of `batch` random clips and texts of full length."""
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
    for _ in range(steps):
        begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            embedded = system.backbone.embed_audio(waveforms)
            text = system.backbone.embed_text({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
        features = Features(embedded, text, embedded.new_ones(batch))
        soft_cross_entropy(system.classifier(features).logits, target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return Step(float(np.median(times)), torch.cuda.max_memory_allocated(device) if cuda else 0)
