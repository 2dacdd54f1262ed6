"""Plan the embedded dataset: which clips there are, of which class and by whom, before any sound is made.

Labels of BSD10k are right. Labels of BSD35k-CS are wrong as a crowd's are: `crowd_label` adds what uploaders do by
title and by habit to the slips that `plan` draws. The harm is built in: on the real benchmark the crowd's hard labels
cost about 3 points of hF, where errors at random would help. The rates are set so that two simple controls lose as much
on average (`tools/crowd_harm.py`; data/README.md has the numbers); no other use of the crowd was looked at.
"""

import itertools
import re
import uuid
from dataclasses import dataclass, replace

import numpy as np

from generator.labels import CONFUSIONS, EVENTS, TITLE_WORDS
from generator.notes import NOTES
from generator.synthesis import RECIPES
from generator.texts import Uploader, draw_uploader, make_uploaders
from haf_utils.taxonomy import CLASSES

SOUND, TEXT, PLAN, HABIT = 1, 2, 3, 4  # streams of random numbers, part of a generator's seed
BY_TITLE = 0.5  # chance that an uploader chooses classes by words of the title
HABITS = 0.25  # chance, of an uploader and a class, that all its clips are filed under another one
SIBLING = 0.8  # chance that this one, or that of a slip, is a sibling
SAYS = {word: code for code, words in TITLE_WORDS.items() for word in words.split()}
# clips of each class in BSD35k-CS: the small one is unbalanced in the same way, but less
CROWD_COUNTS = (964, 1344, 2044, 2321, 293, 34, 43, 1360, 980, 50, 69, 4534, 1852, 1542, 1423, 730, 659, 839, 2000,
                4831, 383, 2573, 596)  # fmt: skip
FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal")
SOURCES = ("acoustic", "electronic", "synthetic")
QUALITIES = ("bright", "dark", "distortion", "fast_decay", "long_release", "multiphonic", "nonlinear_env", "percussive",
             "reverb", "tempo-synced")  # fmt: skip
# NSynth family and source -> instruments of `synthesis_music.NOTES`
NSYNTH = {
    ("bass", "synthetic"): ("synth bass",),
    ("bass", "electronic"): ("bass guitar",),
    ("brass", "acoustic"): ("trumpet",),
    ("flute", "acoustic"): ("flute",),
    ("guitar", "acoustic"): ("acoustic guitar",),
    ("keyboard", "acoustic"): ("piano",),
    ("keyboard", "electronic"): ("electric piano",),
    ("mallet", "acoustic"): ("marimba",),
    ("organ", "electronic"): ("organ",),
    ("reed", "acoustic"): ("clarinet", "saxophone"),
    ("string", "acoustic"): ("violin", "cello"),
    ("synth_lead", "synthetic"): ("synth lead",),
    ("vocal", "acoustic"): ("sung vowel",),
}


@dataclass(frozen=True)
class Size:
    """How many clips each layout gets; `curated` is a class, the others are in all; `shared` are in two datasets."""

    curated: int
    crowd: int
    evaluation: int
    events: int
    events_evaluation: int
    notes: int
    notes_valid: int
    shared: int


SIZES = {
    "mini": Size(40, 1150, 230, 700, 100, 600, 60, 16),
    # 8 a class is the least that five folds with a stratified validation part can be cut from
    "tiny": Size(8, 40, 23, 16, 6, 13, 6, 4),
}


@dataclass(frozen=True)
class Clip:
    """One audio file to be made. Clips of the same `sound` number are the same sound with the same text."""

    path: str
    sound: int
    code: str
    rate: int
    uploader: Uploader
    recipe: str | None = None


@dataclass(frozen=True)
class Note:
    """One NSynth note to be made: `record` is its entry in examples.json."""

    path: str
    sound: int
    name: str
    rate: int
    record: dict


def generator(seed, *numbers):
    """Give the random generator of one clip (or plan) and stream."""
    return np.random.default_rng([seed, *numbers])


