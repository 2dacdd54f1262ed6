"""What real predictions say: a table of scores and paired differences, and its forest plot.

    python -m tools.real_benchmark PREDICTIONS [--metadata BSD10K_V1.0] [--encoder MODEL --embeddings FILE]
    python -m tools.real_benchmark --redraw        # the figure alone, anew from the table that is there

PREDICTIONS holds out-of-fold predictions in the official layout, <variant>/<audio|both>/fold_<k>/evaluation/
predictions.csv, with the plain variant in base/. With the clips' metadata, this project's text classifiers join them;
with a sentence encoder (a folder or hub name that transformers loads) a second one. Written are 07_real_benchmark.csv
(fractions) and 07_real_benchmark.png; predictions are not copied.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.captions import add_text
from haf_utils.datasets import load_bsd
from haf_utils.io.files import atomic_write
from haf_utils.plots import style
from haf_utils.plots.ablations import forest
from tools.real_benchmark_tables import LABEL, finding, forest_groups, read_variants, variant_table, word_table
from tools.text_encoders import embed_texts

NAME = "07_real_benchmark"


def computed(options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table from predictions and texts, and the variants that could not be used, with the reason."""
    rng = np.random.default_rng(0)
    variants, unusable = read_variants(options.predictions)
    tables = [variant_table(variants, rng, options.replicates)]
    if options.metadata:
        clips = add_text(load_bsd(options.metadata))
        vectors = embed_texts(clips.text, options.encoder, options.embeddings) if options.encoder else None
        tables.append(word_table(variants, clips.sound_id, clips.text, rng, vectors, options.replicates))
    return pd.concat(tables, ignore_index=True).assign(origin=options.origin), unusable


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.real_benchmark", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("predictions", type=Path, nargs="?", metavar="PREDICTIONS")
    what.add_argument("--redraw", action="store_true", help="draw the table in --out anew, and compute nothing")
    parser.add_argument("--metadata", type=Path, help="folder of BSD10k, any version: titles and tags of the clips")
    parser.add_argument("--encoder", help="sentence encoder, a folder or hub name; needs --metadata and --embeddings")
    parser.add_argument("--embeddings", type=Path, help="file (.npz) that keeps the encoder's embeddings")
    parser.add_argument("--origin", default="", help="where the predictions come from, for the table")
    parser.add_argument("--replicates", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    options = parser.parse_args(arguments)
    if options.encoder and not (options.metadata and options.embeddings):
        parser.error("--encoder needs --metadata, the texts to read, and --embeddings, the file that keeps the result")
    file, unusable = options.out / f"{NAME}.csv", {}
    try:
        if not options.redraw:
            table, unusable = computed(options)
            atomic_write(file, lambda path: table.to_csv(path, index=False, float_format="%.5f"))
        table = pd.read_csv(file)  # what is drawn is what was written
        style.style()
        figure = forest(forest_groups(table), finding(table), LABEL)
        figure.set_figwidth(12)  # names are long
        style.save(figure, options.out, NAME)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    with pd.option_context("display.max_rows", None, "display.max_columns", None, "display.width", 200):
        print((table.set_index("system").select_dtypes("number").drop(columns=["clips"]) * 100).round(2))
    print(finding(table))
    for name, reason in unusable.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return 1 if unusable else 0


if __name__ == "__main__":
    sys.exit(main())
