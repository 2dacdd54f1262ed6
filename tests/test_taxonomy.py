import numpy as np
import pandas as pd
import pytest
from conftest import need_shared

from haf_utils.taxonomy import CLASS_IDX, CLASSES, NAMES, PARENT, TOP_LEVELS, TOP_NAMES, prompts, to_labels


def test_five_top_levels_and_23_classes_in_taxonomy_order():
    assert TOP_LEVELS == ("m", "is", "sp", "fx", "ss") == tuple(TOP_NAMES)
    assert len(CLASSES) == len(set(CLASSES)) == 23
    assert CLASSES[0] == "m-sp" and CLASSES[11] == "fx-o" and CLASSES[22] == "ss-s"
    assert np.bincount(PARENT).tolist() == [3, 5, 3, 8, 4]
    assert all(TOP_LEVELS[parent] == code.split("-")[0] for code, parent in zip(CLASSES, PARENT, strict=True))
    assert tuple(NAMES) == tuple(CLASS_IDX) == CLASSES
    # The first digit of a class_idx is its top level, and the order of the indices that of the classes.
    assert [CLASS_IDX[code] // 100 - 1 for code in CLASSES] == PARENT.tolist()
    assert sorted(CLASS_IDX.values()) == list(CLASS_IDX.values())


def test_constants_cannot_be_changed_by_accident():
    with pytest.raises(ValueError):
        PARENT[0] = 3


def test_codes_and_indices_are_those_of_the_real_release():
    rows = pd.read_csv(need_shared("bsd10k_v1.2_sample") / "metadata" / "BSD10k_metadata.csv")
    assert len(rows) > 0
    assert (rows["class"].map(CLASS_IDX) == rows["class_idx"]).all()
    assert [TOP_LEVELS[PARENT[label]] for label in to_labels(rows["class"])] == [
        code.split("-")[0] for code in rows["class"]
    ]


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, iter, lambda codes: np.array(codes, dtype=object)])
def test_to_labels_takes_codes_in_any_sequence(kind):
    labels = to_labels(kind(list(CLASSES)))
    assert labels.tolist() == list(range(23)) and labels.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_to_labels_takes_labels_of_any_integer_type(dtype):
    assert to_labels(np.arange(23, dtype=dtype)).tolist() == list(range(23))


def test_to_labels_of_nothing_is_nothing():
    assert to_labels([]).shape == (0,)


@pytest.mark.parametrize(
    "values, named",
    [
        (["fx-o", "fx-z"], "'fx-z' at position 1"),
        (["fx-o", "FX-O"], "'FX-O' at position 1"),
        (["m", "fx-o"], "'m' at position 0"),
        ([3, 23], "23 at position 1"),
        ([3, -1], "-1 at position 1"),
        (pd.Series(["fx-o", None]), "at position 1"),
        ([0.0, 1.0], "at position 0"),
        ([True, False], "at position 0"),
    ],
)
def test_to_labels_names_what_is_outside_the_taxonomy(values, named):
    with pytest.raises(ValueError, match=named):
        to_labels(values)


def test_to_labels_refuses_tables():
    with pytest.raises(ValueError, match="one-dimensional"):
        to_labels(np.zeros((2, 3), dtype=int))


def test_a_prompt_a_class():
    assert len(set(prompts())) == 23
    assert prompts()[0] == "The sound of solo percussion, music."
