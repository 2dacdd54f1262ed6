"""Continued pretraining on FSD50K and NSynth: the clips, their captions and the resulting checkpoint."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.audio import prepare
from haf_utils.captions import fsd50k_caption, nsynth_caption
from haf_utils.clap import Clap, load_clap, save_clap
from haf_utils.datasets import load_bsd, load_evaluation, load_fsd50k, load_nsynth, without
from haf_utils.experiment.assembly import checkpoint_digest, checkpoint_of
from haf_utils.experiment.code import changed_files, code_digests
from haf_utils.experiment.workspace import Workspace, finetune_config
from haf_utils.inputs import clip_generator
from haf_utils.io.files import atomic_write, write_json
from haf_utils.io.fingerprint import fingerprints, matches
from haf_utils.io.progress import line
from haf_utils.io.store import AudioStore, build_store
from haf_utils.pretraining import caption_group, pretrain, retrieval_scores
from haf_utils.profiles import Pretraining, profile

__all__ = ["CaptionedClips", "captioned", "continue_pretraining", "retrieval"]

PHRASINGS = 3  # captions a clip, of which each epoch draws one; ours
IN_EVALUATION = "FSD50K clips also in the evaluation set"
NOTES = 20_000  # of NSynth's 289,205, drawn at random: its few timbres repeat, and decoding all takes 110 GB; ours


@dataclass(frozen=True)
class CaptionedClips:
    """training, held_out: a row a clip with sound_id, source, path, captions (list of str); stores by source; removed:
    number of clips left out, by reason; digest: of the clips before those of the evaluation set, which may be added
    later, were removed."""

    training: pd.DataFrame
    held_out: pd.DataFrame
    stores: dict[str, AudioStore]
    removed: dict[str, int]
    digest: str


def captioned(space: Workspace, seed: int = 0, notes: int = NOTES) -> CaptionedClips:
    """FSD50K's and NSynth's clips in `space` with captions, without the clips that BSD is tested on.

    Removed: FSD50K's clips whose Freesound id is in BSD10k or BSD35k-CS, and those whose audio fingerprint is in the
    anonymous evaluation set. Held out, to measure retrieval on: FSD50K's eval part, and NSynth's valid and test.
    Raises ValueError where the workspace has neither dataset.
    """
    if not (space.fsd50k or space.nsynth):
        raise ValueError("continued pretraining needs FSD50K or NSynth: pass fsd50k= or nsynth=, their folders")
    tables, removed, digest = [], {}, hashlib.sha256()
    if space.fsd50k:
        table = load_fsd50k(space.fsd50k)
        known = [load_bsd(root) for root in (space.dataset, space.extra) if root]
        table, removed["FSD50K clips also in BSD"] = without(table, *known)
        digest.update("\n".join(table["sound_id"].astype(str)).encode())
        if space.evaluation:
            with_audio = table[table["path"].notna()]
            evaluation = load_evaluation(space.evaluation)["path"].dropna()
            pairs = matches(fingerprints(with_audio["path"]), fingerprints(evaluation))
            duplicate = table["sound_id"].isin(with_audio["sound_id"].iloc[pairs["a"]])
            removed[IN_EVALUATION] = int(duplicate.sum())
            table = table[~duplicate]
        table["captions"] = [
            _phrasings(lambda rng, c=clip: fsd50k_caption(c.labels, c.title, c.tags, c.description, rng), seed, clip)
            for clip in table.itertuples()
        ]
        tables.append(table.assign(held_out=table["part"] == "eval"))
    if space.nsynth:
        table = load_nsynth(space.nsynth)
        training = table["part"] == "train"
        if training.sum() > notes:
            chosen = np.random.default_rng(seed).permutation(np.flatnonzero(training))[:notes]
            table = pd.concat([table.iloc[np.sort(chosen)], table[~training][: notes // 10]])
        digest.update("\n".join(table["sound_id"].astype(str)).encode())
        clips = table.itertuples()
        table["captions"] = [_phrasings(lambda rng, c=c: nsynth_caption(c.record, rng), seed, c) for c in clips]
        tables.append(table.assign(held_out=table["part"] != "train"))
    stores = {}
    for table in tables:
        source = table["source"].iat[0]
        root = Path(space.scratch) / "stores" / source
        stores[source] = build_store(table, root, profile(space.profile).clap.audio.sample_rate, prepare)
        removed[f"{source} recordings that cannot be read"] = len(stores[source].lost)
    joined = pd.concat(tables, ignore_index=True)[["sound_id", "source", "path", "captions", "held_out"]]
    joined = joined[[row.sound_id in stores[row.source] and len(row.captions) > 0 for row in joined.itertuples()]]
    training, held = (joined[joined["held_out"] == part].reset_index(drop=True) for part in (False, True))
    return CaptionedClips(training, held, stores, removed, digest.hexdigest())


def _phrasings(make: Callable[[np.random.Generator], str], seed: int, clip) -> list[str]:
    """Up to `PHRASINGS` different captions, drawn from the seed and the clip's id; empty captions are left out."""
    rng = clip_generator(seed, "captions", str(clip.sound_id))
    return list(dict.fromkeys(filter(None, (make(rng) for _ in range(PHRASINGS)))))


