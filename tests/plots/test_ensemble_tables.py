import matplotlib.pyplot as plt
import numpy as np
import pytest

from haf_utils.ensembles import diversity, subsets
from haf_utils.metrics import hierarchical_scores
from haf_utils.plots import tables
from haf_utils.plots.ensemble import subset_scores
from haf_utils.plots.tables import gain_table, mistake_table, pair_table, percent, score_table, view_table
from haf_utils.statistics import Difference
from haf_utils.taxonomy import CLASSES, NAMES

LABELS = np.arange(230) % 23


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def confused(share, seed=1):
    """Predictions of which `share` is wrong."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(LABELS)) < share, (LABELS + 5) % 23, LABELS)


def test_scores_lie_in_their_intervals(rng):
    table = score_table(LABELS, {"good": confused(0.1), "poor": confused(0.5)}, rng, 200)
    assert list(table.index) == ["good", "poor"]
    assert table.loc["good", "hF"] == percent(hierarchical_scores(LABELS, confused(0.1))["hF"])
    for row in table.itertuples():
        low, high = map(float, row[2].split(" to "))
        assert low <= float(row[1]) <= high


def test_gains_say_what_can_be_told(rng):
    good, poor = confused(0.1), confused(0.5)
    table = gain_table(LABELS, {"up": (good, poor), "down": (poor, good), "same": (good, good)}, rng, 200)
    assert table["in hF"].tolist() == ["better", "worse", "no clear difference"]
    assert table.loc["same", "decisions changed (%)"] == "0.0" and table.loc["same", "hF"].startswith("+0.0")
    assert gain_table(LABELS, {("a", "b"): (good, poor)}, rng, 50).index.nlevels == 2


def test_all_views_agree_where_there_is_one_and_less_with_more(rng):
    views = rng.dirichlet(np.ones(23), (4, len(LABELS)))
    table = view_table("m", views, LABELS, rng)
    assert table["views"].tolist() == [1, 2, 3, 4] and table["agreement"][0] == 1
    assert (np.diff(table["agreement"]) < 0).all()
    assert table["hF"].iloc[-1] == pytest.approx(hierarchical_scores(LABELS, views.mean(0).argmax(1))["hF"])


def test_a_pair_gains_over_the_better_of_two():
    posteriors = [np.eye(23)[confused(0.4, seed)] * 0.9 + 0.1 / 23 for seed in range(3)]
    every = subsets(posteriors, LABELS)
    _, overlap = diversity([p.argmax(1) for p in posteriors], LABELS, ["a", "b", "c"])
    table = pair_table(every, overlap, ["CLAP", "CLAP", "words"])
    assert table["pair"].tolist() == ["a + b", "a + c", "b + c"] and table["mixed"].tolist() == [False, True, True]
    alone = [hierarchical_scores(LABELS, p.argmax(1))["hF"] for p in posteriors]
    both = hierarchical_scores(LABELS, (posteriors[0] + posteriors[1]).argmax(1))["hF"]
    assert table["gain"][0] == pytest.approx(both - max(alone[:2]))
    assert table["gap"][0] == pytest.approx(abs(alone[0] - alone[1]))
    assert table["overlap"][0] == overlap.loc["a", "b"]


def test_the_surest_mistake_comes_first():
    posterior = np.full((3, 23), 0.1 / 22)
    posterior[0, 0], posterior[1, 1], posterior[2, 5] = 0.9, 0.6, 0.9
    posterior /= posterior.sum(1, keepdims=True)
    said = {"a": np.array([0, 1, 5]), "b": np.array([0, 2, 5])}
    table = mistake_table(["x", "y", "z"], np.array([0, 2, 9]), posterior, said, ["", None, "t" * 99])
    assert table["sound_id"].tolist() == ["z", "y"] and table.index.tolist() == [2, 1]
    assert table["top level"].tolist() == ["wrong", "right"]
    assert table["label"].tolist() == [NAMES[CLASSES[9]], NAMES[CLASSES[2]]]
    assert table["members that agree"].tolist() == ["2 of 2", "1 of 2"] and len(table["title"].iloc[0]) == 40


def test_an_interval_beside_zero_is_not_rounded_to_it(monkeypatch, rng):
    beside = {metric: Difference(0.006, 0.0002, 0.018) for metric in ("hF", "accuracy")}
    monkeypatch.setattr(tables, "paired_difference", lambda *_: beside)
    row = gain_table(LABELS, {"up": (LABELS, LABELS)}, rng).loc["up"]
    assert row["in hF"] == "better" and row["hF"] == "+0.60 (+0.02 to +1.80)"


def test_a_system_is_marked_at_the_score_of_the_table():
    posteriors = [np.eye(23)[confused(0.4, seed)] * 0.9 + 0.1 / 23 for seed in range(3)]
    figure = subset_scores(subsets(posteriors, LABELS), ["CLAP", "CLAP", "words"], [("weighted", 2, 0.907)])
    marks = [c for c in figure.axes[0].collections if c.get_label() == "weighted"]
    assert np.allclose(marks[0].get_offsets(), [[2, 90.7]])
    plt.close(figure)