def plan_clips(seed, codes, uploaders, numbers):
    """Draw uploader and sample rate of each clip: list of `Clip` without a path."""
    clips = []
    for code, number in zip(codes, numbers, strict=True):
        rng = generator(seed, number, PLAN)
        uploader = draw_uploader(code, uploaders, rng)
        # nearly all at one rate; a few others keep the resampling honest
        rate = int(rng.choice([32000, 44100, 16000], p=[0.88, 0.07, 0.05]))
        clips.append(Clip("", number, code, rate, uploader))
    return clips


def named(clip, folder, name):
    """Give a planned clip its place; one in nine is WAV, the others FLAC, which takes less room."""
    ending = "wav" if clip.sound % 9 == 3 else "flac"
    return replace(clip, path=f"{folder}/{name}.{ending}")


def plan(seed=0, size="mini"):
    """Draw all clips of a dataset: dict layout -> list of `Clip` or `Note`, and the labels that annotators gave.

    Returns (layouts, labels): labels is a dict from the path of a BSD clip to a class code. That of BSD10k is in its
    table; that of BSD35k-CS, right but for slips, is what `crowd_label` starts from.
    """
    counts = SIZES[size]
    rng = generator(seed, PLAN)
    people = make_uploaders(seed)
    strangers = make_uploaders(seed + 1, 60)
    numbers = itertools.count()
    ids = iter(rng.choice(np.arange(10_000, 800_000), 6000, replace=False).tolist())
    layouts, labels = {}, {}

    codes = rng.permutation(np.repeat(CLASSES, counts.curated)).tolist()
    curated = plan_clips(seed, codes, people, [next(numbers) for _ in codes])
    curated_ids = sorted(next(ids) for _ in codes)
    layouts["BSD10k"] = [named(clip, "BSD10k/audio", name) for clip, name in zip(curated, curated_ids, strict=True)]
    labels |= {clip.path: clip.code for clip in layouts["BSD10k"]}

    weights = np.sqrt(CROWD_COUNTS)
    codes = rng.choice(CLASSES, counts.crowd - counts.shared, p=weights / weights.sum()).tolist()
    crowd = plan_clips(seed, codes, people, [next(numbers) for _ in codes])
    both = rng.choice(len(curated), counts.shared, replace=False)
    crowd_ids = [next(ids) for _ in crowd] + [curated_ids[i] for i in both]
    crowd += [curated[i] for i in both]
    by_id = sorted(zip(crowd_ids, crowd, strict=True), key=lambda pair: pair[0])
    layouts["BSD35k-CS"] = [named(clip, "BSD35k-CS/audio", name) for name, clip in by_id]
    for clip in layouts["BSD35k-CS"]:
        labels[clip.path] = clip.code
        luck = rng.random()
        if luck < 0.16:  # a slip, but an understandable one
            labels[clip.path] = str(rng.choice(CONFUSIONS[clip.code], p=[SIBLING, 1 - SIBLING]))
        elif luck < 0.2:  # plainly wrong
            labels[clip.path] = str(rng.choice([code for code in CLASSES if code != clip.code]))
    for clip in layouts["BSD35k-CS"][:: max(1, counts.crowd // 12)]:
        top = clip.code.split("-")[0]
        labels[clip.path] = top if rng.random() < 0.2 else f"{top}-other"

    codes = np.resize(rng.permutation(CLASSES), counts.evaluation).tolist()
    hidden = plan_clips(seed, codes, people[:20] + strangers, [next(numbers) for _ in codes])
    layouts["evaluation"] = [
        named(clip, "evaluation/audio", uuid.UUID(bytes=rng.bytes(16), version=4)) for clip in hidden
    ]

    # FSD50K shares some clips with the two sets that it must not leak into
    options = [(code, recipe) for code in CLASSES for recipe in RECIPES[code] if recipe in EVENTS]
    for part, count in (("dev", counts.events), ("eval", counts.events_evaluation)):
        chosen = [options[i] for i in rng.integers(0, len(options), count)]
        clips = plan_clips(seed, [code for code, _ in chosen], strangers, [next(numbers) for _ in chosen])
        clips = [replace(clip, recipe=recipe) for clip, (_, recipe) in zip(clips, chosen, strict=True)]
        layouts[f"FSD50K {part}"] = [named(clip, f"FSD50K/FSD50K.{part}_audio", next(ids)) for clip in clips]
    # of classes whose every sound has a label there
    labelled = [code for code in CLASSES if all(recipe in EVENTS for recipe in RECIPES[code])]
    again = rng.choice([i for i, clip in enumerate(curated) if clip.code in labelled], counts.shared, replace=False)
    layouts["FSD50K dev"] += [named(curated[i], "FSD50K/FSD50K.dev_audio", curated_ids[i]) for i in again]
    layouts["FSD50K dev"] += [
        named(hidden[i], "FSD50K/FSD50K.dev_audio", next(ids))
        for i in rng.choice(
            [i for i, clip in enumerate(hidden) if clip.code in labelled], counts.shared // 2, replace=False
        )
    ]

    for part, count, instruments in (("train", counts.notes, 0), ("valid", counts.notes_valid, 500)):
        layouts[f"nsynth-{part}"] = plan_notes(rng, f"nsynth-{part}", count, instruments, numbers)
    return layouts, labels


def crowd_label(clip, title, label, seed):
    """Give the class code in the table of BSD35k-CS, from a clip's title and its label by `plan`.

    An uploader's ways depend on seed and name alone. The first word of the title in `TITLE_WORDS` decides for those who
    choose by title; a class that the uploader files under another one comes next. Other clips keep their label, and
    so do labels that are not part of the task.
    """
    if label not in CLASSES:
        return label
    rng = generator(seed, HABIT, *clip.uploader.name.encode())
    by_title = rng.random() < BY_TITLE
    chances = rng.random((len(CLASSES), 2))[CLASSES.index(clip.code)]
    said = [SAYS[word] for word in re.findall(r"[^\W\d_]+", title.lower()) if word in SAYS]
    if by_title and said:
        return said[0]
    if chances[0] < HABITS:
        return CONFUSIONS[clip.code][int(chances[1] >= SIBLING)]
    return label


def plan_notes(rng, folder, count, first_instrument, numbers):
    """Draw NSynth notes; instruments of the parts differ, as in NSynth."""
    notes, seen = [], set()
    kinds = tuple(NSYNTH)
    while len(notes) < count:
        family, source = kinds[len(notes) % len(kinds)]
        variant = int(rng.integers(0, 3))
        name = NSYNTH[family, source][variant % len(NSYNTH[family, source])]
        pitch = int(rng.integers(NOTES[name][1][0], NOTES[name][1][1] + 1))
        velocity = int(rng.choice([25, 50, 75, 100, 127]))
        instrument_name = f"{family}_{source}_{first_instrument + variant:03d}"
        note = f"{instrument_name}-{pitch:03d}-{velocity:03d}"
        if note in seen:
            continue
        seen.add(note)
        qualities = [
            velocity >= 100 and name != "synth bass",
            pitch < 45,
            name == "synth bass" and variant == 1,
            family in ("guitar", "mallet"),
            name in ("piano", "electric piano"),
            False,
            source == "synthetic" and variant == 2,
            family == "mallet",
            variant == 2,
            False,
        ]
        number = next(numbers)
        entry = {
            "note": number,
            "note_str": note,
            "instrument": first_instrument + kinds.index((family, source)) * 3 + variant,
            "instrument_str": instrument_name,
            "pitch": pitch,
            "velocity": velocity,
            "sample_rate": 16000,
            "qualities": [int(value) for value in qualities],
            "qualities_str": [name for name, value in zip(QUALITIES, qualities, strict=True) if value],
            "instrument_family": FAMILIES.index(family),
            "instrument_family_str": family,
            "instrument_source": SOURCES.index(source),
            "instrument_source_str": source,
        }
        notes.append(Note(f"{folder}/audio/{note}.wav", number, name, 16000, entry))
    return notes
