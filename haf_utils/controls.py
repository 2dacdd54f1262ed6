"""Controls: simple models, trained and evaluated as HAF-CLAP is, that show what its parts contribute.

The metadata classifier reads texts alone. It shows how much the metadata reveals about the class, and serves as an
ensemble member that shares nothing with CLAP.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from haf_utils.taxonomy import CLASSES, to_labels

__all__ = ["MetadataClassifier", "metadata_classifier", "neighbour_posteriors", "of_all_classes"]

NEIGHBOURS = 10  # ours


def of_all_classes(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Posteriors of the classes seen in training (N, C) -> of all 23, 0 for the others."""
    result = np.zeros((len(probabilities), len(CLASSES)))
    result[:, classes] = probabilities
    return result


def neighbour_posteriors(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Votes of the `k` nearest by cosine, weighted by closeness: (M, E), labels (M,), (N, E) -> posteriors (N, 23)."""
    model = KNeighborsClassifier(min(k, len(train)), weights="distance", metric="cosine", algorithm="brute")
    model.fit(train, labels)
    return of_all_classes(model.predict_proba(test), model.classes_)


def metadata_classifier() -> "MetadataClassifier":
    """A fresh text classifier: ``fit(texts, labels)``, ``predict_proba(texts)`` -> (N, 23). Trained in seconds."""
    return MetadataClassifier()


class MetadataClassifier(ClassifierMixin, BaseEstimator):
    """TF-IDF of words and bigrams, a class-balanced linear SVM, and posteriors calibrated by cross-validation.

    Scores become posteriors by Platt's sigmoid, shared by all classes (rare ones have too few clips for one each), and
    division by the sum; its slope and offset minimise the cross-entropy of scores predicted out of fold. On BSD10k v1.0
    this is better calibrated than a softmax with temperature; the largest class stays the same. A text without a word
    known from training gets the class prior, the share of each class in training. A class absent from training gets 0.

    c: inverse regularisation of the SVM. 0.3 is ours (on BSD10k v1.0, 0.2 to 0.5 differ by less than folds do).
    folds: of the calibration.
    """

    def __init__(self, c: float = 0.3, folds: int = 3):
        self.c = c
        self.folds = folds

    def fit(self, texts: Sequence[str], labels) -> "MetadataClassifier":
        """Texts (N,), "" where missing, and labels 0..22 or codes (N,). Raises ValueError for other labels."""
        labels, texts = to_labels(labels), _strings(texts)
        if len(labels) != len(texts) or not len(texts):
            raise ValueError(f"fit needs as many texts as labels, and one at least: got {len(texts)} and {len(labels)}")
        self.classes_ = np.arange(len(CLASSES))
        self.prior_ = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
        # In a large collection, a word of one clip is a name or a number; in a small one it may be all there is.
        self.vectorizer_ = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(texts) >= 1000 else 1, token_pattern=r"[^\W_]{2,}"
        )
        has_text = np.array([text != "" for text in texts])
        try:
            features = self.vectorizer_.fit_transform([text for text in texts if text])
        except ValueError:  # "empty vocabulary": no usable word in any text
            features = None
        self.model_ = None
        if features is not None and len(np.unique(labels[has_text])) > 1:
            self.model_ = self._svm().fit(features, labels[has_text])
            self.sigmoid_ = self._calibrate(features, labels[has_text])
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Texts (N,) -> posteriors (N, 23), rows sum to 1."""
        check_is_fitted(self, "prior_")
        texts = _strings(texts)
        probabilities = np.tile(self.prior_, (len(texts), 1))
        if self.model_ is not None and len(texts):
            features = self.vectorizer_.transform(texts)
            has_words = np.diff(features.indptr) > 0
            if has_words.any():
                scores = _scores(self.model_, features[has_words])
                probabilities[has_words] = np.exp(_log_posteriors(scores, *self.sigmoid_))
        return probabilities

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Texts (N,) -> labels (N,) of the largest posterior."""
        return self.predict_proba(texts).argmax(axis=1)

    def telling_words(self, count: int = 10) -> dict[str, list[tuple[str, float]]]:
        """The `count` words or bigrams of largest SVM weight of each class -> {code: [(words, weight)]}."""
        check_is_fitted(self, "prior_")
        if self.model_ is None:
            return {}
        words = self.vectorizer_.get_feature_names_out()
        weights = self.model_.coef_
        weights = weights if len(weights) > 1 else np.vstack([-weights, weights])  # of two classes, the SVM keeps one
        return {
            CLASSES[label]: [(str(words[i]), float(row[i])) for i in np.argsort(-row)[:count]]
            for label, row in zip(self.model_.classes_, weights, strict=True)
        }

    def _svm(self) -> LinearSVC:
        return LinearSVC(C=self.c, class_weight="balanced", random_state=0)

    def _calibrate(self, features, labels: np.ndarray) -> tuple[float, float]:
        """Slope and offset of the sigmoid with the least cross-entropy on scores predicted out of fold."""
        scores = np.full((len(labels), len(CLASSES)), -np.inf)
        for train, test in KFold(min(self.folds, len(labels)), shuffle=True, random_state=0).split(labels):
            if len(np.unique(labels[train])) > 1:
                scores[test] = _scores(self._svm().fit(features[train], labels[train]), features[test])
        # A clip whose class was not in the training folds has no score to learn from.
        scored = np.isfinite(scores[np.arange(len(labels)), labels])
        if not scored.any():
            return 1.0, 0.0
        scores, labels = scores[scored], labels[scored]

        def cross_entropy(parameters: np.ndarray) -> float:
            return -_log_posteriors(scores, np.exp(parameters[0]), parameters[1])[np.arange(len(labels)), labels].mean()

        # Bounded, since a few clips that are all right would drive the slope to infinity.
        bounds = ((-3.0, 3.0), (-10.0, 10.0))
        log_slope, offset = minimize(cross_entropy, x0=(1.5, 0.0), method="L-BFGS-B", bounds=bounds).x
        return float(np.exp(log_slope)), float(offset)


def _strings(texts: Sequence[str]) -> list[str]:
    """None and NaN are how tables write a missing text."""
    if isinstance(texts, str):
        raise ValueError("expected a sequence of texts, got one string")
    return [text.strip() if isinstance(text, str) else "" for text in texts]


def _scores(model: LinearSVC, features) -> np.ndarray:
    """Decision scores (N, 23), -inf for classes the model was not trained on."""
    scores = np.full((features.shape[0], len(CLASSES)), -np.inf)
    decision = model.decision_function(features)
    scores[:, model.classes_] = decision if decision.ndim == 2 else np.column_stack([-decision, decision])
    return scores


def _log_posteriors(scores: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Scores (N, 23) -> log of the normalised sigmoids (N, 23); -inf stays."""
    logs = log_expit(slope * scores + offset)
    return logs - logsumexp(logs, axis=1, keepdims=True)
