import numpy as np
import pandas as pd
import pytest
from conftest import need_shared
from hypothesis import given
from hypothesis import strategies as st

from haf_utils.metrics import (
    METRICS,
    check_probabilities,
    confusion,
    error_severity,
    expected_calibration_error,
    hierarchical_scores,
    score_matrix,
    scores_from_confusion,
)
from haf_utils.taxonomy import CLASSES

labelled = st.lists(st.tuples(st.integers(0, 22), st.integers(0, 22)), min_size=1, max_size=60)
few_classes = st.lists(st.tuples(st.sampled_from([0, 1, 3, 11]), st.sampled_from([0, 1, 3, 11])), min_size=1)


def plain_loop(truth, predicted, lam, never_predicted):
    """The definition, clip by clip and class by class, with nothing shared with the package but the codes."""

    def pair(a, b):
        true_set, predicted_set = {CLASSES[a].split("-")[0], CLASSES[a]}, {CLASSES[b].split("-")[0], CLASSES[b]}
        common = len(true_set & predicted_set)
        weight = 1.0 if common == 2 else lam if common == 1 else 0.0
        return weight * common / 2

    def same_top(a, b):
        return CLASSES[a].split("-")[0] == CLASSES[b].split("-")[0]

    clips = list(zip(truth, predicted, strict=True))
    precisions, recalls, f_scores, leaf, top, half = [], [], [], [], [], []
    for c in sorted(set(truth)):
        mine = [(a, b) for a, b in clips if a == c]
        leaf.append(sum(a == b for a, b in mine) / len(mine))
        top.append(sum(same_top(a, b) for a, b in mine) / len(mine))
        half.append(sum(1.0 if a == b else 0.5 if same_top(a, b) else 0.0 for a, b in mine) / len(mine))
        said = [(a, b) for a, b in clips if b == c]
        if not said and never_predicted == "drop":
            continue
        precision = sum(pair(a, b) for a, b in said) / len(said) if said else 0.0
        recall = sum(pair(a, b) for a, b in mine) / len(mine)
        precisions.append(precision)
        recalls.append(recall)
        f_scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)

    def mean(values):
        return sum(values) / len(values) if values else 0.0

    return {
        "hP": mean(precisions),
        "hR": mean(recalls),
        "hF": mean(f_scores),
        "h_accuracy": mean(half),
        "accuracy": mean([a == b for a, b in clips]),
        "top_accuracy": mean([same_top(a, b) for a, b in clips]),
        "macro_accuracy": mean(leaf),
        "macro_top_accuracy": mean(top),
    }


@pytest.mark.parametrize("never_predicted", ["zero", "drop"])
def test_a_real_fold_scores_as_the_official_code_printed(never_predicted):
    folder = need_shared("golden")
    clips = pd.read_csv(folder / "bsd10k_fold0_predictions.csv")
    printed = dict(line.split(": ") for line in (folder / "bsd10k_fold0_results.txt").read_text().split("\n") if line)
    names = {
        "hierarchical_accuracy": "h_accuracy",
        "hierarchical_precision": "hP",
        "hierarchical_recall": "hR",
        "hierarchical_f1": "hF",
    }
    scores = hierarchical_scores(clips["ground_truth"], clips["prediction"], never_predicted=never_predicted)
    assert set(clips["ground_truth"]) == set(clips["prediction"])  # every class predicted: both treatments agree
    assert {name: f"{scores[names.get(name, name)]:.2%}" for name in printed} == printed
    assert len(printed) == 8


@given(labelled | few_classes, st.sampled_from(["zero", "drop"]), st.floats(0, 1))
def test_equals_the_plain_loop(clips, never_predicted, lam):
    truth, predicted = zip(*clips, strict=True)
    scores = hierarchical_scores(truth, predicted, lam, never_predicted)
    assert tuple(scores) == METRICS
    assert scores == pytest.approx(plain_loop(truth, predicted, lam, never_predicted), abs=1e-12)
    assert all(type(value) is float and 0 <= value <= 1 for value in scores.values())


