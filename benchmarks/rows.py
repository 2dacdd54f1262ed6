"""The measurements of `benchmarks`: each compares this project with an alternative without it.

Every function takes a `Sizes`, the folder of recordings and the metadata table, and returns rows: ratios of seconds
measured alternately in one process. Networks have the real size and random weights, which both sides share. Where both
sides compute the same thing, the row also checks that the results agree: a wrong result does not reach its target.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import alternatives
from haf_utils.audio import prepare, to_float, windows
from haf_utils.captions import freesound_text
from haf_utils.clap import Clap, ClapNetwork
from haf_utils.config import FinetuneConfig, resolve
from haf_utils.corpus import Corpus
from haf_utils.fast.htsat import encode
from haf_utils.fast.ops import linear
from haf_utils.fast.threads import in_threads
from haf_utils.hatr import train_hatr
from haf_utils.inputs import CachedInputs, LiveInputs
from haf_utils.losses import hierarchical_targets, soft_cross_entropy
from haf_utils.metrics import hierarchical_scores
from haf_utils.model import ClapBackbone, Features, HafClassifier, Model
from haf_utils.profiles import ClapConfig
from haf_utils.regularizers import Ema
from haf_utils.statistics import bootstrap
from haf_utils.taxonomy import CLASSES
from haf_utils.training import optimizer_of, train_epoch

__all__ = ["FULL", "QUICK", "ROWS", "Row", "Sizes", "bf16_pays"]


@dataclass(frozen=True)
class Sizes:
    """Amount of work. rounds: alternations; clips, texts, cached: examples."""

    rounds: int = 3
    parts: int = 4  # of the files and texts, each a round: within a short round the machine's speed hardly changes
    through: int = 2  # times that all files or texts are embedded
    clips: int = 64
    texts: int = 256
    steps: int = 2  # joint training steps a round
    cached: int = 7_011  # BSD10k-v1.2's official training part
    predictions: int = 100_000
    resampled: int = 10_956  # BSD10k-v1.2
    replicates: int = 1_000
    looped_replicates: int = 20  # loops are too slow for all
    text_layers: int = 12
    matrix: int = 2_048
    batch: int = 8  # clips of a joint training step
    warm: int = 4  # files or texts that each side embeds, uncounted, before each of its parts


# As a share of the median distance: a changed nearest neighbour at most this much farther is within bf16's rounding.
NEIGHBOUR_TOLERANCE = 1e-3
# As a share of the norm of all gradients: a tensor of smaller gradient is not compared, since it is rounding alone.
NEGLIGIBLE = 1e-8

FULL = Sizes()
# Half of RoBERTa's layers, since building and training them takes most of the time.
QUICK = Sizes(
    rounds=1,
    parts=1,
    through=1,
    clips=8,
    texts=32,
    cached=512,
    predictions=20_000,
    looped_replicates=1,
    text_layers=6,
    batch=2,
    steps=1,
)


@dataclass(frozen=True)
class Row:
    """One line of the table. seconds: of this project (`ours`) and of the alternative, a round each; target: the ratio
    to reach; check: the comparison of the two results, in words; correct: whether they agree."""

    work: str
    against: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    target: float | None = None
    check: str = ""
    correct: bool = True

    @property
    def ratios(self) -> np.ndarray:
        return np.array(self.theirs) / np.array(self.ours)

    @property
    def ratio(self) -> float:
        return float(np.median(self.ratios))

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else bool(self.ratio >= self.target and self.correct)


def alternate(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    before: dict[str, Callable[[], object]] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Seconds that each function takes, one after the other in every round, the first one last in the next.

    before: functions called untimed before each turn, so that memory and caches are warm, as in a long job.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for _ in range(rounds):
        for name in names:
            (before or {}).get(name, lambda: None)()
            _synchronise()
            begun = time.perf_counter()
            functions[name]()
            _synchronise()
            seconds[name].append(time.perf_counter() - begun)
        names.append(names.pop(0))
    return {name: tuple(values) for name, values in seconds.items()}


def alternate_parts(
    embedders: dict[str, Callable], examples: Sequence, sizes: Sizes
) -> tuple[dict[str, tuple[float, ...]], dict[str, np.ndarray]]:
    """`alternate` over the parts of `examples`, one a round, `sizes.through` times over; and the embeddings of all."""
    size = -(-len(examples) // sizes.parts)
    parts = [examples[first : first + size] for first in range(0, len(examples), size)]
    embedded: dict[str, list[np.ndarray]] = {name: [] for name in embedders}

    def next_part(name: str) -> Callable:
        return lambda: embedded[name].append(embedders[name](parts[len(embedded[name]) % len(parts)]))

    few = examples[: sizes.warm]
    before = {name: lambda embed=embed: embed(few) for name, embed in embedders.items()}
    seconds = alternate({name: next_part(name) for name in embedders}, sizes.through * len(parts), before=before)
    return seconds, {name: np.concatenate(embeddings[: len(parts)]) for name, embeddings in embedded.items()}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bf16_pays() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AVX512-BF16 or AMX), from Linux's /proc/cpuinfo."""
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and any(flag in cpu.read_text() for flag in ("avx512_bf16", "amx_bf16"))


