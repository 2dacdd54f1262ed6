"""The crowd, used right: soft labels, confidence, agreement, and stage 3, which goes on from a whole model."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from haf_utils import posteriors, training
from haf_utils.cli import main
from haf_utils.config import default_name, resolve
from haf_utils.controls import neighbour_posteriors
from haf_utils.experiment import finetune as finetuning
from haf_utils.experiment.assembly import agreeing, assemble, corpus_of, embedded, initialisation_of, soft_labels
from haf_utils.experiment.control_runs import run_control
from haf_utils.experiment.finetune import config_of, find, finetune, rows_of, training_targets
from haf_utils.experiment.members import STAGES, member_configs, out_of_fold, submitted, train_members, trained_ours
from haf_utils.experiment.predict import load_system
from haf_utils.experiment.sweeps import sweep
from haf_utils.experiment.teacher import teach
from haf_utils.experiment.workspace import finetune_config
from haf_utils.inference import mean_logits
from haf_utils.runs import RunError, load_run, write_predictions
from haf_utils.taxonomy import CLASSES
from tools.posteriors import write_nested

FAST = {"train": "head", "epochs": 2, "tta_views": 1, "evaluation": ""}


def head(tiny, **choices):
    return finetune_config(tiny, **(FAST | choices))


def crowd_of(corpus):
    return np.flatnonzero(corpus.table["origin"] == "bsd35k-cs")


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory):
    """Nested tables of the metadata classifier, the crowd's clips among them."""
    folder = tmp_path_factory.mktemp("tables") / "teacher"
    write_nested(folder, tiny.dataset, tiny.extra)
    return folder


def second(tiny, teacher, **choices):
    return head(tiny, **({"extra_weight": 1.0, "teacher": str(teacher)} | choices))


@pytest.fixture(scope="module")
def stage_2(tiny, teacher):
    """A finished stage-2 run of fold 1: what forgets the fold would take it for one of fold 0."""
    return finetune(second(tiny, teacher, fold=1, name="stage-2"), quiet=True)


# Soft labels ----------------------------------------------------------------------------------------------------------


def test_targets_are_the_share_of_a_teacher_times_the_crowds_weight(tiny, teacher):
    plain = resolve(head(tiny, extra_weight=1.0))
    corpus = corpus_of(plain)
    hard, crowd = training_targets(plain, corpus), crowd_of(corpus)
    given = posteriors.read_fold(teacher, 0).for_ids(corpus.table["sound_id"].iloc[crowd])
    soft = torch.from_numpy(given.probabilities).float()

    def made(**choices):
        return training_targets(resolve(second(tiny, teacher, **choices)), corpus)

    assert torch.equal(made(soft_weight=0.0), hard)  # bit for bit
    one = made()
    assert torch.equal(one[crowd], soft)
    own = np.setdiff1d(np.arange(len(hard)), crowd)
    assert len(own) and torch.equal(one[own], hard[own])  # BSD10k's labels are its own
    torch.testing.assert_close(made(soft_weight=0.25)[crowd], 0.75 * hard[crowd] + 0.25 * soft)
    third = made(extra_weight=0.3)
    torch.testing.assert_close(third[crowd].sum(1), torch.full((len(crowd),), 0.3), atol=1e-4, rtol=0)
    torch.testing.assert_close(third[crowd], 0.3 * soft)


def test_a_clip_that_the_teacher_does_not_know_keeps_its_label(tiny, teacher, tmp_path):
    recipe = resolve(second(tiny, teacher))
    corpus, table = corpus_of(recipe), posteriors.read_fold(teacher, 0)
    crowd = crowd_of(corpus)
    lacking = corpus.table["sound_id"].astype(str).to_numpy()[crowd[:4]]
    posteriors.write(tmp_path / "some.csv", table.for_ids(np.setdiff1d(table.ids, lacking)))
    some = resolve(second(tiny, tmp_path / "some.csv"))
    with pytest.warns(UserWarning, match=f"no row for 4 of {len(crowd)} clips of BSD35k-CS, which keep their labels"):
        found = training_targets(some, corpus)
    hard = training_targets(resolve(head(tiny, extra_weight=1.0)), corpus)
    assert torch.equal(found[crowd[:4]], hard[crowd[:4]])
    assert not torch.equal(found[crowd[4:]], hard[crowd[4:]])


