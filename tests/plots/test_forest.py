import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from haf_utils.experiment.ablations import Pooled, on_clips, told
from haf_utils.plots.ablations import forest


def comparisons(*rows) -> pd.DataFrame:
    names = ["estimate", "low", "high"]
    return pd.DataFrame(rows, columns=names, index=[f"row {n}" for n in range(len(rows))]).assign(p_value=0.5)


def test_a_row_can_be_told_where_its_interval_leaves_zero_out():
    table = comparisons((0.1, 0.05, 0.2), (-0.1, -0.2, -0.05), (0.1, -0.1, 0.2), (0.0, 0.0, 0.0))
    assert told(table).tolist() == [True, True, False, False]


@pytest.mark.parametrize("reach, end", [(np.inf, -60), (10.0, -10)])
def test_a_row_far_away_does_not_squeeze_the_others(reach, end):
    figure = forest({"Planted": comparisons((-0.6, -0.62, -0.58), (0.02, -0.01, 0.05))}, reach=reach)
    axes = figure.axes[0]
    marked = [line.get_marker() for line in axes.lines if line.get_marker() not in ("", "None", None)]
    assert marked == (["o", "o"] if reach == np.inf else ["<", "o"])
    assert axes.get_xlim()[0] == pytest.approx(end, abs=8 if reach == np.inf else 1e-9)
    assert any("-60.0" in text.get_text() for text in axes.texts)  # the number stands beside the row all the same
    plt.close(figure)


def test_clips_are_chosen_in_every_array_and_a_fold_is_such_a_choice():
    n = 6
    arrays = dict(probabilities=np.arange(2 * n * 23.0).reshape(2, n, 23))
    pooled = Pooled(
        name="recipe",
        seeds=(0, 1),
        ids=np.array(list("abcdef")),
        labels=np.arange(n),
        folds=np.array([0, 1, 0, 1, 0, 1]),
        plain=arrays["probabilities"] + 1,
        training_clips=3.0,
        absent_classes=(),
        **arrays,
    )
    chosen = on_clips(pooled, pooled.folds == 1, "fold 1")
    assert chosen.name == "recipe, fold 1" and chosen.ids.tolist() == ["b", "d", "f"]
    assert np.array_equal(chosen.plain, pooled.plain[:, 1::2])
