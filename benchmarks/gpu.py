"""Speed on a GPU: clips a second, share of its matrix rate, kernels and memory of a step; with and without compiling.

Batches come from an audio store of noise, so that the cost of reading is included. A training step is
`training.training_step`, with all regularizers, the optimizer and the EMA. Gradients of compiled steps are compared
with those of the same step without compiling, in the same precision.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import soundfile
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.alternatives import clip_tokenizer
from benchmarks.rows import texts_of
from haf_utils.audio import prepare
from haf_utils.clap import ClapNetwork
from haf_utils.config import FinetuneConfig, resolve
from haf_utils.corpus import Corpus
from haf_utils.fast.threads import ahead
from haf_utils.inputs import Batch, LiveInputs
from haf_utils.io.store import build_store
from haf_utils.losses import hierarchical_targets
from haf_utils.model import ClapBackbone, HafClassifier, LinearClassifier, Model, PasstBackbone
from haf_utils.passt import build_passt
from haf_utils.profiles import Profile, profile
from haf_utils.regularizers import Ema
from haf_utils.taxonomy import CLASSES
from haf_utils.training import generators, optimizer_of, training_step
from tools.preflight import memory_of

__all__ = ["COLUMNS", "ROWS", "TOLERANCE", "gpu_table"]

COLUMNS = """work clips_per_second milliseconds share_of_matrix_rate share_waiting kernels kernel_milliseconds peak_GB
planned_GB first_seconds graphs_skipped gradients_apart gradients_apart_without_dropout note""".split()

# Largest difference of a parameter's gradient, compiled and not, as a share of its norm: see `gradients_apart`.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
# Network, work, way and precision, the most important first. "graphs": compiled, HTSAT as CUDA graphs, which the text
# encoder cannot be, since its shapes differ from batch to batch.
ROWS = [
    ("CLAP", "training", "plain", "bf16"),
    ("CLAP", "training", "compiled", "bf16"),
    ("PaSST", "training", "plain", "bf16"),
    ("CLAP", "embedding", "plain", "bf16"),
    ("CLAP", "embedding", "plain", "fp32"),
    ("CLAP", "training", "plain", "fp32"),
    ("CLAP", "training", "compiled", "fp32"),
    ("CLAP", "training", "graphs", "bf16"),
    ("PaSST", "training", "plain", "fp32"),
    ("CLAP", "training", "graphs", "fp32"),
]


@dataclass
class _Bench:
    """What all rows share. operations: of a step by network and work, counted where it is not compiled; rates: of a
    large matrix product by precision."""

    folder: Path
    texts: list[str]
    device: str
    sizes: Profile
    steps: int
    operations: dict[tuple[str, str], int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def inputs(self, network: str, precision: str) -> LiveInputs:
        """A batch of noise with its texts, in an audio store at the rate of the network."""
        sizes, count = self.sizes, len(self.texts)
        rate, window, tokens, presence = sizes.passt.sample_rate, sizes.passt.window_samples, [[0]] * count, np.zeros
        if network == "CLAP":
            rate, window = sizes.clap.audio.sample_rate, sizes.clap.audio.window_samples
            encodings = clip_tokenizer().encode_batch(self.texts)
            # A small network for tests knows fewer words.
            tokens = [[word % sizes.clap.vocab_size for word in encoding.ids] for encoding in encodings]
            presence = np.ones
        folder = self.folder / network
        corpus = _corpus(folder, rate, window, self.texts)
        return LiveInputs(corpus, window, tokens, presence(count, np.float32), self.device, precision)

    def model(self, network: str) -> Model:
        torch.manual_seed(0)
        if network == "PaSST":
            model = Model(PasstBackbone(build_passt(self.sizes.passt)), LinearClassifier(self.sizes.passt.dim))
        else:
            model = Model(ClapBackbone(ClapNetwork(self.sizes.clap)), HafClassifier(self.sizes.clap.embedding))
        return model.to(self.device)


def gpu_table(
    titles: Path,
    device: str = "cuda",
    batch: int = 64,
    steps: int = 60,
    sizes: Profile | None = None,
    rows: Iterable[tuple[str, str, str, str]] = tuple(ROWS),
    minutes: float = 8.0,
) -> pd.DataFrame:
    """A line for each of `rows`, printed as it is measured; after `minutes` the others are skipped, and say so.

    Columns: work, clips_per_second, milliseconds of a step, share_of_matrix_rate, share_waiting for batches, kernels of
    a step and their milliseconds, peak_GB of the card and planned_GB (`tools.preflight`), first_seconds of the first
    step (which compiles), graphs_skipped: compiled parts that are no CUDA graphs (RoBERTa's forward and backward pass),
    gradients_apart from a step that is not compiled, with dropout, and without where this is more than TOLERANCE; note:
    why something was not measured. A line that fails does not end the others.
    """
    begun, lines = time.monotonic(), []
    with TemporaryDirectory() as folder:
        bench = _Bench(Path(folder), texts_of(titles, batch), device, sizes or profile("full"), steps)
        for network, work, way, precision in rows:
            line = {"work": f"{network} {work}, batch {batch}, {precision}, {way}"}
            if time.monotonic() - begun > 60 * minutes:
                line["note"] = f"skipped: {minutes:g} minutes are over"
            elif way == "graphs" and not bench.on_gpu:
                line["note"] = "skipped: CUDA graphs need a GPU"
            else:
                try:
                    with _way(way):
                        _measure(bench, line, network, work, way, precision)
                except Exception as error:  # whatever fails on this card, the other lines count
                    line["note"] = f"FAILED: {type(error).__name__}: {str(error).strip()[:300]}"
            lines.append(line)
            print(f"{time.monotonic() - begun:4.0f} s  {', '.join(f'{n} {v}' for n, v in line.items())}", flush=True)
    return pd.DataFrame(lines, columns=COLUMNS)


@contextmanager
def _way(way: str) -> Iterator[None]:
    """In this context training is compiled, or not, as `way` says."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, HAF_COMPILE=str(int(way != "plain"))))
        if way == "graphs":
            graphs = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}
            stack.enter_context(inductor.patch(graphs))
            torch.compiler.reset()  # what was compiled has none
            stack.callback(torch.compiler.reset)
        yield


