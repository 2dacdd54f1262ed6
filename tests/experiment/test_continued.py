"""Which captioned clips continued pretraining may use, and the checkpoint that it leaves."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from haf_utils.clap import load_clap
from haf_utils.datasets import load_evaluation, load_fsd50k
from haf_utils.experiment import continued
from haf_utils.experiment.continued import captioned, continue_pretraining, retrieval
from haf_utils.experiment.workspace import workspace
from haf_utils.profiles import profile


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return workspace(profile="tiny", runs=str(tmp_path_factory.mktemp("runs")))


def test_clips_that_bsd_is_tested_on_are_left_out(space, tmp_path):
    """One FSD50K clip is planted in a copy of the evaluation set, re-encoded: it is found by its sound alone."""
    fsd50k = load_fsd50k(space.fsd50k)
    root = tmp_path / "evaluation"
    shutil.copytree(space.evaluation, root)
    lengths = [soundfile.info(path).duration for path in fsd50k["path"]]
    planted = fsd50k.iloc[int(np.argmax(lengths))]
    samples, rate = soundfile.read(planted["path"])
    target = load_evaluation(root)["path"].iloc[0]
    soundfile.write(target, 0.7 * samples, rate)
    spiked = workspace(space.dataset, space.extra, str(root), space.fsd50k, "", str(tmp_path / "runs"), profile="tiny")
    data = captioned(spiked)
    used = set(data.training["sound_id"]) | set(data.held_out["sound_id"])
    assert planted["sound_id"] not in used
    assert data.removed["FSD50K clips also in the evaluation set"] >= 1
    tested = pd.read_csv(f"{space.dataset}/metadata/BSD10k_metadata.csv", dtype=str)
    assert not used & set(tested["sound_id"])


def test_captions_are_several_and_the_same_for_a_seed(space):
    data, again = captioned(space, seed=3), captioned(space, seed=3)
    assert data.training["captions"].tolist() == again.training["captions"].tolist()
    assert data.training["captions"].tolist() != captioned(space, seed=4).training["captions"].tolist()
    assert set(data.training["source"]) == {"fsd50k", "nsynth"} == set(data.held_out["source"])
    assert data.training["captions"].map(len).max() > 1
    assert not set(data.training["sound_id"]) & set(data.held_out["sound_id"])


def test_a_checkpoint_comes_out_that_a_run_can_start_from(space):
    data = captioned(space)
    settings = profile("tiny").pretraining
    clap, history = continue_pretraining(space, data, "clap-fsd50k", ("fsd50k",), settings)
    loaded = load_clap(f"{space.runs}/clap-fsd50k")
    start = load_clap(profile("tiny").checkpoint)
    texts = ["a dog barks", "rain"]
    np.testing.assert_allclose(loaded.embed_text(texts), clap.embed_text(texts), atol=1e-6)
    assert np.abs(loaded.embed_text(texts) - start.embed_text(texts)).max() > 1e-4
    assert len(history) == settings.epochs and np.isfinite(history["loss"]).all()
    scores = retrieval(loaded, data.held_out, data.stores)
    assert all(0 <= value <= 1 for value in scores.values())
    again, same = continue_pretraining(space, data, "clap-fsd50k", ("fsd50k",), settings)
    assert same["loss"].tolist() == pytest.approx(history["loss"].tolist())


def test_a_finished_checkpoint_of_other_code_is_used_and_marked(space, monkeypatch, capsys):
    data, settings = captioned(space), dataclasses.replace(profile("tiny").pretraining, epochs=1)
    arguments = space, data, "clap-code", ("fsd50k",)
    _, history = continue_pretraining(*arguments, settings)
    weights = (Path(space.runs) / "clap-code" / "model.safetensors").read_bytes()
    monkeypatch.setattr(continued, "pretrain", None)  # training would fail
    monkeypatch.setattr(continued, "changed_files", lambda known, module: ("losses.py",))
    _, again = continue_pretraining(*arguments, settings)
    assert again["loss"].tolist() == pytest.approx(history["loss"].tolist())
    assert "clap-code: made by other code: losses.py" in capsys.readouterr().out
    monkeypatch.undo()
    continue_pretraining(*arguments, dataclasses.replace(settings, rate=1e-5))  # other settings: beside it
    (kept,) = Path(space.runs).glob("clap-code~*")
    assert (kept / "model.safetensors").read_bytes() == weights
    assert (Path(space.runs) / "clap-code" / "model.safetensors").read_bytes() != weights
    for damaged in ("{", '{"identity": 1}', "3", '{"identity": 1, "evaluation": false, "code": []}'):
        (Path(space.runs) / "clap-code" / "pretraining.json").write_text(damaged)
        with pytest.raises(ValueError, match="pretraining.json is damaged .*: move .*clap-code away and train again"):
            continue_pretraining(*arguments, settings)


@pytest.mark.parametrize("killed_at", ["history.csv", "pretraining.json", "removal"])
def test_a_kill_at_the_end_loses_no_training_and_leaves_no_state(space, monkeypatch, killed_at):
    name, module = f"clap-killed-{killed_at.split('.')[0]}", "haf_utils.experiment.continued"
    arguments = space, captioned(space), name, ("fsd50k",), dataclasses.replace(profile("tiny").pretraining, epochs=1)
    folder = Path(space.runs) / name

    def killed(*_, **__):
        raise KeyboardInterrupt

    step = {"history.csv": "atomic_write", "pretraining.json": "write_json", "removal": "shutil.rmtree"}[killed_at]
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            continue_pretraining(*arguments)
    assert len(list(folder.glob("training-*/resume.pt"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("haf_utils.pretraining._loss", killed)  # another step of training would stop here
        clap, history = continue_pretraining(*arguments)
    assert not list(folder.glob("training-*")) and not list(folder.parent.glob(f"{name}~*"))
    assert len(history) == 1 and (folder / "pretraining.json").is_file()
    texts = ["a dog barks", "rain"]
    np.testing.assert_allclose(load_clap(folder).embed_text(texts), clap.embed_text(texts), atol=1e-6)


def test_neither_dataset_is_a_clear_error(space):
    with pytest.raises(ValueError, match="needs FSD50K or NSynth"):
        captioned(dataclasses.replace(space, fsd50k="", nsynth=""))
