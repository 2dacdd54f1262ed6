"""The main job to its end where no data or weights can be had: the full profile with random weights in the checkpoints'
true formats, and datasets that ship embeddings alone. Slow: `make test-slow`."""

import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import REPOSITORY

from haf_utils.clap import ClapNetwork
from haf_utils.experiment.workspace import make_embedded
from haf_utils.io.files import state, walk
from haf_utils.passt import build_passt
from haf_utils.profiles import profile
from tools.posteriors import write_nested
from tools.run_notebooks import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("HAF_TEST_REHEARSAL") != "1",
        reason="HAF_TEST_REHEARSAL=1 is for a machine with 12 GB of memory, 15 GB of disk and 20 minutes for it",
    ),
]

MEMORY, DISK = 12e9, 15e9  # bytes that the full-size path may take
CLASSES = ("m-sp", "m-m", "is-p", "is-s", "sp-s", "fx-o", "fx-v", "ss-n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is removed at once: pytest keeps its own for three sessions, and this one holds gigabytes."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@contextmanager
def peaks(folder: Path) -> Iterator[dict[str, int]]:
    """Bytes at most, looked at every second: on disk in `folder`, and resident in this process and all that it began
    (pages that processes share are counted for each)."""
    found, ended = {"disk": 0, "memory": 0}, threading.Event()

    def resident(process: psutil.Process) -> int:
        try:
            return process.memory_info().rss
        except psutil.NoSuchProcess:
            return 0

    def look() -> None:
        while not ended.wait(1):
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            now = {
                "disk": sum(max(0, state(file)[0]) for file in walk(folder)),
                "memory": sum(map(resident, processes)),
            }
            found.update({name: max(value, found[name]) for name, value in now.items()})

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def table_of(root: Path) -> tuple[Path, pd.DataFrame]:
    file = next((root / "metadata").glob("*_metadata.csv"))
    return file, pd.read_csv(file, dtype=str, keep_default_na=False)


def cut(source: Path, target: Path, clips: int, classes=()) -> Path:
    """A copy of a BSD or evaluation folder with its first clips: `clips` of each of `classes`, or in all."""
    file, table = table_of(source)
    if classes:
        table = table[table["class"].isin(classes)].groupby("class").head(clips)
    table = table.head(clips * max(1, len(classes)))
    (target / "metadata").mkdir(parents=True)
    (target / "audio").mkdir()
    table.to_csv(target / "metadata" / file.name, index=False)
    for clip in table.iloc[:, 0]:
        copy_audio(source / "audio", clip, target / "audio")
    return target


def copy_audio(source: Path, name: str, target: Path) -> None:
    for file in source.glob(f"{name}.*"):
        shutil.copy(file, target)


def captioned(source: Path, target: Path, clips: int) -> None:
    """FSD50K and NSynth of a few clips each."""
    for part in ("dev", "eval"):
        name = f"FSD50K/FSD50K.ground_truth/{part}.csv"
        table = pd.read_csv(source / name, dtype=str, keep_default_na=False).head(clips)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(target / name, index=False)
        audio = f"FSD50K/FSD50K.{part}_audio"
        (target / audio).mkdir()
        for clip in table["fname"]:
            copy_audio(source / audio, clip, target / audio)
    shutil.copytree(source / "FSD50K/FSD50K.metadata", target / "FSD50K/FSD50K.metadata")
    for split in source.glob("nsynth-*"):
        notes = dict(list(json.loads((split / "examples.json").read_text()).items())[:clips])
        (target / split.name / "audio").mkdir(parents=True)
        (target / split.name / "examples.json").write_text(json.dumps(notes))
        for note in notes:
            copy_audio(split / "audio", note, target / split.name / "audio")


def weights(target: Path) -> dict[str, str]:
    """Random weights of the full sizes as LAION and PaSST publish theirs."""
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in ClapNetwork(profile("full").clap).state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"epoch": 1, "best": np.float64(0.5), "state_dict": state}, target / "630k.pt", pickle_protocol=4)
    state = dict(build_passt(profile("full").passt).network.state_dict())
    heads = {"head.1.weight": torch.zeros(527, 768), "head_dist.weight": torch.zeros(527, 768)}
    torch.save(state | heads, target / "passt.pt")
    shutil.copy(REPOSITORY / "data/clap-mini/tokenizer.json", target)
    return {"checkpoint": f"{target}/630k.pt", "tokenizer": f"{target}/tokenizer.json", "passt": f"{target}/passt.pt"}


