"""A trained model to hand on: weights, configuration and a model card, in a folder that needs nothing else."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from haf_utils.config import LOCATION_FIELDS, differing
from haf_utils.experiment.finetune import config_of, other_code
from haf_utils.experiment.predict import TrainedModel, load_system
from haf_utils.experiment.workspace import caveat
from haf_utils.io.checkpoints import weights_digest, write_state
from haf_utils.io.files import write_json
from haf_utils.runs import Run, load_run
from haf_utils.statistics import bootstrap, interval

__all__ = ["card", "export"]

_CARD = """---
library_name: haf-clap
pipeline_tag: audio-classification
---
# {run.name}
Sorts recordings into the 23 classes of the Broad Sound Taxonomy, from {reads}: `haf predict THIS_FOLDER recordings/`.
`model.safetensors` holds backbone and classifier: the licence of the pretrained weights holds for them, too.

On {clips} test clips of fold {config[fold]} ({config[split]} folds of {config[dataset]}), which it was not trained on:

| score | value | 95 % interval over clips |
| --- | --- | --- |
{scores}

Parameters: {parameters}. {notes}
"""


def card(run: Run, model: TrainedModel) -> str:
    """The model card of a finished run, Markdown: test scores with intervals, parameters, what to know of it."""
    part, rows = run.part("test"), []
    samples = bootstrap(part.labels, part.probabilities.argmax(1), np.random.default_rng(0))
    for name in ("hF", "hP", "hR", "accuracy", "top_accuracy"):
        low, high = interval(samples[name][0])
        rows.append(f"| {name} | {100 * run.metrics['test'][name]:.1f} % | {100 * low:.1f} to {100 * high:.1f} % |")
    changed = ", ".join(other_code(run.config))
    return _CARD.format(
        run=run,
        config=run.config["config"],
        reads=("sound and text" if model.reads_text else "sound alone")
        + " (class probabilities, its third input, are in the scores below alone)" * bool(model.config.posteriors),
        clips=len(part.ids),
        scores="\n".join(rows),
        parameters=", ".join(f"{name}={value}" for name, value in differing(config_of(run)).items()),
        notes=caveat(model.config.profile, "") + f"\nTrained by other code than exported it: {changed}" * bool(changed),
    )


def export(run: Path | str, out: Path | str) -> Path:
    """Write the model of a run folder into the new folder `out`, which `load_system` reads wherever it is then.

    config.json without this machine's paths, metrics.json, model.safetensors with the backbone, tokenizer.json where
    text is read, README.md. Raises FileExistsError where `out` exists, RunError as `load_system`.
    """
    out, run = Path(out), load_run(run)
    if out.exists():
        raise FileExistsError(f"{out} exists, and nothing is overwritten: name a new folder")
    model, paths = load_system(run), ("initialisation", "posteriors", *LOCATION_FIELDS)
    config = {name: Path(value).name if name in paths else value for name, value in run.config["config"].items()}
    run = replace(run, config=run.config | {"config": config | {"device": "cpu"}, "exported": run.name})
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}-") as folder:
        work = Path(folder) / out.name
        write_json(work / "config.json", run.config)
        write_state(model.model.state_dict(), work / "model.safetensors")
        write_json(work / "metrics.json", run.metrics | {"weights": weights_digest(work)})
        if model.clap is not None:
            model.clap.tokenizer.save(str(work / "tokenizer.json"))
        (work / "README.md").write_text(card(run, model), "utf-8")
        os.rename(work, out)  # whole, or not there
    return out
