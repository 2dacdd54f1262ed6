"""Train the mini PaSST, stand-in for PaSST's AudioSet weights, to tag clips with the words of their captions.

    python data/train_passt_mini.py [--clips 16600] [--epochs 10] [--scratch build/passt-mini] [--out data/passt-mini]

AudioSet's weights come from multi-label tagging with 527 tags; here the tags are the frequent content words of what
uploaders wrote and of the kind of sound. The clips come from the generator of the embedded dataset, but with another
seed, other uploaders and wider recipe ranges. Classes are no targets: nothing reads a clip's class, and no word of a
class's name is a tag. At the end, a linear probe compares the result with the mini CLAP and with random weights on the
embedded dataset, which data/make_mini.py makes.
Stopped and started again, training goes on after the last finished epoch.
"""

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm
from train_clap_mini import Clips

from haf_utils.audio import prepare, random_window, windows
from haf_utils.captions import freesound_text
from haf_utils.clap import load_clap
from haf_utils.datasets import load_bsd
from haf_utils.folds import official_folds
from haf_utils.inputs import clip_generator, torch_seed
from haf_utils.io.checkpoints import write_state
from haf_utils.io.files import atomic_write, write_json
from haf_utils.metrics import hierarchical_scores
from haf_utils.passt import PasstNetwork, build_passt
from haf_utils.profiles import PROFILES, REPOSITORY
from haf_utils.regularizers import Ema
from haf_utils.taxonomy import NAMES, TOP_NAMES

SEED = 2000  # of the generator: neither an embedded dataset nor the mini CLAP has these clips
HELD_OUT = 600  # clips, the last drawn, on which tagging is measured
WORD = r"[^\W\d_]{3,}"  # three letters or more
LEAST = 0.005  # share of the clips whose captions hold a word, for it to be a tag


def caption(text) -> str:
    """What captions say of a clip: its metadata, if they tell anything, and the kind of sound. No class is read."""
    return f"{freesound_text(text['title'], text['tags'], text['description'])} {text['recipe']}".strip()


def tagger(captions: list[str]) -> CountVectorizer:
    """Fitted: `transform` gives tags (N, words) in {0, 1} of captions; function words and classes' names are none."""
    names = " ".join([*NAMES.values(), *TOP_NAMES.values()])
    never = ENGLISH_STOP_WORDS.union(CountVectorizer(token_pattern=WORD).fit([names]).vocabulary_)
    return CountVectorizer(token_pattern=WORD, stop_words=list(never), min_df=LEAST, binary=True).fit(captions)


def embed(network: PasstNetwork, waveforms: list[np.ndarray]) -> torch.Tensor:
    """Embeddings (N, dim) of clips, int16 (n,), the mean over the fixed windows of each."""
    with torch.inference_mode():
        return torch.stack(
            [network(torch.from_numpy(windows(w, network.config.window_samples))).mean(0) for w in waveforms]
        )


def probe(embeddings: np.ndarray, labels: np.ndarray) -> str:
    """Accuracy and hF of logistic regression, trained and tested on parts of official fold 0."""
    train, _, test = official_folds(labels)[0]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    predicted = classifier.fit(embeddings[train], labels[train]).predict(embeddings[test])
    scores = hierarchical_scores(labels[test], predicted)
    return f"accuracy {100 * scores['accuracy']:.1f} %, hF {100 * scores['hF']:.1f}"


