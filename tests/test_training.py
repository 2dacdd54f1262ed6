"""The training step: parts of a batch against the whole, batches, and losses that are no numbers."""

import numpy as np
import pytest
import torch

from haf_utils import training
from haf_utils.config import FinetuneConfig, resolve
from haf_utils.inputs import CachedInputs
from haf_utils.losses import hierarchical_targets
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
