import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from haf_utils.config import check, default_name, resolve
from haf_utils.ensembles import Member
from haf_utils.experiment import sweeps
from haf_utils.experiment.control_runs import run_control
from haf_utils.experiment.members import (
    BEYOND,
    MEMBERS,
    OURS,
    SYSTEMS,
    best_subset,
    complete,
    fold_member,
    fuse,
    kind_of,
    makeable,
    member_configs,
    member_of,
    out_of_fold,
    submitted,
    systems_called,
    train_members,
    trained_ours,
    weights_of,
)
from haf_utils.experiment.workspace import Workspace, finetune_config
from haf_utils.runs import Predictions, Run, RunError, load_run
from haf_utils.training import finetune


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
        assert set(members) <= set(MEMBERS) and fusion in ("Equal", "Weighted", "Best subset")


def test_members_are_distinct_valid_runs(space):
    for folder in ("clap-fsd50k", "clap-fsd50k-nsynth"):
        (Path(space.runs) / folder).mkdir(parents=True)
    configs, absent = member_configs(space, seed=3)
    assert not absent and list(configs) == [name for name in MEMBERS if name not in BEYOND]
    assert list(configs)[: len(OURS)] == list(OURS)
    for group in (OURS, MEMBERS.keys() - OURS.keys()):
        names = [default_name(config) for name, config in configs.items() if name in group and name != "metadata"]
        assert len(set(names)) == len(names)
    for config in configs.values():
        check(config)
    assert configs["another seed"].seed == 4 and configs["plain"].smoothing == "none"
    assert configs["smoothing"].train == "head" and configs["PaSST"].train == "joint"
    assert configs["FSD50K"].initialisation == "clap-fsd50k"  # looked for among the runs, wherever they are


def test_ours_does_without_the_hard_labels_of_the_crowd(space):
    configs, _ = member_configs(dataclasses.replace(space, profile="full", extra="somewhere"))
    weight = {name: resolve(config).extra_weight for name, config in configs.items()}
    assert {name for name, value in weight.items() if value == 0} == set(OURS)
    half, _ = member_configs(dataclasses.replace(space, profile="full"), extra_weight=0.5, batch=8, epochs=None)
    assert half["plain"].extra_weight == 0.5 and half["plain (ours)"].extra_weight == 0
    assert half["PaSST"].batch == 8 and half["PaSST"].epochs is None


def test_systems_by_name():
    assert list(systems_called()) == list(SYSTEMS) and list(SYSTEMS)[0] == "ours"
    assert list(systems_called("ours")) == ["ours"] and "ours" not in systems_called("report")
    with pytest.raises(ValueError, match="everyone"):
        systems_called("everyone")
    assert [
        kind_of(name) for name in ("PaSST", "PaSST (ours)", "metadata", "plain")
    ] == "PaSST PaSST words CLAP".split()


def test_a_system_is_made_of_the_members_that_there_are():
    found, lacking = makeable(["plain (ours)", "metadata", "PaSST", "Text-Aux"])
    assert found == {"ours": (("plain (ours)", "metadata"), "Best subset"), "task1-3": (("PaSST", "Text-Aux"), "Equal")}
    assert "smoothing" in lacking["task1-1"] and "task1-3" not in lacking


def test_a_member_that_fails_is_named_and_the_others_go_on(tiny, monkeypatch):
    configs, _ = member_configs(tiny, systems={"some": (("plain (ours)", "PaSST (ours)", "metadata"), "Equal")})
    configs["smoothing (ours)"] = dataclasses.replace(configs["plain (ours)"], initialisation="/nowhere", name="lost")
    whole = sweeps.find
    damaged = Path(tiny.runs) / "haf-head_smoothing=none_f0_s9" / "config.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    configs["plain"] = dataclasses.replace(configs["plain (ours)"], name=damaged.parent.name)

    def find(recipe, *how, **more):
        if recipe.system == "passt":
            raise OSError("the audio store needs 43 GB")
        return whole(recipe, *how, **more)

    monkeypatch.setattr(sweeps, "find", find)
    trained = train_members([configs], workers=1)
    assert set(trained.folders) == {"plain (ours)", "metadata"}
    assert "43 GB" in trained.failed["PaSST (ours)"] and "/nowhere" in trained.failed["smoothing (ours)"]
    assert "is damaged" in trained.failed["plain"]
    assert all((folder / "metrics.json").is_file() for (folder,) in trained.folders.values())


def folds_of(*seeds, folds=2):
    """Runs of members a, b, … whose sharpness grows with the seed, in folds with clips of their own."""
    return {
        chr(97 + place): [fold_run(f"{chr(97 + place)}{fold}", fold, seed) for fold in range(folds)]
        for place, seed in enumerate(seeds)
    }


def fold_run(name, fold, seed):
    plain = run(name, fold, seed, trained=(f"t{fold}",))
    for part in ("validation", "test"):
        p = plain.predictions[part]
        ids = np.array([f"{part}{fold}-{clip}" for clip in range(len(p.labels))])
        plain.predictions[part] = dataclasses.replace(p, ids=ids)
    return plain


def test_the_clips_of_each_fold_are_scored_by_what_its_own_validation_chose():
    runs = folds_of(0, 3, 4)
    scored = out_of_fold(runs, "abc", "Best subset", "ours")
    assert scored.name == "ours" and len(scored.ids) == 120 and len(set(scored.ids)) == 120
    for fold in range(2):
        validation, test = (
            [member_of(runs[name][fold], part, name) for name in "abc"] for part in ("validation", "test")
        )
        chosen = best_subset(validation)
        expected = np.mean([test[place].probabilities.mean(0) for place in chosen], axis=0)
        np.testing.assert_allclose(scored.probabilities[60 * fold : 60 * fold + 60], expected)
    # The test clips decide nothing: other labels there, the same posteriors.
    for name in "abc":
        for each in runs[name]:
            test = each.predictions["test"]
            each.predictions["test"] = dataclasses.replace(test, labels=(test.labels + 1) % 23)
    np.testing.assert_array_equal(out_of_fold(runs, "abc", "Best subset").probabilities, scored.probabilities)


