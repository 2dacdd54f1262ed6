import numpy as np
import pytest
import torch

from haf_utils.hatr import Hatr, train_hatr, zero_dimensions
from haf_utils.inputs import CachedInputs
from haf_utils.model import Features


def clips(rows=440, classes=4, seed=0, width=512):
    """Embeddings of classes that a linear layer could tell apart, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = 0.5 * torch.randn(2, classes, width, generator=torch.Generator().manual_seed(9))
    audio, text = (centre[labels] + torch.randn(rows, width, generator=generator) for centre in centres)
    return CachedInputs(audio, text, torch.ones(rows)), labels.numpy()


def test_it_has_exactly_the_parameters_of_the_official_baseline():
    assert sum(p.numel() for p in Hatr().parameters()) == 7_319_513


def test_shapes_weights_and_initialisation():
    torch.manual_seed(0)
    model = Hatr()
    output = model(Features(torch.randn(4, 512), torch.randn(4, 512), torch.ones(4)))
    assert output.logits.shape == (4, 23)
    torch.testing.assert_close(output.weights.sum(1), torch.ones(4))
    output.logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    first = model.audio[1][0]
    bound = (6 / 1024) ** 0.5  # Xavier, uniform
    assert first.weight.abs().max() <= bound and first.weight.abs().max() > 0.99 * bound
    assert (first.bias == 0).all()


def test_one_to_358_dimensions_of_each_row_are_zeroed():
    zeroed = (zero_dimensions(torch.ones(4000, 512), torch.Generator().manual_seed(0)) == 0).sum(1)
    assert zeroed.min() >= 1 and zeroed.max() <= 358
    assert zeroed.float().mean().item() == pytest.approx(179.5, abs=5)
    assert zeroed.min() < 5 and zeroed.max() > 353
    assert (zero_dimensions(torch.ones(50, 8), torch.Generator().manual_seed(0)) == 0).sum(1).max() == 8


def test_it_learns_repeats_and_keeps_its_best_epoch():
    inputs, labels = clips()
    train, validation = np.arange(400), np.arange(400, 440)
    state = torch.random.get_rng_state()
    model, history = train_hatr(inputs, labels, train, validation, seed=1, epochs=5, quiet=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    _, again = train_hatr(inputs, labels, train, validation, seed=1, epochs=1, quiet=True)
    assert again.iloc[0].equals(history.iloc[0])
    assert history["validation_accuracy"].max() > 0.6  # chance: 0.25
    rows = torch.from_numpy(validation)
    with torch.no_grad():
        predicted = model(inputs.embed(None, rows)).logits.argmax(1).numpy()
    assert (predicted == labels[validation]).mean() == history["validation_accuracy"].max()


def test_it_stops_after_fifteen_epochs_without_gain():
    inputs, labels = clips(rows=40, width=16)
    shuffled = np.random.default_rng(0).permutation(labels)  # nothing to learn
    _, history = train_hatr(inputs, shuffled, np.arange(20), np.arange(20, 24), epochs=40, quiet=True)
    best = history["validation_accuracy"].idxmax()
    assert len(history) == min(best + 1 + 15, 40)
