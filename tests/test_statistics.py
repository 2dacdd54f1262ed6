import time

import numpy as np
import pytest
from scipy.stats import binom

from haf_utils.metrics import METRICS, hierarchical_scores
from haf_utils.statistics import bootstrap, bootstrap_classes, interval, mcnemar, paired_difference
from haf_utils.taxonomy import CLASSES


def system(truth, right, rng):
    """Predictions that are right with probability `right`, else any class."""
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, 23, len(truth)))


def by_clips(truth, predictions, groups, rng, replicates, **metric):
    """The bootstrap as one would write it down: draw clips, score them, again and again."""
    scores = np.empty((len(predictions), replicates))
    for replicate in range(replicates):
        clips = np.concatenate([rng.choice(members, len(members)) for members in groups])
        scores[:, replicate] = [hierarchical_scores(truth[clips], row[clips], **metric)["hF"] for row in predictions]
    return scores


@pytest.mark.parametrize("never_predicted", ["zero", "drop"])
@pytest.mark.parametrize("folds", [None, 3])
def test_counts_are_resampled_like_clips(folds, never_predicted):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 6, 150)
    predictions = np.stack([system(truth, 0.5, rng), system(truth, 0.7, rng)])
    strata = None if folds is None else np.arange(len(truth)) % folds
    keys = truth if strata is None else truth * folds + strata
    groups = [np.flatnonzero(keys == key) for key in np.unique(keys)]
    slow = by_clips(truth, predictions, groups, rng, 600, never_predicted=never_predicted)
    fast = bootstrap(truth, predictions, rng, 20_000, strata, never_predicted=never_predicted)["hF"]
    error = slow.std(1) / np.sqrt(600)
    assert (np.abs(slow.mean(1) - fast.mean(1)) < 4 * error).all()
    assert np.allclose(slow.std(1), fast.std(1), rtol=0.12)  # four standard errors of a standard deviation
    slow, fast = slow[0] - slow[1], fast[0] - fast[1]
    assert np.isclose(slow.std(), fast.std(), rtol=0.12)


def test_all_systems_see_the_same_clips():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 23, 300)
    a = system(truth, 0.6, rng)
    scores = bootstrap(truth, [a, a], rng, 50)
    assert all((scores[name][0] == scores[name][1]).all() for name in METRICS)
    assert scores["hF"].shape == (2, 50) and scores["hF"].std() > 0


def test_class_sizes_stay_and_perfection_stays_perfect():
    truth = np.repeat([0, 4, 11], [1, 5, 9])
    scores = bootstrap(truth, truth, np.random.default_rng(0), 30)
    assert all(scores[name].shape == (1, 30) and np.allclose(scores[name], 1) for name in METRICS)


def test_strata_of_one_clip_leave_nothing_to_draw():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 23, 40)
    predicted = system(truth, 0.5, rng)
    scores = bootstrap(truth, predicted, rng, 10, strata=[f"clip {i}" for i in range(40)])
    assert np.allclose(scores["hF"], hierarchical_scores(truth, predicted)["hF"])


def test_codes_and_seeds():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 23, 80)
    predicted = system(truth, 0.5, rng)
    codes = np.array(CLASSES)
    again = [
        bootstrap(*labels, np.random.default_rng(7), 20)["hP"]
        for labels in ((truth, predicted), (codes[truth], codes[predicted]))
    ]
    assert (again[0] == again[1]).all()
    assert (again[0] != bootstrap(truth, predicted, np.random.default_rng(8), 20)["hP"]).any()


def test_a_thousand_paired_replicates_over_bsd10k_take_less_than_two_seconds():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 23, 10_956)
    a, b = system(truth, 0.75, rng), system(truth, 0.75, rng)
    start = time.process_time()
    difference = paired_difference(truth, a, b, rng, strata=np.arange(len(truth)) % 5)
    assert time.process_time() - start < 2  # measured: 0.2 s
    assert set(difference) == set(METRICS)


def test_interval_is_the_percentiles():
    samples = np.arange(1001.0)[None] + np.array([[0.0], [100.0]])
    low, high = interval(samples, 0.9)
    assert np.allclose(low, [50, 150]) and np.allclose(high, [950, 1050])
    with pytest.raises(ValueError, match="level=95"):
        interval(samples, 95)


def clips_that_both_may_miss(rng, clips=200):
    """Truth and two systems that are noisy copies of one: equally good, mistaken on partly the same clips."""
    truth = rng.integers(0, 5, clips)
    parent = np.where(rng.random(clips) < 0.8, truth, rng.integers(0, 5, clips))
    copies = [np.where(rng.random(clips) < 0.85, parent, rng.integers(0, 5, clips)) for _ in range(2)]
    return truth, *copies


def test_interval_covers_a_planted_null_in_about_95_of_100_trials():
    rng = np.random.default_rng(6)
    trials = 400
    covered = dict.fromkeys(METRICS, 0)
    for _ in range(trials):
        for name, difference in paired_difference(*clips_that_both_may_miss(rng), rng, 200).items():
            covered[name] += difference.low <= 0 <= difference.high
    assert all(0.91 <= count / trials <= 0.98 for count in covered.values()), covered