def _measure(bench: _Bench, line: dict, network: str, work: str, way: str, precision: str) -> None:
    """Fills in `line` part by part, so that what was measured before an error is kept."""
    inputs, model, count = bench.inputs(network, precision), bench.model(network), len(bench.texts)
    target = hierarchical_targets(torch.arange(count) % len(CLASSES)).to(bench.device)
    cut = lambda number: inputs.prepare(np.arange(count), (0, number))  # noqa: E731
    if bench.on_gpu:
        gc.collect()  # the model of the line before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if work == "training":
        optimizer, ema, streams = optimizer_of(model, 1e-6, 1e-6), Ema(model), generators(0, 0)
        recipe = _recipe(network, precision, bench.device)

        def step(batch: Batch) -> None:
            training_step(model, inputs, [batch], target, recipe, streams, optimizer, ema)
    else:

        @torch.inference_mode()
        def step(batch: Batch) -> None:
            inputs.embed_audio(model, batch)

    model.train(work == "training")
    if way == "plain":  # a counter does not see into what was compiled
        with FlopCounterMode(display=False) as counter:
            step(cut(0))
        bench.operations.setdefault((network, work), counter.get_total_flops())
    else:
        begun, before = time.perf_counter(), counters["inductor"]["cudagraph_skips"]
        step(cut(0))
        line["first_seconds"] = round(time.perf_counter() - begun, 1)
        if way == "graphs":
            line["graphs_skipped"] = counters["inductor"]["cudagraph_skips"] - before
    steps = bench.steps if network == "CLAP" else max(1, bench.steps // 4)
    seconds, waited = _timed(step, ahead(cut, range(1 + steps), bench.device), bench.device)
    line["clips_per_second"] = round(count * steps / seconds, 1)
    line["milliseconds"] = round(1e3 * seconds / steps, 2)
    line["share_waiting"] = round(waited / seconds, 3)
    if bench.on_gpu and work == "training":
        line["peak_GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        if bench.sizes.name == "full":
            line["planned_GB"] = round(memory_of(network, count, precision=precision) / 1e9, 2)
    if precision not in bench.rates:
        bench.rates[precision] = matrix_rate(bench.device, precision)
    if (network, work) in bench.operations:
        rate = bench.operations[network, work] * steps / seconds
        line["share_of_matrix_rate"] = round(rate / bench.rates[precision], 3)
    if way != "plain":
        for name, dropping in (("gradients_apart", True), ("gradients_apart_without_dropout", False)):
            line[name] = float(f"{gradients_apart(model, inputs, cut(0), target, recipe, dropping):.2g}")
            if line[name] <= TOLERANCE[precision]:
                break
            line["note"] = f"FAILED: {name} {line[name]:g}, more than {TOLERANCE[precision]:g}"
    if bench.on_gpu:
        line["kernels"], line["kernel_milliseconds"] = _kernels(step, cut(0))


def _recipe(network: str, precision: str, device: str):
    system = "passt" if network == "PaSST" else "haf"
    return resolve(FinetuneConfig("", "", profile="full", system=system, device=device, precision=precision))


class _Kept:
    """Stands in for an optimizer: keeps the gradients, changes nothing."""

    def __init__(self, model: Model):
        self.model, self.gradients = model, {}

    def step(self) -> None:
        named = self.model.named_parameters()
        # A key's bias moves no softmax: its gradient is rounding alone.
        self.gradients = {n: p.grad.clone() for n, p in named if p.grad is not None and not n.endswith("key.bias")}

    def zero_grad(self, set_to_none: bool) -> None:
        self.model.zero_grad(set_to_none)


def gradients_apart(model: Model, inputs: LiveInputs, batch: Batch, target, recipe, dropping: bool) -> float:
    """The largest |compiled - plain| / |plain| of the gradients of one training step, over the model's parameters; with
    dropout and stochastic depth (the same draws), or without. Raises ValueError where a gradient is missing."""
    rates = [(m, n, getattr(m, n)) for m in model.modules() for n in ("p", "drop_prob") if hasattr(m, n)]
    if not dropping:
        for module, name, _ in rates:
            setattr(module, name, 0.0)
    unchanged, found = SimpleNamespace(update=lambda model: None), []
    try:
        for way in ("0", "1"):
            torch.manual_seed(0)
            kept = _Kept(model)
            with mock.patch.dict(os.environ, HAF_COMPILE=way):
                training_step(model, inputs, [batch], target, recipe, generators(0, 0), kept, unchanged)
            found.append(kept.gradients)
    finally:
        for module, name, rate in rates:
            setattr(module, name, rate)
    plain, compiled = found
    if plain.keys() != compiled.keys():
        raise ValueError(f"gradients of one alone: {sorted(plain.keys() ^ compiled.keys())[:5]}")
    return max(((compiled[n] - g).norm() / g.norm().clamp(min=1e-12)).item() for n, g in plain.items())


def _kernels(step: Callable, batch: Batch) -> tuple[int, float]:
    """Kernels of a step and the milliseconds that the card works on them, by PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        step(batch)
        torch.cuda.synchronize()
    on_card = [
        e for e in trace.events() if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
    ]
    return len(on_card), round(sum(event.time_range.elapsed_us() for event in on_card) / 1e3, 2)


def _corpus(folder: Path, rate: int, window: int, texts: list[str]) -> Corpus:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = range(len(texts))
    for row in rows:
        noise = rng.integers(-9_000, 9_000, window).astype(np.int16)
        soundfile.write(folder / f"{row}.wav", noise, rate)
    table = pd.DataFrame({"sound_id": [str(row) for row in rows], "path": [folder / f"{row}.wav" for row in rows]})
    table = table.assign(label=np.arange(len(texts)) % len(CLASSES), text=texts, origin="bsd10k", readable=True)
    store = build_store(table, folder, rate, prepare, progress=False)
    return Corpus(table, {"bsd10k": store}, None, table.iloc[:0], ())


def matrix_rate(device: str, precision: str = "bf16", size: int = 8192, repeats: int = 20) -> float:
    """Operations a second of a large matrix product."""
    size = size if torch.device(device).type == "cuda" else 256  # a CPU without bf16 takes a minute for more
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
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
