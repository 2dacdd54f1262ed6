"""The report's regularizers on real texts and real labels: ablations in head mode on frozen text embeddings.

    python -m tools.real_text BSD10K [--encoder MODEL --embeddings FILE] [--out figures]
    python -m tools.real_text BSD10K --cleaning PREDICTIONS    # cleaned texts against raw metadata, and nothing else
    python -m tools.real_text --redraw        # the figure alone, anew from the table that is there

BSD10K needs metadata alone. Each text becomes a vector, by TF-IDF and a truncated SVD or by a frozen sentence encoder,
in the layout in which datasets ship embeddings; every variant is trained as in notebook 05, on the official folds and
on folds that keep uploaders apart. Finished runs are kept in --work and used again. Written are 07_real_text.csv
(fractions; paired differences with 95 % intervals) and 07_real_text.png. `--cleaning` trains the metadata classifier
alone, on the labels and folds of a variant's predictions in the official layout, and writes 02_real_cleaning.csv.
"""

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from haf_utils.captions import add_text
from haf_utils.config import FinetuneConfig, resolve
from haf_utils.controls import metadata_classifier
from haf_utils.corpus import Corpus
from haf_utils.datasets import features_folder, load_bsd
from haf_utils.experiment import ablations
from haf_utils.experiment.ablations import Pooled
from haf_utils.experiment.assembly import corpus_of
from haf_utils.experiment.grids import grid
from haf_utils.experiment.sweeps import sweep
from haf_utils.io.files import atomic_write
from haf_utils.plots import style
from haf_utils.plots.ablations import forest
from haf_utils.posteriors import read
from tools.real_benchmark_tables import cleaning_table
from tools.text_encoders import embed_texts

__all__ = ["main", "text_vectors", "write_dataset"]

NAME, CLEANING = "07_real_text", "02_real_cleaning"
RECIPE, WORDS = "the report's recipe", "metadata classifier instead (TF-IDF, linear SVM)"
NOTHING = {"smoothing": "none", "mixup": False, "dropout": 0.0, "ema": False, "gating": False, "feature_noise": 0.0}
VARIANTS = {
    RECIPE: {},
    "no smoothing": {"smoothing": "none"},
    "uniform smoothing instead": {"smoothing": "uniform"},
    "no mixup": {"mixup": False},
    "no dropout": {"dropout": 0.0},
    "no EMA": {"ema": False},
    "no gate": {"gating": False},
    "none of them": NOTHING,
}
SPLITS = {"official": "official folds", "uploader": "uploaders apart"}


def text_vectors(texts: Sequence[str], width: int = 512, seed: int = 0) -> np.ndarray:
    """Texts (N,) -> (N, width) float32: TF-IDF of words and bigrams, truncated SVD, L2-normalised; "" becomes zeros.

    Fitted on all texts and no labels, so that a clip has one vector in every fold. Raises ValueError where the texts
    have fewer different words than `width`.
    """
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"[^\W_]{2,}")
    counts = vectorizer.fit_transform(texts)
    if counts.shape[1] <= width:
        raise ValueError(f"{counts.shape[1]} different words and bigrams make no {width} dimensions: pass --width")
    return normalize(TruncatedSVD(width, random_state=seed).fit_transform(counts)).astype(np.float32)