@given(labelled, st.randoms(use_true_random=False))
def test_order_of_clips_and_form_of_labels_do_not_matter(clips, random):
    truth, predicted = zip(*clips, strict=True)
    expected = hierarchical_scores(truth, predicted)
    random.shuffle(clips)
    truth, predicted = zip(*clips, strict=True)
    codes = [CLASSES[label] for label in truth], np.array([CLASSES[label] for label in predicted])
    assert hierarchical_scores(truth, predicted) == expected == hierarchical_scores(*codes)


@given(st.lists(st.integers(0, 22), min_size=1), st.sampled_from(["zero", "drop"]))
def test_perfect_predictions_score_one(truth, never_predicted):
    assert hierarchical_scores(truth, truth, never_predicted=never_predicted) == pytest.approx(
        dict.fromkeys(METRICS, 1.0)
    )


@given(labelled)
def test_bounds_between_scores(clips):
    truth, predicted = zip(*clips, strict=True)
    zero, drop = (hierarchical_scores(truth, predicted, never_predicted=how) for how in ("zero", "drop"))
    # Dropping what was never found can only flatter the scores that such a class would enter with 0.
    assert drop["hP"] >= zero["hP"] - 1e-12 and drop["hF"] >= zero["hF"] - 1e-12
    # The harmonic mean is concave and below the arithmetic one, class by class and so in the mean over classes.
    for scores in (zero, drop):
        hP, hR = scores["hP"], scores["hR"]
        assert scores["hF"] <= (hP + hR) / 2 + 1e-12
        assert scores["hF"] * (hP + hR) <= 2 * hP * hR + 1e-12
    assert zero["accuracy"] <= zero["top_accuracy"] and zero["macro_accuracy"] <= zero["macro_top_accuracy"]
    assert zero["hR"] >= zero["macro_accuracy"] - 1e-12  # a sibling earns something
    assert hierarchical_scores(truth, predicted, lam=0)["hR"] == pytest.approx(zero["macro_accuracy"])
    assert hierarchical_scores(truth, predicted, lam=0.5)["hF"] <= zero["hF"] + 1e-12  # grows with lam


def test_a_constant_answer_on_balanced_data_is_flattered_by_dropping():
    truth, predicted = list(CLASSES), ["fx-o"] * 23
    assert round(100 * hierarchical_scores(truth, predicted, never_predicted="drop")["hF"], 1) == 27.2
    assert round(100 * hierarchical_scores(truth, predicted)["hF"], 1) == 1.2


def test_only_dropped_classes_score_zero():
    scores = hierarchical_scores(["fx-o"], ["fx-v"], never_predicted="drop")
    assert (scores["hP"], scores["hR"], scores["hF"], scores["h_accuracy"]) == (0, 0, 0, 0.5)


def test_a_class_that_is_only_predicted_has_no_entry_of_its_own():
    scores = hierarchical_scores(["m-m", "m-m"], ["m-m", "ss-n"], per_class=True)
    assert scores["hP"] == 1.0 and scores["hR"] == 0.5
    row = scores["per_class"].set_index("code").loc["ss-n"]
    assert row["support"] == 0 and row["predicted"] == 1 and np.isnan(row["hF"])


@given(labelled, st.sampled_from(["zero", "drop"]))
def test_per_class_values_average_to_the_scores(clips, never_predicted):
    truth, predicted = zip(*clips, strict=True)
    scores = hierarchical_scores(truth, predicted, never_predicted=never_predicted, per_class=True)
    table = scores["per_class"]
    assert list(table) == ["code", "hP", "hR", "hF", "support", "predicted"] and tuple(table["code"]) == CLASSES
    assert table["support"].sum() == table["predicted"].sum() == len(clips)
    for name in ("hP", "hR", "hF"):
        mean = table[name].mean()
        assert scores[name] == pytest.approx(0.0 if np.isnan(mean) else mean)


def test_confusion_has_true_classes_in_rows():
    counts = confusion(["m-sp", "m-sp", "ss-s"], ["m-si", "m-si", "m-sp"])
    assert counts.shape == (23, 23) and counts.dtype == np.int64
    assert counts[0, 1] == 2 and counts[22, 0] == 1 and counts.sum() == 3