@cache
def networks(text_layers: int) -> tuple[nn.Module, Clap]:
    """laion-clap's module and this project's CLAP, sharing weights and memory."""
    torch.manual_seed(0)
    module = alternatives.laion_clap(text_layers)
    network = ClapNetwork(ClapConfig(text_layers=text_layers))
    network.load_state_dict(module.model.state_dict(keep_vars=True), assign=True)
    return module, Clap(network.eval(), alternatives.clip_tokenizer(), torch.device("cpu"))


def clips_of(folder: Path, count: int, seed: int = 0) -> list[str]:
    """`count` recordings of a folder in BSD10k layout, none longer than CLAP's 10 s: laion-clap crops longer ones at
    random, so that its results would differ from call to call."""
    import soundfile

    paths = sorted(path for path in (folder / "audio").iterdir() if path.is_file())
    chosen = []
    for place in np.random.default_rng(seed).permutation(len(paths)):
        if soundfile.info(paths[place]).duration <= 10:
            chosen.append(str(paths[place]))
        if len(chosen) == count:
            return chosen
    raise ValueError(f"{folder} has {len(chosen)} recordings of at most 10 s, {count} are needed")


def texts_of(metadata: Path, count: int, seed: int = 0) -> list[str]:
    """`count` texts of title and tags from a metadata table in BSD10k layout."""
    table = pd.read_csv(metadata, dtype=str, keep_default_na=False).sample(frac=1, random_state=seed)
    texts = [freesound_text(title, tags) for title, tags in zip(table["title"], table["tags"], strict=True)]
    texts = [text for text in texts if text]
    if len(texts) < count:
        raise ValueError(f"{metadata} has {len(texts)} usable texts, {count} are needed")
    return texts[:count]


def distance(bf16: np.ndarray, fp32: np.ndarray) -> tuple[str, float, float]:
    """Distance of bf16 embeddings from fp32 ones: in words; the largest over examples; and how much farther than the
    nearest neighbour in fp32 the one in bf16 is, the largest over examples. Both as shares of the median distance
    between examples, since with random weights all cosines are near 1.
    """
    of_fp32, of_bf16 = (np.linalg.norm(values[:, None] - values[None], axis=2) for values in (fp32, bf16))
    median = np.median(of_fp32[~np.eye(len(fp32), dtype=bool)])
    share = float(np.linalg.norm(bf16 - fp32, axis=1).max() / median)
    for distances in (of_fp32, of_bf16):
        np.fill_diagonal(distances, np.inf)
    neighbour = of_bf16.argmin(1)
    same = (of_fp32.argmin(1) == neighbour).mean()
    words = f"off by {share:.2f} of the median distance, {same:.0%} keep their neighbour"
    farther = float((of_fp32[np.arange(len(fp32)), neighbour] - of_fp32.min(1)).max() / median)
    return words + (f", others take one {farther:.2g} farther" if same < 1 else ""), share, farther


# The rows -------------------------------------------------------------------------------------------------------------


def audio_rows(sizes: Sizes, audio: Path, metadata: Path) -> list[Row]:
    """Files to audio embeddings, fp32 and bf16, against laion-clap and Hugging Face."""
    module, clap = networks(sizes.text_layers)
    half = replace(clap, precision="bf16")
    hugging_face = alternatives.hugging_face_audio()
    paths = clips_of(audio, sizes.clips)
    embedders = {
        "laion-clap": lambda paths: alternatives.laion_audio(module, paths),
        "fp32": lambda paths: clap.embed_audio(paths, progress=False),
        "ClapModel": hugging_face,
    }
    if bf16_pays():
        embedders["bf16"] = lambda paths: half.embed_audio(paths, progress=False)
    targets = {"fp32": 1.6, "bf16": 2.3, "fp32, OpenVINO": 1.8, "bf16, OpenVINO": 2.9}
    for precision in [name for name in ("fp32", "bf16") if name in embedders]:
        by_openvino = replace(clap, precision=precision, engine="openvino")
        embedders[f"{precision}, OpenVINO"] = partial(by_openvino.embed_audio, progress=False)
    for embed in embedders.values():
        embed(paths[:2])
    seconds, result = alternate_parts(embedders, paths, sizes)
    judged = {}
    for name in [name for name in targets if name in seconds]:
        if name.startswith("fp32"):
            error = float(np.abs(result[name] - result["laion-clap"]).max())
            judged[name] = targets[name], f"{error:.0e} from laion-clap", error <= 1e-5
        else:
            check, share, farther = distance(result[name], result["fp32"])
            judged[name] = targets[name], check, share <= 0.15 and farther <= NEIGHBOUR_TOLERANCE
    # The target holds against the faster of the two; the other has none.
    rivals = sorted(("laion-clap", "ClapModel"), key=lambda name: np.median(seconds[name]))
    return [
        Row(f"files → audio embeddings, {precision}", name, seconds[precision], seconds[name], goal, check, correct)
        for precision, (target, check, correct) in judged.items()
        for name, goal in zip(rivals, (target, None), strict=True)
    ]