def write_dataset(source: Path, folder: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """A dataset of `source`'s metadata and the text embeddings `vectors` (N, D); the audio slot holds a zero a clip.

    Raises ValueError where `folder` holds other vectors: runs that were trained on them stand beside it.
    """
    file = folder / "vectors.npy"
    if file.is_file() and not np.array_equal(np.load(file), vectors):
        raise ValueError(f"{folder} holds vectors of other texts or of another kind: pass another --work")
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    for table in (source / "metadata").glob("*.csv"):
        shutil.copyfile(table, folder / "metadata" / table.name)
    for modality, values in (("audio", np.zeros((len(vectors), 1), np.float32)), ("text", vectors)):
        place = features_folder(folder, modality)
        place.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            for sound_id, vector in zip(ids, values, strict=True):
                np.save(place / f"{sound_id}.npy", vector)
    atomic_write(file, lambda path: np.save(path, vectors))  # last: it says that all are there


def words_alone(corpus: Corpus, split: str, like: Pooled) -> Pooled:
    """The metadata classifier on the clips of `like`, trained in each fold on the clips that the runs trained on."""
    texts, probabilities = corpus.table.set_index("sound_id")["text"], np.zeros_like(like.probabilities[:1])
    for fold in np.unique(like.folds):
        train, test = corpus.parts(split, fold) == "train", like.folds == fold
        model = metadata_classifier().fit(texts[train].tolist(), corpus.labels[train])
        probabilities[:, test] = model.predict_proba(texts[like.ids[test]].tolist())
    return dataclasses.replace(like, name=WORDS, seeds=(0,), probabilities=probabilities)


def result_table(
    base: FinetuneConfig, folds: Sequence[int], seeds: Sequence[int], rng: np.random.Generator, replicates: int
) -> pd.DataFrame:
    """All variants in both splits, from finished runs: a row each, in fractions.

    Columns: split, variant, folds, seeds, clips; hF, hF_low, hF_high; estimate, low, high and p_value of the difference
    in hF from the recipe under the first seed, NaN for the recipe itself, whose hF is the mean over its seeds.
    """
    runs, _ = ablations.read_runs(base.runs)
    parts = []
    for split in SPLITS:
        pooled = {
            name: ablations.pool(runs, dataclasses.replace(base, split=split, **changes), folds, name)
            for name, changes in VARIANTS.items()
        }
        recipe = pooled.pop(RECIPE)
        first, *others = (ablations.one_seed(recipe, seed) for seed in seeds)
        pooled |= {f"the recipe, seed {seed}": other for seed, other in zip(seeds[1:], others, strict=True)}
        pooled[WORDS] = words_alone(corpus_of(resolve(base)), split, first)
        scores = {name: ablations.score(each, rng, replicates) for name, each in ({RECIPE: recipe} | pooled).items()}
        part = pd.DataFrame(scores).T.set_axis(["hF", "hF_low", "hF_high"], axis=1)
        part = part.join(ablations.compare_all(pooled, first, rng, replicates))
        part.loc[RECIPE, ["clips", "seeds"]] = len(recipe.ids), len(seeds)
        parts.append(part.rename_axis("variant").reset_index().assign(split=split, folds=len(folds)))
    return pd.concat(parts, ignore_index=True).astype({"clips": int, "seeds": int})


def finding(table: pd.DataFrame) -> str:
    """The title of the figure: which strategies make a clear difference, and what keeping uploaders apart costs."""
    rows = table[table.variant.isin(VARIANTS) & table.estimate.notna()]
    shown = [
        f"“{row.variant}” {100 * row.estimate:+.1f} ({SPLITS[row.split]})"
        for row in rows[ablations.told(rows)].itertuples()
    ]
    scores = 100 * table[table.variant == RECIPE].set_index("split").hF
    first = f"hF {scores['official']:.1f}, with uploaders apart {scores['uploader']:.1f}"
    told = f"changes whose interval leaves out zero: {len(shown)} of {len(rows)}" + (":\n" if shown else "")
    return f"Real texts: {first};\n{told}" + ",\n".join(", ".join(shown[n : n + 2]) for n in range(0, len(shown), 2))


def draw(table: pd.DataFrame) -> Figure:
    """The forest plot of the table, a group a split."""
    clips, folds, epochs, batch = (table[column].max() for column in ("clips", "folds", "epochs", "batch"))
    note = f"{clips:,} clips of {folds} folds, one seed a variant, {table.seeds.max()} of the recipe\n"
    note += f"{table.features.iat[0]}; at most {epochs} epochs in batches of {batch}"
    rows = table.dropna(subset="estimate").set_index("variant")
    groups = {f"{SPLITS[split][:1].upper()}{SPLITS[split][1:]}": rows[rows.split == split] for split in SPLITS}
    return forest(groups, finding(table), f"difference in hF from {RECIPE} (points)\n{note}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.real_text", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("dataset", type=Path, nargs="?", metavar="BSD10K", help="folder in BSD10k's layout, any version")
    what.add_argument("--redraw", action="store_true", help="draw the table in --out anew, and train nothing")
    parser.add_argument("--encoder", help="sentence encoder, a folder or hub name, in place of TF-IDF and SVD")
    parser.add_argument("--cleaning", type=Path, metavar="PREDICTIONS", help="compare cleaned texts with raw metadata")
    parser.add_argument("--embeddings", type=Path, help="file (.npz) that keeps the encoder's embeddings")
    parser.add_argument("--width", type=int, default=512, help="dimensions of TF-IDF's SVD (default: 512)")
    parser.add_argument("--profile", default="full", help="whose numbers the runs have (default: full, the report's)")
    parser.add_argument("--folds", type=int, default=5, help="folds of each split (default: 5)")
    parser.add_argument("--epochs", type=int, help="at most, of each run (default: the profile's)")
    parser.add_argument("--batch", type=int, help="clips an optimizer step (default: the profile's)")
    parser.add_argument("--seeds", type=int, default=3, help="of the recipe (default: 3); a variant has one")
    parser.add_argument("--workers", type=int, help="processes that train side by side (default: one a core)")
    parser.add_argument("--origin", default="", help="where the texts come from, for the table")
    parser.add_argument("--replicates", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--work", type=Path, default=Path("runs/real-text"), help="folder of vectors and run folders")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    given = parser.parse_args(arguments)
    if given.encoder and not given.embeddings:
        parser.error("--encoder needs --embeddings, the file that keeps the result")
    if given.redraw:
        return drawn(given.out)
    folds, seeds = range(given.folds), range(given.seeds)
    try:
        clips = add_text(load_bsd(given.dataset))
        if given.cleaning:
            plain, rng = read(given.cleaning), np.random.default_rng(0)
            table = cleaning_table(clips, plain, rng, given.replicates).assign(origin=given.origin)
            file = given.out / f"{CLEANING}.csv"
            atomic_write(file, lambda path: table.to_csv(path, index=False, float_format="%.5f"))
            return printed(table.set_index("system"))
        vectors = (
            embed_texts(clips.text, given.encoder, given.embeddings)
            if given.encoder
            else text_vectors(clips.text, given.width)
        )
        write_dataset(given.dataset, given.work / "bsd10k", clips.sound_id, vectors)
        base = FinetuneConfig(
            dataset=str(given.work / "bsd10k"),
            runs=str(given.work / "runs"),
            profile=given.profile,
            train="head",
            modality="text",
            epochs=given.epochs,
            batch=given.batch,
        )
        recipes = [
            recipe
            for fold in folds  # outermost: what is there after an hour is whole folds
            for split in SPLITS
            for name, changes in VARIANTS.items()
            for recipe in grid(
                dataclasses.replace(base, split=split, fold=fold, **changes),
                {"seed": list(seeds) if name == RECIPE else [0]},
            )
        ]
        failed = sweep(recipes, given.workers).failed
        for name, text in failed.items():
            print(f"{name}: {text.strip().splitlines()[-1]}", file=sys.stderr)
        if failed:
            return 1
        table = result_table(base, folds, seeds, np.random.default_rng(0), given.replicates)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    features = given.encoder or f"TF-IDF and SVD, {vectors.shape[1]} dimensions"
    epochs, batch = recipes[0].epochs, recipes[0].batch
    table = table.assign(features=features, epochs=epochs, batch=batch, origin=given.origin)
    atomic_write(given.out / f"{NAME}.csv", lambda path: table.to_csv(path, index=False, float_format="%.5f"))
    return drawn(given.out)


def drawn(out: Path) -> int:
    """Draw the table that stands in `out`, and print it."""
    file = out / f"{NAME}.csv"
    if not file.is_file():
        print(f"{file} is absent: it is made from a dataset, BSD10K", file=sys.stderr)
        return 2
    table = pd.read_csv(file)
    style.style()
    style.save(draw(table), out, NAME)
    printed(table.set_index(["split", "variant"]))
    print(finding(table))
    return 0


def printed(table: pd.DataFrame) -> int:
    """Print the scores and differences of a table, in points."""
    with pd.option_context("display.max_rows", None, "display.max_columns", None, "display.width", 200):
        print((table[["hF", "estimate", "low", "high"]] * 100).round(2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
