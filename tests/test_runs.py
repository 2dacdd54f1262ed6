import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from haf_utils.io.files import atomic_write, write_json
from haf_utils.metrics import hierarchical_scores
from haf_utils.runs import Predictions, RunError, digest, finished, load_run, read_predictions, write_predictions
from haf_utils.taxonomy import CLASSES


def predictions(clips=5, views=3, seed=0):
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.ones(23), (views, clips))
    return Predictions(
        ids=np.array([f"clip {i} ü" for i in range(clips)]),
        labels=rng.integers(0, 23, clips),
        posteriors=posteriors,
        plain=posteriors[0],
        weights=rng.dirichlet(np.ones(2), clips),
    )


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "haf-head_f0_s0"
    write_json(folder / "config.json", {"config": {"seed": 0}, "digests": {}, "versions": {}})
    held_out = dataclasses.replace(predictions(3), ids=np.array(["v0", "v1", "v2"]))
    parts = {"validation": held_out, "test": predictions()}
    rows = [(clip, name) for name, part in parts.items() for clip in part.ids]
    pd.DataFrame([*rows, ("007", "train")], columns=["sound_id", "part"]).to_csv(folder / "split.csv", index=False)
    pd.DataFrame({"epoch": [1], "loss": [3.0]}).to_csv(folder / "history.csv", index=False)
    write_predictions(folder / "predictions.npz", parts)
    scores = {name: hierarchical_scores(p.labels, p.probabilities.argmax(1)) for name, p in parts.items()}
    write_json(folder / "metrics.json", scores)
    write_json(folder / "metrics.json", scores | {"digest": digest(load_run(folder))})
    return folder


def edited(file, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def other_posteriors(folder) -> None:
    """The classes stay as they were, and their scores with them."""
    parts = read_predictions(folder / "predictions.npz")
    flatter = dataclasses.replace(parts["test"], posteriors=parts["test"].posteriors * 0.5 + 0.5 / 23)
    write_predictions(folder / "predictions.npz", parts | {"test": flatter})


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edited(folder / "split.csv", "007,train", "008,train"),
        lambda folder: edited(folder / "split.csv", "007,train", "007,train\n008,train"),
        lambda folder: edited(folder / "config.json", '"seed": 0', '"seed": 1'),
        lambda folder: edited(folder / "history.csv", "3.0", "2.0"),
        lambda folder: edited(folder / "metrics.json", '"accuracy": ', '"accuracy": 1'),
        other_posteriors,
    ],
)
def test_whatever_is_changed_in_a_finished_run_is_noticed(run, change):
    change(run)
    with pytest.raises(RunError, match="haf-head_f0_s0: metrics.json has the digest of other files.*move the folder"):
        load_run(run)


def test_a_run_may_move_get_an_evaluation_set_and_be_of_an_older_version(run):
    edited(run / "config.json", '"seed": 0', '"seed": 0, "dataset": "/elsewhere"')
    edited(run / "split.csv", "007,train", "007,train\n007,evaluation")  # a name that another set gave, too
    unlabelled = dataclasses.replace(predictions(1), ids=np.array(["007"]), labels=np.array([-1]))
    write_predictions(run / "predictions.npz", load_run(run).predictions | {"evaluation": unlabelled})
    assert load_run(run).part("evaluation").ids == ["007"]
    scores = json.loads((run / "metrics.json").read_text("utf-8"))
    del scores["digest"]
    write_json(run / "metrics.json", scores)
    edited(run / "history.csv", "3.0", "2.0")
    assert load_run(run).history["loss"].tolist() == [2.0]


def test_what_is_written_is_read(run):
    loaded, expected = load_run(run), predictions()
    assert loaded.name == "haf-head_f0_s0" and loaded.config["config"]["seed"] == 0
    assert loaded.split["sound_id"].iloc[-1] == "007"  # an id is no number
    assert set(loaded.predictions) == {"validation", "test"}
    test = loaded.part("test")
    assert test.ids.tolist() == expected.ids.tolist() and (test.labels == expected.labels).all()
    for field in ("posteriors", "plain", "weights"):
        np.testing.assert_allclose(getattr(test, field), getattr(expected, field), atol=1e-7)
    np.testing.assert_allclose(test.probabilities, expected.posteriors.mean(0), atol=1e-7)
    with pytest.raises(RunError, match="no predictions for 'evaluation', only for validation, test"):
        loaded.part("evaluation")