def text_rows(sizes: Sizes, audio: Path, metadata: Path) -> list[Row]:
    """Texts to embeddings, fp32 and bf16, against laion-clap's texts padded to 77 tokens."""
    module, clap = networks(sizes.text_layers)
    half = replace(clap, precision="bf16")
    texts, batch = texts_of(metadata, sizes.texts), 64

    @torch.no_grad()
    def laion(texts: Sequence[str]) -> np.ndarray:
        def tokenizer(part):
            return alternatives.padded_tokens(clap.tokenizer, part)

        calls = [texts[first : first + batch] for first in range(0, len(texts), batch)]
        return np.concatenate([module.get_text_embedding(list(call), tokenizer) for call in calls])

    embedders = {"laion-clap": laion, "fp32": lambda texts: clap.embed_text(texts, progress=False)}
    if bf16_pays():
        embedders["bf16"] = lambda texts: half.embed_text(texts, progress=False)
    for embed in (laion, clap.embed_text, half.embed_text):
        embed(texts[:2])
    seconds, result = alternate_parts(embedders, texts, sizes)
    error = float(np.abs(result["fp32"] - result["laion-clap"]).max())
    rows = [
        Row(
            "texts → embeddings, fp32",
            "laion-clap",
            seconds["fp32"],
            seconds["laion-clap"],
            2.5,
            f"{error:.0e} from laion-clap",
            error <= 1e-5,
        )
    ]
    if "bf16" in seconds:
        check, share, _ = distance(result["bf16"], result["fp32"])  # equal titles have the same neighbours
        both = seconds["bf16"], seconds["laion-clap"]
        rows.append(Row("texts → embeddings, bf16", "laion-clap", *both, 5.0, check, share <= 0.15))
    return rows


def joint_rows(sizes: Sizes, audio: Path, metadata: Path) -> list[Row]:
    """A joint training step on 8 clips: forward, backward and the optimizer, against laion-clap's own modules."""
    (module, clap), batch = networks(sizes.text_layers), sizes.batch
    paths, texts = clips_of(audio, batch), texts_of(metadata, batch)
    torch.manual_seed(0)
    model = Model(ClapBackbone(clap.network), HafClassifier())
    target = hierarchical_targets(torch.arange(batch) % len(CLASSES))
    corpus = _corpus(np.arange(batch), texts)
    cut = [
        windows(samples, clap.config.audio.window_samples)[:1]
        for samples in (prepare(path, clap.config.audio.sample_rate) for path in paths)
    ]
    object.__setattr__(corpus, "samples", lambda row: cut[row][0])
    tokens = [encoding.ids for encoding in clap.tokenizer.encode_batch(texts)]
    presence = np.ones(batch, np.float32)
    inputs = {
        precision: LiveInputs(corpus, clap.config.audio.window_samples, tokens, presence, "cpu", precision)
        for precision in ("fp32", "bf16")
    }
    padded = alternatives.padded_tokens(clap.tokenizer, texts)
    waveforms = [{"waveform": torch.from_numpy(to_float(c[0]))} for c in cut]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

    def ours(precision: str) -> torch.Tensor:
        prepared = inputs[precision].prepare(np.arange(batch))
        return soft_cross_entropy(model.classifier(inputs[precision].embed(model, prepared)).logits, target)

    def theirs() -> torch.Tensor:
        module.model.train(model.training)
        features = (module.model.get_audio_embedding(waveforms), module.model.get_text_embedding(dict(padded)))
        return soft_cross_entropy(model.classifier(Features(*features, torch.ones(batch))).logits, target)

    def train(loss: Callable[[], torch.Tensor], steps: int) -> None:
        for _ in range(steps):
            loss().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    losses = {"laion-clap": theirs} | {
        precision: partial(ours, precision) for precision in ("fp32", "bf16") if precision == "fp32" or bf16_pays()
    }
    differences = {
        precision: gradient_difference(model, losses[precision], theirs) for precision in losses if precision in inputs
    }
    functions = {name: partial(train, loss, sizes.steps) for name, loss in losses.items()}
    before = {name: partial(train, loss, 1) for name, loss in losses.items()}
    model.train()
    seconds = alternate(functions, sizes.rounds, before)
    model.eval()
    goals = {"fp32": (1.6, 1e-4), "bf16": (2.6, 0.3)}  # times as fast; largest difference of gradients
    rows = []
    for precision, (whole, worst) in differences.items():
        target, limit = goals[precision]
        check = f"gradients differ by {whole:.1g} of their length, no tensor's by more than {worst:.1g}"
        both = seconds[precision], seconds["laion-clap"]
        work = f"joint training step of {batch}, {precision}"
        rows.append(Row(work, "laion-clap's modules", *both, target, check, whole <= limit and worst <= limit))
    return rows