def run(runs: Path, **settings) -> int:
    settings = {"folds": 1, "epochs": 1, "views": 1, "batch": 4, "workers": 1} | settings
    few = " ".join(f"{number}.replicates=50" for number in ("02", "04", "05", "06"))
    cheap = f"01.listen=2 {few} 03.pairs=4 05.recipe_seeds=[0] 05.shares=[0.5] 06.views=1"
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    return main([*arguments, f"--runs={runs}", f"--set={cheap}"])


def results(runs: Path) -> Path:
    (table,) = runs.glob("*/results.csv")
    scores = pd.read_csv(table)["hF"].str.removesuffix(" %").astype(float)
    assert scores.between(0, 100).all()
    return table.parent


def test_the_full_size_path_to_its_end(folder, capsys):
    """All notebooks, all members, those through teacher, stages and posteriors too, at real sizes, within `MEMORY` and
    `DISK`."""
    source = make_embedded("mini")
    data = folder / "data"
    cut(source / "BSD10k", data / "BSD10k", 5, CLASSES)
    cut(source / "BSD35k-CS", data / "BSD35k-CS", 8)
    cut(source / "evaluation", data / "evaluation", 4)
    captioned(source, data, 6)
    given = {"data": data / "BSD10k", "extra": data / "BSD35k-CS", "evaluation": data / "evaluation"}
    assert len(table_of(data / "BSD10k")[1]) == 40
    write_nested(folder / "words", *map(str, given.values()))
    given |= {"fsd50k": data / "FSD50K", "nsynth": data, "posteriors": folder / "words", "profile": "full"}
    given |= weights(folder)
    with peaks(folder) as taken:
        assert run(folder / "runs", **given) == 0
    print({name: f"{value / 1e9:.1f} GB" for name, value in taken.items()})
    root = results(folder / "runs")
    systems = pd.read_csv(root / "results.csv")["system"].tolist()
    assert systems[1:] == ["ours", "task1-1", "task1-2", "task1-3"]
    assert len(list((root / "submission").glob("*.output.csv"))) == 4
    fields = [json.loads(file.read_text()).get("config", {}) for file in root.glob("*/config.json")]
    assert any(own.get("whole_model") and own.get("posteriors") for own in fields)  # stage 3, with the third input
    order = [line[:2] for line in capsys.readouterr().out.splitlines() if line.endswith(" s") and line[:2].isdigit()]
    assert order == ["00", "01", "02", "04", "06", "03", "06", "05", "07"]
    assert 1e9 < taken["memory"] < MEMORY and 1e9 < taken["disk"] < DISK, taken
    assert not list(root.glob("*/training-*")) and not list(root.glob("*/resume.pt"))


def embedded(source: Path, target: Path, width: int = 768) -> Path:
    """A folder's metadata with embeddings that tell the class a little, and no recordings."""
    shutil.copytree(source / "metadata", target / "metadata")
    _, table = table_of(target)
    classes = table["class"] if "class" in table else table.iloc[:, 0]
    for modality in ("audio", "text"):
        features = target / "features" / f"clap_{modality}_embeddings"
        features.mkdir(parents=True)
        for clip, code in zip(table.iloc[:, 0], classes, strict=True):
            noise, centre = (np.random.default_rng(zlib.crc32(name.encode())) for name in (clip + modality, code))
            vector = noise.standard_normal(width) + centre.standard_normal(width)
            np.save(features / f"{clip}.npy", vector.astype(np.float32))
    return target


@pytest.mark.parametrize("name", ["full", "mini"])
def test_embeddings_alone_run_to_the_end_without_any_checkpoint(name, folder, capsys):
    source = make_embedded("tiny")
    roles = {"data": "BSD10k", "extra": "BSD35k-CS", "evaluation": "evaluation"}
    given = {role: embedded(source / root, folder / root) for role, root in roles.items()}
    assert run(folder / "runs", **given, fsd50k=source / "FSD50K", nsynth=source, profile=name) == 0
    root = results(folder / "runs")
    printed = capsys.readouterr().out
    assert "head on the embeddings that the dataset ships" in printed
    assert "03_continued_pretraining left out: what it trains embeds audio" in printed
    assert "ours" in pd.read_csv(root / "results.csv")["system"].tolist()
    assert len(list((root / "submission").glob("*.output.csv"))) == 2  # ours, task1-1