@pytest.mark.parametrize("name", ["config.json", "split.csv", "history.csv", "predictions.npz", "metrics.json"])
def test_a_half_written_run_says_what_it_lacks(run, name):
    (run / name).unlink()
    with pytest.raises(RunError, match=f"not a finished run, it lacks {name}.*goes on from where it stopped"):
        load_run(run)


def test_no_folder_at_all_or_one_of_something_else(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        load_run(tmp_path / "nothing")
    with pytest.raises(RunError, match="is no run folder"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"audio": {}}')  # as `save_clap` leaves one
    with pytest.raises(RunError, match="checkpoint of a pretraining"):
        load_run(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_damaged_predictions(run, keep):
    file = run / "predictions.npz"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(RunError, match="predictions.npz.*cannot be read"):
        load_run(run)


def test_predictions_that_lack_an_array(run):
    with np.load(run / "predictions.npz") as file:
        arrays = {name: values for name, values in file.items() if name != "test_plain"}
    np.savez(run / "predictions.npz", **arrays)
    with pytest.raises(RunError, match="predictions.npz.*test_plain"):
        load_run(run)


def test_another_taxonomy(run):
    with np.load(run / "predictions.npz") as file:
        arrays = dict(file)
    for classes in (np.array(CLASSES[::-1]), np.array(["dog", "cat"])):
        np.savez(run / "predictions.npz", **(arrays | {"classes": classes}))
        with pytest.raises(RunError, match="another taxonomy"):
            load_run(run)
    del arrays["classes"]
    np.savez(run / "predictions.npz", **arrays)
    with pytest.raises(RunError, match="another taxonomy"):
        load_run(run)


def test_pickles_are_refused(run):
    np.savez(run / "predictions.npz", classes=np.array(CLASSES), test_ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunError, match="cannot be read"):
        read_predictions(run / "predictions.npz")


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "history.csv", "split.csv"])
def test_a_file_cut_to_nothing_is_named(run, name):
    (run / name).write_text("")
    with pytest.raises(RunError, match=name):
        load_run(run)


def test_a_run_is_finished_with_its_metrics(run):
    other = run.with_name("b")
    other.mkdir()
    assert not finished(other) and finished(run)
    write_json(other / "metrics.json", {})
    with pytest.raises(RunError, match="b is not a finished run"):
        load_run(other)


def test_a_failing_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": "ü"})

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(tmp_path / "a.json", fail)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"x": "ü"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


TAMPERED = {
    "NaN": lambda p: dataclasses.replace(p, plain=np.where(np.arange(5)[:, None] == 2, np.nan, p.plain)),
    "negative": lambda p: dataclasses.replace(p, plain=p.plain - 0.5),
    "percent": lambda p: dataclasses.replace(p, posteriors=100 * p.posteriors),
    "one class less": lambda p: dataclasses.replace(p, plain=p.plain[:, :22]),
    "one clip less": lambda p: dataclasses.replace(p, labels=p.labels[:-1]),
    "transposed": lambda p: dataclasses.replace(p, posteriors=p.posteriors.swapaxes(1, 2)),
    "an id twice": lambda p: dataclasses.replace(p, ids=np.array(["a", "a", "b", "c", "d"])),
    "a label of no class": lambda p: dataclasses.replace(p, labels=np.full(5, 23)),
    "negative weights": lambda p: dataclasses.replace(p, weights=-p.weights),
    "no view": lambda p: dataclasses.replace(p, posteriors=p.posteriors[:0]),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tampered_predictions_get_no_score(run, how):
    write_predictions(run / "predictions.npz", {"test": TAMPERED[how](predictions())})
    with pytest.raises(RunError, match=r"predictions.npz, test: .*move its run folder away"):
        load_run(run)


def test_a_run_that_scores_its_own_training_clips_is_refused(run):
    split = pd.DataFrame({"sound_id": predictions().ids[:2], "part": ["train", "test"]})
    split.to_csv(run / "split.csv", index=False)
    with pytest.raises(RunError, match="scores clips that it was trained on: clip 0"):
        load_run(run)
