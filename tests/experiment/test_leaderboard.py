"""Leaderboard and comparison: scores of finished runs, the official layout, and what cannot be compared."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from haf_utils.cli import main
from haf_utils.config import FinetuneConfig, parameters, resolve
from haf_utils.experiment.code import code_digests
from haf_utils.experiment.leaderboard import compare_systems, leaderboard, read_all, scored
from haf_utils.io.files import write_json
from haf_utils.metrics import hierarchical_scores
from haf_utils.runs import Predictions, RunError, write_predictions
from haf_utils.taxonomy import CLASSES

RNG = np.random.default_rng(0)
LABELS = np.tile(np.arange(23), 6)
IDS = np.array([str(i) for i in range(len(LABELS))])


def posteriors(right: float) -> np.ndarray:
    """One-hot posteriors that are right on a share of the clips."""
    wrong = RNG.random(len(LABELS)) > right
    return np.eye(23)[np.where(wrong, (LABELS + 1) % 23, LABELS)]


def write_run(root, right: float, **choices):
    recipe = resolve(FinetuneConfig("data", str(root), train="head", **choices))
    folder, posterior = root / recipe.name, posteriors(right)
    part = Predictions(IDS, LABELS, posterior[None], posterior, np.ones((len(IDS), 2)))
    write_predictions(folder / "predictions.npz", {"test": part})
    write_json(folder / "config.json", {"config": parameters(recipe), "digests": {"data": "d", "checkpoint": "c"}})
    write_json(
        folder / "metrics.json", {"test": hierarchical_scores(LABELS, posterior.argmax(1)), "absent_classes": []}
    )
    rows = [*((clip, "test") for clip in IDS), ("t", "train")]
    pd.DataFrame(rows, columns=["sound_id", "part"]).to_csv(folder / "split.csv", index=False)
    pd.DataFrame({"epoch": [1]}).to_csv(folder / "history.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    good = [write_run(tmp_path / "x", 0.9, fold=fold) for fold in (0, 1)]
    return good, write_run(tmp_path / "x", 0.5, mixup=False)


def test_the_better_recipe_stands_first_with_its_interval(runs, tmp_path, capsys):
    found, left_out = read_all(tmp_path)  # a folder of folders
    table = leaderboard(found)
    assert table["recipe"].tolist() == ["haf-head", "haf-head_mixup=False"] and left_out.empty
    assert table["folds"].tolist() == [2, 1] and table["other code"].tolist() == [2, 1]  # no code was recorded
    assert ((table["low"] < table["hF"]) & (table["hF"] < table["high"])).all()
    assert main(["leaderboard", str(tmp_path / "x"), "--csv", str(tmp_path / "board.csv")]) == 0
    assert "made by other code" in capsys.readouterr().out and len(pd.read_csv(tmp_path / "board.csv")) == 2


def test_runs_of_other_code_have_a_row_of_their_own(runs, tmp_path):
    again = tmp_path / "x" / "haf-head_f0_s0~123456"
    shutil.copytree(runs[0][0], again)
    record = json.loads((again / "config.json").read_text())
    write_json(again / "config.json", record | {"code": code_digests()})
    table = leaderboard(read_all(tmp_path)[0]).query("recipe == 'haf-head'")
    assert sorted(table["other code"]) == [0, 2] and sorted(table["folds"]) == [1, 2]
    assert f"x/{again.name}" in set(table["folder"])


def test_two_runs_are_compared_on_the_clips_they_share(runs, tmp_path, capsys):
    (good, _), bad = runs
    table, lines = compare_systems(scored(good), scored(bad))
    assert table.loc["hF", "difference"] == pytest.approx(table.loc["hF", "a"] - table.loc["hF", "b"])
    assert table.loc["hF", "low"] > 0 and "raises hF" in lines[-1] and any("other code" in line for line in lines)
    same, lines = compare_systems(scored(good), scored(good))
    assert (same["difference"] == 0).all() and "the same" in lines[-1]
    assert main(["compare", str(good), str(bad)]) == 0 and "raises hF" in capsys.readouterr().out


def test_the_official_layout_can_be_compared_with_a_run(runs, tmp_path):
    (good, _), _ = runs
    for fold in range(5):
        rows, folder = slice(fold, None, 5), tmp_path / "base" / "audio" / f"fold_{fold}" / "evaluation"
        folder.mkdir(parents=True)
        codes = [CLASSES[label] for label in LABELS[rows]]
        table = {"sound_id": IDS[rows], "ground_truth": codes, "prediction": codes, "prediction_score": 0.8}
        pd.DataFrame(table).to_csv(folder / "predictions.csv", index=False)
    table, _ = compare_systems(scored(tmp_path / "base" / "audio"), scored(good))
    assert table.loc["accuracy", "a"] == 1 and table.loc["accuracy", "low"] > 0


def test_clips_that_one_of_two_systems_lacks_are_counted_and_named(runs):
    (good, _), bad = runs
    fewer = scored(bad)
    fewer = fewer._replace(**{name: getattr(fewer, name)[2:] for name in ("ids", "labels", "predicted")})
    _, lines = compare_systems(scored(good), fewer)
    assert f"x/{bad.name} lacks 2 of the other's clips, such as 0" in lines and "lacks" not in "".join(lines[2:])


def test_what_cannot_be_compared_is_named(runs, tmp_path, capsys):
    (good, _), _ = runs
    other = scored(good)._replace(ids=np.array([f"x{i}" for i in range(len(IDS))]))
    with pytest.raises(ValueError, match="different clips"):
        compare_systems(scored(good), other)
    with pytest.raises(ValueError, match="disagree about the labels"):
        compare_systems(scored(good), scored(good)._replace(labels=(LABELS + 1) % 23))
    with pytest.raises(ValueError, match="is a recipe with runs: name one, such as .*haf-head_f0_s0"):
        scored(good.with_name("haf-head"))
    assert main(["leaderboard", str(tmp_path / "nothing")]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def changed(file, **arrays):
    with np.load(file) as content:
        np.savez_compressed(file, **dict(content) | arrays)


def replaced(file, old, new):
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


CHANGES = {  # what is changed in a run folder -> what is said of it
    "labels": (lambda f: changed(f / "predictions.npz", test_labels=np.roll(LABELS, 1)), "hF of test is .* by metr"),
    "unlabelled": (lambda f: changed(f / "predictions.npz", test_labels=LABELS * 0 - 1), "clips without a label"),
    "real labels": (lambda f: changed(f / "predictions.npz", test_labels=LABELS / 1), "arrays of the kinds Uffff"),
    "ids": (lambda f: changed(f / "predictions.npz", test_ids=np.char.add(IDS, "x")), "other clips than split.csv"),
    "classes": (lambda f: changed(f / "predictions.npz", classes=np.array([CLASSES])), "another taxonomy"),
    "no archive": (lambda f: np.save(open(f / "predictions.npz", "wb"), LABELS), "predictions.npz cannot be read"),
    "split": (lambda f: replaced(f / "split.csv", "137,test\n", ""), "other clips than split.csv, for test"),
    "untrained": (lambda f: replaced(f / "split.csv", "t,train\n", ""), "no clip that it was trained on"),
    "train lost": (lambda f: replaced(f / "split.csv", "t,train", "t,t\0\0\0"), "split.csv: line .* NUL bytes"),
    "part": (lambda f: replaced(f / "split.csv", "t,train", "t,trian"), "a part 'trian'"),
    "two parts": (lambda f: replaced(f / "split.csv", "t,train", "t,train\nt,extra"), "the clip 't' twice"),
    "no score": (lambda f: write_json(f / "metrics.json", {"absent_classes": []}), "None by metrics.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "not finished: the same sweep"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged .*train again"),
    "no digests": (lambda f: write_json(f / "config.json", {"config": {}}), "lacks the parameters or digests"),
    "score": (lambda f: write_json(f / "metrics.json", {"test": {"hF": 9.0}}), "9.0 by metrics.json"),
    "scores": (lambda f: write_json(f / "metrics.json", {"test": []}), "no record of a run"),
    "null": (lambda f: (f / "config.json").write_text("null"), "no record of a run"),
    "depth": (lambda f: (f / "config.json").write_text("[" * 100_000), "recursion"),
    "fold": (lambda f: write_json(f / "config.json", record(f, fold=[0])), "fold=.* it must be int"),
    "code": (lambda f: write_json(f / "config.json", record(f) | {"code": []}), "no record of a run"),
}


def record(folder, **parameters):
    content = json.loads((folder / "config.json").read_text("utf-8"))
    return content | {"config": content["config"] | parameters}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_run_is_left_out_with_the_reason_and_the_others_are_scored(runs, what, tmp_path, capsys):
    (good, other), bad = runs
    change, reason = CHANGES[what]
    change(bad)
    assert main(["leaderboard", str(tmp_path / "x")]) == 0
    shown = capsys.readouterr().out
    assert re.search(f"left out: {bad.name}: .*{reason}", shown) and good.name in shown
    shutil.rmtree(good), shutil.rmtree(other)
    assert main(["leaderboard", str(tmp_path / "x")]) == 2
    assert re.search(f"holds no finished run; .*{reason}", capsys.readouterr().err)


def test_a_tampered_run_is_scored_nowhere(runs, tmp_path, capsys):
    (good, other), bad = runs
    whole = scored(good)
    part = Predictions(IDS, LABELS, posteriors(0.9)[None], posteriors(0.9) - 1, np.ones((len(IDS), 2)))
    write_predictions(bad / "predictions.npz", {"test": part})
    record = json.loads((other / "config.json").read_text("utf-8"))
    write_json(other / "config.json", record | {"config": record["config"] | {"quantum": 1}})
    found, left_out = read_all(tmp_path)
    assert [run.folder for run in found] == [good] and leaderboard(found)["hF"][0] < 1
    reasons = dict(left_out.itertuples(index=False))
    assert "do not sum to 1" in reasons[bad.name] and "parameter quantum is unknown to this one" in reasons[other.name]
    with pytest.raises(RunError, match="do not sum to 1"):
        compare_systems(whole, scored(bad))
    assert main(["compare", str(good), str(bad)]) == 2 and "predictions.npz" in capsys.readouterr().err
    write_json(other / "config.json", {"config": [], "digests": {}})
    with pytest.raises(RunError, match="config.json is damaged"):
        scored(other)


def test_a_recipe_is_scored_on_its_clips_and_more_seeds_of_one_model_tell_no_more(tmp_path):
    """The score lies inside its interval, and seeds are no other clips: copies of a run leave the interval as it is."""
    first = write_run(tmp_path / "x", 0.6, fold=0)
    (alone,) = leaderboard(read_all(tmp_path)[0]).itertuples()
    for seed in (1, 2):
        copy = shutil.copytree(first, first.with_name(f"haf-head_f0_s{seed}"))
        record = json.loads((copy / "config.json").read_text())
        record["config"] |= {"seed": seed, "name": copy.name}
        write_json(copy / "config.json", record)
    (row,) = leaderboard(read_all(tmp_path)[0]).itertuples()
    assert (row.folds, row.seeds) == (1, 3) and (row.hF, row.low, row.high) == pytest.approx(
        (alone.hF, alone.low, alone.high)
    )
    assert row.low < row.hF < row.high
    (other := write_run(tmp_path / "x", 0.6, fold=1, seed=1)).rename(other.with_name("second"))
    assert sorted(leaderboard(read_all(tmp_path)[0])["seeds"]) == [1, 2]  # seed 1 has a fold more than the others
