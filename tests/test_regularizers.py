import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haf_utils.losses import one_hot_targets
from haf_utils.model import Features
from haf_utils.regularizers import add_noise, drop_texts, mixup


def batch(size=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    presence = (torch.arange(size) % 3 != 0).float()
    return Features(
        torch.randn(size, width, generator=generator),
        torch.randn(size, width, generator=generator) * presence[:, None],
        presence,
        torch.softmax(torch.randn(size, 23, generator=generator), dim=1) * (torch.arange(size) % 4 != 0)[:, None],
    ), one_hot_targets(torch.arange(size) % 23)


@settings(max_examples=60)
@given(st.integers(0, 100_000), st.floats(0.05, 5))
def test_mixup_uses_one_share_and_one_permutation_for_everything(seed, alpha):
    features, target = batch()
    mixed, soft = mixup(features, target, torch.Generator().manual_seed(seed), alpha, probability=1.0)
    # Each one-hot row tells its share and its partner; all else must follow from the two.
    blends, order = [], []
    for row in range(len(target)):
        others = np.flatnonzero(soft[row] * (torch.arange(23) != row))
        order.append(int(others[0]) if len(others) else row)
        if len(others):
            blends.append(float(soft[row, row]))
    assert sorted(order) == list(range(len(target)))
    blend = blends[0] if blends else 1.0
    np.testing.assert_allclose(blends, blend, atol=1e-6)
    torch.testing.assert_close(soft.sum(1), torch.ones(len(target)))
    for part, before in zip(mixed, features, strict=True):
        torch.testing.assert_close(part, blend * before + (1 - blend) * before[order], rtol=1e-4, atol=1e-6)


def test_mixup_of_a_text_with_a_missing_one_is_half_a_text():
    features, target = batch()
    generator = torch.Generator().manual_seed(3)
    mixed, _ = mixup(features, target, generator, alpha=50.0, probability=1.0)
    assert ((mixed.presence >= 0) & (mixed.presence <= 1)).all()
    assert ((mixed.presence > 0.2) & (mixed.presence < 0.8)).any()


def test_mixup_comes_with_its_probability_and_leaves_the_batch_alone_otherwise():
    features, target = batch()
    before = [part.clone() for part in (*features, target)]
    generator = torch.Generator().manual_seed(0)
    unchanged = sum(mixup(features, target, generator, 0.2, 0.5)[1] is target for _ in range(2000))
    assert 900 < unchanged < 1100
    assert all(mixup(features, target, generator, 0.2, 0.0)[1] is target for _ in range(50))
    for part, copy in zip((*features, target), before, strict=True):
        torch.testing.assert_close(part, copy, rtol=0, atol=0)


def test_shares_follow_the_beta_distribution():
    # Two clips: where they are swapped, the diagonal of the target is the share. Beta(α, α): mean 1/2, variance
    # 1 / (4 (2 α + 1)).
    features, target = batch(2)
    generator, shares = torch.Generator().manual_seed(1), []
    while len(shares) < 2000:
        _, soft = mixup(features, target, generator, 0.2, 1.0)
        if soft is not target and soft[0, 1] > 0:
            shares.append(float(soft[0, 0]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), abs=0.02)


def test_a_vanishing_alpha_gives_shares_that_are_numbers():
    features, target = batch()
    for seed in range(50):
        mixed, soft = mixup(features, target, torch.Generator().manual_seed(seed), 1e-3, 1.0)
        assert torch.isfinite(soft).all() and torch.isfinite(mixed.audio).all()


def test_noise_has_its_deviation_and_leaves_presence_alone():
    zeros = Features(torch.zeros(200, 50), torch.zeros(200, 50), torch.ones(200))
    noisy = add_noise(zeros, torch.Generator().manual_seed(0), 1e-4)
    for part in (noisy.audio, noisy.text):
        assert float(part.std()) == pytest.approx(1e-4, rel=0.05) and abs(float(part.mean())) < 1e-5
    assert not torch.equal(noisy.audio, noisy.text)
    assert torch.equal(noisy.presence, zeros.presence)
    assert add_noise(zeros, torch.Generator(), 0.0) is zeros


def test_dropped_texts_are_zero_and_absent():
    features, _ = batch(3000)
    dropped = drop_texts(features, torch.Generator().manual_seed(0), 0.4)
    gone = (features.presence == 1) & (dropped.presence == 0)
    assert float(gone.sum() / features.presence.sum()) == pytest.approx(0.4, abs=0.04)
    assert (dropped.text[dropped.presence == 0] == 0).all()
    assert torch.equal(dropped.text[dropped.presence == 1], features.text[dropped.presence == 1])
    assert torch.equal(dropped.audio, features.audio)
    assert drop_texts(features, torch.Generator(), 0.0) is features
    assert (drop_texts(features, torch.Generator().manual_seed(0), 1.0).presence == 0).all()


@pytest.mark.parametrize("act", [lambda f, t, g: mixup(f, t, g, 0.2, 1.0)[0], lambda f, t, g: add_noise(f, g, 0.1)])
def test_the_same_generator_draws_the_same(act):
    features, target = batch()
    first, second = (act(features, target, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_posteriors_keep_their_presence_under_noise_and_are_dropped_alone():
    features, _ = batch(400)
    noisy = add_noise(features, torch.Generator().manual_seed(0), 1e-2)
    torch.testing.assert_close(noisy.posteriors.sum(1), features.posteriors.sum(1), atol=1e-5, rtol=0)
    absent = features.posteriors.sum(1) == 0
    assert absent.any() and (noisy.posteriors[absent] == 0).all() and (noisy.posteriors[~absent] != 0).all()
    dropped = drop_texts(features, torch.Generator().manual_seed(0), 0.5)
    gone, text_gone = (dropped.posteriors.sum(1) == 0)[~absent], (dropped.presence == 0)[~absent]
    assert 0.35 < gone.float().mean() < 0.65 and (gone != text_gone).any()
    assert drop_texts(features._replace(posteriors=None), torch.Generator().manual_seed(0), 0.5).posteriors is None
