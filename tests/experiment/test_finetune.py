import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from haf_utils import training
from haf_utils.config import resolve
from haf_utils.corpus import load_corpus
from haf_utils.experiment import assembly, code
from haf_utils.experiment import finetune as finetuning
from haf_utils.experiment.finetune import config_of, find, finetune, rows_of
from haf_utils.experiment.workspace import finetune_config
from haf_utils.io.checkpoints import CheckpointError
from haf_utils.io.files import write_json
from haf_utils.metrics import hierarchical_scores
from haf_utils.runs import Run, RunError, finished, load_run


def head(tiny, **choices):
    return finetune_config(tiny, **({"train": "head", "epochs": 4} | choices))


def same_weights(one: Path, two: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def same_predictions(one: Path, two: Path) -> bool:
    first, second = load_run(one).predictions, load_run(two).predictions
    return first.keys() == second.keys() and all(
        np.array_equal(getattr(first[part], field), getattr(second[part], field))
        for part in first
        for field in ("ids", "labels", "posteriors", "plain", "weights")
    )


@pytest.fixture(scope="module")
def reference(tiny):
    """A head run that nothing disturbed."""
    return finetune(head(tiny, name="reference"), quiet=True)


def test_a_run_folder_holds_all_that_is_promised(tiny, reference):
    run = load_run(reference)
    assert sorted(path.name for path in reference.iterdir()) == sorted(
        ["config.json", "split.csv", "history.csv", "predictions.npz", "metrics.json", "model.safetensors"]
    )
    assert set(run.predictions) == {"validation", "test", "evaluation"}
    for part, predictions in run.predictions.items():
        clips = len(predictions.ids)
        assert predictions.posteriors.shape == (2, clips, 23) and predictions.weights.shape == (clips, 2)
        np.testing.assert_allclose(predictions.posteriors.sum(-1), 1, atol=1e-5)
        assert run.split.loc[run.split["part"] == part, "sound_id"].tolist() == predictions.ids.tolist()
        if part == "evaluation":
            assert (predictions.labels == -1).all() and part not in run.metrics
        else:
            scores = hierarchical_scores(predictions.labels, predictions.probabilities.argmax(1))
            assert run.metrics[part] == pytest.approx(scores)
    assert len(run.history) == run.metrics["epochs"] == 4
    assert run.config["config"]["classifier_rate"] == 1e-3 and run.config["config"]["seed"] == 0
    corpus = load_corpus(tiny.dataset, "", tiny.evaluation, f"{tiny.scratch}/stores", 32_000)
    assert run.split.groupby("part").size().to_dict() == pd.Series(corpus.parts()).value_counts().to_dict()


def test_the_same_seed_gives_the_same_predictions_and_another_does_not(tiny, reference):
    again = finetune(head(tiny, name="again"), quiet=True)
    assert same_weights(reference, again) and same_predictions(reference, again)
    other = finetune(head(tiny, name="other", seed=1), quiet=True)
    assert not same_predictions(reference, other)


def test_random_numbers_drawn_elsewhere_change_nothing(tiny, reference):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    again = finetune(head(tiny, name="elsewhere"), quiet=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same_weights(reference, again)


def test_leaving_one_regularizer_out_leaves_the_draws_of_the_others(tiny, reference):
    """Noise of 1e-4 moves posteriors a little; other blends of mixup would move them a lot."""
    silent = load_run(finetune(head(tiny, name="silent", feature_noise=0.0), quiet=True)).part("test")
    apart = np.abs(silent.plain - load_run(reference).part("test").plain).max()
    assert 0 < apart < 0.02
    blended = load_run(finetune(head(tiny, name="sharp", mixup=False), quiet=True)).part("test")
    assert np.abs(blended.plain - silent.plain).max() > 2 * apart


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch, epochs: int):
    """Make the validation of epoch `epochs` + 1 fail: the state saved last is that of epoch `epochs`."""
    calls, validate = [], training._validate

    def failing(*arguments):
        calls.append(None)
        if len(calls) > epochs:
            raise Interrupted
        return validate(*arguments)

    monkeypatch.setattr(training, "_validate", failing)
    monkeypatch.setattr(finetuning, "_SAVE_EVERY", 0.0)


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_an_interrupted_run_goes_on_to_the_same_weights(tiny, reference, monkeypatch, epochs):
    config = head(tiny, name=f"interrupted-{epochs}")
    folder = Path(tiny.runs) / config.name
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs)
        with pytest.raises(Interrupted):
            finetune(config, quiet=True)
    assert not finished(folder) and (folder / "resume.pt").is_file() == (epochs > 0)
    with pytest.raises(RunError, match="not a finished run.*goes on"):
        load_run(folder)
    counted, train_epoch = [], training.train_epoch
    monkeypatch.setattr(training, "train_epoch", lambda *a: counted.append(None) or train_epoch(*a))
    assert finetune(config, quiet=True) == folder
    assert len(counted) == 4 - epochs  # it went on, it did not begin again
    assert same_weights(reference, folder) and same_predictions(reference, folder)
    assert load_run(folder).history.equals(load_run(reference).history)
    assert not (folder / "resume.pt").exists()


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from haf_utils.config import FinetuneConfig
from haf_utils.experiment import finetune as finetuning
finetuning._SAVE_EVERY = 0.0
save = finetuning.save_training
def kill(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
finetuning.save_training = kill
finetuning.finetune(FinetuneConfig(**eval(sys.argv[2])), quiet=True)
"""


def test_a_killed_joint_run_goes_on_to_the_same_weights(tiny):
    """Backbone and classifier, EMA, optimizer, schedule: everything comes back from the disk."""
    choices = {"train": "joint", "epochs": 2, "data_share": 0.2, "evaluation": "", "extra": "", "tta_views": 1}
    config = finetune_config(tiny, name="killed", **choices)
    script = [sys.executable, "-c", KILLED, str(torch.get_num_threads()), repr(dataclasses.asdict(config))]
    killed = subprocess.run(script, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = Path(tiny.runs) / "killed"
    assert (folder / "resume.pt").is_file() and not finished(folder)
    finetune(config, quiet=True)
    whole = finetune(dataclasses.replace(config, name="whole"), quiet=True)
    assert same_weights(whole, folder) and same_predictions(whole, folder)
    weights = load_file(whole / "model.safetensors")
    assert any(name.startswith("backbone.network.audio_branch") for name in weights)


def test_joint_training_moves_the_backbone_and_a_run_can_start_from_it(tiny):
    choices = {"epochs": 1, "data_share": 0.2, "evaluation": "", "extra": "", "tta_views": 1, "ema": False}
    folder = finetune(finetune_config(tiny, train="joint", name="joint", **choices), quiet=True)
    trained = load_file(folder / "model.safetensors")
    config = resolve(finetune_config(tiny, initialisation=str(folder), train="joint", **choices))
    own = assembly.assemble(config).model.state_dict()
    moved = load_file(Path(assembly.REPOSITORY) / "data/clap-mini/model.safetensors")
    name = "audio_projection.0.weight"
    assert torch.equal(own[f"backbone.network.{name}"], trained[f"backbone.network.{name}"])
    assert not torch.equal(moved[name].float(), trained[f"backbone.network.{name}"])
    again = finetune(head(tiny, initialisation=str(folder), name="from-joint", epochs=1), quiet=True)
    assert finished(again)
    with pytest.raises(ValueError, match="it has no backbone"):
        finetune(head(tiny, initialisation=str(again), name="from-head"), quiet=True)


def test_a_finished_run_is_not_trained_again(tiny, reference, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", None)  # training would fail
    assert finetune(head(tiny, name="reference"), quiet=True) == reference


def test_a_name_that_is_taken_by_other_parameters_is_kept_and_the_run_stands_beside_it(tiny, reference, capsys):
    before = {path.name: path.read_bytes() for path in reference.iterdir()}
    beside = finetune(head(tiny, name="reference", smoothing="none", epochs=1))
    assert beside.name.startswith("reference~") and finished(beside)
    assert "reference holds another run and is kept" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in reference.iterdir()} == before
    assert finetune(head(tiny, name="reference", smoothing="none", epochs=1), quiet=True) == beside
    assert finetune(head(tiny, name="reference"), quiet=True) == reference


def edited(tiny, tmp_path, **choices):
    """A copy of the dataset that a test may change, and the configuration of a run on it."""
    root = tmp_path / "BSD10k"
    shutil.copytree(tiny.dataset, root)
    where = {"dataset": str(root), "extra": "", "evaluation": "", "runs": str(tmp_path), "scratch": str(tmp_path)}
    return root, head(tiny, name="run", epochs=1, **where | choices)


def test_changed_data_train_beside_the_run_on_the_old_data(tiny, tmp_path):
    root, config = edited(tiny, tmp_path)
    first = finetune(config, quiet=True)
    metadata = next((root / "metadata").glob("*_metadata.csv"))
    table = pd.read_csv(metadata, dtype=str, keep_default_na=False)
    trained = load_run(first).split.set_index("sound_id")["part"]
    row = table.index[table["sound_id"].map(trained) == "train"][0]
    table.loc[row, "title"] = "a trumpet that was a violin"
    table.to_csv(metadata, index=False)
    load_corpus.cache_clear()
    second = finetune(config, quiet=True)
    assert first != second and finished(first) and finished(second)
    assert load_run(first).config["digests"]["data"] != load_run(second).config["digests"]["data"]


@pytest.fixture
def other_code(monkeypatch):
    """As if somebody had edited losses.py since."""
    now = code.code_digests()

    def edit():
        for module in (code, finetuning):
            monkeypatch.setattr(module, "code_digests", lambda *_: now | {"losses.py": "edited"})

    return edit


def test_a_finished_run_of_other_code_is_used_and_marked(tiny, tmp_path, other_code, capsys, monkeypatch):
    _, config = edited(tiny, tmp_path)
    first = finetune(config, quiet=True)
    other_code()
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", None)  # training would fail
        assert finetune(config) == first
    assert "run: made by other code: losses.py" in capsys.readouterr().out
    assert find(resolve(config)).other_code == ("losses.py",)
    again = finetune(config, quiet=True, retrain=True)
    assert again != first and finished(first) and finished(again) and same_weights(first, again)
    assert finetune(config, quiet=True) == again  # of two, that of today's code
    assert finetune(config, quiet=True, retrain=True) == again


def test_an_unfinished_run_does_not_go_on_across_changed_code(tiny, tmp_path, other_code, monkeypatch):
    _, config = edited(tiny, tmp_path)
    config = dataclasses.replace(config, epochs=2)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(Interrupted):
            finetune(config, quiet=True)
    other_code()
    counted, train_epoch = [], training.train_epoch
    monkeypatch.setattr(training, "train_epoch", lambda *a: counted.append(None) or train_epoch(*a))
    folder = finetune(config, quiet=True)
    assert len(counted) == 2 and folder.name.startswith("run~") and (tmp_path / "run" / "resume.pt").is_file()


def test_an_evaluation_set_that_comes_later_is_predicted_without_training(tiny, tmp_path, monkeypatch):
    _, config = edited(tiny, tmp_path)
    folder = finetune(config, quiet=True)
    before, weights = load_run(folder), (folder / "model.safetensors").read_bytes()
    late = dataclasses.replace(config, evaluation=tiny.evaluation)
    assert find(resolve(late)) is None  # something is left to do
    monkeypatch.setattr(training, "train_epoch", None)
    assert finetune(late, quiet=True) == folder and find(resolve(late)).folder == folder
    after = load_run(folder)
    assert set(after.predictions) == {"validation", "test", "evaluation"}
    assert (folder / "model.safetensors").read_bytes() == weights
    assert np.array_equal(after.part("test").posteriors, before.part("test").posteriors)
    assert after.split["part"].value_counts()["evaluation"] == len(after.part("evaluation").ids)


def test_the_crowd_makes_another_run_only_where_it_is_trained_on(tiny, tmp_path):
    _, config = edited(tiny, tmp_path)
    folder = finetune(dataclasses.replace(config, name=""), quiet=True)
    for extra, weight, same in ((tiny.extra, 0.0, True), ("", 1.0, True), (tiny.extra, 1.0, False)):
        other = finetune(dataclasses.replace(config, name="", extra=extra, extra_weight=weight), quiet=True)
        assert (other == folder) == same
    assert "extra_weight=1.0" in other.name and finished(folder)


def test_runs_travel(tiny, tmp_path, reference, monkeypatch):
    """Trained elsewhere, moved with its checkpoint, renamed: the same run."""
    checkpoint = tmp_path / "cluster" / "clap-own"
    shutil.copytree(Path(assembly.REPOSITORY) / "data/clap-mini", checkpoint)
    root, config = edited(tiny, tmp_path, runs=str(tmp_path / "cluster"), initialisation=str(checkpoint))
    folder = finetune(config, quiet=True)
    shutil.move(tmp_path / "cluster", tmp_path / "home")
    shutil.move(root, tmp_path / "moved")
    monkeypatch.setattr(training, "train_epoch", None)
    here = dataclasses.replace(config, runs=str(tmp_path / "home"), dataset=str(tmp_path / "moved"))
    assert finetune(here, quiet=True) == tmp_path / "home" / folder.name


def test_damaged_run_folders(tiny, reference):
    folder = reference.with_name("damaged")
    shutil.copytree(reference, folder)
    for content in ("{", "[]", '{"config": {}}'):
        (folder / "config.json").write_text(content)
        with pytest.raises(RunError, match="config.json is damaged"):
            finetune(head(tiny, name="damaged"), quiet=True)
    (folder / "config.json").unlink()  # a state that nobody knows the parameters of is not gone on from
    (folder / "metrics.json").unlink()
    (folder / "resume.pt").write_bytes(b"no state")
    assert same_weights(finetune(head(tiny, name="damaged"), quiet=True), reference)


@pytest.mark.parametrize("name", ["predictions.npz", "model.safetensors", "metrics.json"])
def test_a_finished_folder_with_an_emptied_file_is_not_finished(tiny, reference, name, capsys):
    folder = shutil.copytree(reference, reference.with_name(f"emptied-{name}"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", config | {"config": config["config"] | {"name": folder.name}})
    (folder / name).write_bytes(b"")
    assert not finished(folder) and find(resolve(head(tiny, name=folder.name))) is None
    assert finetune(head(tiny, name=folder.name)) == folder and finished(folder)
    assert f"{folder.name} was finished, but one of its files is" in capsys.readouterr().out
    assert same_weights(folder, reference) and same_predictions(folder, reference)


def test_a_state_cut_short_or_with_a_flipped_bit_is_named(tiny, monkeypatch):
    config = head(tiny, name="cut")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(Interrupted):
            finetune(config, quiet=True)
    state = Path(tiny.runs) / "cut" / "resume.pt"
    whole = state.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # in a weight: torch.load sees nothing
    for damaged in (whole[:1000], bytes(flipped)):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="resume.pt.*delete"):
            finetune(config, quiet=True)
    state.write_bytes(whole)
    assert finished(finetune(config, quiet=True))


def test_a_loss_that_is_no_number_stops_the_run(tiny, monkeypatch):
    monkeypatch.setattr(training, "soft_cross_entropy", lambda logits, target: (logits * torch.nan).sum())
    with pytest.raises(FloatingPointError, match="nan in epoch 1, batch 1 .*lower classifier_rate"):
        finetune(head(tiny, name="nan"), quiet=True)
    assert not finished(Path(tiny.runs) / "nan")


def test_classes_absent_from_training(tiny, tmp_path):
    """A user's own recordings: three classes, one of them with too few clips to be split."""
    root = tmp_path / "own"
    shutil.copytree(tiny.dataset, root)
    metadata = next((root / "metadata").glob("*_metadata.csv"))
    table = pd.read_csv(metadata, dtype=str, keep_default_na=False)
    few = table[table["class"] == "ss-u"].iloc[:3]
    pd.concat([table[table["class"].isin(["m-m", "fx-a"])], few]).to_csv(metadata, index=False)
    where = {"dataset": str(root), "extra": "", "evaluation": "", "runs": str(tmp_path), "scratch": str(tmp_path)}
    with pytest.warns(UserWarning, match="training only and never scored: ss-u"):
        run = load_run(finetune(head(tiny, **where), quiet=True))
    assert len(run.metrics["absent_classes"]) == 20 and np.isfinite(run.metrics["test"]["hF"])
    assert run.split.loc[run.split["sound_id"].isin(few["sound_id"]), "part"].tolist() == ["train"] * 3


def test_a_dataset_too_small_for_folds(tiny, tmp_path):
    root = tmp_path / "own"
    shutil.copytree(tiny.dataset, root)
    metadata = next((root / "metadata").glob("*_metadata.csv"))
    pd.read_csv(metadata, dtype=str, keep_default_na=False).groupby("class").head(2).to_csv(metadata, index=False)
    where = {"dataset": str(root), "extra": "", "evaluation": "", "runs": str(tmp_path), "scratch": str(tmp_path)}
    with pytest.raises(ValueError, match="no class has 5 clips"):
        finetune(head(tiny, **where), quiet=True)


def test_embeddings_alone_train_a_head_and_nothing_else(tiny, tmp_path):
    root = tmp_path / "BSD10k"
    shutil.copytree(tiny.dataset, root)
    rng = np.random.default_rng(0)
    for modality in ("audio", "text"):
        folder = root / "features" / f"clap_{modality}_embeddings"
        folder.mkdir(parents=True)
        for path in (root / "audio").iterdir():
            np.save(folder / f"{path.stem}.npy", rng.standard_normal(512).astype(np.float32))
    shutil.rmtree(root / "audio")
    where = {"dataset": str(root), "extra": "", "evaluation": "", "runs": str(tmp_path), "scratch": str(tmp_path)}
    assert finished(finetune(head(tiny, **where), quiet=True))
    with pytest.raises(ValueError, match="embeddings but no audio: pass train='head'"):
        finetune(finetune_config(tiny, train="joint", **where), quiet=True)


@pytest.mark.parametrize(
    "choices",
    [
        {"smoothing": "none", "mixup": False, "ema": False, "feature_noise": 0.0, "dropout": 0.0, "tta_views": 0},
        {"smoothing": "uniform", "text_dropout": 0.5, "top_level_weight": 0.5, "extra_weight": 0.3},
        {"modality": "audio", "gating": False, "extra_weight": 0.0},
        {"modality": "text", "shuffle_texts": True},
        {"fusion": "concatenation", "split": "uploader", "fold": 4},
        {"fusion": "mean", "data_share": 0.5},
        {"system": "text_aux"},
        {"system": "text_aux", "text_at_inference": True},
        {"initialisation": "random"},
    ],
)
def test_every_regularizer_and_ablation_runs(tiny, choices):
    run = load_run(finetune(head(tiny, epochs=1, **choices), quiet=True))
    assert np.isfinite(run.part("test").posteriors).all()
    assert run.config["config"] | choices == run.config["config"]
    views = run.config["config"]["tta_views"]
    assert len(run.part("test").posteriors) == max(views, 1)
    training_clips = run.split[run.split["part"] == "train"]["sound_id"]
    if choices.get("extra_weight") == 0:
        own = pd.read_csv(next((Path(tiny.dataset) / "metadata").glob("*_metadata.csv")), dtype=str)["sound_id"]
        assert training_clips.isin(own).all()


def test_a_share_of_the_data_keeps_every_class(tiny):
    corpus = load_corpus(tiny.dataset, tiny.extra, tiny.evaluation, f"{tiny.scratch}/stores", 32_000)
    rows = np.flatnonzero(corpus.parts() == "train")
    shares = {share: resolve(head(tiny, data_share=share, extra_weight=1.0)) for share in (0.01, 0.5, 1.0)}
    kept = {share: rows_of(recipe, corpus)["train"] for share, recipe in shares.items()}
    assert set(corpus.labels[kept[0.01]]) == set(corpus.labels[rows]) and len(kept[0.01]) == len(
        set(corpus.labels[rows])
    )
    assert len(kept[0.5]) == pytest.approx(len(rows) / 2, abs=12) and kept[1.0].tolist() == rows.tolist()
    assert set(kept[0.01]) <= set(kept[0.5]) <= set(rows)  # learning curves: each share holds the smaller ones


def test_events_for_tensorboard_where_they_are_asked_for(tiny, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setenv("HAF_TENSORBOARD", "1")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        finetune(head(tiny, name="events", epochs=2), quiet=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    folder = finetune(head(tiny, name="events", epochs=2), quiet=True)
    history = pd.read_csv(folder / "history.csv")
    assert written[0] == str(folder) and written[-1] == "closed"
    known = {(name, step): value for name, value, step in written[1:-1]}
    assert len(known) == history.size
    assert known["validation_hF", 2] == pytest.approx(history["validation_hF"][1])


def test_a_moved_run_does_not_make_the_scratch_folder_that_it_left(tmp_path):
    run = Run(tmp_path / "home" / "run", {"config": {"scratch": str(tmp_path / "node")}}, None, None, {}, {})
    assert (config_of(run).runs, config_of(run).scratch) == (str(tmp_path / "home"), "")
    (tmp_path / "node").mkdir()
    assert config_of(run).scratch == str(tmp_path / "node")
