import dataclasses

import numpy as np
import pytest
import torch

from haf_utils.config import FinetuneConfig, check, default_name, resolve
from haf_utils.experiment.workspace import finetune_config, workspace
from haf_utils.profiles import PROFILES


def config(**choices):
    return FinetuneConfig(**({"dataset": "there", "runs": "here"} | choices))


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"classifier_rate": "1e-4"}, TypeError, "classifier_rate='1e-4' is of type str.*float.*1.0e-4"),
        ({"epochs": True}, TypeError, "epochs=True is of type bool, it must be int"),
        ({"epochs": 3.0}, TypeError, "epochs=3.0 is of type float, it must be int"),
        ({"fold": "0"}, TypeError, "fold='0'"),
        ({"seed": None}, TypeError, "seed=None"),
        ({"mixup": 1}, TypeError, "mixup=1 is of type int, it must be bool$"),
        ({"mixup": "False"}, TypeError, "mixup='False'"),
        ({"smoothing": None}, TypeError, "smoothing=None"),
        ({"feature_noise": True}, TypeError, "feature_noise=True"),
        ({"smoothing": "sibling"}, ValueError, "smoothing='sibling' is unknown.*none, uniform, hierarchical"),
        ({"profile": "huge"}, ValueError, "profile='huge'.*full, mini"),
        ({"train": "both"}, ValueError, "train='both'.*head, joint"),
        ({"modality": "sound"}, ValueError, "modality='sound'"),
        ({"fusion": "attn"}, ValueError, "fusion='attn'"),
        ({"system": "ast"}, ValueError, "system='ast'.*passt"),
        ({"split": "random"}, ValueError, "split='random'.*uploader"),
        ({"precision": "fp16"}, ValueError, "precision='fp16'"),
        ({"fold": 5}, ValueError, "fold=5 must lie in 0 to 4"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"smoothing_factor": 1.0}, ValueError, "smoothing_factor=1.0"),
        ({"dropout": float("nan")}, ValueError, "dropout=nan"),
        ({"mixup_alpha": 0.0}, ValueError, "mixup_alpha"),
        ({"batch": 1}, ValueError, "batch=1 must lie in 2"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"data_share": 0.0}, ValueError, "data_share"),
        ({"system": "passt", "train": "head"}, ValueError, "pass train='joint'"),
        ({"device": "gpu"}, ValueError, "device='gpu' is not a torch device"),
        ({"device": "cuda:99"}, ValueError, "asks for a GPU, but this PyTorch sees"),
    ],
)
def test_what_is_wrong_is_named(choices, error, message):
    with pytest.raises(error, match=message):
        check(config(**choices))
    with pytest.raises(error, match=message):
        resolve(config(**choices))


def test_a_gpu_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device='cuda' asks for a GPU.*device='cpu'"):
        check(config(device="cuda"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='mps'"):
        check(config(device="mps"))


def test_an_unknown_parameter_is_named(tiny):
    with pytest.raises(TypeError, match="smothing"):
        finetune_config(tiny, smothing="none")
    assert finetune_config(tiny, seed=3).seed == 3


def test_the_defaults_are_valid_and_an_int_is_a_fine_float():
    check(config())
    check(config(feature_noise=0, extra_weight=1, dropout=0))


@pytest.mark.parametrize("train", ["head", "joint"])
@pytest.mark.parametrize("profile", list(PROFILES))
def test_resolving_fills_in_the_numbers_of_the_profile(profile, train):
    resolved = resolve(config(profile=profile, train=train, dropout=0.0))
    rates = getattr(PROFILES[profile], train)
    assert None not in dataclasses.asdict(resolved).values()
    assert (resolved.epochs, resolved.batch, resolved.classifier_rate) == (
        rates.epochs,
        rates.batch,
        rates.classifier_rate,
    )
    assert resolved.dropout == 0.0  # what was given stays, also where it is falsy
    assert resolved.smoothing_factor == 0.1 and resolved.mixup_alpha == 0.2  # the report's
    assert resolve(resolved) == resolved


def test_names_tell_runs_apart():
    assert default_name(config()) == "haf-joint_f0_s0"
    assert (
        default_name(config(train="head", smoothing="none", mixup=False, seed=2, fold=1))
        == "haf-head_smoothing=none_mixup=False_f1_s2"
    )
    assert resolve(config(name="mine")).name == "mine"
    # where a run is, is not what it is
    assert default_name(config(device="cuda", scratch="elsewhere")) == default_name(config())
    assert "/" not in default_name(config(initialisation="/some/where/clap"))
    varied = {
        "smoothing": "none", "mixup": False, "dropout": 0.1, "text_dropout": 0.2, "ema": False, "tta_views": 0,
        "modality": "text", "fusion": "mean", "gating": False, "extra_weight": 0.5, "data_share": 0.5, "fold": 3,
        "seed": 9, "split": "uploader", "initialisation": "random", "train": "head", "system": "text_aux",
        "shuffle_texts": True, "epochs": 2, "top_level_weight": 0.3, "feature_noise": 0.0,
    }  # fmt: skip
    names = {default_name(config(**{field: value})) for field, value in varied.items()}
    assert len(names | {default_name(config())}) == len(varied) + 1


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden", "..", "/tmp/x", "stores", "errors"])
def test_a_name_that_leaves_the_folder_of_runs(name):
    with pytest.raises(ValueError, match="plain folder name"):
        resolve(config(name=name))


def test_seeds_of_numpy_are_told_apart_from_ints():
    with pytest.raises(TypeError, match="seed=.*int64"):
        check(config(seed=np.int64(3)))


def test_a_workspace_names_the_folder_that_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="profile='big'"):
        workspace(profile="big")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        workspace(dataset=str(tmp_path / "empty"), profile="full")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        workspace(dataset=str(tmp_path / "nowhere"), profile="full")


def test_a_workspace_resolves_paths(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = workspace(dataset=tiny.dataset, runs="out", scratch="fast", profile="full")
    assert space.runs == str(tmp_path / "out" / "bsd10k-full") and space.scratch == str(tmp_path / "fast")
    assert space.extra == "" and space.dataset == tiny.dataset
    assert tiny.runs.endswith("embedded-tiny") and tiny.scratch == tiny.runs
    with pytest.raises(ValueError, match="extra=.*evaluation"):
        workspace(dataset=tiny.dataset, extra=tiny.evaluation, profile="full")


def test_a_default_that_is_written_out_is_the_same_run():
    assert resolve(config(smoothing_factor=0.1, epochs=resolve(config()).epochs)) == resolve(config())
    assert resolve(config(dropout=0)).name == resolve(config(dropout=0.0)).name
    weights = (resolve(config(extra="crowd", extra_weight=weight)).name for weight in (1, 1.0))
    assert len(set(weights)) == 1
    assert "smoothing_factor=0.2" in resolve(config(smoothing_factor=0.2)).name
