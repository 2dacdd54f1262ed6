"""A GPU comes to the numbers of a CPU, by the same code. Skipped where there is none."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.gpu import gpu_table
from haf_utils.audio import windows
from haf_utils.clap import load_clap
from haf_utils.experiment.predict import classify_files, find_recordings, load_system, predict_again
from haf_utils.experiment.workspace import finetune_config
from haf_utils.losses import hierarchical_targets, soft_cross_entropy
from haf_utils.model import ClapBackbone, Features, HafClassifier, Model
from haf_utils.passt import build_passt
from haf_utils.pretraining import pretrain
from haf_utils.profiles import Pretraining, profile
from haf_utils.runs import load_run
from haf_utils.taxonomy import CLASSES
from haf_utils.training import finetune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

CHECKPOINT = profile("mini").checkpoint
TEXTS = ["a dog barks", "", "rain on a tin roof, distant thunder", "piano " * 90]
SYSTEMS = {
    "head": {"train": "head"},
    "joint": {"epochs": 2},
    "recomputed": {"epochs": 1, "activation_checkpointing": True},
    "passt": {"system": "passt", "epochs": 1},
    "text_aux": {"system": "text_aux", "train": "head"},
}


def recordings() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    times = [np.arange(count) / 16_000 for count in (400, 20_000, 47_999, 70_000, 200_000)]
    return [
        (9000 * np.sin(2 * np.pi * 300 * (1 + row) * time) + rng.normal(0, 500, len(time))).astype(np.int16)
        for row, time in enumerate(times)
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embeddings(precision):
    on_cpu, on_gpu = load_clap(CHECKPOINT), load_clap(CHECKPOINT, device="cuda", precision=precision)
    for expected, found in (
        (on_cpu.embed_audio(recordings()), on_gpu.embed_audio(recordings())),
        (on_cpu.embed_audio(recordings()), on_gpu.embed_audio(recordings(), batch=2)),
        (on_cpu.embed_text(TEXTS), on_gpu.embed_text(TEXTS)),
    ):
        apart = np.linalg.norm(found - expected, axis=1).max()
        assert apart < (1e-4 if precision == "fp32" else 0.1), apart
    heard = on_cpu.embed_audio(recordings())
    apart = np.abs(on_gpu.zero_shot(heard) - on_cpu.zero_shot(heard)).max()
    assert apart < (1e-4 if precision == "fp32" else 0.1), apart


def test_a_passt_embedding():
    torch.manual_seed(0)
    network = build_passt(profile("tiny").passt, "random", 0).eval()
    heard = torch.from_numpy(np.concatenate([windows(r, network.config.window_samples) for r in recordings()]))
    with torch.no_grad():
        expected = network(heard)
        found = network.to("cuda")(heard.to("cuda")).cpu()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_gradients():
    """Of all parameters, through the fused attention and its bias, mel, RoBERTa's texts without padding."""
    gradients = {}
    for device in ("cpu", "cuda"):
        clap = load_clap(CHECKPOINT, device=device)
        torch.manual_seed(0)
        system = Model(ClapBackbone(clap.network), HafClassifier(clap.config.embedding)).to(device).eval()
        heard = torch.from_numpy(
            np.concatenate([windows(r, clap.config.audio.window_samples)[:1] for r in recordings()])
        )
        tokens = clap.tokenize([*TEXTS, "wind"])
        features = Features(
            system.backbone.embed_audio(heard.to(device)),
            system.backbone.embed_text({name: values.to(device) for name, values in tokens.items()}),
            torch.ones(5, device=device),
        )
        target = hierarchical_targets(torch.arange(5)).to(device)
        soft_cross_entropy(system.classifier(features).logits, target).backward()
        gradients[device] = {n: p.grad.cpu() for n, p in system.named_parameters() if p.grad is not None}
    assert gradients["cpu"].keys() == gradients["cuda"].keys()
    for name, expected in gradients["cpu"].items():
        apart = (gradients["cuda"][name] - expected).norm()
        assert apart < 1e-3 * expected.norm() + 1e-6, name


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_repeats_and_what_it_learnt_is_the_same_on_a_cpu(tiny, system, precision):
    choices = {"epochs": 3} | SYSTEMS[system] | {"device": "cuda", "precision": precision}
    one, two = (
        finetune(finetune_config(tiny, name=f"{system}-{precision}-{take}", **choices), quiet=True) for take in "ab"
    )
    first, second = (load_run(folder).part("test") for folder in (one, two))
    # A GPU adds up in another order each time.
    assert np.abs(first.posteriors - second.posteriors).max() < (1e-3 if precision == "fp32" else 0.05)
    files = find_recordings([f"{tiny.dataset}/audio"])[:6]
    on_cpu, on_gpu = (
        classify_files([load_system(one, device=device)], files)[list(CLASSES)].to_numpy() for device in ("cpu", "cuda")
    )
    assert np.abs(on_cpu - on_gpu).max() < (1e-3 if precision == "fp32" else 0.05)
    repeated = predict_again(load_run(one), "test", 2, dataclasses.replace(tiny, device="cuda"))
    assert np.abs(repeated.posteriors - first.posteriors).max() < (1e-4 if precision == "fp32" else 0.01)


def test_continued_pretraining(tmp_path):
    table = pd.DataFrame(
        {"sound_id": [str(n) for n in range(5)], "source": "fsd50k", "captions": [[f"sound {n}"] for n in range(5)]}
    )
    heard = dict(zip(table["sound_id"], recordings(), strict=True))

    class Store:
        samples = staticmethod(heard.__getitem__)

    settings = Pretraining(epochs=3, batch=4, rate=1e-4, warmup=0.2, ema=0.9)
    weights = []
    for folder, stops in (("whole", [None]), ("in-parts", [1, None])):
        for stop in stops:
            clap = load_clap(CHECKPOINT, device="cuda", precision="bf16")
            history = pretrain(clap, table, {"fsd50k": Store()}, tmp_path / folder, settings, stop_after=stop)
        assert len(history) == 3 and np.isfinite(history["loss"]).all()
        weights.append(clap.network.audio_projection[0].weight.detach().cpu())
    begun = load_clap(CHECKPOINT).network.audio_projection[0].weight.detach()
    learnt, again = (after - begun for after in weights)
    assert learnt.norm() > 1e-4 and (again - learnt).norm() < 0.2 * learnt.norm()


def test_the_bench_measures_it(tmp_path):
    titles = pd.DataFrame(
        {"sound_id": range(8), "title": [f"title {n}" for n in range(8)], "tags": "a,b", "description": ""}
    )
    titles.to_csv(tmp_path / "titles.csv", index=False)
    table = gpu_table(tmp_path / "titles.csv", batch=4, steps=2, sizes=profile("mini"))
    assert table["note"].isna().all(), table["note"].dropna().tolist()
    assert (table["clips_per_second"] > 0).all() and table["share_waiting"].between(0, 1).all()
    assert (table["kernels"] > 100).all() and (table["kernel_milliseconds"] > 0).all()
    compiled = table["gradients_apart"].dropna()
    assert len(compiled) == 4 and (compiled < 0.1).all()
