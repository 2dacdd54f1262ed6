"""Drop a sound on it, `make demo`: a page in JupyterLab, on this machine alone, that classifies what is dropped.

    python -m tools.demo [RUNS]          # a folder of finished runs; default: runs/embedded-mini

It shows the posterior of the system "ours" by top level, each member's fusion weights, which the words in the text box
move, and the nearest training clips to listen to.
"""

import dataclasses
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import soxr
from IPython.display import Audio, display
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from haf_utils.audio import AudioError, prepare, to_float
from haf_utils.clap import Clap
from haf_utils.config import resolve
from haf_utils.corpus import Corpus
from haf_utils.experiment.assembly import assemble, checkpoint_of, load_source
from haf_utils.experiment.finetune import config_of
from haf_utils.experiment.members import trained_ours
from haf_utils.experiment.predict import Recordings, TrainedModel, load_system, predict_all
from haf_utils.inference import average_probabilities
from haf_utils.plots import style
from haf_utils.plots.ensemble import posterior_card
from haf_utils.plots.widgets import as_wav
from haf_utils.profiles import REPOSITORY
from haf_utils.runs import RunError, load_run
from haf_utils.taxonomy import CLASSES, NAMES
from tools.lab import WORK, become_lab

__all__ = ["Answer", "Demo", "LIMIT", "answer", "load", "main", "page", "reading"]

LIMIT = 20_000_000  # bytes of a recording
_CELL = "from tools.demo import page\n\npage()"
_TEXT = (
    "# Drop a sound on it\n\nRun the cell below (click it, then Shift+Enter), and upload a recording of at most {} MB."
)


@dataclass(frozen=True)
class Demo:
    """models and their weights; clap: pretrained, of which `vectors` (M, E) are the training clips' embeddings, in
    `rows` (M,) of `corpus`."""

    models: list[TrainedModel]
    weights: list[float]
    clap: Clap
    corpus: Corpus
    rows: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Answer:
    """posterior (23,); members: a row a model, a column a class; fusion: columns audio, text; the nearest rows of the
    corpus and their cosines."""

    posterior: np.ndarray
    members: pd.DataFrame
    fusion: pd.DataFrame
    nearest: np.ndarray
    cosines: np.ndarray


def _ours(runs: Path | str) -> dict[str, float]:
    """Finished runs of "ours" and their weights. Raises RunError that says what to run first where there are none."""
    try:
        return trained_ours(runs)
    except (RunError, OSError) as error:
        raise RunError(f"{error}; `make run` trains them, in 6 minutes on two cores") from error


def load(runs: Path | str) -> Demo:
    """What `answer` needs, from a folder of runs. Raises RunError as `_ours`."""
    ours = _ours(runs)
    models = [load_system(folder) for folder in ours]
    run = load_run(next(iter(ours)))
    config = config_of(run, device="cpu")
    own = "" if config.system == "passt" else config.weights
    pretrained = {"system": "haf", "train": "head", "initialisation": "pretrained", "weights": own}
    recipe = resolve(dataclasses.replace(config, **pretrained))
    assembled = assemble(recipe)
    known = run.split.loc[run.split["part"] == "train", "sound_id"]
    rows = np.flatnonzero(assembled.corpus.table["sound_id"].isin(known))
    clap = load_source(checkpoint_of(recipe), recipe.seed, recipe.sizes, "cpu", "fp32", recipe.tokenizer)
    return Demo(models, list(ours.values()), clap, assembled.corpus, rows, assembled.inputs.audio.numpy()[rows])


def reading(name: str, content: bytes, rates: set[int]) -> dict[int, np.ndarray]:
    """int16 samples of a file's content by rate. Raises AudioError with the reason where it cannot be used."""
    if len(content) > LIMIT:
        raise AudioError(name, f"too large: {len(content) / 1e6:.1f} MB, {LIMIT / 1e6:g} MB at most")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"dropped{Path(name).suffix}"
        path.write_bytes(content)
        try:
            return {rate: prepare(path, rate) for rate in rates}
        except AudioError as error:
            raise AudioError(name, error.reason) from error


