"""Class probabilities of every clip by a reader of its text, nested, for a third input of HAF-CLAP.

    python -m tools.posteriors FOLDER [--dataset FOLDER] [--extra FOLDER] [--evaluation FOLDER] [--encoder DIR]

FOLDER gets a table a fold, fold_<k>.csv, for models of that fold: a fifth of the training clips is scored by a model
of the other four, all other clips by a model of all training clips; and out_of_fold.csv, the test clips of all folds.
BSD35k-CS's own labels teach the reader nothing. `haf sweep posteriors=FOLDER` and `make run POSTERIORS=FOLDER` read it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, clone
from sklearn.model_selection import KFold

from haf_utils.captions import add_text
from haf_utils.config import FOLDS, SPLITS
from haf_utils.controls import metadata_classifier
from haf_utils.corpus import Corpus
from haf_utils.datasets import load_bsd, load_evaluation, without
from haf_utils.experiment.workspace import workspace
from haf_utils.posteriors import Posteriors, write
from haf_utils.taxonomy import CLASSES
from tools.text_encoders import encode_texts, sentence_classifier

__all__ = ["cross_fitted", "main", "write_nested"]


def cross_fitted(model: ClassifierMixin, inputs: Sequence, labels: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Nested posteriors (N, 23) by copies of an unfitted scikit-learn classifier, such as `metadata_classifier()`.

    inputs: N texts or (N, D) vectors; labels (N,) 0..22, read where part (N,) is "train". A fifth of the training clips
    is scored by a model of the other four, all other clips by a model of all training clips.
    """
    given = np.asarray(inputs)
    train, others = np.flatnonzero(part == "train"), np.flatnonzero(part != "train")
    splits = KFold(5, shuffle=True, random_state=0).split(train)
    probabilities = np.zeros((len(labels), len(CLASSES)))
    for fitted, scored in [*((train[one], train[other]) for one, other in splits), (train, others)]:
        if len(scored):
            copy = clone(model).fit(given[fitted], labels[fitted])
            probabilities[np.ix_(scored, copy.classes_)] = copy.predict_proba(given[scored])
    return probabilities


def write_nested(
    out: str | Path,
    dataset: str,
    extra: str = "",
    evaluation: str = "",
    split: str = "official",
    encoder: str = "",
    device: str = "cpu",
) -> None:
    """Write the nested tables into the folder `out`, by the metadata classifier, or by a linear classifier on the
    sentence embeddings of `encoder`. Raises FileExistsError where one of the files is there already."""
    if there := sorted(Path(out).glob("fold_*.csv")):
        raise FileExistsError(f"{there[0]} exists: choose another folder, or move it away")
    clips = add_text(load_bsd(dataset))
    tables = [clips.assign(origin="bsd10k")]
    if extra:
        tables.append(without(add_text(load_bsd(extra)), clips)[0].assign(origin="bsd35k-cs"))
    if evaluation:
        tables.append(add_text(load_evaluation(evaluation)).assign(origin="evaluation"))
    table = pd.concat(tables, ignore_index=True).assign(readable=True)
    corpus = Corpus(table, {}, None, table.iloc[:0], ())
    ids, labels, texts = table["sound_id"].to_numpy().astype(str), corpus.labels, table["text"].to_numpy()
    model = sentence_classifier() if encoder else metadata_classifier()
    inputs = encode_texts(texts, encoder, device=device) if encoder else texts
    pooled, fold_of = np.zeros((len(ids), len(CLASSES))), np.full(len(ids), -1)
    for fold in range(FOLDS):
        part = np.where(table["origin"] == "bsd35k-cs", "", corpus.parts(split, fold))
        probabilities = cross_fitted(model, inputs, labels, part)
        write(Path(out) / f"fold_{fold}.csv", Posteriors(ids, probabilities, np.full(len(ids), fold), labels))
        pooled[part == "test"], fold_of[part == "test"] = probabilities[part == "test"], fold
    own = fold_of >= 0
    write(Path(out) / "out_of_fold.csv", Posteriors(ids[own], pooled[own], fold_of[own], labels[own]))


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where something that was asked for cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m tools.posteriors", description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="FOLDER", help="where to write the tables")
    parser.add_argument("--dataset", default="", metavar="FOLDER", help="BSD10k (default: the embedded dataset)")
    parser.add_argument("--extra", default="", metavar="FOLDER", help="BSD35k-CS, to be scored as well")
    parser.add_argument("--evaluation", default="", metavar="FOLDER", help="the evaluation set, to be scored as well")
    parser.add_argument("--split", choices=SPLITS, default="official", help="folds (default: official)")
    parser.add_argument("--encoder", default="", metavar="DIR", help="a frozen sentence encoder: folder or hub name")
    parser.add_argument("--device", default="cpu", help="of the encoder: cpu, cuda, cuda:1 (default: cpu)")
    given = parser.parse_args(arguments)
    try:
        space = workspace(given.dataset, given.extra, given.evaluation)
        folders = space.dataset, space.extra, space.evaluation
        write_nested(given.out, *folders, given.split, given.encoder, given.device)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{FOLDS} nested tables and out_of_fold.csv in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
