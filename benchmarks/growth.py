"""Cost by the number of clips: of building the audio store, and of a joint training epoch that reads from it.

Time should be proportional to the clips, and the anonymous memory of the process constant: the store is memory-mapped,
so that its pages are in the system's cache, which can be evicted.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import soundfile
import torch

from haf_utils.audio import prepare
from haf_utils.clap import ClapNetwork
from haf_utils.config import FinetuneConfig, resolve
from haf_utils.corpus import Corpus
from haf_utils.inputs import LiveInputs
from haf_utils.io.store import build_store
from haf_utils.losses import hierarchical_targets
from haf_utils.model import ClapBackbone, HafClassifier, Model
from haf_utils.profiles import AudioConfig, ClapConfig
from haf_utils.regularizers import Ema
from haf_utils.taxonomy import CLASSES
from haf_utils.training import optimizer_of, train_epoch

__all__ = ["COUNTS", "growth"]

COUNTS = (500, 2_000, 8_000, 20_000)

# A very small HTSAT and RoBERTa: the cost of a step does not depend on the number of clips, that of reading might.
_RATE, _WINDOW = 16_000, 4_000
_SMALLEST = ClapConfig(
    audio=AudioConfig(sample_rate=_RATE, window_samples=_WINDOW, hop=160, fmax=7_000),
    spec_size=64,
    patch_size=8,
    patch_stride=8,
    htsat_dim=16,
    depths=(1, 1),
    heads=(2, 2),
    attention_window=4,
    audioset_classes=23,
    vocab_size=64,
    text_dim=32,
    text_layers=1,
    text_heads=2,
    text_feedforward=32,
    text_positions=20,
)


def growth(counts: tuple[int, ...] = COUNTS) -> pd.DataFrame:
    """Cost for each number of clips, each measured in a process of its own.

    Columns: clips, store_seconds, store_MB (on disk), store_memory_MB, epoch_seconds, epoch_memory_MB. Memory is the
    largest anonymous memory (without pages of files) of the process during the work.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    with TemporaryDirectory() as folder:
        write_clips(Path(folder), max(counts))
        for count in counts:
            with context.Pool(1) as pool:
                rows.append(pool.apply(measure, (folder, count)))
    return pd.DataFrame(rows)


def write_clips(folder: Path, count: int) -> None:
    """`count` WAV files of a quarter to half a second of noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-3000, 3000, 2 * _WINDOW).astype(np.int16)
    for row in range(count):
        soundfile.write(folder / f"{row}.wav", noise[: int(rng.integers(_WINDOW, 2 * _WINDOW))], _RATE)


def measure(folder: str, count: int) -> dict[str, float]:
    """The store and an epoch on the first `count` clips in `folder`: a row of `growth`."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    table = pd.DataFrame({"sound_id": [str(row) for row in range(count)]})
    table["path"] = [str(Path(folder) / f"{row}.wav") for row in range(count)]
    table = table.assign(label=np.arange(count) % len(CLASSES), text="a", origin="bsd10k", uploader="", readable=True)
    with TemporaryDirectory() as scratch:
        store, store_seconds, store_memory = watched(
            lambda: build_store(table, scratch, _RATE, prepare, progress=False)
        )
        corpus = Corpus(table, {"bsd10k": store}, None, table.iloc[:0], ())
        tokens = [[0, 4, 2]] * count
        inputs = LiveInputs(corpus, _WINDOW, tokens, np.ones(count, np.float32), "cpu", "fp32")
        model = Model(ClapBackbone(ClapNetwork(_SMALLEST)), HafClassifier())
        recipe = resolve(FinetuneConfig(dataset="", runs="", profile="mini"))
        target = hierarchical_targets(torch.from_numpy(corpus.labels))
        optimizer = optimizer_of(model, recipe.classifier_rate, recipe.backbone_rate)
        state = optimizer, torch.optim.lr_scheduler.StepLR(optimizer, recipe.rates.halving_steps), Ema(model)
        rows = np.arange(count)
        train_epoch(model, inputs, rows[:64], target, recipe, *state, epoch=0, quiet=True)  # warm-up
        _, epoch_seconds, epoch_memory = watched(
            lambda: train_epoch(model, inputs, rows, target, recipe, *state, epoch=1, quiet=True)
        )
        size = sum(file.stat().st_size for file in Path(scratch).rglob("samples.int16"))
    return {
        "clips": count,
        "store_seconds": round(store_seconds, 2),
        "store_MB": round(size / 1e6),
        "store_memory_MB": round(store_memory / 1e6),
        "epoch_seconds": round(epoch_seconds, 2),
        "epoch_memory_MB": round(epoch_memory / 1e6),
    }


def watched(function: Callable) -> tuple[object, float, float]:
    """`function()`, its seconds, and the largest number of bytes of anonymous memory meanwhile."""
    largest, done = [anonymous_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            largest.append(anonymous_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    begun = time.perf_counter()
    try:
        result = function()
        seconds = time.perf_counter() - begun
    finally:
        done.set()
        thread.join()
    return result, seconds, float(max(*largest, anonymous_memory()))


def anonymous_memory() -> int:
    """Bytes of anonymous memory of this process (Linux: RssAnon): all but pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/{os.getpid()}/status does not say how much memory is anonymous")