def test_a_teacher_that_knows_the_test_clips_is_refused(tiny, teacher, tmp_path):
    corpus = corpus_of(resolve(second(tiny, teacher)))
    other = resolve(second(tiny, teacher / "fold_1.csv"))
    with pytest.raises(
        ValueError, match=r"fold_1\.csv labels \d+ clips by models that trained on test clips of fold 0"
    ):
        soft_labels(other, corpus)
    assert soft_labels(resolve(second(tiny, teacher / "fold_1.csv", fold=1)), corpus).any()
    # A model's table has the clips that it did not train on: of another split, some of today's test clips are absent.
    table, part = posteriors.read_fold(teacher, 0), corpus.parts("uploader", 0)
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    posteriors.write(tmp_path / "uploader.csv", table.for_ids(ids[(part == "test") | (part == "validation")]))
    crowd = table.for_ids(ids[crowd_of(corpus)])
    known = table.for_ids(np.concatenate([crowd.ids, ids[part == "test"]]))
    posteriors.write(tmp_path / "grouped.csv", known)
    assert soft_labels(resolve(second(tiny, tmp_path / "grouped.csv", split="uploader")), corpus).any()
    with pytest.raises(ValueError, match="test clips of fold 0 of the official split: it is of another"):
        soft_labels(resolve(second(tiny, tmp_path / "grouped.csv")), corpus)
    with pytest.raises(ValueError, match=r"uploader\.csv lacks"):
        soft_labels(resolve(second(tiny, tmp_path / "uploader.csv", split="uploader")), corpus)
    posteriors.write(tmp_path / "read.csv", dataclasses.replace(crowd, folds=None))
    with pytest.warns(UserWarning, match="as by a language model"):
        soft_labels(resolve(second(tiny, tmp_path / "read.csv")), corpus)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.assign(**{code: 100 * table[code] for code in CLASSES}), r"sum to 100.*divide by it"),
        (lambda table: table.assign(**{code: np.log(table[code] + 1e-9) for code in CLASSES}), "apply softmax"),
        (lambda table: table.drop(columns="sp-c"), "lacks the column sp-c"),
        (
            lambda table: table.set_index("sound_id")[list(CLASSES)].T.rename_axis("sound_id").reset_index(),
            "transposed",
        ),
        (lambda table: table.assign(sound_id="x" + table["sound_id"].astype(str)), r"lacks \d+ of \d+ clips.*add"),
    ],
    ids=["percent", "logits", "a class missing", "transposed", "other clips"],
)
def test_a_teacher_that_cannot_be_one_is_named_with_what_to_do(tiny, teacher, tmp_path, spoil, message):
    spoil(pd.read_csv(teacher / "fold_0.csv", dtype={"sound_id": str})).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(ValueError, match=rf"wrong\.csv.*{message}"):
        finetune(second(tiny, tmp_path / "wrong.csv"), quiet=True)


