from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haf_utils.ensembles import (
    RULES,
    Member,
    align,
    blend_neighbours,
    correct_prior,
    decide,
    diversity,
    fit_weights,
    subsets,
)
from haf_utils.metrics import METRICS, hierarchical_scores, score_matrix
from haf_utils.taxonomy import CLASSES


def posteriors(labels, sharpness, rng):
    """Posteriors (N, 23) that lean towards the true class, more or less."""
    logits = rng.standard_normal((len(labels), 23))
    logits[np.arange(len(labels)), labels] += sharpness
    exponents = np.exp(2 * logits)
    return exponents / exponents.sum(1, keepdims=True)


@pytest.fixture
def truth():
    return np.random.default_rng(0).integers(0, 23, 300)


@pytest.fixture
def members(truth):
    rng = np.random.default_rng(1)
    return [posteriors(truth, sharpness, rng) for sharpness in (2.0, 1.0, 1.5)]


def cross_entropy(weights, members, truth):
    mixed = np.tensordot(weights, np.stack(members), axes=1)
    return -np.log(mixed[np.arange(len(truth)), truth]).mean()


def test_fitted_weights_are_the_best_of_a_fine_grid(members, truth):
    weights = fit_weights(members, truth)
    assert weights.shape == (3,) and (weights >= 0).all() and weights.sum() == pytest.approx(1)
    steps = np.linspace(0, 1, 51)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
    losses = [cross_entropy(np.maximum(point, 0), members, truth) for point in grid]
    assert cross_entropy(weights, members, truth) <= min(losses) + 1e-9
    assert np.abs(weights - grid[int(np.argmin(losses))]).max() < 0.03
    assert (weights == fit_weights(members, truth)).all()


def test_a_member_that_knows_nothing_gets_no_weight(members, truth):
    useless = np.full((len(truth), 23), 1e-6 / 22)
    useless[np.arange(len(truth)), (truth + 1) % 23] = 1 - 1e-6
    weights = fit_weights([members[0], useless], [CLASSES[label] for label in truth])
    assert weights == pytest.approx([1, 0], abs=1e-4)


def test_equal_members_get_equal_weights_and_zeros_do_no_harm(members, truth):
    assert fit_weights([members[0]] * 4, truth) == pytest.approx(np.full(4, 0.25))
    certain = np.eye(23)[(truth + 1) % 23]  # exactly 0 on every true class
    assert fit_weights([certain, members[0]], truth) == pytest.approx([0, 1], abs=1e-4)
    assert fit_weights([members[0]], truth).tolist() == [1.0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_fitted_weights_beat_equal_ones_and_single_members(seed, number):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 23, 60)
    members = [posteriors(truth, rng.uniform(0, 2), rng) for _ in range(number)]
    best = cross_entropy(fit_weights(members, truth), members, truth)
    assert best <= cross_entropy(np.full(number, 1 / number), members, truth) + 1e-9
    assert all(best <= cross_entropy(single, members, truth) + 1e-9 for single in np.eye(number))


def test_subsets_are_all_and_scored_like_their_mean(members, truth):
    table = subsets(members, truth)
    assert len(table) == 7 and table["M"].tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert table["members"].tolist() == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    for row in table.to_dict("records"):
        mean = np.mean([members[m] for m in row["members"]], axis=0)
        assert {name: row[name] for name in METRICS} == pytest.approx(hierarchical_scores(truth, mean.argmax(1)))


def test_too_many_subsets_are_refused(members, truth):
    with pytest.raises(ValueError, match="13 members have 8,191 subsets"):
        subsets([members[0]] * 13, truth)


def test_diversity_of_known_members():
    truth = [0, 0, 0, 0]
    disagreement, overlap = diversity([[0, 0, 1, 1], [0, 1, 1, 2], [0, 0, 0, 0]], truth, ["a", "b", "c"])
    assert disagreement.loc["a"].tolist() == [0, 0.5, 0.5] and disagreement.loc["b", "c"] == 0.75
    assert overlap.loc["a", "b"] == pytest.approx(2 / 3)
    assert overlap.loc["a", "a"] == 1 and overlap.loc["a", "c"] == 0 and np.isnan(overlap.loc["c", "c"])
    assert (disagreement.to_numpy() == disagreement.to_numpy().T).all()