@pytest.mark.parametrize("spread", [0.0, 0.08])
def test_interval_over_seeds_covers_a_null_between_recipes(spread):
    """Three runs each of one recipe; runs differ in quality by `spread` beyond what the clips explain."""
    rng = np.random.default_rng(9)
    trials, covered, clips_alone = 150, 0, 0
    for _ in range(trials):
        truth = rng.integers(0, 5, 250)
        noise = np.clip(0.2 + spread * rng.standard_normal((6, 1)), 0, 1)
        runs = np.where(rng.random((6, 250)) < noise, rng.integers(0, 5, (6, 250)), truth)
        found = paired_difference(truth, runs[:3], runs[3:], rng, 100)["hF"]
        covered += found.low <= 0 <= found.high
        samples = bootstrap(truth, runs, rng, 100)["hF"]
        low, high = interval(samples[:3].mean(0) - samples[3:].mean(0))
        clips_alone += low <= 0 <= high
    assert 0.86 <= covered / trials <= 0.99
    if spread:
        assert clips_alone / trials < 0.7  # what seeds as a second source of variance are for


def test_a_planted_effect_is_found():
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 23, 920)
    worse = system(truth, 0.6, rng)
    better = np.where(rng.random(920) < 0.15, truth, worse)
    for difference in paired_difference(truth, better, worse, rng, 500).values():
        assert 0 < difference.low <= difference.estimate <= difference.high
    assert mcnemar(truth, better, worse).p_value < 1e-6


def test_difference_is_a_minus_b_of_the_observed_scores():
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 23, 200)
    runs = np.stack([system(truth, right, rng) for right in (0.5, 0.6, 0.7, 0.8)])
    found = paired_difference(truth, runs[:2], runs[2:], rng, 100, lam=0.5, never_predicted="drop")
    scores = [hierarchical_scores(truth, row, lam=0.5, never_predicted="drop") for row in runs]
    for name in METRICS:
        expected = (scores[0][name] + scores[1][name] - scores[2][name] - scores[3][name]) / 2
        assert found[name].estimate == pytest.approx(expected)


def test_mcnemar_is_the_exact_binomial_test():
    truth = np.zeros(40, dtype=int)
    a, b = truth.copy(), truth.copy()
    a[:3], b[10:22], a[30:35], b[30:35] = 1, 1, 2, 3
    result = mcnemar(truth, a, b)
    assert (result.only_a, result.only_b) == (12, 3)
    assert result.p_value == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert mcnemar(truth, a, a).p_value == 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], []), "empty"),
        (([0, 1], [[0, 1, 2]]), r"\(systems, 2\), got \(1, 3\)"),
        (([0, 1], [[0, 23]]), "23 at position 1"),
        (([0, 99], [[0, 1]]), "99 at position 1"),
    ],
)
def test_bad_labels_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(*arguments, np.random.default_rng(0))


def test_bad_settings_are_named():
    rng = np.random.default_rng(0)
    truth = [0, 1]
    with pytest.raises(ValueError, match="rng must be a numpy Generator"):
        bootstrap(truth, truth, 0)
    with pytest.raises(ValueError, match="replicates=0"):
        bootstrap(truth, truth, rng, 0)
    with pytest.raises(ValueError, match="strata"):
        bootstrap(truth, truth, rng, strata=[0, 1, 2])
    with pytest.raises(ValueError, match="strata"):
        bootstrap(truth, truth, rng, strata=[0, None])
    with pytest.raises(ValueError, match="lam="):
        bootstrap(truth, truth, rng, 5, lam=2)
    with pytest.raises(ValueError, match="a holds 2 runs and b 1"):
        paired_difference(truth, [truth, truth], [truth], rng)
    with pytest.raises(ValueError, match="shape"):
        mcnemar(truth, truth, [0])


def test_classes_are_resampled_like_the_whole():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 20, 400)  # three classes without clips
    said = np.where(rng.random(400) < 0.6, truth, rng.integers(0, 23, 400))
    values = bootstrap_classes(truth, said, np.random.default_rng(1), 500)
    assert values.shape == (23, 500) and np.isnan(values[20:]).all()
    observed = hierarchical_scores(truth, said, per_class=True)["per_class"]["hF"].to_numpy()
    low, high = interval(values[:20], 0.99)
    assert ((low <= observed[:20]) & (observed[:20] <= high)).mean() > 0.9
    whole = bootstrap(truth, said, np.random.default_rng(1), 500)["hF"][0]
    np.testing.assert_allclose(values[:20].mean(0), whole)  # the same draws


def test_an_end_that_is_zero_but_for_rounding_is_zero():
    low, high = interval(np.full(100, 0.1 + 0.2 - 0.3))
    assert low == high == 0 < 0.1 + 0.2 - 0.3
