from haf_utils.experiment.ablations import standing
from haf_utils.statistics import Difference


def test_only_intervals_without_zero_put_a_system_ahead_or_behind():
    differences = {
        "weak": Difference(0.1, 0.02, 0.2),
        "strong": Difference(-0.1, -0.2, -0.01),
        "near": Difference(-0.04, -0.08, 0.001),
        "equal": Difference(0.0, 0.0, 0.0),
    }
    sentence = standing(differences)
    assert "Ahead of weak." in sentence and "**Behind strong.**" in sentence
    assert "No clear difference from near, equal: " in sentence
    assert standing({"strong": differences["strong"]}) == "**Behind strong.**"
    assert standing({}) == ""
