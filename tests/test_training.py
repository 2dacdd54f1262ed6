"""The training step: parts of a batch against the whole, batches, and losses that are no numbers."""

from copy import deepcopy
from dataclasses import fields
from itertools import combinations

import numpy as np
import pytest
import torch

from haf_utils import training
from haf_utils.config import FUSIONS, LOCATION_FIELDS, MODALITIES, SMOOTHINGS, FinetuneConfig, resolve
from haf_utils.experiment.assembly import classifier_of
from haf_utils.inputs import CachedInputs
from haf_utils.losses import hierarchical_targets, targets
from haf_utils.model import Features, HafClassifier, Model
from haf_utils.regularizers import Ema


class Tower(torch.nn.Module):
    """A backbone with dropout on 6 numbers a clip for audio and 4 for text."""

    def __init__(self):
        super().__init__()
        self.audio, self.text, self.dropout = torch.nn.Linear(6, 8), torch.nn.Linear(4, 8), torch.nn.Dropout(0.3)

    def forward(self, audio, text):
        return torch.tanh(self.dropout(self.audio(audio))), torch.tanh(self.text(text))


class Numbers:
    """Inputs that a backbone embeds: (N, 6) and (N, 4)."""

    live, device = True, torch.device("cpu")

    def __init__(self, clips, generator):
        self.audio = torch.randn(clips, 6, generator=generator)
        self.text = torch.randn(clips, 4, generator=generator)
        self.presence = (torch.rand(clips, generator=generator) > 0.3).float()

    def prepare(self, rows, key=None):
        rows = torch.from_numpy(rows)
        return Features(self.audio[rows], self.text[rows], self.presence[rows])

    def embed(self, model, batch):
        audio, text = model.backbone(batch.audio, batch.text)
        return Features(audio, text * batch.presence[:, None], batch.presence)


def recipe(**choices):
    return resolve(FinetuneConfig("data", "runs", **{"train": "joint", "profile": "tiny"} | choices))


def step(parts: int, choices: dict, dropout: float = 0.0):
    """Weights after one step on 12 weighted clips that go through the backbone in `parts`, and the loss."""
    torch.manual_seed(0)
    chosen = recipe(**choices)
    model = Model(Tower(), HafClassifier(8, 4, dropout=0.0))
    model.backbone.dropout.p = dropout
    inputs = Numbers(12, torch.Generator().manual_seed(1))
    target = hierarchical_targets(torch.arange(12)) * torch.linspace(0.1, 1, 12)[:, None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batches = [inputs.prepare(rows) for rows in np.array_split(np.arange(12), parts)]
    loss = training.training_step(
        model.train(), inputs, batches, target, chosen, training.generators(0, 0), optimizer, Ema(model, 0.0)
    )
    return loss, model.state_dict()


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize(
    "choices",
    [
        {"mixup": False},
        {"mixup_probability": 1.0},
        {"text_dropout": 0.4, "top_level_weight": 0.5, "feature_noise": 0.1},
    ],
)
def test_a_batch_in_parts_is_the_batch_as_a_whole(parts, choices):
    """Weights of clips, mixup's partners and shares, noise: all are those of the whole step."""
    loss, whole = step(1, choices)
    loss_in_parts, weights = step(parts, choices)
    assert loss_in_parts == pytest.approx(loss, rel=1e-6)
    for name, value in whole.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-7)


def test_dropout_draws_the_same_both_times_a_part_is_embedded():
    """The gradients of a step in parts are those of the loss that was taken: a numerical derivative agrees."""
    seen = []
    forward = Tower.forward

    def recorded(self, audio, text):
        result = forward(self, audio, text)
        seen.append(result[0].detach())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tower, "forward", recorded)
        step(3, {"mixup": False}, dropout=0.5)
    assert len(seen) == 6
    assert all(torch.equal(first, again) for first, again in zip(seen[:3], seen[3:], strict=True))


