"""Contrastive (continued) pretraining of CLAP on captioned clips.

The objective is CLAP's symmetric InfoNCE: in the similarity matrix of a batch, each clip is classified among the
captions of its row (temperature `logit_scale_a`) and each caption among the clips of its column (`logit_scale_t`).
laion-clap has two losses: its default uses one temperature for both directions, its optional "mlp loss" two
temperatures and two further networks. Ours takes the default's embeddings, which are the ones used later, with one
temperature a direction. The rates are ours; Adam's settings are laion-clap's.

All random draws (order, captions, windows, dropout) follow from (seed, epoch) alone, so that a resumed run reaches the
same weights as an uninterrupted one, on the CPU bit for bit.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from haf_utils.audio import random_window
from haf_utils.clap import Clap, empty_windows
from haf_utils.fast.threads import ahead
from haf_utils.inputs import clip_generator
from haf_utils.io.checkpoints import load_training, save_training
from haf_utils.io.progress import bar, line
from haf_utils.profiles import Pretraining
from haf_utils.regularizers import Ema

__all__ = ["caption_group", "contrastive_loss", "plan_epoch", "pretrain", "retrieval_scores"]

_MAX_SCALE = math.log(100.0)  # CLIP and laion-clap clamp the temperatures here


def contrastive_loss(
    audio: torch.Tensor, text: torch.Tensor, scale_a: torch.Tensor, scale_t: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE of B pairs. audio, text: (B, D), L2-normalised; scale_a, scale_t: scalars, 1 / temperature.

    `groups` (B,) int: pairs of one group (a caption that occurs twice in the batch) are not negatives of each other.
    Scalar; log(B) for equal similarities, 0 where every pair is matched with certainty.
    """
    similarity = audio @ text.T
    same = groups[:, None] == groups[None, :]
    same.fill_diagonal_(False)
    target = torch.arange(len(audio), device=audio.device)
    from_audio = F.cross_entropy((scale_a * similarity).masked_fill(same, -torch.inf), target)
    from_text = F.cross_entropy((scale_t * similarity.T).masked_fill(same, -torch.inf), target)
    return (from_audio + from_text) / 2


