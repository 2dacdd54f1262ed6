"""What the real benchmark says: systems that others trained, compared on real clips with this project's statistics.

Read are out-of-fold predictions in the official layout, `<variant>/<audio|both>/fold_<k>/evaluation/predictions.csv`;
where the clips' metadata are given, text classifiers of this project join them. Scores and differences are fractions.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, clone

from haf_utils.controls import metadata_classifier
from haf_utils.ensembles import fit_weights
from haf_utils.metrics import hierarchical_scores
from haf_utils.posteriors import Posteriors, read
from haf_utils.statistics import bootstrap, interval, mcnemar, paired_difference
from haf_utils.taxonomy import CLASSES
from tools.text_encoders import sentence_classifier

__all__ = [
    "LABEL",
    "blend",
    "cleaning_table",
    "cross_fit",
    "finding",
    "forest_groups",
    "geometric_mean",
    "read_variants",
    "variant_table",
    "word_table",
]

BASE = "base"  # name of the plain variant, which the others are compared with
CROWD = "combined"  # what names of variants trained on BSD35k-CS, too, start with
KINDS = ("mixup02", "convnext", "whisper", "cw_only", "xswap_noise")  # one variant of each kind of change
MODALITIES = ("audio", "both")
TEXT, AVERAGES, WORDS, CROWD_ADDED = "Text", "Averages", "Words of the metadata", "BSD35k-CS added, hard labels"
LABEL = (
    "difference in hF (points); networks read audio and text unless noted\n"
    "One training each: an interval speaks of two trainings, not of two recipes,\n"
    "and of 40 comparisons without any effect about two leave zero out by chance."
)
_MEANING = {  # name of a variant: group and description, in the order of the figure
    BASE: (TEXT, "text added to audio"),
    r"cw_only": ("Annotators' confidence", "loss weighted by confidence"),
    r"conf(\d)": ("Annotators' confidence", "training clips of confidence {} or more"),
    r"mixup0(\d)": ("Regularizers", "mixup, alpha 0.{}"),
    r"cutmix0(\d)": ("Regularizers", "cutmix, alpha 0.{}"),
    r"ls0(\d)": ("Regularizers", "uniform label smoothing 0.{}"),
    r"contrastive_(\d)(\d)": ("Regularizers", "contrastive loss, weight {}.{}"),
    r"clap_hloss": ("Regularizers", "loss on the top level, weight 0.5"),
    r"clap_hloss_w(\d)(\d)0": ("Regularizers", "loss on the top level, weight {}.{}"),
    r"xswap_noise": ("Regularizers", "swap of modalities, noise"),
    r"combo_aug": ("Regularizers", "augmentations combined"),
    r"convnext": ("Other encoders", "ConvNeXt"),
    r"whisper": ("Other encoders", "Whisper"),
    r"3mod": ("Other encoders", "three encoders in one network"),
    r"combined": (CROWD_ADDED, "weight 1"),
    r"combined_sw0(\d)": (CROWD_ADDED, "weight 0.{}"),
    r"(.*)": ("Others", "{}"),
}
_COLUMNS = "group system members against clips hF hF_low hF_high estimate low high p_value".split()
Variants = Mapping[tuple[str, str], Posteriors]


def read_variants(folder: str | os.PathLike) -> tuple[dict[tuple[str, str], Posteriors], dict[str, str]]:
    """All predictions in `folder`: (variant, modality) -> Posteriors, on the plain variant's clips in its order; and
    what cannot be used: name -> reason. Raises ValueError where the plain variant, `base`, is absent or unlabelled."""
    places = sorted(place for name in MODALITIES for place in Path(folder).glob(f"*/{name}"))
    plain = next((place for place in places if place.parent.name == BASE), Path(folder) / BASE)
    clips, variants, unusable = read(plain), {}, {}
    if clips.labels is None or (clips.labels < 0).any():
        raise ValueError(f"{plain}: ground_truth has gaps, so nothing can be scored: fill them")
    for place in places:
        try:
            table = read(place)
            aligned = table.for_ids(clips.ids)
            same = np.array_equal(aligned.labels, clips.labels) and np.array_equal(aligned.folds, clips.folds)
            if not same or len(table.ids) != len(clips.ids):
                raise ValueError(f"{place} has other clips, labels or folds than {plain}")
            variants[place.parent.name, place.name] = aligned
        except (ValueError, OSError) as error:
            unusable[f"{place.parent.name}/{place.name}"] = str(error)
    return variants, unusable


def variant_table(variants: Variants, rng: np.random.Generator, replicates: int = 2000) -> pd.DataFrame:
    """Each variant against the plain one of its modality, text against no text, averages against the plain one.

    A row a system: group, system, members (a folder, or how many), against, clips; hF, hF_low, hF_high; estimate, low,
    high of the difference in hF and p_value (McNemar's), NaN where there is nothing to compare with. Intervals are
    95 %, clips resampled within class and fold.
    """
    plain, rows = _plain(variants), []
    for variant, modality in sorted(variants, key=lambda key: (_describe(key[0]), key)):
        _, group, name = _describe(variant)
        against = plain.get("audio" if variant == BASE else modality)
        name += ", audio only" * (modality == "audio")
        if (variant, modality) == (BASE, "audio"):
            name, against = "audio only", None
        rows.append((group, name, f"{variant}/{modality}", variants[variant, modality].probabilities, against))
    rows += [(AVERAGES, name, members, mean, plain.get("both")) for name, members, mean in _averages(variants)]
    return _compare(next(iter(variants.values())), rows, rng, replicates)


def word_table(
    variants: Variants,
    ids: Sequence[str],
    texts: Sequence[str],
    rng: np.random.Generator,
    vectors: np.ndarray | None = None,
    replicates: int = 2000,
) -> pd.DataFrame:
    """What texts tell of the clips that have them, alone and beside the variants: rows as in `variant_table`.

    ids (N,), texts (N,) and, for a second text source, vectors (N, D) of a sentence encoder. Text classifiers and the
    weights of ensembles are fitted on the clips of the other folds. Raises ValueError where none of the clips is known.
    """
    ids = np.asarray(ids).astype(str)
    known = np.isin(ids, next(iter(variants.values())).ids)
    if not known.any():
        raise ValueError(
            f"none of the {len(ids)} clips with texts, such as {ids[:1]}, was scored: is it another dataset?"
        )
    here = {key: table.for_ids(ids[known]) for key, table in variants.items()}
    clips, rows = next(iter(here.values())), []
    words = {"words, TF-IDF": cross_fit(metadata_classifier(), np.asarray(texts, object)[known], clips)}
    if vectors is not None:
        words["words, sentence encoder"] = cross_fit(sentence_classifier(), np.asarray(vectors)[known], clips)
        words["words, both"] = geometric_mean(list(words.values()))
    plain = _plain(here)
    for source, posteriors in words.items():
        rows += [(WORDS, f"{source}, against audio", "", posteriors, plain["audio"])] if "audio" in plain else []
        for modality, against in plain.items():
            name = f"{'audio' if modality == 'audio' else 'audio and text'} + {source}"
            rows.append((WORDS, name, "half each", (posteriors + against[1]) / 2, against))
    first, posteriors = next(iter(words.items()))
    for name, members, mean in _averages(here):
        rows.append((WORDS, f"{name} + {first}", members, blend([mean, posteriors], clips), (name, mean)))
    return _compare(clips, rows, rng, replicates)


def cleaning_table(
    clips: pd.DataFrame, plain: Posteriors, rng: np.random.Generator, replicates: int = 2000
) -> pd.DataFrame:
    """The metadata classifier on cleaned texts and on raw metadata, with the labels and folds of `plain`: a row each,
    the columns of `variant_table`. clips: as `add_text` gives them. Raises ValueError where `plain` lacks any of it."""
    if plain.folds is None or plain.labels is None or (plain.labels < 0).any():
        raise ValueError(f"{plain.source} must tell the fold and the label of every clip")
    here, fields = plain.for_ids(clips.sound_id), clips.title + " " + clips.tags + " " + clips.description
    read = {"cleaned texts": clips.text, "raw metadata": fields}
    words = {name: cross_fit(metadata_classifier(), texts.to_numpy(object), here) for name, texts in read.items()}
    cleaned, raw = words.items()
    return _compare(here, [(WORDS, cleaned[0], "", cleaned[1], None), (WORDS, raw[0], "", raw[1], cleaned)],
                    rng, replicates)  # fmt: skip


def cross_fit(classifier: ClassifierMixin, inputs: np.ndarray, clips: Posteriors) -> np.ndarray:
    """Posteriors (N, 23) of `inputs` (N, ...) by copies of `classifier` that were fitted on the other folds' clips."""
    posteriors = np.zeros((len(inputs), len(CLASSES)))
    for fold in np.unique(clips.folds):
        test = clips.folds == fold
        model = clone(classifier).fit(inputs[~test], clips.labels[~test])
        posteriors[np.ix_(test, model.classes_)] = model.predict_proba(inputs[test])
    return posteriors


def blend(members: Sequence[np.ndarray], clips: Posteriors) -> np.ndarray:
    """Weighted mean of M arrays (N, 23): in each fold the weights of least cross-entropy on the other folds' clips."""
    mixed = np.zeros_like(members[0])
    for fold in np.unique(clips.folds):
        test = clips.folds == fold
        weights = fit_weights([member[~test] for member in members], clips.labels[~test])
        mixed[test] = np.average([member[test] for member in members], axis=0, weights=weights)
    return mixed


def geometric_mean(members: Sequence[np.ndarray]) -> np.ndarray:
    """M arrays (N, 23) -> (N, 23): the normalised geometric mean; a member's 0 counts as 1e-12."""
    mean = np.exp(np.log(np.maximum(members, 1e-12)).mean(axis=0))
    return mean / mean.sum(axis=1, keepdims=True)


def forest_groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows with a difference, by group and indexed by system: what a forest plot takes. What counts comes first."""
    rows = table.dropna(subset="estimate").set_index("system")
    order = dict.fromkeys([TEXT, AVERAGES, WORDS, *rows.group])
    return {group: rows[rows.group == group] for group in order if (rows.group == group).any()}


def finding(table: pd.DataFrame) -> str:
    """The title of the forest plot: what each group does to hF, and how many other changes show no clear one."""
    points = 100 * table.dropna(subset="estimate").set_index("group")[["estimate", "low", "high"]]
    parts = []
    for group, name in {TEXT: "Text", AVERAGES: "averaging", CROWD_ADDED: "the crowd's hard labels"}.items():
        values = points.estimate[points.index == group]
        ends = {f"{values.min():+.1f}": None, f"{values.max():+.1f}": None}
        parts += [f"{name} {' to '.join(ends)}"] if len(values) else []
    others = points[~points.index.isin([TEXT, AVERAGES, WORDS, CROWD_ADDED])]
    unclear = ((others.low <= 0) & (others.high >= 0)).sum()
    return f"{', '.join(parts)} points of hF;\n{unclear} of {len(others)} other changes show no clear difference"


def _describe(variant: str) -> tuple[int, str, str]:
    """Place in the figure, group and description of a variant."""
    for place, (pattern, (group, description)) in enumerate(_MEANING.items()):
        if match := re.fullmatch(pattern, variant):
            return place, group, description.format(*match.groups())
    raise AssertionError("the last pattern matches every name")


def _plain(variants: Variants) -> dict[str, tuple[str, np.ndarray]]:
    """The plain variants: modality -> name and posteriors."""
    return {m: (f"{BASE}/{m}", variants[BASE, m].probabilities) for m in MODALITIES if (BASE, m) in variants}


def _averages(variants: Variants) -> list[tuple[str, str, np.ndarray]]:
    """Means of variants, chosen by what they are and not by their scores: name, members, posteriors."""
    ensembles = {
        f"mean of {len(KINDS)} different variants": [(name, "both") for name in KINDS],
        "mean of all without BSD35k-CS": [key for key in variants if not key[0].startswith(CROWD)],
        "mean of all": list(variants),
    }
    return [
        (name, f"{len(keys)} variants", np.mean([variants[key].probabilities for key in keys], axis=0))
        for name, keys in ensembles.items()
        if len(keys) > 1 and set(keys) <= set(variants)
    ]


def _compare(clips: Posteriors, systems: Sequence[tuple], rng: np.random.Generator, replicates: int) -> pd.DataFrame:
    """A row for each (group, system, members, probabilities, (name, probabilities) to compare with, or None)."""
    rows = []
    for group, system, members, probabilities, against in systems:
        predicted = probabilities.argmax(1)
        low, high = interval(bootstrap(clips.labels, predicted, rng, replicates, clips.folds)["hF"][0])
        hf = hierarchical_scores(clips.labels, predicted)["hF"]
        row = {"group": group, "system": system, "members": members, "clips": len(clips.ids)}
        row |= {"hF": hf, "hF_low": float(low), "hF_high": float(high)}
        if against is not None:
            other = against[1].argmax(1)
            difference = paired_difference(clips.labels, predicted, other, rng, replicates, strata=clips.folds)["hF"]
            row |= {"against": against[0]} | dataclasses.asdict(difference)
            row["p_value"] = mcnemar(clips.labels, predicted, other).p_value
        rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS)
