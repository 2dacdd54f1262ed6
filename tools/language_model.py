"""Class probabilities from a language model that reads the metadata: prompts out, answers back in.

    python -m tools.language_model prompts DATASET PROMPTS.jsonl
    python -m tools.language_model answers PROMPTS.jsonl ANSWERS.jsonl POSTERIORS.csv

Between the two stands any batch interface. A line of PROMPTS has custom_id, sound_id, prompt; a line of ANSWERS has the
custom_id and, at any depth, the answer: an object of the 23 class codes, or a string that is one in JSON.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.datasets import load
from haf_utils.io.layouts import read_csv
from haf_utils.plots.data import headers
from haf_utils.posteriors import Posteriors, write
from haf_utils.taxonomy import CLASSES, NAMES, TOP_NAMES

TOLERANCE = 0.05  # of an answer's sum, which it is divided by; ours: 23 probabilities written with two decimals
PROMPT = """A sound clip was uploaded to Freesound. Judge by its metadata which of these classes it belongs to.

{classes}

Title: {title}
Tags: {tags}
Description: {description}
Duration: {duration}

Answer with one JSON object and nothing else: each of the 23 codes as a key, and the probability, 0 to 1, that the clip
is of this class as its value. The values sum to 1. Where the metadata leave it open, let the probabilities say so."""


def prompts(dataset: Path, out: Path) -> None:
    """Write a line a clip; custom_id depends on the prompt. Classes as BST_description.csv defines them, or by name."""
    file = dataset / "metadata" / "BST_description.csv"
    table = read_csv(file).set_index("class_key") if file.is_file() else pd.DataFrame()
    told = table.reindex(index=CLASSES, columns=["description", "examples"]).fillna("")
    names = [f"{code}: {TOP_NAMES[code.partition('-')[0]]}, {NAMES[code]}. " for code in CLASSES]
    classes = "\n".join((names + told.description + " Examples: " + told.examples).str.removesuffix(" Examples: "))
    clips = load(dataset)
    with open(out, "x", encoding="utf-8") as lines:
        for clip, seconds in zip(clips.itertuples(), headers(clips.path.fillna("")).seconds, strict=True):
            text = {name: getattr(clip, name) or "(none)" for name in ("title", "tags", "description")}
            prompt = PROMPT.format(classes=classes, duration=f"{seconds:.1f} s" if seconds > 0 else "(unknown)", **text)
            custom_id = hashlib.sha256(f"{clip.sound_id}\0{prompt}".encode()).hexdigest()[:32]
            lines.write(json.dumps({"custom_id": custom_id, "sound_id": clip.sound_id, "prompt": prompt}) + "\n")


def answers(asked: Path, answered: Path, out: Path) -> list[str]:
    """Write posteriors by usable answers, of several the first -> what is wrong. Raises ValueError where none is."""
    try:
        clips = {row["custom_id"]: row["sound_id"] for row in map(json.loads, asked.read_text("utf-8").splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{asked} holds no prompts ({error!r}): name the file of prompts, then the answers") from error
    found, problems = {}, []
    for number, line in enumerate(answered.read_text("utf-8").rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            name = str(row.pop("custom_id", None)) if isinstance(row, dict) else ""
            if name not in clips:
                raise ValueError(f"custom_id {name!r} is not in {asked}: answers belong to the prompts that they had")
            if found.setdefault(name, values := _probabilities(row)) is not values:
                raise ValueError(f"a second answer for sound_id {clips[name]}: the first is kept")
        except ValueError as error:
            problems.append(f"{answered}, line {number}: {error}")
    if missing := [sound_id for name, sound_id in clips.items() if name not in found]:
        problems.append(f"ask again: {len(missing)} of {len(clips)} clips have no usable answer: {', '.join(missing)}")
    if not found:
        raise ValueError("\n".join([*problems, f"{answered}: nothing is usable, nothing is written"]))
    write(out, Posteriors(np.array([clips[name] for name in found]), np.stack([*found.values()])))
    return problems


def _probabilities(row: dict) -> np.ndarray:
    """The answer in a line -> (23,), sum 1. Raises ValueError that says what it is instead."""
    if (answer := _answer(row)) is None:
        raise ValueError("the answer is prose, without a JSON object of class codes: ask again")
    if wrong := sorted(set(answer) ^ set(CLASSES)):
        raise ValueError(f"{', '.join(wrong)} {'is no class code' if wrong[0] in answer else 'is missing'}")
    for code, value in answer.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"{code} is {value!r}, no probability from 0 to 1")
    values = np.array([answer[code] for code in CLASSES], float)
    if abs(values.sum() - 1) > TOLERANCE:
        raise ValueError(f"the probabilities sum to {values.sum():.4g}, not to 1")
    return values / values.sum()


def _answer(value) -> dict | None:
    """The first object with class codes as keys in a JSON value, also in strings that are JSON, fenced or not."""
    if isinstance(value, str):
        text = value.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
        value = json.loads(text) if text.startswith("{") else None
    if isinstance(value, dict) and not set(CLASSES).isdisjoint(value):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_answer, inner)), None)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, 1 where clips lack a usable answer (the others are written), 2 where nothing was written."""
    command, *paths = (sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        if (command, len(paths)) not in (("prompts", 2), ("answers", 3)):
            raise ValueError(__doc__)
        problems = {"prompts": prompts, "answers": answers}[command](*map(Path, paths)) or []
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