def gradient_difference(model: nn.Module, one: Callable, other: Callable) -> tuple[float, float]:
    """‖g1 − g2‖ / ‖g2‖ of two losses' gradients, without dropout: over all parameters, and the largest of a single one
    whose gradient is not `NEGLIGIBLE`."""
    model.eval()
    gradients = []
    for loss in (one, other):
        model.zero_grad(set_to_none=True)
        loss().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad(set_to_none=True)
    first, second = gradients
    if first.keys() != second.keys():
        raise RuntimeError("the two sides give gradients to different parameters")
    difference = {name: float((first[name] - second[name]).norm()) for name in second}
    norm = {name: float(second[name].norm()) for name in second}
    whole = math.hypot(*norm.values())
    worst = max(difference[name] / norm[name] for name in second if norm[name] > NEGLIGIBLE * whole)
    return math.hypot(*difference.values()) / whole, worst


def _corpus(labels: np.ndarray, texts: Sequence[str] | None = None) -> Corpus:
    """A corpus of `labels` without anything on disk."""
    table = pd.DataFrame({"sound_id": [str(row) for row in range(len(labels))], "label": labels % len(CLASSES)})
    table = table.assign(text=texts or "a text", origin="bsd10k", uploader="", readable=True)
    return Corpus(table, {}, None, table.iloc[:0], ())


def epoch_rows(sizes: Sizes, audio: Path, metadata: Path) -> list[Row]:
    """An epoch on cached embeddings, against one .npy file a clip and modality through a DataLoader of 4 workers."""
    rng = np.random.default_rng(0)
    embeddings = [rng.standard_normal((sizes.cached, 512)).astype(np.float32) for _ in range(2)]
    corpus = _corpus(rng.integers(len(CLASSES), size=sizes.cached))
    rows = np.arange(sizes.cached)
    inputs = CachedInputs(*map(torch.from_numpy, embeddings), torch.ones(sizes.cached))
    recipe = resolve(FinetuneConfig(dataset="", runs="", profile="full", train="head"))
    model, target = Model(None, HafClassifier()), hierarchical_targets(torch.from_numpy(corpus.labels))
    optimizer = optimizer_of(model, recipe.classifier_rate, recipe.backbone_rate)
    state = optimizer, torch.optim.lr_scheduler.StepLR(optimizer, recipe.rates.halving_steps), Ema(model)
    with TemporaryDirectory() as folder:
        alternatives.NpyPairs.write(Path(folder), *embeddings)
        functions = {
            "official": alternatives.official_epoch(Path(folder), corpus.labels),
            # Includes a validation on one batch, which the official epoch leaves out.
            "hatr": lambda: train_hatr(inputs, corpus.labels, rows, rows[:64], epochs=1, quiet=True),
            "haf": lambda: train_epoch(model, inputs, rows, target, recipe, *state, epoch=0, quiet=True),
        }
        for function in functions.values():
            function()
        seconds = alternate(functions, sizes.rounds)
    against = "HATR from .npy files, 4 workers"
    return [
        Row(f"an epoch of {sizes.cached:,}, HATR", against, seconds["hatr"], seconds["official"], 1.6),
        Row(f"an epoch of {sizes.cached:,}, HAF-CLAP's head", against, seconds["haf"], seconds["official"], 5.0),
    ]