def caption_group(caption: str) -> int:
    """The same int64 for the same caption, up to case and surrounding space, in every process."""
    digest = hashlib.blake2b(caption.strip().casefold().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def plan_epoch(sources: np.ndarray, batch: int, shares: Mapping[str, float], seed: int, epoch: int) -> np.ndarray:
    """Rows of each batch of an epoch: int (steps, batch); no row occurs twice in an epoch.

    sources: (N,) of str. shares: the share of every batch that is drawn from a source; sources without one share the
    rest in proportion to their size. The epoch ends when a source is used up; clips that do not fill a last batch are
    left out, others in every epoch. Raises ValueError if not even one batch can be filled.
    """
    rng = clip_generator(seed, "order", epoch)
    counts = {source: round(share * batch) for source, share in shares.items() if (sources == source).any()}
    rest = np.flatnonzero(~np.isin(sources, list(counts)))
    pools = [(rng.permutation(np.flatnonzero(sources == source)), count) for source, count in counts.items()]
    if len(rest):
        pools.append((rng.permutation(rest), batch - sum(counts.values())))
    elif len(pools) == 1:  # nothing to mix it with
        pools = [(pools[0][0], batch)]
    if sum(count for _, count in pools) != batch or min(count for _, count in pools) < 0:
        raise ValueError(f"shares {dict(shares)} do not fill a batch of {batch}")
    steps = min(len(rows) // count for rows, count in pools if count)
    if steps == 0:
        raise ValueError(f"{len(sources)} captioned clips do not fill one batch of {batch} with the shares {shares}")
    return np.concatenate([rows[: steps * count].reshape(steps, count) for rows, count in pools], axis=1)


def check_captions(table: pd.DataFrame) -> None:
    """Raises ValueError that names the first row without a usable caption or with a repeated sound_id."""
    for column in ("sound_id", "source", "captions"):
        if column not in table:
            raise ValueError(f"the caption table has no column {column!r}: it needs sound_id, source and captions")
    for row, captions in enumerate(table["captions"]):
        texts = captions if isinstance(captions, (list, tuple)) else ()
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            where = f"row {row} of the caption table (sound_id {table['sound_id'].iat[row]})"
            raise ValueError(f"{where} has no caption or an empty one: {captions!r}; leave such rows out first")


def pretrain(
    clap: Clap,
    table: pd.DataFrame,
    stores: Mapping[str, object],
    folder,
    settings: Pretraining,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
    evaluate: Callable[[Clap], dict[str, float]] | None = None,
    stop_after: int | None = None,
) -> pd.DataFrame:
    """Train `clap` in place on captioned clips; afterwards it holds the EMA weights. Returns a row an epoch.

    table: sound_id, source, captions (list of str, one is drawn each time). stores: audio store of each source
    (anything with ``samples(sound_id)``). folder: keeps ``resume.pt``, written atomically after each epoch;
    called again with the same arguments, training goes on from there. shares: as in `plan_epoch`. evaluate: further
    columns of the history, from the EMA weights, after each epoch. stop_after: stop after that many epochs in all.

    Raises ValueError for a table that cannot be used or a folder of other settings; FloatingPointError that names the
    clips of the batch whose loss is not finite (the last epoch's checkpoint is kept).
    """
    check_captions(table)
    shares = {"nsynth": settings.nsynth_share} if shares is None else dict(shares)
    sources = table["source"].to_numpy()
    steps = len(plan_epoch(sources, settings.batch, shares, seed, 0))

    network = clap.network
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, settings.rate, betas=(0.9, 0.99), eps=1e-6)  # laion-clap's
    ema = Ema(network, settings.ema)
    schedule = _schedule(steps * settings.epochs, settings)
    identity = _identity(table, settings, seed, shares)
    file = Path(folder) / "resume.pt"
    history = _resume(file, identity, network, optimizer, ema)

    for epoch in range(len(history), min(settings.epochs, stop_after or settings.epochs)):
        begin, losses = time.perf_counter(), []
        plan = plan_epoch(sources, settings.batch, shares, seed, epoch)
        batches = ahead(lambda rows, epoch=epoch: _batch(clap, table, stores, rows, seed, epoch), plan, clap.device)
        network.train()
        with torch.random.fork_rng():
            # The 0 is no parameter: it keeps the random stream of the results published so far.
            torch.manual_seed(int(clip_generator(seed, "dropout", epoch, 0).integers(2**63)))
            for number, batch in enumerate(bar(batches, total=len(plan), description=f"epoch {epoch + 1}")):
                loss = _loss(clap, batch)
                if not torch.isfinite(loss):
                    ids = table["sound_id"].iloc[plan[number]].tolist()
                    where = f"in epoch {epoch + 1}, batch {number + 1}, with the clips {ids}"
                    raise FloatingPointError(f"the loss became {loss.item()} {where}; {file} holds the last good epoch")
                loss.backward()
                losses.append(loss.detach())
                for group in optimizer.param_groups:
                    group["lr"] = settings.rate * schedule(epoch * steps + number)
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    network.logit_scale_a.clamp_(0, _MAX_SCALE)
                    network.logit_scale_t.clamp_(0, _MAX_SCALE)
                ema.update(network)
        row = {"epoch": epoch + 1, "loss": torch.stack(losses).mean().item(), "rate": optimizer.param_groups[0]["lr"]}
        row |= {"scale_a": network.logit_scale_a.exp().item(), "scale_t": network.logit_scale_t.exp().item()}
        if evaluate is not None:
            row |= evaluate(dataclasses.replace(clap, network=ema.model))
        row["seconds"] = time.perf_counter() - begin
        history.append(row)
        line(f"epoch {epoch + 1} of {settings.epochs}: loss {row['loss']:.3f}")
        _save(file, identity, network, optimizer, ema, history)
    network.load_state_dict(ema.model.state_dict())
    network.eval()
    return pd.DataFrame(history)


def _batch(clap: Clap, table: pd.DataFrame, stores: Mapping, rows: np.ndarray, seed: int, epoch: int):
    """int16 windows (B, samples), tokens and caption groups (B,) of `rows`; random draws depend on clip and epoch."""
    waveforms, captions = empty_windows(len(rows), clap.config.audio.window_samples, clap.device), []
    clips = table.iloc[rows]
    columns = clips["sound_id"].astype(str), clips["source"], clips["captions"]
    for sound_id, source, choices, place in zip(*columns, waveforms.numpy(), strict=True):
        rng = clip_generator(seed, "clip", epoch, source, sound_id)
        captions.append(choices[rng.integers(len(choices))])
        random_window(stores[source].samples(sound_id), rng, place)
    groups = torch.tensor([caption_group(caption) for caption in captions])
    return waveforms, clap.tokenize(captions), groups


def _loss(clap: Clap, batch) -> torch.Tensor:
    waveforms, tokens, groups = batch
    waveforms = waveforms.to(clap.device, non_blocking=True)
    ids, mask = (tokens[key].to(clap.device, non_blocking=True) for key in ("input_ids", "attention_mask"))
    network = clap.network
    with clap.autocast():
        audio, text = network(waveforms, ids, mask, augment=True)
    scales = network.logit_scale_a.exp(), network.logit_scale_t.exp()
    return contrastive_loss(audio, text, *scales, groups.to(clap.device))


def _schedule(steps: int, settings: Pretraining) -> Callable[[int], float]:
    warm = max(1, round(settings.warmup * steps))
    rest = max(1, steps - warm)
    return lambda step: (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / rest))