def answer(demo: Demo, samples: dict[int, np.ndarray], text: str, shown: int = 5) -> Answer:
    """What the models say of a recording (samples by rate) with this text, and the `shown` nearest training clips."""
    table = pd.DataFrame({"sound_id": ["dropped"], "text": [text.strip()]})
    said = [predict_all(model, Recordings(table, [samples[model.sample_rate]])) for model in demo.models]
    posteriors, names = [each.plain for each in said], [model.name for model in demo.models]
    vector = demo.clap.embed_audio([samples[demo.clap.config.audio.sample_rate]], progress=False)[0]
    lengths = np.linalg.norm(demo.vectors, axis=1) * np.linalg.norm(vector)
    cosines = demo.vectors @ vector / lengths
    nearest = np.argsort(-cosines, kind="stable")[:shown]
    return Answer(
        average_probabilities(posteriors, demo.weights)[0],
        pd.DataFrame(np.concatenate(posteriors), names, list(CLASSES)),
        pd.DataFrame([each.weights[0] for each in said], names, ["audio", "text"]),
        demo.rows[nearest],
        cosines[nearest],
    )


def page(runs: Path | str = "") -> ipywidgets.VBox:
    """The widget: an upload, a text box, and below them the answer or the reason why there is none."""
    demo = load(runs or os.environ.get("HAF_DEMO_RUNS") or REPOSITORY / "runs" / "embedded-mini")
    style.style()
    upload = ipywidgets.FileUpload(accept="audio/*", description="a recording")
    text = ipywidgets.Text(
        placeholder="words: title, tags, what it is", continuous_update=False, layout={"width": "40em"}
    )
    rates = {model.sample_rate for model in demo.models} | {demo.clap.config.audio.sample_rate}

    def show(files, words) -> None:
        if not files:
            print("Nothing has been dropped yet.")
            return
        try:
            samples = reading(files[0]["name"], bytes(files[0]["content"]), rates)
        except AudioError as error:
            print(error)
            return
        found, rate = answer(demo, samples, words), demo.clap.config.audio.sample_rate
        best = CLASSES[found.posterior.argmax()]
        title = f"{NAMES[best]} ({best}), {100 * found.posterior.max():.0f} %".replace("$", r"\$")
        figure = posterior_card(found.posterior, found.members, found.fusion, -1, title, samples[rate], rate)
        display(figure)
        plt.close(figure)
        print("The nearest training clips, by CLAP's embedding of the sound:")
        for row, cosine in zip(found.nearest, found.cosines, strict=True):
            clip = demo.corpus.table.iloc[row]
            own = demo.corpus.stores[clip["origin"]].sample_rate
            print(f"{NAMES[clip['code']]} ({clip['code']}), “{clip['title']}”, cosine {cosine:.2f}")
            heard = soxr.resample(to_float(demo.corpus.samples(row)), own, 16_000)
            display(Audio(data=as_wav(heard, 16_000, seconds=5)))

    out = ipywidgets.interactive_output(show, {"files": upload, "words": text})
    return ipywidgets.VBox([ipywidgets.HBox([upload, text]), out])


def main() -> int:
    """Write the page's notebook where it is absent, and become JupyterLab, bound to loopback."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "runs" / "embedded-mini").resolve()
    try:
        _ours(runs)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = WORK / "demo.ipynb"
    if not path.exists():
        WORK.mkdir(exist_ok=True)
        cells = [new_markdown_cell(_TEXT.format(LIMIT // 1_000_000)), new_code_cell(_CELL)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    os.environ["HAF_DEMO_RUNS"] = str(runs)
    # Uploads come through a websocket, which closes on larger messages; base64 adds a third.
    become_lab(
        f"doc/tree/{WORK.name}/{path.name}",
        f"--ServerApp.tornado_settings={{'websocket_max_message_size': {4 * LIMIT}}}",
        *sys.argv[2:],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
