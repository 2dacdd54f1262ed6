import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from haf_utils.config import SMOOTHINGS
from haf_utils.losses import (
    hierarchical_targets,
    one_hot_targets,
    soft_cross_entropy,
    targets,
    top_level,
    top_level_cross_entropy,
    uniform_targets,
)
from haf_utils.taxonomy import CLASSES, PARENT

labels_and_smoothing = st.tuples(
    st.lists(st.integers(0, 22), min_size=1, max_size=12), st.floats(0, 0.99, allow_nan=False)
)


@given(labels_and_smoothing)
def test_rows_are_distributions_and_the_smoothing_mass_goes_to_siblings_alone(drawn):
    labels, smoothing = drawn
    target = hierarchical_targets(torch.tensor(labels), smoothing)
    assert target.shape == (len(labels), 23) and target.dtype == torch.float32
    torch.testing.assert_close(target.sum(1), torch.ones(len(labels)))
    for row, label in zip(target, labels, strict=True):
        assert row[label] == pytest.approx(1 - smoothing, abs=1e-6)
        assert row[(PARENT == PARENT[label]) & (np.arange(23) != label)].sum() == pytest.approx(smoothing, abs=1e-6)
        assert (row[PARENT != PARENT[label]] == 0).all()


@given(labels_and_smoothing)
def test_uniform_smoothing_is_that_of_pytorch(drawn):
    labels, smoothing = torch.tensor(drawn[0]), drawn[1]
    logits = torch.randn(len(labels), 23, generator=torch.Generator().manual_seed(0))
    ours = soft_cross_entropy(logits, uniform_targets(labels, smoothing))
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-4, atol=1e-5)


def test_values_by_hand():
    # sp-s has the siblings sp-c and sp-p; fx-o has seven.
    speech, effect = hierarchical_targets(torch.tensor([CLASSES.index("sp-s"), CLASSES.index("fx-o")]), 0.1)
    expected = {"sp-s": 0.9, "sp-c": 0.05, "sp-p": 0.05}
    np.testing.assert_allclose(speech, [expected.get(code, 0) for code in CLASSES], rtol=1e-6)
    assert effect[CLASSES.index("fx-v")] == pytest.approx(0.1 / 7)
    assert uniform_targets(torch.tensor([3]), 0.23)[0, 0] == pytest.approx(0.01)
    assert uniform_targets(torch.tensor([3]), 0.23)[0, 3] == pytest.approx(0.78)


def test_targets_by_name():
    labels = torch.arange(23)
    torch.testing.assert_close(targets(labels, "none", 0.3), one_hot_targets(labels))
    torch.testing.assert_close(targets(labels, "uniform", 0.3), uniform_targets(labels, 0.3))
    torch.testing.assert_close(targets(labels, "hierarchical", 0.3), hierarchical_targets(labels, 0.3))
    for kind in SMOOTHINGS:  # without smoothing mass all three are the same
        torch.testing.assert_close(targets(labels, kind, 0.0), torch.eye(23))
    with pytest.raises(ValueError, match="smoothing='hierarchic' is unknown.*hierarchical"):
        targets(labels, "hierarchic")


@pytest.mark.parametrize(
    ("labels", "smoothing", "message"),
    [
        (torch.tensor([0, 23]), 0.1, "0..22"),
        (torch.tensor([-1]), 0.1, "0..22"),
        (torch.tensor([1.0]), 0.1, "integer"),
        (torch.tensor([[1]]), 0.1, "integer"),
        (torch.tensor([1]), 1.0, r"\[0, 1\)"),
        (torch.tensor([1]), -0.1, r"\[0, 1\)"),
        (torch.tensor([1]), float("nan"), r"\[0, 1\)"),
    ],
)
def test_bad_labels_and_factors(labels, smoothing, message):
    with pytest.raises(ValueError, match=message):
        hierarchical_targets(labels, smoothing)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_soft_cross_entropy_on_one_hot_is_cross_entropy_with_the_same_gradient(seed, size):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, 23, generator=generator, requires_grad=True)
    labels = torch.randint(23, (size,), generator=generator)
    ours, theirs = soft_cross_entropy(logits, one_hot_targets(labels)), F.cross_entropy(logits, labels)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_posterior_minus_target():
    logits = torch.randn(4, 23, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = hierarchical_targets(torch.tensor([0, 5, 9, 22]))
    soft_cross_entropy(logits, target).backward()
    torch.testing.assert_close(logits.grad, (torch.softmax(logits, 1) - target).detach() / 4, rtol=1e-4, atol=1e-6)


def test_a_clip_of_weight_w_has_a_target_that_sums_to_w():
    logits = torch.randn(3, 23, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([1, 2, 3])
    target = one_hot_targets(labels)
    each = F.cross_entropy(logits, labels, reduction="none")
    weights = torch.tensor([1.0, 0.0, 0.5])
    expected = (1.0 * each[0] + 0.5 * each[2]) / 1.5
    torch.testing.assert_close(soft_cross_entropy(logits, target * weights[:, None]), expected)
    torch.testing.assert_close(soft_cross_entropy(logits, 7 * target), each.mean())
    torch.testing.assert_close(top_level_cross_entropy(logits, 7 * target), top_level_cross_entropy(logits, target))


def test_half_precision_logits_are_scored_in_full_precision():
    logits = torch.full((1, 23), 40.0, dtype=torch.bfloat16)
    assert soft_cross_entropy(logits, one_hot_targets(torch.tensor([0]))) == pytest.approx(np.log(23), abs=1e-5)


def test_top_level_sums_leaves_and_its_loss_ignores_where_mass_lies_inside_a_parent():
    probabilities = torch.softmax(torch.randn(5, 23, generator=torch.Generator().manual_seed(3)), 1)
    summed = torch.stack([probabilities[:, PARENT == parent].sum(1) for parent in range(5)], 1)
    torch.testing.assert_close(top_level(probabilities), summed)
    labels = torch.tensor([0, 4, 8, 12, 20])
    logits = probabilities.log()
    plain = F.nll_loss(summed.log(), torch.from_numpy(PARENT.copy())[labels])
    for kind in ("none", "hierarchical"):  # sibling smoothing stays under the parent: the top level cannot see it
        torch.testing.assert_close(top_level_cross_entropy(logits, targets(labels, kind, 0.3)), plain)
    far = torch.zeros(1, 23)
    far[0, 0] = 1000.0
    assert torch.isfinite(top_level_cross_entropy(far, one_hot_targets(torch.tensor([22]))))