def test_diversity_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"predict \[2, 3\] clips"):
        diversity([[0, 0], [0, 0, 0]], [0, 0])
    with pytest.raises(ValueError, match="predict"):
        diversity([], [0, 0])
    with pytest.raises(ValueError, match="1 names for 2"):
        diversity([[0], [1]], [0], ["a"])


def test_expected_score_maximises_the_expected_hierarchical_score(members):
    rows = members[1][:40]
    expected = [[sum(row[t] * score_matrix()[t, c] for t in range(23)) for c in range(23)] for row in rows]
    assert decide(rows, "expected_score").tolist() == np.argmax(expected, axis=1).tolist()


def test_likely_siblings_beat_a_lonely_class():
    row = np.zeros((1, 23))
    row[0, 8] = 0.34  # speech, alone
    row[0, [11, 12]] = 0.33  # two sound effects: 0.33 + 0.375 * 0.33 is more
    assert decide(row).tolist() == [8] and decide(row, "expected_score").tolist() == [11]
    assert decide(row, "expected_score", lam=0).tolist() == [8]


def test_correcting_the_prior_prefers_the_rare_class():
    row = np.zeros((1, 23))
    row[0, [0, 1]] = 0.6, 0.4
    prior = np.ones(23)
    prior[0] = 10
    assert decide(row, "prior_corrected", prior).tolist() == [1]
    assert correct_prior(row, prior)[0, :2] == pytest.approx([0.06 / 0.46, 0.4 / 0.46])
    assert decide(row, "prior_corrected", np.ones(23) / 23).tolist() == [0]


@given(st.integers(0, 10_000))
def test_a_corrected_prior_undoes_itself_and_scale_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(23)) + 1e-3
    flat = rng.dirichlet(np.ones(23), 5)
    skewed = flat * prior / (flat * prior).sum(1, keepdims=True)
    assert correct_prior(skewed, prior) == pytest.approx(flat)
    assert correct_prior(skewed, 100 * prior) == pytest.approx(flat)


def test_classes_never_seen_are_never_decided():
    row = np.full((1, 23), 1 / 23)
    prior = np.ones(23)
    prior[:5] = 0
    corrected = correct_prior(row, prior)
    assert (corrected[0, :5] == 0).all() and corrected.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="row 0 has no probability"):
        correct_prior(np.eye(23)[[0]], prior)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_agrees_on_certain_clips(rule):
    assert decide(np.eye(23), rule, prior=np.arange(1, 24)).tolist() == list(range(23))


def test_decide_refuses_wrong_settings():
    rows = np.eye(23)
    with pytest.raises(ValueError, match="rule='best'"):
        decide(rows, "best")
    with pytest.raises(ValueError, match="needs prior"):
        decide(rows, "prior_corrected")
    for prior in (np.ones(5), -np.ones(23), np.zeros(23), np.full(23, np.nan)):
        with pytest.raises(ValueError, match="prior must be 23"):
            decide(rows, "prior_corrected", prior)
    with pytest.raises(ValueError, match="row 0"):
        decide(rows * 2)


@pytest.mark.parametrize("function", [fit_weights, subsets])
def test_members_and_labels_must_fit(function, members, truth):
    with pytest.raises(ValueError, match="no members"):
        function([], truth)
    with pytest.raises(ValueError, match=r"score \[300, 299\] clips"):
        function([members[0], members[1][:-1]], truth)
    with pytest.raises(ValueError, match="299 labels"):
        function(members, truth[:-1])
    with pytest.raises(ValueError, match="member 1: row 3"):
        function([members[0], np.where(np.arange(300)[:, None] == 3, 0, members[1])], truth)


# ---- alignment


def member(called, clips=5, seed=0, **changes):
    labels = np.arange(clips) % 23
    rows = posteriors(labels, 1.0, np.random.default_rng(seed))
    return replace(Member(called, np.array([f"clip{i}" for i in range(clips)]), labels, rows, ["other"]), **changes)


