import pytest

from haf_utils.plots.tables import difference_sentence, moved
from haf_utils.statistics import Difference


@pytest.mark.parametrize(
    "low, high, claim",
    [
        (0.014, 0.041, "is above zero"),
        (-0.041, -0.014, "is below zero"),
        (-0.001, 0.041, "is not clearly different from zero"),
    ],
)
def test_a_sentence_claims_no_more_than_its_interval(low, high, claim):
    sentence = difference_sentence(Difference((low + high) / 2, low, high), "hF")
    assert sentence.startswith(f"hF {claim}: ")
    assert f"[{100 * low:+.1f}, {100 * high:+.1f}]" in sentence


def test_an_interval_that_ends_at_zero_excludes_nothing():
    assert "is not clearly different from zero" in difference_sentence(Difference(0.01, 0.0, 0.02), "hF")


def test_an_end_near_zero_keeps_its_sign():
    assert "+0.02" in difference_sentence(Difference(0.01, 0.0002, 0.02), "hF")
    assert "+0.002" in difference_sentence(Difference(0.01, 0.00002, 0.02), "hF")


@pytest.mark.parametrize(
    "before, after, sentence",
    [
        (0.14, 0.28, "similarity rises from 0.14 to 0.28"),
        (0.28, 0.14, "similarity falls from 0.28 to 0.14"),
        (0.141, 0.139, "similarity stays at 0.14"),
    ],
)
def test_a_sentence_about_a_change_agrees_with_its_numbers(before, after, sentence):
    assert moved("similarity", before, after) == sentence
