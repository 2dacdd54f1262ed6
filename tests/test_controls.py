"""The metadata classifier: what texts alone tell."""

import numpy as np
import pytest
from conftest import need_shared
from sklearn.base import clone

from haf_utils.captions import add_text
from haf_utils.controls import metadata_classifier
from haf_utils.datasets import load_bsd
from haf_utils.folds import grouped_folds, official_folds
from haf_utils.metrics import hierarchical_scores
from haf_utils.taxonomy import CLASSES

WORDS = {0: "drum loop beat", 8: "woman speaking english", 16: "rain water thunder", 22: "dark drone pad"}


def made_up(clips: int, seed: int = 0, confusion: float = 0.2):
    """Texts of two words of their class, a share of them of a wrong class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(WORDS), clips)
    said = np.where(rng.random(clips) < confusion, rng.choice(list(WORDS), clips), labels)
    return [" ".join(rng.choice(WORDS[label].split(), 2)) for label in said], labels


def test_learns_and_gives_posteriors_of_all_classes():
    texts, labels = made_up(300)
    model = metadata_classifier().fit(texts, labels)
    probabilities = model.predict_proba(["thunder and rain", "drone", "woman speaking"])
    assert probabilities.shape == (3, 23)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert list(probabilities.argmax(1)) == [16, 22, 8] == list(model.predict(["rain", "pad", "english"]))
    absent = [label for label in range(23) if label not in WORDS]
    assert probabilities[:, absent].max() == 0


def test_codes_are_as_good_as_labels():
    texts, labels = made_up(100)
    by_label = metadata_classifier().fit(texts, labels).predict_proba(texts)
    by_code = metadata_classifier().fit(texts, [CLASSES[label] for label in labels]).predict_proba(texts)
    np.testing.assert_array_equal(by_label, by_code)


def test_posteriors_are_calibrated():
    model = metadata_classifier().fit(*made_up(1500))
    texts, labels = made_up(1500, seed=1)
    probabilities = model.predict_proba(texts)
    accuracy = np.mean(probabilities.argmax(1) == labels)
    assert abs(probabilities.max(1).mean() - accuracy) < 0.04


@pytest.mark.parametrize("text", ["", "   ", None, float("nan"), "!!!", "zzz unheard of"])
def test_a_text_that_tells_nothing_gets_the_class_prior(text):
    texts, labels = made_up(200)
    model = metadata_classifier().fit(texts, labels)
    np.testing.assert_allclose(model.predict_proba([text])[0], np.bincount(labels, minlength=23) / 200)


def test_missing_texts_in_training_count_for_the_prior_only():
    texts, labels = made_up(200)
    model = metadata_classifier().fit(texts + [""] * 200, np.append(labels, [5] * 200))
    assert model.predict_proba([""])[0, 5] == 0.5
    assert model.predict_proba(["rain"])[0].argmax() == 16


def test_classes_of_one_clip_and_collections_of_a_few_clips_work():
    model = metadata_classifier().fit(["dog barking", "rain", "piano chord"], [15, 16, 6])
    assert list(model.predict(["a dog", "heavy rain", "piano"])) == [15, 16, 6]
    model = metadata_classifier().fit(["dog barking", "rain"], [15, 16])
    assert list(model.predict(["a dog", "heavy rain"])) == [15, 16]
    texts, labels = made_up(300)
    model = metadata_classifier().fit([*texts, "foghorn"], np.append(labels, 12))
    assert model.predict_proba(["foghorn"])[0].argmax() == 12


@pytest.mark.parametrize("texts", [["a dog", "a cat"], ["", ""], ["..", "!"]])
def test_one_class_or_no_words_leave_the_prior(texts):
    model = metadata_classifier().fit(texts, [15, 15])
    assert model.predict_proba(["a dog"])[0, 15] == 1
    assert model.telling_words() == {}


def test_the_posterior_of_a_text_does_not_depend_on_its_batch():
    texts, labels = made_up(200)
    model = metadata_classifier().fit(texts, labels)
    together = model.predict_proba(texts)
    alone = np.concatenate([model.predict_proba([text]) for text in texts[:20]])
    np.testing.assert_allclose(together[:20], alone, rtol=1e-12)
    assert model.predict_proba([]).shape == (0, 23)


def test_words_that_speak_for_a_class():
    told = metadata_classifier().fit(*made_up(300)).telling_words(3)
    assert set(told) == {CLASSES[label] for label in WORDS}
    assert {word for word, _ in told["fx-n"]} & {"rain", "water", "thunder"}
    weights = [weight for _, weight in told["fx-n"]]
    assert weights == sorted(weights, reverse=True)


def test_it_is_a_scikit_learn_estimator():
    model = clone(metadata_classifier().set_params(c=0.5))
    assert model.get_params()["c"] == 0.5
    texts, labels = made_up(100)
    assert model.fit(texts, labels).score(texts, labels) > 0.7


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a"], [0, 1], "got 1 and 2"),
        ([], [], "got 0 and 0"),
        (["a", "b"], [0, 23], "23 at position 1"),
        ("dog", [0, 1, 2], "got one string"),
    ],
)
def test_bad_input_is_named(texts, labels, message):
    with pytest.raises(ValueError, match=message):
        metadata_classifier().fit(texts, np.array(labels, dtype=int))


@pytest.fixture(scope="module")
def real():
    table = add_text(load_bsd(need_shared("bsd10k_v1.0")))
    return table, table.text.to_numpy(object), table.label.to_numpy()


def test_real_texts_on_the_published_split(real):
    table, texts, labels = real
    train = (table["set"] == "train").to_numpy()
    model = metadata_classifier().fit(texts[train], labels[train])
    scores = hierarchical_scores(labels[~train], model.predict(texts[~train]))
    assert scores["hF"] >= 0.76 and scores["accuracy"] >= 0.725


def test_real_texts_over_stratified_and_grouped_folds(real):
    table, texts, labels = real

    def hf(folds):
        scores = []
        for train, validation, test in folds:
            known = np.concatenate([train, validation])
            model = metadata_classifier().set_params(folds=2).fit(texts[known], labels[known])
            scores.append(hierarchical_scores(labels[test], model.predict(texts[test]))["hF"])
        return np.mean(scores)

    # Some of the folds, to save time; over all five the means are 72.5 and 61.5 %. The gap is the uploader.
    assert hf(official_folds(labels)[:2]) >= 0.715
    assert hf(grouped_folds(table)[3:4]) <= 0.68
