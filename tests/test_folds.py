"""Splits: the official folds, small classes, and parts that share no uploader."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import need_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from haf_utils.datasets import load_bsd, official_folds
from haf_utils.folds import (
    deviation,
    grouped_folds,
    small_classes,
    write_split,
)
from haf_utils.taxonomy import CLASSES

# Clips a class of BSD10k-v1.2 and v1.0, taxonomy order.
V12 = [683, 721, 323, 606, 528, 566, 362, 297, 806, 177, 364, 1211, 201, 279, 975, 166, 652, 297, 208, 391, 207, 719]
V12 += [217]


def clips(labels, uploaders=None):
    ids = [f"c{i}" for i in range(len(labels))]
    uploaders = uploaders if uploaders is not None else [""] * len(labels)
    return pd.DataFrame({"sound_id": ids, "label": np.asarray(labels), "uploader": uploaders})


def assert_partition(fold, rows):
    assert sorted(np.concatenate(fold)) == list(range(rows))


def test_official_folds_have_the_published_sizes():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(23), V12))
    folds = official_folds(labels)
    assert [len(test) for _, _, test in folds] == [2192, 2191, 2191, 2191, 2191]
    assert [len(validation) for _, validation, _ in folds] == [1753] * 5
    assert {len(train) for train, _, _ in folds} == {7011, 7012}
    for fold in folds:
        assert_partition(fold, 10_956)
    assert sorted(np.concatenate([test for _, _, test in folds])) == list(range(10_956))


def test_official_folds_are_the_baselines_own_arrays_from_labels_or_codes():
    labels = np.random.default_rng(1).integers(0, 23, 700)
    expected = []
    for rest, test in StratifiedKFold(5, shuffle=True, random_state=1821).split(labels, labels):
        inner = StratifiedShuffleSplit(1, test_size=0.2, random_state=1821)
        train, validation = next(inner.split(rest, labels[rest]))
        expected.append((rest[train], rest[validation], test))
    for given_labels in (labels, [CLASSES[label] for label in labels], pd.Series(labels)):
        for fold, reference in zip(official_folds(given_labels), expected, strict=True):
            for part, wanted in zip(fold, reference, strict=True):
                np.testing.assert_array_equal(part, wanted)


def test_small_classes_train_only_and_are_named():
    labels = np.array([0] * 40 + [7] * 30 + [3] * 4 + [22])
    with pytest.warns(UserWarning, match=r"is-p \(4\), ss-s \(1\)"):
        folds = official_folds(labels)
    assert small_classes(labels) == {"is-p": 4, "ss-s": 1}
    for train, validation, test in folds:
        assert_partition((train, validation, test), 75)
        assert set(np.flatnonzero(np.isin(labels, [3, 22]))) <= set(train)
        assert set(labels[test]) == set(labels[validation]) == {0, 7}


@pytest.mark.parametrize("clips_a_class", [5, 6, 9])
def test_every_class_is_in_every_part_where_each_has_five_clips(clips_a_class):
    labels = np.repeat(np.arange(23), clips_a_class)
    for fold in official_folds(labels):
        assert all(len(np.unique(labels[part])) == 23 for part in fold)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 22), min_size=1, max_size=150))
def test_official_folds_of_anything_partition_it_or_say_why(labels):
    labels = np.array(labels)
    if np.bincount(labels).max() < 5:
        with pytest.raises(ValueError, match="no class has 5 clips"):
            official_folds(labels)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folds = official_folds(labels)
    for fold in folds:
        assert_partition(fold, len(labels))
        assert all(len(part) for part in fold)


def test_labels_outside_the_taxonomy_are_refused():
    with pytest.raises(ValueError, match="-1 at position 2"):
        official_folds([0, 1, -1])


@pytest.fixture(scope="module")
def crowd():
    """1,500 clips, 200 uploaders of very different sizes, one of which owns half of class 5."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 23, 1500)
    share = rng.pareto(1.0, 200) + 0.2
    uploaders = rng.choice([f"u{i}" for i in range(200)], 1500, p=share / share.sum()).astype(object)
    uploaders[np.flatnonzero(labels == 5)[::2]] = "owner"
    return clips(labels, uploaders)


