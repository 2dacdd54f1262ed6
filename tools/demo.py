"""Drop a sound on it, `make demo`: a page in JupyterLab, on this machine alone, that classifies what is dropped.

    python -m tools.demo [RUNS]          # a folder of finished runs; default: runs/embedded-mini

It shows the posterior of "ours" by top level, each member's fusion weights, which the words in the text box move, and
the nearest training clips to listen to. The page is tools/jupyterlab/demo.ipynb, which runs itself.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Audio, display

from haf_utils.audio import AudioError, prepare
from haf_utils.config import resolve
from haf_utils.experiment.assembly import checkpoint_of, corpus_of, embeddings, load_source
from haf_utils.experiment.finetune import config_of
from haf_utils.experiment.members import trained_ours
from haf_utils.experiment.predict import Recordings, load_system, predict_all
from haf_utils.experiment.workspace import caveat
from haf_utils.inference import average_probabilities
from haf_utils.plots import style
from haf_utils.plots.ensemble import posterior_card
from haf_utils.plots.widgets import as_wav
from haf_utils.profiles import REPOSITORY
from haf_utils.runs import RunError, load_run
from haf_utils.taxonomy import CLASSES, NAMES
from tools.lab import SETTINGS, become_lab, working_copy

__all__ = ["LIMIT", "main", "page", "reading", "training_clips"]

LIMIT = 20_000_000  # bytes of a recording


def training_clips(folder: Path):
    """Of a run: pretrained CLAP, the corpus, the rows (M,) of its training clips, their embeddings (M, E) by CLAP."""
    config = config_of(load_run(folder), device="cpu")
    weights = "" if config.system == "passt" else config.weights
    recipe = resolve(replace(config, system="haf", train="head", initialisation="pretrained", weights=weights))
    corpus, source = corpus_of(recipe), checkpoint_of(recipe)
    rows = np.flatnonzero(corpus.parts(recipe.split, recipe.fold) == "train")
    kept = str(Path(recipe.scratch or recipe.runs) / "embeddings")
    audio, _ = embeddings(corpus, source, recipe.seed, recipe.profile, kept, tokenizer=recipe.tokenizer)
    return load_source(source, recipe.seed, recipe.sizes, "cpu", tokenizer=recipe.tokenizer), corpus, rows, audio[rows]


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


def page(runs: Path | str) -> ipywidgets.VBox:
    """The widget: an upload, a text box, and below them the answer or the reason why there is none."""
    ours, names, left_out = trained_ours(runs)
    models = {f"{name}, fold {m.config.fold}": m for name, m in zip(names, map(load_system, ours), strict=True)}
    left_out = left_out and f"left out of ours, as they need more than a recording and its text: {', '.join(left_out)}"
    clap, corpus, rows, known = training_clips(next(iter(ours)))
    rates = {rate := clap.config.audio.sample_rate, *(model.sample_rate for model in models.values())}
    style.style()

    def show(files, words):
        if not files:
            return print(f"Nothing has been dropped yet: upload a recording of at most {LIMIT / 1e6:g} MB.")
        try:
            samples = reading(files[0]["name"], bytes(files[0]["content"]), rates)
        except AudioError as error:
            return print(error)
        clip = pd.DataFrame({"sound_id": ["dropped"], "text": [words.strip()]})
        said = {name: predict_all(m, Recordings(clip, [samples[m.sample_rate]])) for name, m in models.items()}
        posterior = average_probabilities([each.plain[0] for each in said.values()], list(ours.values()))
        members = pd.DataFrame({name: each.plain[0] for name, each in said.items()}, CLASSES).T
        fusion = pd.DataFrame({name: each.weights[0, :2] for name, each in said.items()}, ["audio", "text"]).T
        title = f"{NAMES[CLASSES[posterior.argmax()]]}, {100 * posterior.max():.0f} %"
        display(posterior_card(posterior, members, fusion, -1, title, samples[rate], rate))
        plt.close()
        notes = caveat(next(iter(models.values())).config.profile, ""), left_out
        print(*filter(None, notes), "The nearest training clips, by CLAP's embedding of the sound:", sep="\n")
        cosines = known @ clap.embed_audio([samples[rate]], progress=False)[0]
        for place in np.argsort(-cosines)[:5]:
            near = corpus.table.iloc[rows[place]]
            print(f"{NAMES[near['code']]} ({near['code']}), “{near['title']}”, cosine {cosines[place]:.2f}")
            display(Audio(data=as_wav(corpus.samples(rows[place])[: 5 * rate], rate)))

    upload = ipywidgets.FileUpload(accept="audio/*", description="a recording")
    text = ipywidgets.Text(placeholder="words: title, tags", continuous_update=False, layout={"width": "40em"})
    return ipywidgets.VBox([upload, text, ipywidgets.interactive_output(show, {"files": upload, "words": text})])


def main() -> None:
    """Become a JupyterLab on loopback that shows the page, in a folder of its own, and nothing else."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "runs" / "embedded-mini").resolve()
    try:
        trained_ours(runs)
    except (RunError, OSError) as error:
        sys.exit(f"error: {error}; `make run` trains them, in 6 minutes on two cores")
    working_copy(SETTINGS, Path(folder := tempfile.mkdtemp(prefix="haf-demo-")))  # trusted: JupyterLab runs its script
    os.environ["HAF_DEMO_RUNS"] = str(runs)
    own = f"--ServerApp.root_dir={folder}", f"--LabApp.workspaces_dir={folder}"  # not what `make lab` left open
    # Uploads come through a websocket, which closes on larger messages; base64 adds a third.
    large = f"--ServerApp.tornado_settings={{'websocket_max_message_size': {4 * LIMIT}}}"
    become_lab("doc/tree/demo.ipynb", *own, large, "--expose-app-in-browser", *sys.argv[2:])


if __name__ == "__main__":
    main()