def test_a_loss_that_is_no_number_is_named_and_changes_nothing():
    inputs = CachedInputs(torch.full((8, 8), torch.nan), torch.zeros(8, 8), torch.zeros(8))
    model = Model(None, HafClassifier(8, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = training.optimizer_of(model, 1e-3, 0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    target = hierarchical_targets(torch.arange(8))
    with pytest.raises(FloatingPointError, match="nan in epoch 1, batch 1 .*lower classifier_rate"):
        training.train_epoch(
            model, inputs, np.arange(8), target, recipe(), optimizer, scheduler, Ema(model), 0, quiet=True
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_training_does_not_stop_before_the_first_halving():
    """Patience counts only once the learning rate was halved."""
    generator = torch.Generator().manual_seed(0)
    inputs = CachedInputs(torch.randn(40, 8, generator=generator), torch.zeros(40, 8), torch.zeros(40))
    labels = np.arange(40) % 4
    rows = {"train": np.arange(20), "validation": np.arange(20, 40)}
    from dataclasses import replace

    lengths = {}
    for halving in (1, 1000):
        chosen = recipe(train="head", epochs=30, classifier_rate=0.0, batch=10)
        chosen = replace(chosen, rates=replace(chosen.rates, halving_steps=halving, patience=2))
        target = hierarchical_targets(torch.from_numpy(labels))
        model = Model(None, HafClassifier(8, 4))
        lengths[halving] = len(training.fit(model, inputs, target, labels, rows, chosen, quiet=True)[1])
    assert lengths == {1: 3, 1000: 30}


def test_batches_cover_all_rows_and_none_is_alone():
    for clips in (2, 15, 16, 17, 33, 100):
        batches = training._batches(np.arange(clips), 16, np.random.default_rng(0))
        assert sorted(np.concatenate(batches)) == list(range(clips))
        assert min(map(len, batches)) > 1


EFFECTS = {  # parameters that act between the embeddings and the trained weights, each with another value
    "system": "text_aux", "seed": 1, "smoothing": "uniform", "smoothing_factor": 0.3, "mixup": False,
    "mixup_alpha": 5.0, "mixup_probability": 0.0, "feature_noise": 0.5, "dropout": 0.0, "text_dropout": 0.5,
    "ema": False, "modality": "audio", "fusion": "mean", "gating": False, "top_level_weight": 0.5, "epochs": 2,
    "batch": 6, "classifier_rate": 0.01, "backbone_rate": 0.01,
}  # fmt: skip
ELSEWHERE = {  # which clips, which weights to begin with, what is done with the trained model: tested where they act
    *LOCATION_FIELDS, "profile", "train", "initialisation", "whole_model", "split", "fold", "tta_views",
    "text_at_inference", "extra_weight", "teacher", "soft_weight", "agreement", "confidence_weight", "posteriors",
    "data_share", "shuffle_texts", "precision",
    "accumulation", "activation_checkpointing",  # same numbers, less memory
}  # fmt: skip


def trained(**choices) -> torch.Tensor:
    """Logits of 30 clips by the average of the weights after the last epoch of training on 20 of them."""
    chosen = recipe(**{"epochs": 3, "batch": 10, "mixup_probability": 0.9} | choices)
    torch.manual_seed(0)
    model, inputs = Model(Tower(), classifier_of(chosen, 8)), Numbers(30, torch.Generator().manual_seed(1))
    labels = np.arange(30) % 23
    target = targets(torch.from_numpy(labels), chosen.smoothing, chosen.smoothing_factor)
    rows = {"train": np.arange(20), "validation": np.arange(20, 30)}
    weights = []

    def after_epoch(state: dict) -> None:
        weights.append(deepcopy(state["ema"]["model"]))

    best, _ = training.fit(model, inputs, target, labels, rows, chosen, after_epoch=after_epoch, quiet=True)
    best.load_state_dict(weights[-1])
    with torch.no_grad():
        return best.classifier(inputs.embed(best, inputs.prepare(np.arange(30)))).logits


@pytest.mark.parametrize("field", EFFECTS)
def test_every_parameter_of_training_changes_what_is_trained(field):
    assert torch.equal(trained(), trained())
    assert not torch.allclose(trained(), trained(**{field: EFFECTS[field]}), atol=1e-6), f"{field} has no effect"


def test_every_value_of_a_choice_trains_something_else():
    for field, values in {"smoothing": SMOOTHINGS, "fusion": FUSIONS, "modality": MODALITIES}.items():
        for one, other in combinations([trained(**{field: value}) for value in values], 2):
            assert not torch.allclose(one, other, atol=1e-6), f"two values of {field} do the same"


def test_no_parameter_is_forgotten_here():
    assert {field.name for field in fields(FinetuneConfig)} == {*EFFECTS, *ELSEWHERE}


def test_a_gradient_that_is_no_number_changes_nothing_either(monkeypatch):
    """A finite loss of which the derivative is not: sqrt at zero."""
    own = training.batch_loss
    monkeypatch.setattr(training, "batch_loss", lambda *given: own(*given) + (own(*given) * 0).sqrt() * 0)
    with pytest.raises(FloatingPointError, match="gradient nan"):
        step(1, {})
