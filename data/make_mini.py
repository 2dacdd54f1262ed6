"""Make the embedded dataset: synthesised sounds of all 23 classes, in the layouts of the real datasets.

    python data/make_mini.py [--out data/mini] [--seed 0] [--workers 2] [--size mini|tiny]

Writes BSD10k/, BSD35k-CS/, evaluation/, FSD50K/, nsynth-train/ and nsynth-valid/ under the output folder, beside them
`evaluation_truth.csv` (the hidden labels of the evaluation set, which no loader reads) and, last, `dataset.json`.
The same seed gives the same tables and samples, whatever the number of workers. Labels of BSD35k-CS are wrong on
purpose, and harm as the real ones do: see `generator.plan`.

`captioned_clips` draws any number of further clips with their texts, for pretraining.
"""

import argparse
import csv
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from generator.labels import DESCRIPTIONS, EVENTS, VOCABULARY, smear
from generator.notes import NOTES
from generator.parts import Draw, band, normalise, reverb
from generator.plan import PLAN, SIZES, SOUND, TEXT, Note, crowd_label, generator, plan, plan_clips
from generator.synthesis import record, synthesise
from generator.texts import OTHER_SYLLABLES, freesound_metadata, make_uploaders
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from haf_utils.taxonomy import CLASS_IDX, CLASSES, NAMES, TOP_NAMES

VERSION = 2  # of the recipes: a dataset of another version is made again
FOLDERS = ("BSD10k", "BSD35k-CS", "evaluation", "FSD50K", "nsynth-train", "nsynth-valid")
FIRST_PRETRAINING_SEED = 1000  # seeds below belong to embedded datasets, so that pretraining never sees one
BSD_COLUMNS = (
    "sound_id", "class", "class_idx", "class_top", "confidence", "uploader", "license", "title", "tags", "description",
)  # fmt: skip


# --- making one clip ------------------------------------------------------------------------------------------------


def to_int16(samples):
    """Quantise float samples in [-1, 1] to int16, same shape."""
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def render(clip, seed, variant="mini"):
    """Make a clip: (samples int16 (n,), dict of title, tags and description; empty for NSynth notes)."""
    rng = generator(seed, clip.sound, SOUND)
    if isinstance(clip, Note):
        return to_int16(render_note(clip, rng)), {}
    samples, attributes = synthesise(clip.code, rng, clip.rate, variant, clip.recipe)
    samples = record(samples, clip.uploader.conditions, rng, clip.rate)
    text = freesound_metadata(clip.code, attributes, clip.uploader, generator(seed, clip.sound, TEXT))
    return to_int16(samples), {**text, "recipe": attributes["recipe"]}


def render_note(note, rng):
    """Play one NSynth note (24,000 samples: 1.5 s instead of NSynth's 4): float32 within [-1, 1]."""
    draw = Draw(rng, note.rate)
    function, _, (shortest, longest) = NOTES[note.name]
    seconds = min(draw.near(shortest, longest), 1.3)
    samples = np.zeros(int(1.5 * note.rate), np.float32)
    played = normalise(function(draw, note.record["pitch"], seconds))[: len(samples)]
    samples[: len(played)] = played
    if "reverb" in note.record["qualities_str"]:
        samples = reverb(samples, draw, 0.8, 0.4)
    if "bright" not in note.record["qualities_str"]:
        samples = band(samples, draw, high=3500)
    return normalise(samples, 0.15 + 0.7 * note.record["velocity"] / 127)


def write(clip, seed, root):
    """Make one clip and write it: (sha256 of the samples, number of samples, text)."""
    samples, text = render(clip, seed)
    path = root / clip.path
    soundfile.write(path, samples, clip.rate, subtype="PCM_16", format=path.suffix[1:].upper())
    return hashlib.sha256(samples.tobytes()).hexdigest(), len(samples), text


def write_many(job):
    """Write a list of clips, in a worker."""
    clips, seed, root = job
    with threadpool_limits(1):  # so that sums are added in one order, and workers do not compete
        return [write(clip, seed, root) for clip in clips]


def caption_many(job):
    """Make captioned clips, in a worker."""
    clips, seed = job
    with threadpool_limits(1):
        return [(*render(clip, seed, "general"), clip.code) for clip in clips]


def in_workers(function, jobs, workers):
    """Map a function over jobs in order, in this process if there is one worker."""
    if workers == 1:
        yield from map(function, jobs)
        return
    # spawned, not forked: the caller may hold threads (torch, an audio server)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, jobs)


