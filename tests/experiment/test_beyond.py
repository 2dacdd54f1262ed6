"""Past the report: posteriors from outside as a third input, and as members."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from haf_utils import cli, posteriors
from haf_utils.config import resolve
from haf_utils.experiment.assembly import assemble, corpus_of, third_input
from haf_utils.experiment.control_runs import run_control
from haf_utils.experiment.export import export
from haf_utils.experiment.finetune import find, finetune
from haf_utils.experiment.members import BEYOND, member_configs, out_of_fold, submitted, systems_called, train_members
from haf_utils.experiment.workspace import finetune_config
from haf_utils.runs import load_run
from tools.posteriors import cross_fitted, main, write_nested


def head(tiny, **choices):
    return finetune_config(tiny, **({"train": "head", "epochs": 2, "tta_views": 2, "evaluation": ""} | choices))


@pytest.fixture(scope="module")
def words(tiny, tmp_path_factory):
    """Nested tables of the metadata classifier."""
    folder = tmp_path_factory.mktemp("tables") / "words"
    write_nested(folder, tiny.dataset, tiny.extra, tiny.evaluation)
    return folder


def test_nested_tables_are_out_of_fold_and_hold_every_clip(tiny, words):
    corpus = corpus_of(resolve(head(tiny, extra_weight=1.0, evaluation=tiny.evaluation)))
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    for fold in (0, 4):
        table = posteriors.read_fold(words, fold)
        assert set(ids) == set(table.ids) and (table.folds == fold).all()
    pooled = posteriors.read(words / "out_of_fold.csv")
    for fold in range(5):
        tested = set(ids[corpus.parts(fold=fold) == "test"])
        assert tested == set(pooled.ids[pooled.folds == fold])
    assert (pooled.probabilities.argmax(1) == pooled.labels).mean() > 0.3
    with pytest.raises(FileExistsError, match=r"fold_0\.csv"):
        write_nested(words, tiny.dataset)
    assert main([str(words), "--dataset", tiny.dataset]) == 2


def test_cross_fitted_posteriors_never_come_from_a_model_of_the_clip():
    class Memory:
        """Knows its training clips: their class with certainty; of others, class 0."""

        def get_params(self, deep=False):
            return {}

        def fit(self, inputs, labels):
            self.known, self.classes_ = dict(zip(inputs, labels, strict=True)), np.arange(23)
            return self

        def predict_proba(self, inputs):
            return np.eye(23)[[self.known.get(name, 0) for name in inputs]]

    part = np.array(["train"] * 30 + ["validation"] * 5 + ["test"] * 5 + [""] * 2)
    labels = np.full(42, 7)
    found = cross_fitted(Memory(), [f"clip {n}" for n in range(42)], labels, part)
    assert (found.argmax(1) == 0).all()


def test_posteriors_are_a_third_input_with_a_weight_of_their_own(tiny, words):
    run = load_run(finetune(head(tiny, posteriors=str(words)), quiet=True))
    weights = run.part("test").weights
    assert weights.shape[1] == 3 and (weights[:, 2] > 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert run.name != finetune(head(tiny), quiet=True).name
    assert load_run(finetune(head(tiny), quiet=True)).part("test").weights.shape[1] == 2


def test_a_run_is_the_rows_it_read_and_not_where_they_lay(tiny, words, tmp_path):
    one = finetune(head(tiny, posteriors=str(words)), quiet=True)
    shutil.copytree(words, tmp_path / words.name)
    moved = head(tiny, posteriors=str(tmp_path / words.name))
    assert find(resolve(moved)).folder == one
    table = posteriors.read_fold(words, 0)
    changed = dataclasses.replace(table, probabilities=np.roll(table.probabilities, 1, axis=1))
    posteriors.write(tmp_path / words.name / "fold_0.csv", changed, overwrite=True)
    # What was read is remembered as long as the process lives, by path.
    shutil.move(tmp_path / words.name, tmp_path / "changed")
    other = dataclasses.replace(moved, posteriors=str(tmp_path / "changed"), name=one.name)
    assert find(resolve(other)) is None


def test_clips_without_a_row_have_no_third_input(tiny, words, tmp_path):
    table = posteriors.read_fold(words, 0)
    recipe = resolve(head(tiny, posteriors=str(words)))
    corpus = corpus_of(recipe)
    ids = corpus.table["sound_id"].to_numpy().astype(str)
    lacking = ids[corpus.parts() == "test"][:3]
    posteriors.write(tmp_path / "some.csv", table.for_ids(np.setdiff1d(table.ids, lacking)))
    recipe = resolve(head(tiny, posteriors=str(tmp_path / "some.csv")))
    with pytest.warns(UserWarning, match="no row for 3 of"):
        given = third_input(recipe, corpus)
    there = ~np.isin(ids, lacking)
    np.testing.assert_allclose(given.sum(1), there, atol=1e-3)
    assembled = assemble(recipe)
    classifier, rows = assembled.model.classifier.eval(), np.flatnonzero(corpus.parts() == "test")
    features = assembled.inputs.embed(assembled.model, assembled.inputs.prepare(rows))
    before = classifier(features)
    with torch.no_grad():
        classifier.classes[0].weight.normal_()
    after = classifier(features)
    same = (before.logits == after.logits).all(1).numpy()
    assert (before.weights[~there[rows], 2] == 0).all()
    np.testing.assert_array_equal(same, ~there[rows])


def test_posteriors_that_do_not_fit_are_refused(tiny, words, tmp_path):
    pooled = posteriors.read(words / "out_of_fold.csv")
    corpus = corpus_of(resolve(head(tiny)))
    other = dataclasses.replace(pooled, folds=(pooled.folds + 1) % 5)
    posteriors.write(tmp_path / "seen.csv", other)
    with pytest.raises(ValueError, match="test clips of fold 0, by models of other folds"):
        third_input(resolve(head(tiny, posteriors=str(tmp_path / "seen.csv"))), corpus)
    strangers = dataclasses.replace(pooled, ids=np.array([f"x{id_}" for id_ in pooled.ids]))
    posteriors.write(tmp_path / "strangers.csv", strangers)
    with pytest.raises(ValueError, match=r"strangers\.csv lacks"):
        finetune(head(tiny, posteriors=str(tmp_path / "strangers.csv")), quiet=True)
    with pytest.warns(UserWarning, match="saw the test labels"):
        third_input(resolve(head(tiny, posteriors=str(words / "out_of_fold.csv"))), corpus)
    posteriors.write(tmp_path / "read.csv", dataclasses.replace(pooled, folds=None))
    with pytest.warns(UserWarning, match="as by a language model"):
        third_input(resolve(head(tiny, posteriors=str(tmp_path / "read.csv"))), corpus)
    for wrong in ({"system": "text_aux"}, {"modality": "text"}):
        with pytest.raises(ValueError, match="third input of system='haf'"):
            resolve(head(tiny, posteriors=str(words), **wrong))


def test_a_table_is_a_member_as_it_stands(tiny, words):
    run = load_run(run_control(head(tiny, posteriors=str(words)), "posteriors", quiet=True))
    table = posteriors.read_fold(words, 0).for_ids(run.part("test").ids)
    np.testing.assert_allclose(run.part("test").probabilities, table.probabilities, atol=1e-6)
    with pytest.raises(ValueError, match="what a table says"):
        run_control(head(tiny), "posteriors", quiet=True)


def test_recordings_leave_the_third_input_empty_which_is_said(tiny, words, tmp_path, capsys):
    folder, sound = finetune(head(tiny, posteriors=str(words)), quiet=True), next(Path(tiny.dataset, "audio").iterdir())
    out = export(folder, tmp_path / "model")
    for run in (folder, out):
        assert cli.main(["predict", str(run), str(sound)]) == 0
        assert f"third input of {run.name}, class probabilities, is left empty" in capsys.readouterr().out
    assert "third input, are in the scores below alone" in (out / "README.md").read_text()


def test_with_a_table_ours_has_members_past_the_report_up_to_the_evaluation_set(tiny, words, tmp_path):
    space = dataclasses.replace(tiny, posteriors=str(words), runs=str(tmp_path))
    names = ("smoothing + mixup (ours)", "another seed (ours)", *BEYOND)
    assert set(names) < set(systems_called("ours", beyond=True)["ours"][0])
    assert not set(BEYOND) & set(systems_called()["ours"][0])
    systems = {"ours": (names, "Best subset")}
    folds = [member_configs(space, fold=fold, systems=systems, epochs=1, tta_views=1)[0] for fold in (0, 1)]
    trained, failed = train_members(folds, workers=1)
    assert not failed and list(trained) == [name for name in folds[0]]
    runs = {name: [load_run(folder) for folder in folders] for name, folders in trained.items()}
    pooled, (member, weights) = out_of_fold(runs, names, "Best subset"), submitted(runs, names, "Best subset")
    assert len(pooled.ids) == sum(len(run.part("test").ids) for run in runs["third input"])
    assert (weights > 0).sum() >= 2 and (member.labels == -1).all()