def test_parameters_that_could_do_nothing_are_refused(tiny, teacher):
    for choices, message in (
        ({"teacher": str(teacher)}, "extra_weight=1.0"),
        ({"agreement": 0.5}, "extra_weight=1.0"),
        ({"soft_weight": 0.5}, "pass teacher"),
        ({"soft_weight": 1.5, "extra_weight": 1.0, "teacher": "x"}, "0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve(head(tiny, **choices))
    with pytest.raises(ValueError, match="there are none: pass extra"):
        finetune(second(tiny, teacher, extra=""), quiet=True)


def test_a_stage_2_run_is_what_its_teacher_says_and_not_where_it_lay(tiny, teacher, stage_2, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(teacher, moved)
    config = second(tiny, moved, fold=1, name="stage-2")
    assert find(resolve(config)).folder == stage_2
    table = posteriors.read_fold(teacher, 1)
    changed = dataclasses.replace(table, probabilities=np.roll(table.probabilities, 1, axis=1))
    posteriors.write(tmp_path / "other" / "fold_1.csv", changed)
    assert find(resolve(second(tiny, tmp_path / "other", fold=1, name="stage-2"))) is None
    assert find(resolve(dataclasses.replace(config, soft_weight=0.5))) is None


# Confidence and agreement ---------------------------------------------------------------------------------------------


def test_confidence_is_a_weight_and_part_of_a_run(tiny, tmp_path):
    recipe = resolve(head(tiny, confidence_weight=True))
    corpus = corpus_of(recipe)
    found = training_targets(recipe, corpus).sum(1).numpy()
    noted = corpus.table["confidence"].to_numpy()
    assert np.isfinite(noted).all() and len(np.unique(noted)) > 1
    np.testing.assert_allclose(found, noted / 5, atol=1e-5)
    with_crowd = resolve(head(tiny, confidence_weight=True, extra_weight=0.5))
    both = corpus_of(with_crowd)
    np.testing.assert_allclose(training_targets(with_crowd, both).sum(1)[crowd_of(both)], 0.5, atol=1e-5)
    run = finetune(head(tiny, confidence_weight=True), quiet=True)
    other = dataclasses.replace(corpus, table=corpus.table.assign(confidence=5.0))
    rows = rows_of(recipe, corpus)
    assert load_run(run).config["digests"]["data"] == finetuning.data_digest(recipe, corpus, rows)
    assert finetuning.data_digest(recipe, other, rows) != finetuning.data_digest(recipe, corpus, rows)
    nobody = dataclasses.replace(corpus, table=corpus.table.assign(confidence=np.nan))
    with pytest.raises(ValueError, match="no clip of .* has a confidence"):
        training_targets(recipe, nobody)


def test_agreement_keeps_the_clips_whose_label_is_probable(tiny, teacher):
    recipe = resolve(second(tiny, teacher, agreement=0.4))
    corpus = corpus_of(recipe)
    crowd, everything = crowd_of(corpus), rows_of(resolve(second(tiny, teacher)), corpus)["train"]
    of_label = soft_labels(recipe, corpus).numpy()[crowd, corpus.labels[crowd]]
    assert 0 < (of_label >= 0.4).sum() < len(crowd)
    np.testing.assert_array_equal(np.setdiff1d(everything, rows_of(recipe, corpus)["train"]), crowd[of_label < 0.4])

    by_neighbours = resolve(head(tiny, extra_weight=1.0, agreement=0.4))
    audio, text = embedded(by_neighbours, corpus)
    vectors, own = np.hstack([audio, text]), np.setdiff1d(everything, crowd)
    votes = neighbour_posteriors(vectors[own], corpus.labels[own], vectors[crowd])
    kept = agreeing(by_neighbours, corpus)
    np.testing.assert_array_equal(kept[crowd], votes[np.arange(len(crowd)), corpus.labels[crowd]] >= 0.4)
    assert kept[own].all() and 0 < kept[crowd].sum() < len(crowd)
    with pytest.raises(ValueError, match="leaves no clip of BSD35k-CS"):
        rows_of(resolve(second(tiny, teacher, agreement=1.0)), corpus)


# The teacher ----------------------------------------------------------------------------------------------------------


def test_the_runs_of_a_fold_label_the_crowd_by_their_mean_logits(tiny, tmp_path, monkeypatch):
    folders = [finetune(head(tiny, fold=fold, seed=seed), quiet=True) for fold, seed in ((0, 0), (0, 1), (1, 0))]
    assert main(["posteriors", *map(str, folders), "--out", str(tmp_path / "teacher")]) == 0
    runs = [load_run(folder) for folder in folders]
    recipe = resolve(second(tiny, tmp_path / "teacher"))
    corpus = corpus_of(recipe)
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    crowd = crowd_of(corpus)
    for fold, of_fold in ((0, runs[:2]), (1, runs[2:])):
        table = posteriors.read(tmp_path / "teacher" / f"fold_{fold}.csv")
        unseen = ids[np.isin(corpus.parts(fold=fold), ("validation", "test"))]
        assert set(table.ids) == {*ids[crowd], *unseen} and (table.folds == fold).all()
        for part in ("extra", "test"):
            assert [list(run.part(part).ids) for run in of_fold] == [list(of_fold[0].part(part).ids)] * len(of_fold)
            logits = np.mean([np.log(run.part(part).plain) for run in of_fold], axis=0)
            expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            found = table.for_ids(of_fold[0].part(part).ids).probabilities
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert training_targets(recipe, corpus)[crowd].sum(1).allclose(torch.ones(len(crowd)), atol=1e-4)

    monkeypatch.setattr("haf_utils.experiment.teacher.predict_rows", None)  # what a run has labelled is in its folder
    before = (tmp_path / "teacher" / "fold_0.csv").stat().st_mtime_ns
    assert len(list(teach(runs, tmp_path / "teacher"))) == 2
    assert (tmp_path / "teacher" / "fold_0.csv").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"fold_0\.csv"):
        list(teach(runs[:1], tmp_path / "teacher"))
    assert len(list(teach(runs[:1], tmp_path / "teacher", overwrite=True))) == 1
    one = posteriors.read_fold(tmp_path / "teacher", 0).for_ids(runs[0].part("extra").ids)
    np.testing.assert_allclose(one.probabilities, runs[0].part("extra").plain, atol=1e-5)
    assert find(resolve(head(tiny))).folder == folders[0]  # still the run that it was


def test_a_teacher_has_weights_and_has_not_learnt_what_it_labels(tiny, stage_2, tmp_path):
    def named(run, message, **where):
        with pytest.raises(RunError, match=message):
            list(teach([run], tmp_path / "teacher", **where))

    named(load_run(stage_2), r"stage-2 was trained on \d+ of the clips to label")
    named(load_run(run_control(head(tiny), "metadata", quiet=True)), "keeps no weights")
    run = load_run(finetune(head(tiny), quiet=True))
    named(run, "no clip of BSD35k-CS to label", extra="")
    grouped = load_run(finetune(head(tiny, split="uploader"), quiet=True))
    with pytest.raises(RunError, match="splits official and uploader"):
        list(teach([run, grouped], tmp_path / "teacher"))
    changed = dataclasses.replace(run, config=run.config | {"digests": run.config["digests"] | {"checkpoint": "x"}})
    shutil.copytree(run.folder, tmp_path / "copy")
    file = tmp_path / "copy" / "predictions.npz"
    write_predictions(file, {name: p for name, p in run.predictions.items() if name != "extra"})
    named(dataclasses.replace(changed, folder=tmp_path / "copy"), "trained on another checkpoint")
    assert main(["posteriors", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 2


def test_words_are_written_by_the_same_command(tiny, teacher, tmp_path, capsys):
    assert main(["posteriors", "words", "--out", str(tmp_path / "words"), "--dataset", tiny.dataset]) == 0
    made, known = (posteriors.read_fold(folder, 3) for folder in (tmp_path / "words", teacher))
    np.testing.assert_array_equal(made.probabilities, known.for_ids(made.ids).probabilities)
    assert main(["posteriors", "words", "--out", str(tmp_path / "words"), "--dataset", tiny.dataset]) == 2
    assert main(["posteriors", "RUN", "--out", str(tmp_path / "new"), "--encoder", "x", "--split", "official"]) == 2
    assert "--split, --encoder goes with words, not with runs" in capsys.readouterr().err


# Stage 3 --------------------------------------------------------------------------------------------------------------


def third(tiny, stage_2, **choices):
    return head(tiny, **({"initialisation": str(stage_2), "whole_model": True, "fold": 1} | choices))


def test_stage_3_starts_from_exactly_the_weights_of_stage_2(tiny, stage_2):
    recipe = resolve(third(tiny, stage_2))
    assembled, trained = assemble(recipe), load_file(stage_2 / "model.safetensors")
    state = assembled.model.state_dict()
    assert state.keys() == trained.keys() and all(torch.equal(state[name], trained[name]) for name in trained)
    plain = assemble(resolve(head(tiny, fold=1)))
    assert torch.equal(assembled.inputs.audio, plain.inputs.audio)  # on the embeddings that stage 2 was trained on
    assert assembled.checkpoint == plain.checkpoint
    folder = finetune(third(tiny, stage_2), quiet=True)
    assert find(recipe).folder == folder
    with pytest.raises(ValueError, match="it has no backbone"):
        assemble(resolve(third(tiny, stage_2, whole_model=False)))


def test_a_joint_stage_3_goes_on_with_backbone_and_classifier(tiny, teacher):
    joint = {"train": "joint", "epochs": 1, "data_share": 0.1}
    folder = finetune(second(tiny, teacher, **joint, name="joint-2"), quiet=True)
    config = third(tiny, folder, fold=0, **joint)
    state, trained = assemble(resolve(config)).model.state_dict(), load_file(folder / "model.safetensors")
    assert any(name.startswith("backbone.") for name in trained)
    assert state.keys() == trained.keys() and all(torch.equal(state[name], trained[name]) for name in trained)
    with pytest.raises(RunError, match="train='joint'"):
        assemble(resolve(third(tiny, folder, fold=0)))


def test_stage_3_is_another_run_when_stage_2_is(tiny, stage_2, teacher, tmp_path):
    recipe = resolve(third(tiny, stage_2, name="after"))
    folder = finetune(recipe, quiet=True)
    shutil.copytree(stage_2, tmp_path / "moved")
    assert find(resolve(third(tiny, tmp_path / "moved", name="after"))).folder == folder  # the weights, not the place
    other = finetune(second(tiny, teacher, fold=1, soft_weight=0.5, name="stage-2-half"), quiet=True)
    assert find(resolve(third(tiny, other, name="after"))) is None


def test_one_recipe_names_the_run_of_each_fold(tiny, stage_2):
    shutil.copytree(stage_2, Path(tiny.runs) / "before_f1_s0")
    recipe = resolve(third(tiny, "before_f{fold}_s0"))
    assert initialisation_of(recipe) == str(Path(tiny.runs).resolve() / "before_f1_s0")
    assert "initialisation=before_f1_s0" in recipe.name
    assert len(default_name(third(tiny, "x" * 200))) < 150  # of a run whose name says what it is itself
    assert default_name(third(tiny, "x" * 200)) != default_name(third(tiny, "x" * 201))


def test_a_stage_2_run_that_cannot_be_continued_is_named(tiny, stage_2, teacher, tmp_path):
    with pytest.raises(RunError, match="gone is no run folder, which whole_model=True continues"):
        finetune(third(tiny, tmp_path / "gone"), quiet=True)
    with pytest.raises(RunError, match=r"trained for fold 1 .* on \d+ of the clips that fold 0 .*scores"):
        finetune(third(tiny, stage_2, fold=0), quiet=True)
    with pytest.raises(RunError, match=r"of the official split.*\(uploader\) scores"):
        finetune(third(tiny, stage_2, split="uploader"), quiet=True)
    with pytest.raises(RunError, match="another model than is to be continued"):
        finetune(third(tiny, stage_2, fusion="concatenation"), quiet=True)
    shutil.copytree(stage_2, tmp_path / "stage-2")
    record = json.loads((tmp_path / "stage-2" / "config.json").read_text())
    record["digests"]["checkpoint"] = "another"
    (tmp_path / "stage-2" / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="trained on another checkpoint"):
        finetune(third(tiny, tmp_path / "stage-2"), quiet=True)
    # Also where the backbone alone is taken: what it knows of a clip, the classifier on it knows.
    joint = {"train": "joint", "epochs": 1, "data_share": 0.1}
    folder = finetune(finetune_config(tiny, **(FAST | joint), name="joint-0"), quiet=True)
    with pytest.raises(RunError, match="trained for fold 0"):
        finetune(head(tiny, initialisation=str(folder), fold=2), quiet=True)


def test_a_run_whose_table_or_start_is_absent_ends_no_other(tiny, teacher, stage_2, tmp_path):
    shutil.copytree(teacher, tmp_path / "some")
    (tmp_path / "some" / "fold_0.csv").unlink()
    shutil.copytree(stage_2, Path(tiny.runs) / "kept_f1_s0")  # that of fold 0 was moved away
    for config in (second(tiny, tmp_path / "some", seed=7), third(tiny, "kept_f{fold}_s0", seed=7)):
        recipes = [resolve(dataclasses.replace(config, fold=fold)) for fold in (0, 1)]
        outcome = sweep(recipes, workers=1, quiet=True)
        assert [folder.name for folder in outcome.folders] == [recipes[1].name]
        assert list(outcome.failed) == [recipes[0].name]
        assert re.search(r"fold_0\.csv is absent: pass|kept_f0_s0 is no run folder, .*: put it", str(outcome))


def test_a_sweep_compares_the_fold_of_each_run(tiny, stage_2):
    """A worker embeds what its runs share before it knows which fold they are of."""
    good, bad = third(tiny, stage_2, seed=5), third(tiny, stage_2, seed=5, fold=2)
    outcome = sweep([good, bad], workers=1, quiet=True)
    assert [folder.name for folder in outcome.folders] == [resolve(good).name]
    (failure,) = outcome.failed.values()
    assert "RunError" in failure and "trained for fold 1" in failure


def test_an_interrupted_stage_goes_on_to_the_same_weights(tiny, teacher, stage_2, monkeypatch):
    stages = [second(tiny, teacher, fold=1, epochs=3), third(tiny, stage_2, epochs=3)]
    for stage, config in zip((2, 3), stages, strict=True):
        whole = finetune(dataclasses.replace(config, name=f"whole-{stage}"), quiet=True)
        calls, validate = [], training._validate

        def failing(*arguments, calls=calls, validate=validate):
            calls.append(None)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return validate(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(training, "_validate", failing)
            patch.setattr(finetuning, "_SAVE_EVERY", 0.0)
            with pytest.raises(KeyboardInterrupt):
                finetune(dataclasses.replace(config, name=f"cut-{stage}"), quiet=True)
        assert (Path(tiny.runs) / f"cut-{stage}" / "resume.pt").is_file()
        cut = finetune(dataclasses.replace(config, name=f"cut-{stage}"), quiet=True)
        one, two = load_file(whole / "model.safetensors"), load_file(cut / "model.safetensors")
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert load_run(cut).history.equals(load_run(whole).history)


def test_a_stage_3_run_classifies_recordings(tiny, stage_2):
    folder = finetune(third(tiny, stage_2), quiet=True)
    model = load_system(folder)
    trained = load_file(folder / "model.safetensors")
    state = model.model.classifier.state_dict()
    assert state and all(torch.equal(state[name], trained[f"classifier.{name}"]) for name in state)


# In one command -------------------------------------------------------------------------------------------------------

SOME = ("smoothing + mixup (ours)", "third input", *STAGES)


def planned(tiny, teacher, root, folds=(0, 1), **choices):
    space = dataclasses.replace(tiny, posteriors=str(teacher), runs=str(root))
    systems = {"ours": (SOME, "Best subset")}
    return [member_configs(space, fold=fold, systems=systems, epochs=1, tta_views=1, **choices) for fold in folds]


def test_ours_goes_through_teacher_and_stages_to_the_evaluation_set(tiny, teacher, tmp_path):
    folds = [configs for configs, absent in planned(tiny, teacher, tmp_path)]
    assert [list(configs) for configs in folds] == [list(SOME)] * 2
    trained, failed = train_members(folds, workers=1)
    assert not failed and list(trained) == list(SOME)
    runs = {name: [load_run(folder) for folder in of_folds] for name, of_folds in trained.items()}
    for fold in (0, 1):
        table = posteriors.read(tmp_path / "posteriors" / "teacher-s0" / f"fold_{fold}.csv")
        labelled = [runs[name][fold].part("extra") for name in SOME[:2]]  # ours, without the crowd's labels
        expected = mean_logits([part.plain for part in labelled])
        np.testing.assert_allclose(table.for_ids(labelled[0].ids).probabilities, expected, atol=1e-5)
        two, three = runs["stage 2"][fold], runs["stage 3"][fold]
        assert initialisation_of(resolve(config_of(three))) == str(two.folder) and len(three.name) < 200
        trained_on = {
            name: set(run.split.query("part == 'train'")["sound_id"])
            for name, run in zip("23", (two, three), strict=True)
        }
        assert trained_on["3"] < trained_on["2"] and not trained_on["3"] & set(labelled[0].ids)
        assert two.part("test").weights.shape[1] == three.part("test").weights.shape[1] == 3
    member, weights = submitted(runs, SOME, "Best subset")
    assert len(weights) == len(SOME) and (member.labels == -1).all()
    assert len(out_of_fold(runs, SOME, "Best subset").ids) == sum(len(run.part("test").ids) for run in runs["stage 3"])
    again, failed = train_members(folds, workers=1)
    assert again == trained and not failed  # nothing is trained or predicted twice
    assert trained_ours(tmp_path)[2] == ["third input (also of stages 2 and 3)"]  # recordings have no posteriors


def test_stages_that_cannot_be_are_left_out_with_the_reason(tiny, teacher, tmp_path):
    ((configs, absent),) = planned(dataclasses.replace(tiny, extra=""), teacher, tmp_path, (0,))
    assert set(absent) == set(STAGES) and "BSD35k-CS" in absent["stage 2"] and list(configs) == list(SOME[:2])
    ((configs, _),) = planned(tiny, teacher, tmp_path, (0,), extra_weight=0.0)
    assert configs["stage 2"].extra_weight == 1.0  # a setting of the report's members alone
    broken = configs | {"stage 2": dataclasses.replace(configs["stage 2"], posteriors=str(tmp_path / "absent.csv"))}
    trained, failed = train_members([broken], workers=1)
    assert "absent.csv is absent" in failed["stage 2"] and "stage 2, from which it goes on" in failed["stage 3"]
    assert list(trained) == list(SOME[:2])