def captioned_clips(count, seed, workers=2, sample_rate=32000) -> Iterator[tuple[np.ndarray, dict]]:
    """Draw `count` clips with their texts for pretraining, lazily and in order.

    Yields (samples, text): int16 (n,) mono at `sample_rate`, 0.04 to 6 s long; a dict with `title`, `tags` (a comma
    list), `description`, `code` and `recipe`. Classes are uniform. Seed (at least 1000), uploaders and recipe ranges
    differ from those of any embedded dataset; the result does not depend on `workers`.
    """
    if seed < FIRST_PRETRAINING_SEED:
        raise ValueError(f"seed {seed}: seeds below {FIRST_PRETRAINING_SEED} belong to embedded datasets")
    people = make_uploaders(seed, 400, OTHER_SYLLABLES)

    def jobs():
        for start in range(0, count, 32):
            numbers = range(start, min(start + 32, count))
            codes = [str(generator(seed, number, PLAN, 1).choice(CLASSES)) for number in numbers]
            clips = plan_clips(seed, codes, people, numbers)
            yield [replace(clip, rate=sample_rate) for clip in clips], seed

    # in portions, because a process pool would otherwise make all clips at once and keep them
    waiting = jobs()
    while portion := list(itertools.islice(waiting, 32 * workers)):
        for made in in_workers(caption_many, portion, workers):
            for samples, text, code in made:
                yield samples, {**text, "code": code}


# --- tables ---------------------------------------------------------------------------------------------------------


