import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from haf_utils.config import resolve
from haf_utils.controls import neighbour_posteriors
from haf_utils.experiment import control_runs
from haf_utils.experiment.assembly import corpus_of, embedded
from haf_utils.experiment.control_runs import CONTROLS, run_control
from haf_utils.experiment.workspace import Workspace, finetune_config
from haf_utils.runs import load_run
from haf_utils.training import finetune

TRAINED = [kind for kind in CONTROLS if kind != "posteriors"]  # the others need a table: test_beyond.py


@pytest.fixture(scope="module")
def space(tiny, tmp_path_factory):
    """The tiny workspace with run folders of its own and the stores and embeddings of the others."""
    fields = {name: getattr(tiny, name) for name in tiny.__dataclass_fields__}
    return Workspace(**fields | {"runs": str(tmp_path_factory.mktemp("controls"))})


@pytest.fixture(scope="module")
def controls(space):
    config = finetune_config(space)
    return {kind: load_run(run_control(config, kind, quiet=True)) for kind in TRAINED}


@pytest.mark.parametrize("kind", TRAINED)
def test_a_control_leaves_a_run_like_any_other(controls, kind):
    run = controls[kind]
    assert run.name == f"control-{kind}_f0_s0" and run.config["config"]["system"] == f"control-{kind}"
    assert run.config["config"]["modality"] == CONTROLS[kind] and run.config["config"]["tta_views"] == 0
    assert set(run.predictions) == {"validation", "test", "evaluation"}
    for part, predictions in run.predictions.items():
        assert predictions.posteriors.shape == (1, len(predictions.ids), 23)
        assert (predictions.posteriors >= 0).all()
        np.testing.assert_allclose(predictions.posteriors.sum(-1), 1, atol=1e-5)
        assert run.split.loc[run.split["part"] == part, "sound_id"].tolist() == predictions.ids.tolist()
    assert run.metrics["epochs"] == (1 if kind == "hatr" else 0)
    assert run.metrics["parameters"] == (7_319_513 if kind == "hatr" else 0)
    assert 0 <= run.metrics["test"]["hF"] <= 1


def test_controls_are_judged_on_the_clips_of_the_run_beside_them(space, controls):
    run = load_run(finetune(finetune_config(space, train="head", epochs=1), quiet=True))
    for control in controls.values():
        assert control.part("test").ids.tolist() == run.part("test").ids.tolist()
        assert (control.part("test").labels == run.part("test").labels).all()


def test_reading_helps(controls):
    """Texts of the embedded dataset tell much; a control that reads none of them would be at the level of chance."""
    assert controls["metadata"].metrics["test"]["accuracy"] > 0.15  # chance: 0.04


def test_finished_controls_are_kept_and_other_parameters_are_other_runs(space, controls, monkeypatch):
    monkeypatch.setitem(control_runs._FITS, "linear", None)  # fitting would fail
    config = finetune_config(space, smoothing="none", mixup=False, dropout=0.1)  # nothing to a control
    assert run_control(config, "linear", quiet=True) == controls["linear"].folder
    monkeypatch.undo()
    other = run_control(finetune_config(space, fold=1, split="uploader"), "metadata", quiet=True)
    assert other.name == "control-metadata_split=uploader_f1_s0"
    shuffled = load_run(run_control(finetune_config(space, shuffle_texts=True), "metadata", quiet=True))
    plain = controls["metadata"].part("test")
    assert np.abs(shuffled.part("test").plain - plain.plain).max() > 0.01


def test_extra_clips_can_be_left_out(space):
    run = load_run(run_control(finetune_config(space, extra_weight=1.0), "neighbours", quiet=True))
    assert run.name == "control-neighbours_extra_weight=1.0_f0_s0"
    config = json.loads((Path(run.folder) / "config.json").read_text())["config"]
    assert config["extra_weight"] == 1
    assert len(run.split) > len(load_run(run.folder.with_name("control-neighbours_f0_s0")).split)


def test_an_unknown_kind(space):
    with pytest.raises(ValueError, match="kind='svm' is unknown.*zero-shot.*hatr"):
        run_control(finetune_config(space), "svm")


def test_embeddings_without_the_clap_that_made_them(tiny, tmp_path):
    """A dataset of the official embeddings: no zero-shot, every other control."""
    root, rng = tmp_path / "BSD10k", np.random.default_rng(0)
    shutil.copytree(tiny.dataset, root)
    for modality in ("audio", "text"):
        folder = root / "features" / f"clap_{modality}_embeddings"
        folder.mkdir(parents=True)
        for path in (root / "audio").iterdir():
            np.save(folder / f"{path.stem}.npy", rng.standard_normal(512).astype(np.float32))
    shutil.rmtree(root / "audio")
    where = {"dataset": str(root), "extra": "", "evaluation": "", "runs": str(tmp_path), "scratch": str(tmp_path)}
    config = finetune_config(tiny, **where)
    with pytest.raises(ValueError, match="zero-shot needs its text branch"):
        run_control(config, "zero-shot")
    assert not (tmp_path / "control-zero-shot_f0_s0").exists()
    assert load_run(run_control(config, "neighbours")).metrics["test"]["hF"] < 0.3


def test_neighbours_by_hand():
    train = np.array([[1, 0], [1, 0.01], [0, 1.0]])
    found = neighbour_posteriors(train, np.array([4, 4, 20]), np.array([[2, 0], [0, 3.0]]), k=1)
    assert found.shape == (2, 23) and found.argmax(1).tolist() == [4, 20]
    every = neighbour_posteriors(train, np.array([4, 4, 20]), np.array([[1, 1.0]]), k=50)  # fewer clips than k
    np.testing.assert_allclose(every.sum(), 1)
    assert set(np.flatnonzero(every[0])) == {4, 20}


def test_votes_are_of_as_many_neighbours_as_do_best_on_validation_clips(controls, space):
    recipe = resolve(finetune_config(space, train="head"))
    corpus = corpus_of(recipe)
    vectors, part = np.hstack(embedded(recipe, corpus)), corpus.parts()
    vectors = np.hstack([vectors, corpus.presence[:, None]])
    train, test = part == "train", part == "test"
    found = controls["votes"].part("test").probabilities
    by_k = {k: neighbour_posteriors(vectors[train], corpus.labels[train], vectors[test], k) for k in (5, 10, 20, 50)}
    assert sum(np.allclose(found, votes, atol=1e-6) for votes in by_k.values()) == 1
