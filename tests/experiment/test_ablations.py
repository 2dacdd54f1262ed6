import dataclasses
import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_sweeps import features_only

from haf_utils.config import FinetuneConfig, parameters, resolve
from haf_utils.experiment.ablations import (
    compare,
    compare_all,
    errors_inside_parent,
    head_twin,
    pool,
    read_runs,
    score,
    severity,
    verdict,
    without_tta,
)
from haf_utils.experiment.grids import grid
from haf_utils.io.files import write_json
from haf_utils.metrics import hierarchical_scores
from haf_utils.plots.ablations import forest, severity_bars
from haf_utils.runs import Predictions, write_predictions
from haf_utils.statistics import Difference
from haf_utils.taxonomy import CLASSES, PARENT
from haf_utils.training import finetune

BASE = FinetuneConfig(dataset="/data", runs="/runs", profile="tiny", train="head")
LABELS = np.tile(np.arange(len(CLASSES)), 20)  # 460 clips, 4 of each class in each fold
FOLDS = np.repeat(np.arange(5), len(LABELS) // 5)


def siblings(label: int) -> np.ndarray:
    return np.setdiff1d(np.flatnonzero(PARENT == PARENT[label]), [label])


def said_by(right: float, rng, inside: float = 0.5):
    """Predictions that are right with probability `right`; of the rest, `inside` are siblings of the class."""
    return np.array(
        [
            label
            if rng.random() < right
            else rng.choice(siblings(label))
            if rng.random() < inside
            else rng.choice(np.setdiff1d(np.arange(len(CLASSES)), [label, *siblings(label)]))
            for label in LABELS
        ]
    )


def write_runs(folder, config: FinetuneConfig, said: np.ndarray) -> None:
    """Five run folders that predict `said` (N,)."""
    ids = np.array([f"{clip:04d}" for clip in range(len(LABELS))])
    for fold in range(5):
        own = resolve(dataclasses.replace(config, fold=fold))
        run, test = folder / own.name, fold == FOLDS
        run.mkdir(parents=True)
        posteriors = np.eye(len(CLASSES))[said[test]]
        parts = Predictions(ids[test], LABELS[test], posteriors[None], posteriors, np.ones((test.sum(), 2)) / 2)
        write_predictions(run / "predictions.npz", {"test": parts})
        write_json(run / "config.json", {"config": parameters(own), "digests": {"data": "d"}})
        scores = {"test": hierarchical_scores(LABELS[test], said[test])}
        write_json(run / "metrics.json", scores | {"absent_classes": [3] if fold == 1 else []})
        pd.DataFrame({"sound_id": ids, "part": np.where(test, "test", "train")}).to_csv(run / "split.csv", index=False)
        pd.DataFrame({"epoch": [1], "loss": [1.0]}).to_csv(run / "history.csv", index=False)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    for seed in (0, 1, 2):
        write_runs(tmp_path, dataclasses.replace(BASE, seed=seed), said_by(0.7, rng))
    write_runs(tmp_path, dataclasses.replace(BASE, modality="audio"), said_by(0.5, rng))
    write_runs(tmp_path, dataclasses.replace(BASE, smoothing="none"), said_by(0.7, rng, inside=0.1))
    return tmp_path


def test_pooling_finds_the_recipe_under_every_seed(folder):
    runs, left_out = read_runs(folder)
    assert len(runs) == 25 and left_out.empty
    both = pool(runs, BASE)
    assert both.seeds == (0, 1, 2) and both.predicted.shape == (3, 460)
    assert (both.labels == LABELS).all() and (both.folds == FOLDS).all()  # ids sort in the order of the clips
    assert both.training_clips == 368 and both.absent_classes == (3,)
    assert pool(runs, dataclasses.replace(BASE, modality="audio", seed=5, fold=3)).seeds == (0,)
    assert len(pool(runs, BASE, folds=[2]).ids) == 92
    expected = np.mean([hierarchical_scores(LABELS, said)["hF"] for said in both.predicted])
    found = score(both, np.random.default_rng(0))
    assert np.isclose(found["estimate"], expected) and found["low"] < expected < found["high"]
    assert without_tta(both).plain is both.plain


def test_missing_folds_and_other_data_are_named(folder):
    shutil.rmtree(folder / "haf-head_modality=audio_f3_s0")
    runs, _ = read_runs(folder)
    audio = dataclasses.replace(BASE, modality="audio")
    with pytest.raises(ValueError, match=r"modality=audio.*no seed has all.*0: \[0, 1, 2, 4\]"):
        pool(runs, audio)
    with pytest.raises(ValueError, match="no runs of it"):
        pool(runs, dataclasses.replace(BASE, mixup=False))
    first = [run for run in runs if run.config["config"]["fold"] == 0]
    for run in first:
        run.config["digests"]["dataset"] = "other"
    with pytest.raises(ValueError, match="no seed has all"):
        pool(runs, BASE)
    for run in first:
        del run.config["digests"]["dataset"]
    one, other = pool(runs, BASE, [0]), pool(runs, BASE, [2])
    with pytest.raises(ValueError, match="no seed in common"):
        compare(one, dataclasses.replace(one, seeds=(9,)), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no clip in common"):
        compare(one, other, np.random.default_rng(0))
    runs[0].config["config"]["fold"], runs[3].config["config"]["fold"] = 1, 0
    with pytest.raises(ValueError, match="different clips"):
        pool(runs, BASE, [0])


def test_half_written_and_foreign_run_folders_are_left_out_by_name(folder):
    (folder / "haf-head_f0_s0" / "metrics.json").unlink()
    (folder / "haf-head_f1_s0" / "config.json").write_text("{")
    damaged = folder / "haf-head_f2_s0" / "predictions.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    foreign = dict(np.load(folder / "haf-head_f3_s0" / "predictions.npz"))
    np.savez(folder / "haf-head_f3_s0" / "predictions.npz", **(foreign | {"classes": np.array(["dog", "cat"])}))
    metrics = folder / "haf-head_f4_s0" / "metrics.json"
    write_json(metrics, {"test": json.loads(metrics.read_text("utf-8"))["test"]})
    (folder / "stores").mkdir()
    runs, left_out = read_runs(folder)
    assert len(runs) == 20
    reasons = left_out.set_index("run")["reason"]
    assert list(reasons.index) == [f"haf-head_f{fold}_s0" for fold in range(5)]
    assert "not finished" in reasons.iloc[0] and "cannot be read" in reasons.iloc[2]
    assert "another taxonomy" in reasons.iloc[3] and "absent_classes" in reasons.iloc[4]
    assert pool(runs, BASE).seeds == (1, 2)


def test_differences_are_told_where_they_are_and_not_where_they_are_not(folder):
    runs, _ = read_runs(folder)
    both, audio, plain = (
        pool(runs, dataclasses.replace(BASE, **c)) for c in ({}, {"modality": "audio"}, {"smoothing": "none"})
    )
    rng = np.random.default_rng(0)
    table = compare_all({"audio": audio, "again": without_tta(both)}, both, rng)
    assert table.loc["audio", "high"] < -0.05 and table.loc["audio", "p_value"] < 1e-3
    assert table.loc["audio", "seeds"] == 1 and table.loc["again", "seeds"] == 3
    assert (table.loc["again", ["estimate", "low", "high"]] == 0).all() and table.loc["again", "p_value"] == 1
    assert verdict(table.loc["audio"]).startswith("lowers hF: -")
    assert verdict(table.loc["again"]) == "changes no prediction that counts: hF is the same on every draw of clips"
    untold = verdict(Difference(0.01, -0.01, 0.03))
    assert untold.startswith("shows no clear difference in hF: +1.0 point")
    assert verdict(Difference(0.01, 0.0002, 0.03)).endswith("(95 % interval +0.02 to +3.00)")
    assert verdict(Difference(0.02, 0.01, 0.03), "accuracy") == (
        "raises accuracy: +2.0 points (95 % interval +1.0 to +3.0)"
    )

    inside = errors_inside_parent(both, plain, rng)
    assert inside.low > 0.2 and inside.low < inside.estimate < inside.high
    shares = severity(plain)
    assert np.isclose(shares["right"] + shares["right_parent"] + shares["wrong_parent"], 1)
    assert np.isclose(severity(both)["inside"], 0.5, atol=0.1) and np.isclose(shares["inside"], 0.1, atol=0.07)
    perfect = dataclasses.replace(both, probabilities=np.eye(len(CLASSES))[LABELS][None], seeds=(0,))
    assert np.isnan(severity(perfect)["inside"])
    assert errors_inside_parent(perfect, perfect, rng).estimate == 0

    for figure in (
        forest({"modality": table, "again": table}),
        severity_bars(pd.DataFrame({"both": severity(both), "perfect": severity(perfect)}).T),
    ):
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # on a GPU every run is in bf16
def test_a_joint_run_is_compared_with_its_head_twin(precision):
    base = dataclasses.replace(BASE, precision=precision)
    joint = resolve(dataclasses.replace(base, train="joint", mixup=False, fold=2))
    twin = resolve(head_twin(FinetuneConfig(**json.loads(json.dumps(parameters(joint)))), base))
    assert twin == resolve(dataclasses.replace(base, mixup=False, fold=2))


def test_a_planted_effect_is_found(tmp_path):
    """Texts that tell help; the same texts dealt out to other clips do not."""
    base = FinetuneConfig(
        dataset=str(features_only(tmp_path / "own", text_noise=1.0)),
        runs=str(tmp_path / "runs"),
        profile="tiny",
        train="head",
        epochs=6,
    )
    choices = {"both": {}, "audio": {"modality": "audio"}, "shuffled": {"shuffle_texts": True}}
    for changes in choices.values():
        for config in grid(dataclasses.replace(base, **changes), {"fold": [0, 1, 2, 3, 4]}):
            finetune(config, quiet=True)
    runs, _ = read_runs(tmp_path / "runs")
    pooled = {name: pool(runs, dataclasses.replace(base, **changes)) for name, changes in choices.items()}
    rng = np.random.default_rng(0)
    assert compare(pooled["both"], pooled["audio"], rng)["low"] > 0.05
    assert compare(pooled["shuffled"], pooled["both"], rng)["high"] < -0.05
    assert compare(pooled["shuffled"], pooled["audio"], rng)["low"] < 0
