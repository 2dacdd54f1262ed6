import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from haf_utils.config import check, default_name, resolve
from haf_utils.ensembles import Member
from haf_utils.experiment.members import (
    MEMBERS,
    SYSTEMS,
    best_subset,
    complete,
    fold_member,
    fuse,
    member_configs,
    member_of,
    weights_of,
)
from haf_utils.experiment.workspace import Workspace
from haf_utils.runs import Predictions, Run, RunError


def posteriors(labels, sharpness, rng):
    logits = rng.standard_normal((len(labels), 23))
    logits[np.arange(len(labels)), labels] += sharpness
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def run(name, fold=0, seed=0, views=2, trained=("t1", "t2"), parts=("validation", "test", "evaluation"), clips=60):
    rng = np.random.default_rng([seed, fold])
    predictions = {}
    for part in parts:
        labels = np.random.default_rng(0).integers(0, 23, clips)
        each = np.stack([posteriors(labels, 2 + seed, rng) for _ in range(views)])
        known = labels if part != "evaluation" else np.full(clips, -1)
        ids = np.array([f"{part}{clip}" for clip in range(clips)])
        predictions[part] = Predictions(ids, known, each, each[0], np.ones((clips, 2)) / 2)
    split = pd.DataFrame({"sound_id": list(trained), "part": "train"})
    config = {"fold": fold, "name": name, "seed": seed}
    return Run(Path(name), {"config": config}, split, pd.DataFrame(), predictions, {})


@pytest.fixture
def space(tmp_path):
    (tmp_path / "data/metadata").mkdir(parents=True)
    (tmp_path / "data/audio").mkdir()
    (tmp_path / "data/audio/1.wav").touch()
    (tmp_path / "data/metadata/BSD10k_metadata.csv").write_text(
        "sound_id,class,class_idx,class_top,confidence,uploader,license,title,tags,description\n"
        "1,fx-o,401,fx,5,me,,door,door,\n"
    )
    runs = tmp_path / "runs"
    where = {"dataset": str(tmp_path / "data"), "runs": str(runs), "scratch": str(runs)}
    fields = {field.name: "" for field in dataclasses.fields(Workspace)} | where
    return Workspace(**fields | {"profile": "mini", "device": "cpu", "precision": "fp32"})


def test_a_system_names_members_that_exist():
    for members, fusion in SYSTEMS.values():
        assert set(members) <= set(MEMBERS) and fusion in ("Equal", "Weighted")


def test_members_are_distinct_valid_runs(space):
    for folder in ("clap-fsd50k", "clap-fsd50k-nsynth"):
        (Path(space.runs) / folder).mkdir(parents=True)
    configs, absent = member_configs(space, seed=3)
    assert not absent and list(configs) == list(MEMBERS)
    names = [default_name(config) for name, config in configs.items() if name != "metadata"]
    assert len(set(names)) == len(names)
    for config in configs.values():
        check(config)
    assert configs["another seed"].seed == 4 and configs["plain"].smoothing == "none"
    assert configs["smoothing"].train == "head" and configs["PaSST"].train == "joint"
    assert configs["FSD50K"].initialisation == "clap-fsd50k"  # looked for among the runs, wherever they are


def test_the_full_profile_trains_jointly(space):
    configs, _ = member_configs(dataclasses.replace(space, profile="full"))
    assert {config.train for name, config in configs.items()} == {"joint"}
    assert resolve(configs["plain"]).epochs == 30 and resolve(configs["PaSST"]).epochs == 30


def test_what_cannot_be_trained_is_left_out_and_said(space):
    configs, absent = member_configs(space)
    assert "notebook 03" in absent["FSD50K"] and "FSD50K + NSynth" in absent and "FSD50K" not in configs
    assert configs["PaSST"].epochs < 10 and configs["plain"].epochs is None
    Path(space.dataset, "audio/1.wav").unlink()
    configs, absent = member_configs(space, train="joint")
    assert "PaSST" in absent and {config.train for config in configs.values()} == {"head"}


def test_a_member_is_a_run_with_its_views_and_what_it_was_trained_on():
    member = member_of(run("a"), "test", "A")
    assert member.name == "A" and member.probabilities.shape == (2, 60, 23) and member.train_ids == ["t1", "t2"]
    with pytest.raises(RunError, match="no predictions for 'evaluation', only for validation, test"):
        member_of(run("a", parts=("validation", "test")), "evaluation")


def test_folds_become_one_member_of_the_evaluation_set():
    folds = [run(f"r{fold}", fold, trained=(f"t{fold}", "common")) for fold in range(3)]
    member = fold_member(folds, name="five folds")
    expected = np.mean([r.part("evaluation").probabilities for r in folds], axis=0)
    np.testing.assert_allclose(member.probabilities, expected)
    assert member.train_ids == ["common", "t0", "t1", "t2"] and member.name == "five folds"
    assert fuse([member, member_of(run("b", seed=1), "evaluation")]).probabilities.shape == (60, 23)


def test_folds_are_refused_on_clips_that_one_of_them_was_trained_on():
    folds = [run("r0"), run("r1", 1, trained=("test5", "t9"))]
    member = fold_member(folds, "test")
    with pytest.raises(ValueError, match="trained on 1 of the clips to be scored .test5"):
        fuse([member, member_of(run("b", seed=1), "test")])


@pytest.mark.parametrize(
    "runs, message",
    [
        ([], "no run"),
        ([run("a"), run("b")], "two runs of the same fold: a, b"),
        ([run("a"), run("b", 1, seed=1)], "differ in more than the fold: seed"),
        ([run("a"), run("b", 1, parts=("test",))], "no predictions for 'evaluation'"),
    ],
)
def test_what_is_no_set_of_folds(runs, message):
    with pytest.raises(RunError, match=message):
        fold_member(runs)


def test_weights_are_equal_or_fitted_on_validation():
    members = [member_of(run(str(seed), seed=seed), "validation") for seed in range(3)]
    np.testing.assert_allclose(weights_of("Equal", members), 1 / 3)
    fitted = weights_of("Weighted", members)
    assert fitted.sum() == pytest.approx(1) and fitted[2] > fitted[0]


def test_the_best_subset_is_of_two_members_at_least_and_small():
    labels = np.arange(46) % 23
    right = np.eye(23)[labels]
    wrong = np.eye(23)[(labels + 1) % 23]
    ids = np.array([str(clip) for clip in range(46)])
    members = [Member(n, ids, labels, p, ()) for n, p in (("w", wrong), ("a", right), ("b", right), ("c", right))]
    assert best_subset(members) == (1, 2)
    with pytest.raises(ValueError, match="at least two members"):
        best_subset(members[:1])


def test_a_clip_that_nobody_could_hear_keeps_a_row():
    labels = np.array([3, 4])
    member = Member("m", np.array(["a", "c"]), labels, np.eye(23)[labels], ())
    posteriors, unheard = complete(member, ["c", "b", "a"], np.full((3, 23), 1 / 23))
    assert unheard == ["b"] and posteriors.argmax(1).tolist() == [4, 0, 3]
    np.testing.assert_allclose(posteriors.sum(1), 1)