def metric_rows(sizes: Sizes, audio: Path, metadata: Path) -> list[Row]:
    """All scores of many predictions, and bootstrap replicates, against loops over classes and clips."""
    rng = np.random.default_rng(0)
    result = {}

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        truth = rng.integers(len(CLASSES), size=count)
        return truth, np.where(rng.random(count) < 0.7, truth, rng.integers(len(CLASSES), size=count))

    truth, predicted = drawn(sizes.predictions)
    listed = truth.tolist(), predicted.tolist()
    repeats = 100  # a single call is too short to be timed
    seconds = alternate(
        {
            "loop": lambda: result.update(loop=alternatives.loop_scores(*listed)),
            "ours": lambda: result.update(ours=[hierarchical_scores(truth, predicted) for _ in range(repeats)][0]),
        },
        sizes.rounds,
    )
    error = max(abs(result["loop"][name] - result["ours"][name]) for name in result["ours"])
    rows = [
        Row(
            f"all scores of {sizes.predictions:,} predictions",
            "loops over classes and clips",
            tuple(value / repeats for value in seconds["ours"]),
            seconds["loop"],
            100,
            f"scores differ by {error:.0e}",
            error <= 1e-9,
        )
    ]
    truth, predicted = drawn(sizes.resampled)
    replicate = alternatives.loop_bootstrap(truth, predicted, rng)

    def looped() -> None:
        result["replicates"] = [next(replicate)["hF"] for _ in range(sizes.looped_replicates)]

    seconds = alternate(
        {
            "loop": looped,
            "ours": lambda: result.update(bootstrap=bootstrap(truth, predicted, rng, sizes.replicates)["hF"][0]),
        },
        sizes.rounds,
    )
    low, high = result["bootstrap"].min(), result["bootstrap"].max()
    scale = sizes.replicates / sizes.looped_replicates  # every replicate of the loop costs the same
    rows.append(
        Row(
            f"{sizes.replicates:,} bootstrap replicates of {sizes.resampled:,} clips",
            f"loops ({sizes.looped_replicates} replicates timed)",
            seconds["ours"],
            tuple(scale * value for value in seconds["loop"]),
            100,
            "the loop's scores lie among ours",
            bool(all(low <= value <= high for value in result["replicates"])),
        )
    )
    return rows


def operations(branch: nn.Module, image: torch.Tensor) -> int:
    """Floating-point operations of HTSAT on one image (1, 1, spec_size, spec_size), by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter:
        encode(branch, image)
    return counter.get_total_flops()


def matmul_rows(sizes: Sizes, audio: Path, metadata: Path) -> list[Row]:
    """HTSAT's forward pass from images on, as `embed_audio` does it, its operations counted, against the rate of a
    large fp32 matrix product by PyTorch, and by `fast.ops.linear` (oneDNN, where the processor has AVX-512)."""
    (_, clap), batch, threads = networks(sizes.text_layers), sizes.batch, torch.get_num_threads()
    images = torch.randn(threads * batch, 1, clap.config.spec_size, clap.config.spec_size)
    branch = clap.network.audio_branch

    @torch.inference_mode()
    def forward(part: torch.Tensor) -> torch.Tensor:
        return encode(branch, part)

    matrix = torch.randn(sizes.matrix, sizes.matrix)
    layer = nn.Linear(sizes.matrix, sizes.matrix, bias=False)
    work, product = len(images) * operations(branch, images[:1]), 2 * sizes.matrix**3
    with torch.inference_mode():
        repeats = max(1, round(work / product))  # so that all take about as long
        functions = {
            "htsat": lambda: list(in_threads(forward, images.split(batch), clap.device)),
            "PyTorch's": lambda: [matrix @ matrix for _ in range(repeats)],
            "oneDNN's": lambda: [linear(layer, matrix) for _ in range(repeats)],
        }
        for function in functions.values():
            function()
        seconds = alternate(functions, 4 * sizes.rounds)
    # Seconds for as many operations as one product has.
    ours = tuple(value * product / work for value in seconds["htsat"])
    per_clip, rows = work / len(images) / 1e9, []
    for name, goal in (("PyTorch's", 0.8), ("oneDNN's", None)):
        theirs = tuple(value / repeats for value in seconds[name])
        check = f"{product / np.median(theirs) / 1e9:.0f} GFLOP/s in the product, {per_clip:.1f} GFLOP a clip"
        what = f"{sizes.matrix}³ matrix product, {name}"
        rows.append(Row("HTSAT forward, fp32: share of the matrix rate", what, ours, theirs, goal, check))
    return rows


ROWS: dict[str, Callable[[Sizes, Path, Path], list[Row]]] = {
    "audio": audio_rows,
    "text": text_rows,
    "joint": joint_rows,
    "epoch": epoch_rows,
    "metrics": metric_rows,
    "matmul": matmul_rows,
}