def train_epoch(model: nn.Module, clips: Clips, targets: torch.Tensor, optimizer, schedule, ema: Ema, epoch, options):
    """One pass over the clips that `targets` (N, words) has rows for -> mean loss. The epoch decides what is drawn.

    model: waveforms -> logits (B, words); optimizer and schedule take a step a batch.
    """
    order = clip_generator(options.seed, "order", epoch).permutation(len(targets))
    batches = np.split(order[: len(order) // options.batch * options.batch], len(order) // options.batch)
    losses = []
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(options.seed, "patchout", epoch))
        for rows in tqdm(batches, desc=f"epoch {epoch + 1}", leave=False):
            waveforms = np.empty((len(rows), model[0].config.window_samples), np.int16)
            for row, place in zip(rows, waveforms, strict=True):
                random_window(clips.samples(str(row)), clip_generator(options.seed, "clip", epoch, int(row)), place)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                logits = model(torch.from_numpy(waveforms))
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets[rows], reduction="sum") / len(rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            ema.update(model)
            losses.append(loss.item())
    return np.mean(losses)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=16_600, help="to draw, the last of them held out")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--stop-after", type=int, help="so many epochs in all; the same command without it goes on")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--dataset", type=Path, default=REPOSITORY / "data" / "mini", help="of the linear probe")
    parser.add_argument("--scratch", type=Path, default=REPOSITORY / "build" / "passt-mini")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data" / "passt-mini")
    options = parser.parse_args(arguments)
    embedded = load_bsd(options.dataset / "BSD10k")  # before anything that takes long: it may be absent
    config = PROFILES["mini"].passt
    clips = Clips(options.scratch, options.clips, config.sample_rate, SEED)
    captions = [caption(text) for text in clips.texts.drop(columns="code").to_dict("records")]
    first = options.clips - min(HELD_OUT, options.clips // 10)  # of the clips held out
    vectorizer = tagger(captions[:first])
    words, tags = vectorizer.get_feature_names_out().tolist(), vectorizer.transform(captions).toarray()
    targets = torch.from_numpy(tags[:first]).float()
    held_out = [clips.samples(str(row)) for row in range(first, options.clips)]
    occurring = tags[first:].any(0)  # other words have no average precision

    network = build_passt(config, seed=options.seed)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = nn.Sequential(network, nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, len(words))))
    with torch.no_grad():  # a word's chance from the beginning, or the first epoch learns little else
        model[1][1].bias.copy_(torch.logit(targets.mean(0), eps=1e-3))
    optimizer = torch.optim.AdamW(model.parameters(), options.rate, weight_decay=0.05)
    total = options.epochs * (len(targets) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=total, pct_start=0.1)
    ema, log = Ema(model, 0.998), []
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    recipe = {name: getattr(options, name) for name in ("clips", "epochs", "rate", "batch", "seed", "precision")}
    identity = {**recipe, **dataclasses.asdict(config), "words": words}
    file = options.scratch / "resume.pt"
    if file.exists():
        state = torch.load(file, weights_only=True)
        if state["identity"] != identity:
            raise SystemExit(f"{file} is of a training with other settings: choose another --scratch or remove it")
        log = state["log"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    for epoch in range(len(log), min(options.epochs, options.stop_after or options.epochs)):
        begin = time.process_time()
        loss = train_epoch(model, clips, targets, optimizer, schedule, ema, epoch, options)
        with torch.inference_mode():
            scores = ema.model[1](embed(ema.model[0], held_out)).numpy()
        precision = average_precision_score(tags[first:][:, occurring], scores[:, occurring], average="macro")
        seconds = time.process_time() - begin
        log.append(f"epoch {epoch + 1}: loss {loss:.4f}, held-out mAP {precision:.4f}, processor time {seconds:.0f} s")
        print(log[-1], flush=True)
        state = {name: part.state_dict() for name, part in parts.items()} | {"identity": identity, "log": log}
        atomic_write(file, lambda path, state=state: torch.save(state, path))

    weights = ema.model[0].network.state_dict()  # under PaSST's own names; large ones in fp16, half the size
    half = {name: value.half() if value.numel() > 2048 else value for name, value in weights.items()}
    write_state(half, options.out / "model.safetensors")
    write_json(options.out / "config.json", dataclasses.asdict(config) | {"words": words})
    waveforms = [prepare(path, config.sample_rate) for path in embedded["path"]]
    labels, passt = embedded["label"].to_numpy(), build_passt(config, options.out).eval()
    results = [
        f"{len(targets)} clips, {len(words)} words, {sum(p.numel() for p in network.parameters())} parameters",
        *log,
        f"linear probe on fold 0 of {options.dataset.name}/BSD10k, {len(labels)} clips:",
        f"  passt-mini: {probe(embed(passt, waveforms).numpy(), labels)}",
        f"  the same network, random weights: {probe(embed(build_passt(config).eval(), waveforms).numpy(), labels)}",
        f"  clap-mini: {probe(load_clap('data/clap-mini').embed_audio(waveforms, progress=False), labels)}",
        f"sha256 {hashlib.sha256((options.out / 'model.safetensors').read_bytes()).hexdigest()}",
    ]
    (options.out / "train.log").write_text("\n".join(results) + "\n")
    print("\n".join(results[len(log) + 1 :]))


if __name__ == "__main__":
    main()
