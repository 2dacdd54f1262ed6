"""The teacher of stage 2: runs of a fold label the crowd's clips, and their ensemble is written as a table a fold.

A table holds what its models did not train on: the clips of BSD35k-CS, and the fold's validation and test clips.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from haf_utils.config import resolve
from haf_utils.experiment.assembly import assemble, corpus_of
from haf_utils.experiment.finetune import add_part, config_of, predict_rows, unpredicted
from haf_utils.inference import mean_logits
from haf_utils.io.checkpoints import read_weights
from haf_utils.io.progress import line
from haf_utils.posteriors import Posteriors, read, write
from haf_utils.runs import Run, RunError, load_run

__all__ = ["label_crowd", "teach"]


def label_crowd(run: Run, quiet: bool = False, **where: str) -> Run:
    """`run` with its predictions of BSD35k-CS, of fixed windows: the part "extra", which is kept in its folder.

    where: dataset, extra, scratch, device, if they are not what config.json says. Raises RunError for a run that has no
    weights, was trained on these clips, or whose head was trained on a checkpoint that has changed since.
    """
    if not (run.folder / "model.safetensors").is_file():
        raise RunError(f"{run.folder} keeps no weights to label clips with: name runs of HAF-CLAP")
    recipe = resolve(config_of(run, **{"evaluation": "", "extra_weight": 1.0, "tta_views": 0} | where))
    corpus = corpus_of(recipe)
    crowd = np.flatnonzero(corpus.parts(recipe.split, recipe.fold) == "train")
    crowd = crowd[corpus.table["origin"].to_numpy()[crowd] == "bsd35k-cs"]
    if not len(crowd):
        raise RunError(f"{run.folder} has no clip of BSD35k-CS to label: pass its folder as extra")
    trained = set(run.split.loc[run.split["part"] == "train", "sound_id"])
    if seen := trained.intersection(corpus.table["sound_id"].iloc[crowd].astype(str)):
        raise RunError(f"{run.folder} was trained on {len(seen)} of the clips to label: name runs with extra_weight=0")
    if not len(unpredicted(run.folder, corpus, crowd, "extra")):
        return run
    line(f"{run.name} labels {len(crowd)} clips of BSD35k-CS", quiet)
    assembled = assemble(recipe)
    if recipe.train == "head" and assembled.checkpoint != run.config["digests"]["checkpoint"]:
        raise RunError(f"{run.folder} was trained on another checkpoint than {recipe.initialisation} is now")
    assembled.model.load_state_dict(read_weights(run.folder))
    add_part(run.folder, "extra", predict_rows(assembled.model, recipe, assembled, crowd))
    return load_run(run.folder)


def teach(
    runs: Sequence[Run], out: Path | str, overwrite: bool = False, quiet: bool = False, **where: str
) -> Iterator[Path]:
    """Write fold_<k>.csv into `out` for each fold of `runs`, by the mean logits of that fold's; yields them one by one.

    A file that says the same is kept. Raises FileExistsError for one that says something else, unless `overwrite`;
    RunError for runs of several splits, and as `label_crowd`; ValueError for runs of other clips than the first's.
    """
    configs = [run.config["config"] for run in runs]
    if len(splits := sorted({config["split"] for config in configs})) > 1:
        raise RunError(f"these runs are of the splits {' and '.join(splits)}: name runs of one")
    for fold in sorted({config["fold"] for config in configs}):
        tables = []
        for run in [run for run, config in zip(runs, configs, strict=True) if config["fold"] == fold]:
            labelled = label_crowd(run, quiet, **where)
            parts = [labelled.part(name) for name in ("validation", "test", "extra")]
            ids, labels, plain = (np.concatenate([getattr(p, n) for p in parts]) for n in ("ids", "labels", "plain"))
            tables.append(Posteriors(ids, plain, np.full(len(ids), fold), labels, str(run.folder)))
        mean = mean_logits([table.for_ids(tables[0].ids).probabilities for table in tables])
        made, file = Posteriors(tables[0].ids, mean, tables[0].folds, tables[0].labels), Path(out) / f"fold_{fold}.csv"
        known = read(file) if file.exists() else None
        same = known is not None and set(known.ids) == set(made.ids)
        if not (same and np.allclose(known.for_ids(made.ids).probabilities, mean, atol=1e-5)):
            write(file, made, overwrite)
        yield file