def test_grouped_folds_share_no_uploader_and_test_every_clip_once(crowd):
    folds = grouped_folds(crowd)
    assert sorted(np.concatenate([test for _, _, test in folds])) == list(range(1500))
    for fold in folds:
        assert_partition(fold, 1500)
        uploaders = [set(crowd.uploader[part]) for part in fold]
        assert not (uploaders[0] & uploaders[1] or uploaders[0] & uploaders[2] or uploaders[1] & uploaders[2])
    again = grouped_folds(crowd)
    assert all(np.array_equal(a, b) for x, y in zip(folds, again, strict=True) for a, b in zip(x, y, strict=True))


def test_grouped_folds_have_the_official_classes_nearly(crowd):
    official = official_folds(crowd.label)
    reports = [deviation(crowd, *pair) for pair in zip(grouped_folds(crowd), official, strict=True)]
    assert all((report.class_distance < 0.15).all() for report in reports)
    # Far nearer than a random deal of uploaders.
    rng = np.random.default_rng(0)
    names = pd.unique(crowd.uploader)
    part = pd.Series(rng.choice(3, len(names), p=(0.64, 0.16, 0.2)), index=names)[crowd.uploader]
    random = deviation(crowd, [np.flatnonzero(part == i) for i in range(3)], official[0])
    assert max(report.class_distance.sum() for report in reports) < random.class_distance.sum()


def test_deviation_counts_by_hand():
    table = clips([0, 0, 1, 1, 1, 2], list("aabbcc"))
    same = deviation(table, ([0, 1], [2, 3], [4, 5]), ([0, 1], [2, 3], [4, 5]))
    assert list(same.class_distance) == [0, 0, 0] and list(same.clips) == [2, 2, 2]
    moved = deviation(table, ([0, 1], [2, 3], [4, 5]), ([0, 1], [2, 5], [4, 3]))
    assert moved.loc["test", "class_distance"] == 0.5  # (1, 2) against (1, 1)
    assert moved.loc["test", "uploaders"] == 1


def test_clips_without_uploader_stand_alone():
    table = clips(np.tile(np.arange(23), 20))
    report = deviation(table, grouped_folds(table)[0], official_folds(table.label)[0])
    assert report.class_distance.max() < 0.06
    assert report.uploaders.sum() == len(table)


def test_one_uploader_of_everything_cannot_be_split():
    with pytest.raises(ValueError, match="1 uploaders are too few for 5 folds"):
        grouped_folds(clips(np.repeat([0, 1], 20), ["me"] * 40))


def test_a_split_is_written_whole_and_only_its_clips(tmp_path):
    write_split(tmp_path / "split.csv", clips([0, 1, 2, 3]), ([3], [0], [1]))
    assert (tmp_path / "split.csv").read_text() == "sound_id,part\nc0,validation\nc1,test\nc3,train\n"
    assert [file.name for file in tmp_path.iterdir()] == ["split.csv"]


def test_real_metadata_can_be_split_by_uploader():
    table = load_bsd(need_shared("bsd10k_v1.0"))
    for split, official in zip(grouped_folds(table), official_folds(table.label), strict=True):
        report = deviation(table, split, official)
        assert (abs(report.clips - report.reference_clips) / report.reference_clips < 0.1).all()
        assert (report.class_distance < 0.1).all()
        assert (report.uploaders > 200).all()


def test_real_recordings_name_their_small_classes():
    table = load_bsd(need_shared("real_audio"))
    with pytest.warns(UserWarning, match=r"m-si \(2\), is-s \(3\), fx-o \(3\), fx-el \(4\), ss-i \(1\)"):
        folds = official_folds(table.label)
    assert [len(test) for _, _, test in folds] == [115, 115, 114, 114, 114]