def _identity(table: pd.DataFrame, settings: Pretraining, seed: int, shares: Mapping) -> str:
    """What a resumed run must agree on with the run that it continues."""
    clips = pd.util.hash_pandas_object(table["sound_id"].astype(str) + "\n" + table["captions"].map("\n".join))
    content = [dataclasses.asdict(settings), seed, dict(shares), int(clips.sum()), len(table)]
    return json.dumps(content, sort_keys=True)


def _save(file: Path, identity: str, network, optimizer, ema: Ema, history: list[dict]) -> None:
    state = {"identity": identity, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
    state |= {"ema": ema.state_dict(), "history": history}
    save_training(state, file)


def _resume(file: Path, identity: str, network, optimizer, ema: Ema) -> list[dict]:
    if not file.exists():
        return []
    state = load_training(file)
    if state["identity"] != identity:
        raise ValueError(f"{file} is of a run with other clips or settings: choose another folder or remove it")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    ema.load_state_dict(state["ema"])
    return state["history"]


def retrieval_scores(audio: np.ndarray, text: np.ndarray, groups: np.ndarray | None = None) -> dict[str, float]:
    """Retrieval of captions by clips and of clips by captions: R@1, R@5, R@10 and mAP@10, in [0, 1].

    audio, text: (N, D) L2-normalised embeddings of N pairs. groups: (N,) ints; pairs of one group (the same caption)
    are right answers for each other; without it only the query's pair is right. R@k is the share of queries with a
    right answer among the k nearest; mAP@10 is the mean over queries of the precision at each right answer among the
    ten nearest, divided by the number of right answers that could be there (DCASE's language-based retrieval).
    """
    groups = np.arange(len(audio)) if groups is None else np.asarray(groups)
    scores = {}
    for name, queries, items in (("audio_to_text", audio, text), ("text_to_audio", text, audio)):
        hits, possible = [], []
        for first in range(0, len(queries), 1024):
            similarity = queries[first : first + 1024] @ items.T
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
            query_groups = groups[first : first + 1024, None]
            hits.append(groups[nearest] == query_groups)
            possible.append((groups[None] == query_groups).sum(1))
        hits, possible = np.concatenate(hits), np.concatenate(possible)
        for k in (1, 5, 10):
            scores[f"{name}_R@{k}"] = float(hits[:, :k].any(1).mean())
        precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
        scores[f"{name}_mAP@10"] = float(((precision * hits).sum(1) / np.minimum(possible, 10)).mean())
    return scores
