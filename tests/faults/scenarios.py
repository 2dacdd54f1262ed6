"""What is disturbed: small pieces of real work below a folder, whose results are digests that must never change."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import soundfile
import torch

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / name) for name in (".", "experiment", "data", "io", "../data", "..")]

import download
import test_download as web
import test_pretraining as contrastive
from test_sweeps import features_only

from haf_utils.audio import prepare
from haf_utils.config import FinetuneConfig
from haf_utils.experiment import finetune as finetuning
from haf_utils.experiment.sweeps import sweep
from haf_utils.io.checkpoints import read_weights
from haf_utils.io.files import atomic_write
from haf_utils.io.store import build_store
from haf_utils.runs import load_run
from tools import run_notebooks


def digest(*parts) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else np.asarray(p).tobytes() for p in parts)).hexdigest()


class Work:
    """Inputs, made once; every method does its work below `folder` and returns the digest of what came of it."""

    def __init__(self, inputs: Path):
        self.inputs, rng = inputs, np.random.default_rng(0)
        (inputs / "audio").mkdir(parents=True)
        for clip in range(14):
            soundfile.write(inputs / f"audio/{clip}.wav", rng.normal(0, 0.1, 300 * (13 - clip)), 8_000)
        paths = [str(inputs / f"audio/{clip}.wav") for clip in range(15)]  # the last two cannot be used
        self.clips = pd.DataFrame({"sound_id": [str(clip) for clip in range(15)], "path": paths})
        self.dataset = str(features_only(inputs / "data", clips=6))
        contrastive.SETTINGS = dataclasses.replace(contrastive.SETTINGS, epochs=2, batch=6)
        finetuning._SAVE_EVERY = 0.0  # every epoch is saved
        self.clap = contrastive.fresh_clap()
        self.site = web.Site()
        files = {"audio.zip": web.zipped(web.CLIPS), "metadata.zip": web.zipped(web.METADATA), "README.md": b"# read"}
        self.site.add_record(download.RECORDS["bsd10k"], files)
        download.ZENODO = self.site.url

    def config(self, folder: Path, **choices) -> FinetuneConfig:
        return FinetuneConfig(self.dataset, str(folder), profile="tiny", train="head", epochs=3, **choices)

    def store(self, folder: Path) -> str:
        store = build_store(self.clips, folder, 8_000, prepare, workers=1, progress=False)
        return digest(*map(store.samples, store.index["sound_id"]), "".join(store.lost["reason"]).encode())

    def training(self, folder: Path, **choices) -> str:
        return self.scored(finetuning.finetune(self.config(folder, **choices), quiet=True))

    def scored(self, folder: Path) -> str:
        run = load_run(folder)
        arrays = [getattr(part, name) for part in run.predictions.values() for name in ("posteriors", "plain")]
        history = run.history.to_csv(index=False).encode()
        return digest(*arrays, history) + digest(*read_weights(run.folder).values())

    def pretraining(self, folder: Path) -> str:
        return digest(*contrastive.train(folder, self.clap)[1].values())

    def sweep(self, folder: Path) -> str:
        configs = [self.config(folder, seed=seed) for seed in (0, 1)]
        outcome = sweep(configs, workers=1, quiet=True, retry_failed=True)
        if outcome.failed or outcome.absent:
            raise RuntimeError(str(outcome))
        return "".join(map(self.scored, outcome.folders))

    def download(self, folder: Path) -> str:
        if download.main(["bsd10k", "--to", str(folder / "bsd10k")]):
            raise ValueError("the download ended with an error")
        files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
        return digest(*(f"{path.relative_to(folder)}\n".encode() + path.read_bytes() for path in files))

    def pipeline(self, folder: Path) -> str:
        """The main job's bookkeeping around three notebooks, each in the place of minutes of work."""

        def quick(notebook: Path, output: Path, parameters: dict) -> None:
            output.parent.mkdir(parents=True, exist_ok=True)
            cell = nbformat.v4.new_code_cell(json.dumps(parameters), id="one")
            # At once, for the other process of a delay reads it.
            atomic_write(output, lambda path: nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path))

        space = run_notebooks.Workspace(self.dataset, "", "", "", "", str(folder), str(folder), "tiny", "cpu", "fp32")
        todo = [run_notebooks.Step(path, {"seed": 0}, path.name) for path in TESTS.glob("../notebooks/0[124]_*.ipynb")]
        run_notebooks._run_notebook = quick
        if run_notebooks._run_all(space, todo, [], False):
            raise ValueError("a notebook failed")
        state = json.loads((folder / "pipeline.json").read_text("utf-8"))
        outputs = [(folder / "notebooks" / step.key).read_bytes() for step in todo]
        return digest(*outputs, *(state[step.key]["digest"].encode() for step in todo))


torch.set_num_threads(1)