def as_csv(rows):
    """Write rows as CSV text, the same on every system."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def bsd_tables(folder, clips, texts, labels, confidences):
    """Give the two tables of a dataset in BSD layout: dict path -> text."""
    rows = [BSD_COLUMNS]
    for clip, text, confidence in zip(clips, texts, confidences, strict=True):
        code = labels[clip.path]
        top = code.split("-")[0]
        index = CLASS_IDX.get(code, 100 * (1 + list(TOP_NAMES).index(top)) + (99 if "-" in code else 0))
        about = (clip.uploader.name, clip.uploader.license, text["title"], text["tags"], text["description"])
        rows.append((Path(clip.path).stem, code, index, top, confidence, *about))
    taxonomy = [("class_key", "class_idx", "class_key_long", "top_level", "second_level", "description", "examples")]
    for code in CLASSES:
        top, name = TOP_NAMES[code.split("-")[0]], NAMES[code]
        taxonomy.append((code, CLASS_IDX[code], f"{top} - {name}", top, name, *DESCRIPTIONS[code]))
    return {
        f"{folder}/metadata/{folder}_metadata.csv": as_csv(rows),
        f"{folder}/metadata/BST_description.csv": as_csv(taxonomy),
    }


def event_tables(part, clips, texts, seed):
    """Give ground truth and clip information of a part of FSD50K: dict path -> text."""
    header = ("fname", "labels", "mids", "split")
    rows = [header if part == "dev" else header[:3]]
    information = {}
    for clip, text in zip(clips, texts, strict=True):
        labels = smear(EVENTS[text["recipe"]])
        name = Path(clip.path).stem
        split = ("val" if generator(seed, clip.sound, PLAN, 2).random() < 0.1 else "train",) if part == "dev" else ()
        rows.append((name, ",".join(labels), ",".join(VOCABULARY[label][0] for label in labels), *split))
        information[name] = {
            "title": text["title"],
            "description": text["description"],
            "tags": text["tags"].split(",") if text["tags"] else [],
            "license": clip.uploader.license,
            "uploader": clip.uploader.name,
        }
    return {
        f"FSD50K/FSD50K.ground_truth/{part}.csv": as_csv(rows),
        f"FSD50K/FSD50K.metadata/{part}_clips_info_FSD50K.json": json.dumps(information, indent=1) + "\n",
    }


def tables(layouts, labels, texts, seed):
    """Give all tables of the dataset: dict path -> text. `texts` maps the path of a clip to its text."""
    rng = generator(seed, PLAN, 3)
    found = {layout: [texts[clip.path] for clip in clips] for layout, clips in layouts.items()}
    sure = rng.choice(5, len(layouts["BSD10k"]), p=[0.01, 0.04, 0.15, 0.35, 0.45]) + 1
    result = bsd_tables("BSD10k", layouts["BSD10k"], found["BSD10k"], labels, sure.tolist())
    crowd = layouts["BSD35k-CS"]
    labels = labels | {
        clip.path: crowd_label(clip, texts[clip.path]["title"], labels[clip.path], seed) for clip in crowd
    }
    result |= bsd_tables("BSD35k-CS", crowd, found["BSD35k-CS"], labels, [""] * len(crowd))
    hidden = [("anonymous_id", "title", "tags", "description")]
    truth = [("anonymous_id", "class")]
    for clip, text in zip(layouts["evaluation"], found["evaluation"], strict=True):
        hidden.append((Path(clip.path).stem, text["title"], text["tags"], text["description"]))
        truth.append((Path(clip.path).stem, clip.code))
    result["evaluation/metadata/evaluation_metadata.csv"] = as_csv(hidden)
    result["evaluation_truth.csv"] = as_csv(truth)
    for part in ("dev", "eval"):
        result |= event_tables(part, layouts[f"FSD50K {part}"], found[f"FSD50K {part}"], seed)
    vocabulary = [(index, label, VOCABULARY[label][0]) for index, label in enumerate(sorted(VOCABULARY))]
    result["FSD50K/FSD50K.ground_truth/vocabulary.csv"] = as_csv(vocabulary)
    for part in ("train", "valid"):
        examples = {note.record["note_str"]: note.record for note in layouts[f"nsynth-{part}"]}
        result[f"nsynth-{part}/examples.json"] = json.dumps(examples, indent=1) + "\n"
    return result


def digest(texts):
    """Give the sha256 of a dict path -> text."""
    return hashlib.sha256("".join(f"{path}\n{texts[path]}" for path in sorted(texts)).encode()).hexdigest()


# --- the command ----------------------------------------------------------------------------------------------------


def up_to_date(out, seed, size):
    """Tell whether the folder holds this very dataset, complete: its tables are hashed and its files counted."""
    try:
        summary = json.loads((out / "dataset.json").read_text())
        if [summary["version"], summary["seed"], summary["size"]] != [VERSION, seed, size]:
            return False
        texts = {path: (out / path).read_bytes().decode() for path in summary["tables"]}
        files = sum(path.suffix in (".wav", ".flac") for folder in FOLDERS for path in (out / folder).rglob("*.*"))
        return digest(texts) == summary["tables_sha256"] and files == sum(summary["clips"].values())
    except (OSError, ValueError, KeyError):
        return False


def make(out="data/mini", seed=0, size="mini", workers=2, progress=True):
    """Make the embedded dataset in the folder `out`, unless it is there: the content of its dataset.json.

    Everything is written beside its place and renamed when complete; dataset.json comes last, so that an interrupted
    run leaves none. Refuses to overwrite folders that it did not make.
    """
    out = Path(out)
    if up_to_date(out, seed, size):
        print(f"{out}: up to date (seed {seed}, size {size})")
        return json.loads((out / "dataset.json").read_text())
    partial = out / ".partial"
    foreign = [name for name in FOLDERS if (out / name).exists()]
    if foreign and not (out / "dataset.json").exists() and not partial.exists():
        raise FileExistsError(
            f"{out} holds {', '.join(foreign)} without a dataset.json: not made here, not overwritten"
        )

    layouts, labels = plan(seed, size)
    clips = [clip for layout in layouts.values() for clip in layout]
    shutil.rmtree(partial, ignore_errors=True)
    for folder in {str(Path(clip.path).parent) for clip in clips}:
        (partial / folder).mkdir(parents=True)
    jobs = [(clips[start : start + 16], seed, partial) for start in range(0, len(clips), 16)]
    results = []
    with tqdm(total=len(clips), desc="embedded dataset", unit=" clips", mininterval=0.5, disable=not progress) as bar:
        for made in in_workers(write_many, jobs, workers):
            results += made
            bar.update(len(made))

    texts = tables(layouts, labels, {clip.path: text for clip, (_, _, text) in zip(clips, results, strict=True)}, seed)
    for path, text in texts.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_text(text, encoding="utf-8", newline="")
    audio = digest({clip.path: sha for clip, (sha, _, _) in zip(clips, results, strict=True)})
    summary = {
        "version": VERSION,
        "seed": seed,
        "size": size,
        "clips": {layout: len(found) for layout, found in layouts.items()},
        "seconds": round(sum(length / clip.rate for clip, (_, length, _) in zip(clips, results, strict=True)), 1),
        "megabytes": round(sum((partial / clip.path).stat().st_size for clip in clips) / 1e6, 1),
        "tables": sorted(texts),
        "tables_sha256": digest(texts),
        "audio_sha256": audio,
    }
    (out / "dataset.json").unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
        os.replace(partial / name, out / name)
    os.replace(partial / "evaluation_truth.csv", out / "evaluation_truth.csv")
    (partial / "dataset.json").write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(partial / "dataset.json", out / "dataset.json")
    partial.rmdir()
    counts = ", ".join(f"{layout} {count}" for layout, count in summary["clips"].items())
    print(f"{out}: {counts} clips; {summary['seconds'] / 60:.0f} min of audio, {summary['megabytes']:.0f} MB")
    return summary


def whole_number(lowest):
    """Make an argparse type: a whole number of at least `lowest`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {lowest}")
        return value

    return parse


def main(arguments=None):
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mini", help="output folder")
    parser.add_argument("--seed", type=whole_number(0), default=0, help=f"below {FIRST_PRETRAINING_SEED}")
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes")
    parser.add_argument("--size", choices=tuple(SIZES), default="mini", help="tiny is for tests")
    options = parser.parse_args(arguments)
    if options.seed >= FIRST_PRETRAINING_SEED:
        parser.error(f"argument --seed: seeds from {FIRST_PRETRAINING_SEED} on belong to pretraining")
    try:
        make(options.out, options.seed, options.size, options.workers)
    except FileExistsError as error:
        parser.error(str(error))
    except OSError as error:  # a full disk, a clone of somebody else's
        advice = "make it elsewhere with --out, or name a dataset (dataset=…, --dataset, make run DATA=…)"
        sys.exit(f"error: {error}: {advice}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command makes it anew")
