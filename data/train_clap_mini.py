"""Train the mini CLAP, stand-in for LAION's 630k checkpoint: tokenizer and network, from nothing.

    python data/train_clap_mini.py [--clips 12600] [--epochs 28] [--scratch build/clap-mini] [--out data/clap-mini]

The clips come from the generator of the embedded dataset, but with another seed, other uploaders and wider recipe
ranges. Their captions are what Freesound metadata says of them, a plain sentence, and keywords as AudioSet's labels
are: title, kind of sound, name of the class. Stopped and started again, it goes on after the last finished epoch.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from make_mini import captioned_clips
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm

from haf_utils.captions import freesound_text
from haf_utils.clap import Clap, ClapNetwork, load_clap, pad_tokens, roberta_tokenizer, save_clap
from haf_utils.pretraining import caption_group, contrastive_loss, pretrain, retrieval_scores
from haf_utils.profiles import PROFILES, REPOSITORY, Pretraining
from haf_utils.regularizers import Ema
from haf_utils.taxonomy import NAMES, TOP_NAMES

SEED = 1000  # of the generator; embedded datasets have seeds below
TEXT_BATCH = 256  # of the second stage: texts are cheap, and many negatives teach more
HELD_OUT = 600  # clips, the last drawn, on which retrieval is measured


class Clips:
    """Generated clips, kept in two files: all samples, and a line of JSON a clip."""

    def __init__(self, folder: Path, count: int, sample_rate: int, seed: int = SEED):
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / "clips.jsonl"
        if not done.exists() or len(done.read_text().splitlines()) != count:
            beside = folder / "clips.jsonl.tmp"
            with open(folder / "samples.int16", "wb") as samples, open(beside, "w") as texts:
                for clip, text in tqdm(captioned_clips(count, seed, sample_rate=sample_rate), total=count):
                    samples.write(clip.tobytes())
                    texts.write(json.dumps({"frames": len(clip), **text}) + "\n")
            beside.replace(done)
        self.texts = pd.read_json(done, lines=True, dtype=False, convert_dates=False)
        self.end = np.cumsum(self.texts["frames"].to_numpy())
        self._samples = np.memmap(folder / "samples.int16", np.int16, "r")

    def samples(self, sound_id: str) -> np.ndarray:
        """int16 (n,) of a clip; its id is its number."""
        number = int(sound_id)
        return np.asarray(self._samples[self.end[number] - self.texts["frames"].iat[number] : self.end[number]])


def captions(text) -> list[str]:
    """What may be said of a clip: its metadata, if they tell anything, a sentence and keywords."""
    kind, code = text["recipe"], text["code"]
    metadata = freesound_text(text["title"], text["tags"], text["description"])
    keywords = f"{kind}, {NAMES[code].lower()}, {TOP_NAMES[code.split('-')[0]].lower()}"
    return [metadata] * bool(metadata) + [f"The sound of {kind}.", keywords]


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with RoBERTa's special tokens at RoBERTa's numbers, cased as RoBERTa is."""
    tokenizer = roberta_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tune_text(options: argparse.Namespace) -> None:
    """Second stage: the text branch alone, towards audio embeddings that stay as they are.

    Locked-image tuning (Zhai et al., 2022) with sound for image: the first stage hears well and reads poorly. What an
    uploader wrote of a clip, a plain caption of it and its sound are drawn together, each with each. Audio is embedded
    once, so that a step costs no more than its texts.
    """
    begin = time.perf_counter()
    clap = load_clap(options.out, device=options.device)
    clips = Clips(options.scratch / "text", options.clips, clap.config.audio.sample_rate, SEED + 1)
    said = [captions(text) for text in clips.texts.to_dict("records")]
    rows = np.flatnonzero([len(each) == 3 for each in said])  # with usable metadata
    audio = torch.from_numpy(clap.embed_audio([clips.samples(str(row)) for row in rows])).to(clap.device)
    metadata, *plain = zip(*(said[row] for row in rows), strict=True)
    metadata_ids, *plain_ids = ([e.ids for e in clap.tokenizer.encode_batch(list(each))] for each in (metadata, *plain))
    metadata_group, plain_group = (torch.tensor([caption_group(c) for c in each]) for each in (metadata, plain[0]))

    network, rng = clap.network, np.random.default_rng(options.seed)
    network.requires_grad_(False)
    trained = [*network.text_branch.parameters(), *network.text_projection.parameters(), network.logit_scale_t]
    for parameter in trained:
        parameter.requires_grad_(True)
    network.text_branch.train()
    optimizer = torch.optim.AdamW(trained, options.text_rate, weight_decay=0.05)
    ema = Ema(network, 0.99)
    steps = len(rows) // TEXT_BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.text_rate, total_steps=options.text_epochs * steps, pct_start=0.1
    )

    def embed(ids: list[list[int]]) -> torch.Tensor:
        tokens = pad_tokens(ids)
        return network.text_embedding(*(tokens[name].to(clap.device) for name in ("input_ids", "attention_mask")))

    torch.manual_seed(options.seed)
    for epoch in range(options.text_epochs):
        losses = []
        for chosen in np.array_split(rng.permutation(len(rows))[: steps * TEXT_BATCH], steps):
            wrote = embed([metadata_ids[row] for row in chosen])
            caption = embed([plain_ids[rng.integers(len(plain_ids))][row] for row in chosen])
            heard, scale = audio[chosen], network.logit_scale_t.exp()
            pairs = (heard, wrote, metadata_group), (heard, caption, plain_group), (caption, wrote, plain_group)
            loss = sum(
                contrastive_loss(one, other, scale, scale, group[chosen].to(clap.device)) for one, other, group in pairs
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            ema.update(network)
            losses.append(loss.item() / len(pairs))
        print(f"text epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)
    save_clap(ema.model, clap.tokenizer, options.out, half=True)
    digest = hashlib.sha256((options.out / "model.safetensors").read_bytes()).hexdigest()
    print(f"{options.out}: {time.perf_counter() - begin:.0f} s, sha256 {digest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=12_600)
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", type=Path, default=REPOSITORY / "build" / "clap-mini")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data" / "clap-mini")
    parser.add_argument("--text", action="store_true", help="the second stage: the text branch alone, from --out")
    parser.add_argument("--text-epochs", type=int, default=14)
    parser.add_argument("--text-rate", type=float, default=2e-3)
    options = parser.parse_args()
    if options.text:
        tune_text(options)
        return
    begin, config = time.perf_counter(), PROFILES["mini"].clap
    clips = Clips(options.scratch, options.clips, config.audio.sample_rate)
    table = pd.DataFrame(
        {
            "sound_id": [str(number) for number in range(options.clips)],
            "source": "generator",
            "captions": [captions(text) for text in clips.texts.to_dict("records")],
        }
    )
    training, held_out = table[:-HELD_OUT], table[-HELD_OUT:]
    tokenizer = train_tokenizer([text for each in training["captions"] for text in each], config.vocab_size)
    tokenizer.enable_truncation(config.tokens)
    torch.manual_seed(options.seed)
    clap = Clap(ClapNetwork(config).to(options.device), tokenizer, torch.device(options.device), options.precision)

    asked = [each[0] for each in held_out["captions"]]
    heard = [clips.samples(sound_id) for sound_id in held_out["sound_id"]]
    groups = np.array([caption_group(caption) for caption in asked])

    def evaluate(current: Clap) -> dict[str, float]:
        audio, text = current.embed_audio(heard, progress=False), current.embed_text(asked, progress=False)
        return retrieval_scores(audio, text, groups)

    settings = Pretraining(epochs=options.epochs, batch=options.batch, rate=options.rate, warmup=0.05, ema=0.998)
    stores = {"generator": clips}
    history = pretrain(clap, training, stores, options.scratch, settings, options.seed, evaluate=evaluate)
    save_clap(clap.network, tokenizer, options.out, half=True)
    history.round(5).to_csv(options.out / "train.log", index=False)
    digest = hashlib.sha256((options.out / "model.safetensors").read_bytes()).hexdigest()
    print(f"{options.out}: {time.perf_counter() - begin:.0f} s, sha256 {digest}")


if __name__ == "__main__":
    main()
