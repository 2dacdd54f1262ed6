"""Speed on a GPU: clips a second, the share of its matrix rate, the share of time that it waits for batches.

Batches of 64 in bf16 come from an audio store of noise, so that the cost of reading is included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.alternatives import clip_tokenizer
from benchmarks.rows import texts_of
from haf_utils.audio import prepare
from haf_utils.clap import ClapNetwork
from haf_utils.corpus import Corpus
from haf_utils.fast.threads import ahead
from haf_utils.inputs import LiveInputs
from haf_utils.io.store import build_store
from haf_utils.losses import hierarchical_targets, soft_cross_entropy
from haf_utils.model import ClapBackbone, HafClassifier, Model
from haf_utils.profiles import ClapConfig
from haf_utils.taxonomy import CLASSES

__all__ = ["gpu_table"]


def gpu_table(
    titles: Path,
    device: str = "cuda",
    batch: int = 64,
    steps: int = 60,
    config: ClapConfig | None = None,
) -> pd.DataFrame:
    """Columns work, clips_per_second, share_of_matrix_rate, share_waiting: embedding, and a joint training step."""
    config = config or ClapConfig()
    texts = texts_of(titles, batch)
    with TemporaryDirectory() as folder:
        corpus = _corpus(Path(folder), config, texts)
        tokens = [encoding.ids for encoding in clip_tokenizer().encode_batch(texts)]
        inputs = LiveInputs(corpus, config.audio.window_samples, tokens, np.ones(batch, np.float32), device, "bf16")
        model = Model(ClapBackbone(ClapNetwork(config)), HafClassifier(config.embedding)).to(device)
        target = hierarchical_targets(torch.arange(batch) % len(CLASSES)).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

        @torch.inference_mode()
        def embed(prepared) -> None:
            inputs.embed_audio(model, prepared)

        def train(prepared) -> None:
            loss = soft_cross_entropy(model.classifier(inputs.embed(model, prepared)).logits, target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        rate = matrix_rate(device)
        rows = []
        for work, step, mode in (("embedding", embed, False), ("joint training", train, True)):
            model.train(mode)
            prepare = lambda number: inputs.prepare(np.arange(batch), (0, number))  # noqa: E731
            with FlopCounterMode(display=False) as counter:
                step(prepare(0))
            seconds, waited = _timed(step, ahead(prepare, range(1 + steps), device), device)
            rows.append(
                {
                    "work": f"{work}, batch {batch}, bf16",
                    "clips_per_second": round(batch * steps / seconds, 1),
                    "share_of_matrix_rate": round(counter.get_total_flops() * steps / seconds / rate, 3),
                    "share_waiting": round(waited / seconds, 3),
                }
            )
    return pd.DataFrame(rows)


def _corpus(folder: Path, config: ClapConfig, texts: list[str]) -> Corpus:
    rng = np.random.default_rng(0)
    rows = range(len(texts))
    for row in rows:
        noise = rng.integers(-9_000, 9_000, config.audio.window_samples).astype(np.int16)
        soundfile.write(folder / f"{row}.wav", noise, config.audio.sample_rate)
    table = pd.DataFrame({"sound_id": [str(row) for row in rows], "path": [folder / f"{row}.wav" for row in rows]})
    table = table.assign(label=np.arange(len(texts)) % len(CLASSES), text=texts, origin="bsd10k", readable=True)
    store = build_store(table, folder, config.audio.sample_rate, prepare, progress=False)
    return Corpus(table, {"bsd10k": store}, None, table.iloc[:0], ())


def matrix_rate(device: str, size: int = 8192, repeats: int = 20) -> float:
    """Operations a second of a large bf16 matrix product."""
    size = size if torch.device(device).type == "cuda" else 256  # a CPU without bf16 takes a minute for more
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds, _ = _timed(lambda _: matrix @ matrix, range(1 + repeats), device)
    return 2 * size**3 * repeats / seconds


def _timed(step: Callable, batches: Iterable, device: str) -> tuple[float, float]:
    """Seconds of all steps but the first, which loads libraries and has no batch prepared ahead; and the part of them
    in which the device waits for the next batch."""

    def synchronise() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    batches = iter(batches)
    step(next(batches))
    synchronise()
    begun, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            break
        waited += time.perf_counter() - asked
        step(batch)
        synchronise()
    return time.perf_counter() - begun, waited
