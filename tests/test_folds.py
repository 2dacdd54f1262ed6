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
    grouped_split,
    read_split,
    small_classes,
    without_uploaders,
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


def test_grouped_split_is_near_the_official_one_and_reports_how_near(crowd):
    split, report = grouped_split(crowd)
    uploaders = [set(crowd.uploader[part]) for part in split]
    assert not (uploaders[0] & uploaders[1] or uploaders[0] & uploaders[2] or uploaders[1] & uploaders[2])
    assert list(report.clips) == [len(part) for part in split]
    assert (abs(report.clips - report.reference_clips) / report.reference_clips < 0.15).all()
    assert (report.class_distance < 0.15).all()
    # Far nearer than a random deal of uploaders.
    rng = np.random.default_rng(0)
    names = pd.unique(crowd.uploader)
    part = pd.Series(rng.choice(3, len(names), p=(0.64, 0.16, 0.2)), index=names)[crowd.uploader]
    random = deviation(crowd, [np.flatnonzero(part == i) for i in range(3)], official_folds(crowd.label)[0])
    assert report.class_distance.sum() < random.class_distance.sum()


def test_deviation_counts_by_hand():
    table = clips([0, 0, 1, 1, 1, 2], list("aabbcc"))
    same = deviation(table, ([0, 1], [2, 3], [4, 5]), ([0, 1], [2, 3], [4, 5]))
    assert list(same.class_distance) == [0, 0, 0] and list(same.clips) == [2, 2, 2]
    moved = deviation(table, ([0, 1], [2, 3], [4, 5]), ([0, 1], [2, 5], [4, 3]))
    assert moved.loc["test", "class_distance"] == 0.5  # (1, 2) against (1, 1)
    assert moved.loc["test", "uploaders"] == 1


def test_clips_without_uploader_stand_alone():
    table = clips(np.tile(np.arange(23), 20))
    split, report = grouped_split(table)
    assert report.class_distance.max() < 0.05
    assert report.uploaders.sum() == len(table)


def test_one_uploader_of_everything_cannot_be_split_and_the_report_shows_it():
    table = clips(np.repeat([0, 1], 20), ["me"] * 40)
    split, report = grouped_split(table)
    assert sorted(report.clips) == [0, 0, 40]


def test_extra_clips_of_held_out_uploaders_go():
    extra = clips([0] * 4, ["a", "b", "", "c"])
    kept, removed = without_uploaders(extra, clips([0] * 3, ["b", "c", ""]))
    assert list(kept.uploader) == ["a", ""] and removed == 2


def test_a_split_survives_its_file(tmp_path, crowd):
    split, _ = grouped_split(crowd)
    write_split(tmp_path / "split.csv", crowd, split)
    shuffled = crowd.sample(frac=1, random_state=0).reset_index(drop=True)
    for part, again in zip(split, read_split(tmp_path / "split.csv", shuffled), strict=True):
        assert set(crowd.sound_id[part]) == set(shuffled.sound_id[again])
    assert [file.name for file in tmp_path.iterdir()] == ["split.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sound_id,part\nx9,train\n", "not in the table: x9"),
        ("sound_id,part\nc1,train\nc1,test\n", "listed twice: c1"),
        ("sound_id,part\nc1,training\n", "in a part other than train"),
        ("id,part\nc1,train\n", "found id, part"),
    ],
)
def test_a_wrong_split_file_is_named(tmp_path, content, message):
    (tmp_path / "split.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / "split.csv", clips([0, 1, 2]))


def test_real_metadata_can_be_split_by_uploader():
    table = load_bsd(need_shared("bsd10k_v1.0"))
    split, report = grouped_split(table)
    assert (abs(report.clips - report.reference_clips) < 30).all()
    assert (report.class_distance < 0.02).all()
    assert (report.uploaders > 200).all()


def test_real_recordings_name_their_small_classes():
    table = load_bsd(need_shared("real_audio"))
    with pytest.warns(UserWarning, match=r"m-si \(2\), is-s \(3\), fx-o \(3\), fx-el \(4\), ss-i \(1\)"):
        folds = official_folds(table.label)
    assert [len(test) for _, _, test in folds] == [115, 115, 114, 114, 114]