def test_align_reorders_clips_and_averages_views():
    first, second = member("a"), member("b", seed=1)
    order = np.array([3, 1, 4, 0, 2])
    views = np.stack([second.probabilities, np.eye(23)[:5]])
    shuffled = replace(
        second, ids=second.ids[order], labels=second.labels[order], probabilities=views[:, order], train_ids=[]
    )
    aligned = align([first, shuffled])
    assert [m.name for m in aligned] == ["a", "b"]
    assert all((m.ids == first.ids).all() and (m.labels == first.labels).all() for m in aligned)
    assert np.allclose(aligned[1].probabilities, views.mean(0))
    assert np.allclose(aligned[0].probabilities, first.probabilities)


def test_numeric_and_text_ids_are_the_same_clips():
    first, second = member("a", ids=np.arange(5)), member("b", ids=np.array([str(i) for i in range(5)]))
    assert len(align([first, second])) == 2
    with pytest.raises(ValueError, match="trained on 1 of the clips"):
        align([first, replace(second, train_ids=[4])])


def test_members_of_all_folds_are_welcome_where_labels_are_unknown():
    unknown = np.full(5, -1)
    assert len(align([member("a", labels=unknown), member("b", labels=unknown)])) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_an_ensemble_of_one_or_none_is_refused(number):
    with pytest.raises(ValueError, match="at least two members"):
        align([member("a")][:number])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "a"}, "the same name"),
        ({"ids": np.array(["clip0", "clip1", "clip2", "clip3", "new"])}, r"lacks 1 \(clip4\) and has 1 others \(new\)"),
        ({"ids": np.array(["clip0", "clip0", "clip2", "clip3", "clip4"])}, "more than once: clip0"),
        ({"labels": np.array([0, 1, 2, 3, 9])}, "different labels for 1 clips, such as clip4: 4 and 9"),
        ({"labels": np.array([0, 1, 2, 3, -1])}, "clip4: 4 and -1"),
        ({"labels": np.array([0, 1, 2, 3, 23])}, "labels must be integers"),
        ({"labels": np.array([0.0, 1, 2, 3, 4])}, "labels must be integers"),
        ({"labels": np.arange(4)}, "5 ids, 4 labels and 5 rows"),
        ({"probabilities": np.full((5, 5), 0.2)}, r"one column a class of the taxonomy, got \(5, 5\)"),
        ({"probabilities": np.zeros((0, 5, 23))}, "shape"),
        ({"probabilities": np.ones((5, 23))}, "'b': probabilities: row 0"),
        (
            {"train_ids": [f"clip{i}" for i in range(5)]},
            r"'b' was trained on 5 of the clips .*clip0, clip1, clip2 and 2 more",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused_with_the_difference(changes, message):
    with pytest.raises(ValueError, match=message):
        align([member("a"), member("b", **changes)])


def test_the_first_member_is_checked_too():
    with pytest.raises(ValueError, match="'a' was trained on"):
        align([member("a", train_ids=["clip2"]), member("b")])


def test_neighbours_get_the_number_and_the_share_that_explain_validation_best(truth, members):
    rng = np.random.default_rng(5)
    votes = {5: posteriors(truth, 0.0, rng), 10: posteriors(truth, 1.5, rng), 50: np.full((300, 23), 1 / 23)}
    k, share = blend_neighbours(members[1], votes, truth)
    assert k == 10 and 0 < share < 1
    losses = {
        (number, beta): cross_entropy([1 - beta, beta], [members[1], v], truth)
        for number, v in votes.items()
        for beta in np.linspace(0, 1, 101)
    }
    best = min(losses, key=losses.get)
    assert best[0] == k and best[1] == pytest.approx(share, abs=0.01)
    wrong = np.eye(23)[(truth + 1) % 23]
    assert blend_neighbours(members[0], {7: wrong}, truth) == (7, pytest.approx(0, abs=1e-6))  # of no use: no share