def retrieval(clap: Clap, clips: pd.DataFrame, stores: dict[str, AudioStore]) -> dict[str, float]:
    """`pretraining.retrieval_scores` of `clap` on captioned clips: the first caption of each is the query."""
    captions = [captions[0] for captions in clips["captions"]]
    samples = [stores[row.source].samples(row.sound_id) for row in clips.itertuples()]
    groups = np.array([caption_group(caption) for caption in captions])
    audio, text = clap.embed_audio(samples, progress=False), clap.embed_text(captions, progress=False)
    return retrieval_scores(audio, text, groups)


def continue_pretraining(
    space: Workspace,
    data: CaptionedClips,
    name: str,
    sources: tuple[str, ...],
    settings: Pretraining,
    seed: int = 0,
    precision: str = "fp32",
) -> tuple[Clap, pd.DataFrame]:
    """Continue the profile's checkpoint on the captions of `sources` -> the CLAP and its history, a row an epoch.

    Writes the checkpoint folder `<runs>/<name>`, a value for `initialisation` of a run. Called again, it resumes after
    the last finished epoch, if the code is the same. A finished checkpoint, without the state to resume from, is used
    as it is; a line names changed files of the code. One of another start, other clips or settings is renamed
    `<name>~<digest>`.
    """
    start = checkpoint_of(finetune_config(space))
    clap = load_clap(start, space.tokenizer or None, space.device, precision)
    folder, module = Path(space.runs) / name, "haf_utils.experiment.continued"
    identity = {"start": checkpoint_digest(start, seed), "clips": data.digest, "sources": sorted(sources)}
    identity |= {"settings": dataclasses.asdict(settings), "seed": seed}
    file = folder / "pretraining.json"  # the record of a finished checkpoint; one of version 0.1 has none
    try:
        known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        _ = known and (known["identity"], known["evaluation"], known["code"].keys())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error!r}): move {folder} away and train again") from error
    finished = known and known["identity"] == identity
    code = known["code"] if finished else code_digests(module)
    key = hashlib.sha256(json.dumps([identity, code], sort_keys=True).encode()).hexdigest()[:12]
    training = folder / f"training-{key}"  # the state of a training that goes on
    if finished:
        if changed := changed_files(known["code"], module):
            line(f"{name}: made by other code: {', '.join(changed)}")
        late = data.removed.get(IN_EVALUATION, 0) if not known["evaluation"] else 0
        if late:
            line(f"{name}: trained before the evaluation set was there, on {late} clips that are in it")
        shutil.rmtree(training, ignore_errors=True)  # it is there where a kill came after the record
        return load_clap(folder, device=space.device, precision=precision), pd.read_csv(folder / "history.csv")
    if known or ((folder / "model.safetensors").is_file() and not training.is_dir()):
        kept = folder.with_name(f"{name}~{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:6]}")
        folder.rename(kept)
        line(f"{name}: a checkpoint of another start, other clips or settings is kept as {kept.name}")
    table = data.training[data.training["source"].isin(sources)].reset_index(drop=True)
    clips = data.held_out[data.held_out["source"].isin(sources)]
    evaluate = partial(retrieval, clips=clips, stores=data.stores) if len(clips) else None
    history = pretrain(clap, table, data.stores, training, settings, seed=seed, evaluate=evaluate)
    save_clap(clap.network, clap.tokenizer, folder)
    atomic_write(folder / "history.csv", lambda path: history.to_csv(path, index=False))
    record = {"identity": identity, "evaluation": bool(space.evaluation), "code": code}
    write_json(file, record)  # it marks the checkpoint as finished
    shutil.rmtree(training, ignore_errors=True)  # four times the size of the weights
    return clap, history
