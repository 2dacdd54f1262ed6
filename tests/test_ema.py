"""The average follows floats, copies integers, and stands still with a model that does."""

import pytest
import torch
from torch import nn

from haf_utils.regularizers import Ema


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.register_buffer("index", torch.arange(4096))
    return model


def test_the_average_of_an_unchanged_model_is_the_model_bit_for_bit():
    model = network()
    ema = Ema(model, 0.999)
    for _ in range(200):
        ema.update(model)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value), name


def test_decay_warms_up_and_then_holds():
    model = network()
    ema = Ema(model, 0.15)
    with torch.no_grad():
        model[0].bias.copy_(torch.ones(4))
        ema.model[0].bias.copy_(torch.zeros(4))
    expected = 0.0
    for step in range(5):
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * 1.0
        ema.update(model)
        torch.testing.assert_close(ema.model[0].bias, torch.full((4,), expected))


def test_integers_are_copied_and_running_statistics_averaged():
    model = network()
    ema = Ema(model, 0.9)
    model.train()(torch.randn(8, 3))
    model.index += 1
    before = ema.model[1].running_mean.clone()
    ema.update(model)
    assert torch.equal(ema.model.index, model.index)
    assert ema.model[1].num_batches_tracked == model[1].num_batches_tracked == 1
    torch.testing.assert_close(ema.model[1].running_mean, 0.1 * before + 0.9 * model[1].running_mean)


def test_a_saved_average_continues_as_if_never_saved():
    model = network()
    one, two = Ema(model), Ema(model)
    for step in range(6):
        with torch.no_grad():
            model[0].weight.add_(0.1)
        one.update(model)
        if step == 3:
            state = {"model": {k: v.clone() for k, v in two.state_dict()["model"].items()}, "updates": two.updates}
            two = Ema(network())
            two.load_state_dict(state)
        two.update(model)
    assert torch.equal(one.model[0].weight, two.model[0].weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Ema(network(), decay)
