"""What the crowd's labels cost: two simple controls, trained without BSD35k-CS and with it, on the five official folds.

    python -m tools.crowd_harm [data/mini]

A metadata classifier reads the texts; a linear probe (logistic regression, its strength chosen on validation) reads
audio and text embeddings of clap-mini. Printed is hF in points, and against the same control without the crowd with the
95 % interval over the pooled test clips. The labels were set by the two rows of weight 1 alone.
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from haf_utils.captions import add_text
from haf_utils.clap import load_clap
from haf_utils.controls import metadata_classifier
from haf_utils.datasets import load_bsd, official_folds, without
from haf_utils.metrics import hierarchical_scores
from haf_utils.statistics import paired_difference


def probe(vectors, labels, weights, validation, validation_labels):
    """Logistic regression of weighted clips, of the strength with the least cross-entropy on validation."""
    fits = [LogisticRegression(C=c, max_iter=1000).fit(vectors, labels, sample_weight=weights) for c in (1, 10, 100)]
    return min(fits, key=lambda fit: log_loss(validation_labels, fit.predict_proba(validation), labels=range(23)))


def main(root="data/mini"):
    own, clap = add_text(load_bsd(f"{root}/BSD10k")), load_clap("data/clap-mini")
    crowd, _ = without(add_text(load_bsd(f"{root}/BSD35k-CS")), own)
    x, more = (np.hstack([clap.embed_audio(list(t.path)), clap.embed_text(list(t.text))]) for t in (own, crowd))
    y, every = own.label.to_numpy(), np.arange(len(crowd))
    half = np.random.default_rng(0).permutation(every)[: len(every) // 2]
    uses = {"without": (every[:0], 1), "weight 1": (every, 1), "weight 0.3": (every, 0.3), "random half": (half, 1)}
    systems = {f"{control}, {use}": np.zeros_like(y) for use in uses for control in ("words", "probe")}
    systems.pop("words, weight 0.3")  # the metadata classifier takes no weights
    for train, validation, test in official_folds(y):
        for use, (chosen, weight) in uses.items():
            labels = np.append(y[train], crowd.label.iloc[chosen])
            weights = np.append(np.ones(len(train)), np.full(len(chosen), weight))
            fit = probe(np.vstack([x[train], more[chosen]]), labels, weights, x[validation], y[validation])
            systems[f"probe, {use}"][test] = fit.predict(x[test])
            if f"words, {use}" in systems:
                texts = own.text.iloc[train].tolist() + crowd.text.iloc[chosen].tolist()
                words = metadata_classifier().fit(texts, labels)
                systems[f"words, {use}"][test] = words.predict(own.text.iloc[test].tolist())
    for name, predicted in sorted(systems.items()):
        reference = systems[f"{name[:5]}, without"]
        change = paired_difference(y, predicted, reference, np.random.default_rng(0), 2000)["hF"]
        points = [100 * value for value in (change.estimate, change.low, change.high)]
        score = 100 * hierarchical_scores(y, predicted)["hF"]
        print(f"{name:20} hF {score:.1f}  {points[0]:+.1f} [{points[1]:+.1f}, {points[2]:+.1f}]", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