def test_leading_dimensions_are_scored_one_by_one():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (2, 4, 23, 23))
    batched = scores_from_confusion(counts, never_predicted="drop")
    assert all(values.shape == (2, 4) for values in batched.values())
    one = scores_from_confusion(counts[1, 2], never_predicted="drop")
    assert {name: float(values[1, 2]) for name, values in batched.items()} == pytest.approx(
        {name: float(value) for name, value in one.items()}
    )


def test_score_matrix_holds_the_three_values():
    pairs = score_matrix()
    assert pairs[0, 0] == 1 and pairs[0, 1] == 0.375 and pairs[0, 3] == 0
    assert set(np.unique(pairs)) == {0, 0.375, 1} and (pairs == pairs.T).all()


def test_error_severity_splits_the_clips_in_three():
    shares = error_severity(["m-sp", "m-sp", "m-sp", "m-sp"], ["m-sp", "m-si", "m-m", "is-p"])
    assert shares == {"right": 0.25, "right_parent": 0.5, "wrong_parent": 0.25}


@pytest.mark.parametrize("function", [hierarchical_scores, confusion, error_severity])
@pytest.mark.parametrize(
    "truth, predicted, message",
    [
        ([], [], "empty"),
        ([1, 2], [1], "2 labels and y_pred 1"),
        (["fx-o"], ["fx-other"], "'fx-other' at position 0"),
        ([23], [0], "23 at position 0"),
    ],
)
def test_bad_labels_are_named(function, truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        function(truth, predicted)


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan"), "0.75", None, [0.75]])
def test_wrong_lam(lam):
    with pytest.raises(ValueError, match="lam="):
        hierarchical_scores([0], [0], lam=lam)


@pytest.mark.parametrize("never_predicted", ["official", None, 0])
def test_wrong_never_predicted(never_predicted):
    with pytest.raises(ValueError, match="never_predicted="):
        hierarchical_scores([0], [0], never_predicted=never_predicted)


@pytest.mark.parametrize(
    "counts, message",
    [(np.ones((22, 23)), "shape"), (np.zeros((23, 23)), "all zero"), (-np.eye(23), "negative")],
)
def test_wrong_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        scores_from_confusion(counts)


def posteriors(confidence, labels):
    rows = np.full((len(labels), 23), (1 - confidence) / 22)
    rows[np.arange(len(labels)), labels] = confidence
    return rows


def test_calibration_error_of_known_cases():
    says = np.zeros(10, dtype=int)
    error, table = expected_calibration_error(posteriors(0.7, says), [0] * 7 + [1] * 3)
    assert error == pytest.approx(0) and len(table) == 1
    assert table.loc[0, ["clips", "confidence", "accuracy"]].tolist() == pytest.approx([10, 0.7, 0.7])
    assert table.loc[0, "low"] < 0.7 <= table.loc[0, "high"]
    error, _ = expected_calibration_error(posteriors(1.0, says), [1] * 10)
    assert error == pytest.approx(1)
    mixed = np.concatenate([posteriors(1.0, says), posteriors(0.5, says)])
    error, table = expected_calibration_error(mixed, ["m-sp"] * 20, bins=10)
    assert error == pytest.approx(0.25) and table["clips"].tolist() == [10, 10]


@pytest.mark.parametrize("bins", [0, -3, 2.5, "15"])
def test_calibration_needs_bins(bins):
    with pytest.raises(ValueError, match="bins="):
        expected_calibration_error(posteriors(1.0, [0]), [0], bins)


def test_what_is_no_distribution_is_named():
    rows = posteriors(0.5, [0, 1, 2])
    rows[1, 4] += 0.5
    with pytest.raises(ValueError, match="scores: row 1 .* sum 1.5"):
        check_probabilities(rows, "scores")
    rows[1] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        check_probabilities(rows)
    with pytest.raises(ValueError, match="row 0"):
        check_probabilities(np.eye(23)[[0]] * 2 - np.eye(23)[[1]])
    with pytest.raises(ValueError, match=r"\(clips, 23\)"):
        check_probabilities(np.ones((2, 5)) / 5)
    assert check_probabilities(np.float16(posteriors(0.3, [0]))).dtype == np.float64