def test_what_is_handed_in_is_best_in_the_mean_over_folds():
    labels = np.arange(46) % 23
    right, wrong = np.eye(23)[labels], np.eye(23)[(labels - 1) % 23]
    ids = np.array([str(clip) for clip in range(46)])
    half = np.where(labels[:, None] < 16, right, wrong)

    def fold(*posteriors):
        return [Member(n, ids, labels, p, ()) for n, p in zip("abcd", posteriors, strict=True)]

    first, second = fold(right, right, half, wrong), fold(wrong, half, right, half)
    assert best_subset(first) == (0, 1) and best_subset(second) == (1, 2) and best_subset(first, second) == (0, 1, 2)
    np.testing.assert_allclose(weights_of("Best subset", first, second), [1 / 3, 1 / 3, 1 / 3, 0])
    runs = folds_of(0, 3, 4)
    handed_in, weights = submitted(runs, "abc", "Best subset", "ours")
    means = [np.mean([r.part("evaluation").probabilities for r in runs[name]], axis=0) for name in "abc"]
    np.testing.assert_allclose(handed_in.probabilities, np.tensordot(weights, np.stack(means), 1))
    assert weights.sum() == pytest.approx(1) and len(weights) == 3
    alone, weights = submitted({"a": runs["a"]}, "a", "Best subset")
    np.testing.assert_allclose(alone.probabilities, means[0])


def test_neighbours_are_blended_into_the_subset_of_the_others():
    labels = np.arange(46) % 23
    rng, ids = np.random.default_rng(0), np.array([str(clip) for clip in range(46)])
    right, wrong = 0.5 * np.eye(23)[labels] + 0.5 / 23, np.eye(23)[(labels - 1) % 23]
    soft = rng.dirichlet(np.ones(23), 46)

    def fold(votes, name="neighbours"):
        by_name = {"a": right, "b": wrong, name: votes, "c": 0.5 * right + 0.5 * soft}
        return [Member(n, ids, labels, p, ()) for n, p in by_name.items()]

    others = [[member for member in fold(votes) if member.name != "neighbours"] for votes in (right, soft)]
    subset = weights_of("Best subset", *others)
    weights = weights_of("Best subset", fold(right), fold(soft))
    np.testing.assert_allclose(np.delete(weights, 2), subset * (1 - weights[2]))
    assert 0 < weights[2] < 1 and weights.sum() == pytest.approx(1)
    assert weights_of("Best subset", fold(wrong))[2] == pytest.approx(0, abs=1e-4)
    usual = weights_of("Best subset", fold(right, "d"))
    assert set(np.round(usual[usual > 0], 6)) == {round(1 / (usual > 0).sum(), 6)}  # a member like any other


def test_the_full_profile_trains_jointly(space):
    configs, _ = member_configs(dataclasses.replace(space, profile="full"))
    assert {config.train for name, config in configs.items()} == {"joint"}
    assert resolve(configs["plain"]).epochs == 30 and resolve(configs["PaSST"]).epochs == 30


def test_what_cannot_be_trained_is_left_out_and_said(space):
    configs, absent = member_configs(space)
    assert "notebook 03" in absent["FSD50K"] and "FSD50K + NSynth" in absent and "FSD50K" not in configs
    assert configs["PaSST"].epochs < 10 and configs["plain"].epochs is None
    assert member_configs(dataclasses.replace(space, passt="weights.pt"))[0]["PaSST"].epochs is None
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


def test_ours_is_found_in_a_folder_of_runs_as_it_is_handed_in(tiny, tmp_path):
    space = dataclasses.replace(tiny, runs=str(tmp_path))
    some = ("smoothing + mixup (ours)", "another seed (ours)", "smoothing (ours)", "plain (ours)")
    folders = {name: [] for name in some}
    for fold in (0, 1):
        configs, _ = member_configs(space, fold=fold, systems={"ours": (some, "Best subset")}, epochs=1)
        for name in some:
            folders[name].append(finetune(configs[name], quiet=True))
    with pytest.raises(RunError, match="no runs of the system ours"):
        trained_ours(folders["plain (ours)"][0])
    # Not of ours: the crowd's labels, another method, another way of training.
    report, _ = member_configs(space, systems={"report": (("plain",), "Equal")}, epochs=1)
    finetune(report["plain"], quiet=True)
    finetune(finetune_config(space, train="head", fusion="mean", smoothing="none", mixup=False, epochs=1), quiet=True)
    runs = {name: [load_run(folder) for folder in of_folds] for name, of_folds in folders.items()}
    _, weights = submitted(runs, some, "Best subset")
    expected = {f: w / 2 for name, w in zip(some, weights, strict=True) for f in folders[name] if w}
    ours, names, left_out = trained_ours(tmp_path)
    assert ours == pytest.approx(expected) and sum(expected.values()) == pytest.approx(1) and not left_out
    assert all(run in folders[name] for name, run in zip(names, ours, strict=True))
    run_control(finetune_config(space, train="head"), "metadata", quiet=True)  # words: not what a network's run is
    ours, _, left_out = trained_ours(tmp_path)
    assert ours == pytest.approx(expected) and left_out == ["metadata"]
    shutil.rmtree(folders["plain (ours)"][1])  # members that lack a fold: the folds that all have
    assert {load_run(folder).config["config"]["fold"] for folder in trained_ours(tmp_path)[0]} == {0}
