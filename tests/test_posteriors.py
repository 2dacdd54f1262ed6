"""Posteriors from outside: what is read comes back as it was written, and what is wrong is named."""

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import need_shared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haf_utils.metrics import hierarchical_scores
from haf_utils.posteriors import Posteriors, read, read_fold, spread, write
from haf_utils.taxonomy import CLASSES

IDS = ["84090", "NA", "007"]  # ids are text: NA is no gap, and zeros count


def random_posteriors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(23, 0.3), rows)


def frame(ids=IDS, probabilities=None) -> pd.DataFrame:
    probabilities = random_posteriors(len(ids)) if probabilities is None else probabilities
    return pd.DataFrame(probabilities, columns=list(CLASSES)).assign(sound_id=ids)


def saved(tmp_path, table: pd.DataFrame, **options):
    path = tmp_path / "posteriors.csv"
    table.to_csv(path, index=False, **options)
    return path


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(0, 99), st.booleans(), st.booleans())
def test_what_was_written_is_read(tmp_path, rows, seed, with_folds, with_labels):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(1000)[:rows].astype(str)
    folds = rng.integers(0, 5, rows) if with_folds else None
    labels = rng.integers(-1, 23, rows) if with_labels else None
    if with_labels:
        labels[0] = 3
    written = Posteriors(ids, random_posteriors(rows, seed), folds, labels)
    write(tmp_path / "p.csv", written, overwrite=True)
    found = read(tmp_path / "p.csv")
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.probabilities, written.probabilities, atol=1e-5)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-12)
    for name in ("folds", "labels"):
        a, b = getattr(found, name), getattr(written, name)
        assert (a is None) == (b is None) and (b is None or a.tolist() == b.tolist())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.integers(3, 6))
def test_order_of_columns_and_rounding_do_not_matter(tmp_path, random, digits):
    table = frame()
    columns = list(table.columns)
    random.shuffle(columns)
    found = read(saved(tmp_path, table[columns].round(digits)))
    np.testing.assert_allclose(found.probabilities, table[list(CLASSES)], atol=0.02)


def test_an_existing_file_is_kept_and_nothing_half_is_left(tmp_path):
    posteriors = Posteriors(np.array(IDS), random_posteriors(3))
    write(tmp_path / "p.csv", posteriors)
    before = (tmp_path / "p.csv").read_bytes()
    with pytest.raises(FileExistsError, match="p.csv exists"):
        write(tmp_path / "p.csv", Posteriors(np.array(["x"]), random_posteriors(1)))
    assert (tmp_path / "p.csv").read_bytes() == before
    write(tmp_path / "p.csv", posteriors, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]


def test_columns_without_a_meaning_are_ignored_by_name(tmp_path):
    table = frame().assign(title=["a", "b, c", ""], duration=[1.5, 2, 0])
    with pytest.warns(UserWarning, match="columns 'title', 'duration' are ignored"):
        found = read(saved(tmp_path, table))
    np.testing.assert_allclose(found.probabilities, table[list(CLASSES)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(saved(tmp_path, frame().assign(fold=[0, 1, 1], ground_truth=["m-m", "", "ss-s"])))


def changed(row: int, column: str, value) -> pd.DataFrame:
    table = frame().astype(object)
    table.loc[row, column] = value
    return table


LOGITS = np.log(random_posteriors(3)) + 9


@pytest.mark.parametrize(
    "table, message",
    [
        (
            frame().drop(columns="fx-o"),
            r"posteriors.csv lacks the column fx-o: add it, or rename one \(others found: none\)",
        ),
        (frame().drop(columns="sound_id"), "lacks the column sound_id"),
        (frame().rename(columns={"fx-o": "FX-O"}), r"lacks the column fx-o: .* \(others found: FX-O\)"),
        (frame().assign(**{"fx-other": 0.1}), "'fx-other' is no class of the taxonomy"),
        (frame().assign(fx=0.1), "'fx' is no class of the taxonomy"),
        (frame().set_index("sound_id").T.rename_axis("sound_id").reset_index(), "is transposed"),
        (frame().set_index("sound_id").T.rename_axis("class").reset_index(), "is transposed"),
        (frame(["a", "b", "a"]), "sound_id a is in rows 1 and 3"),
        (frame(["a", " ", "b"]), "row 2, sound_id empty: name the clip"),
        (changed(1, "is-s", ""), "row 2, sound_id NA: is-s is '': write a finite number"),
        (changed(2, "is-s", "nan"), "row 3, sound_id 007: is-s is 'nan'"),
        (changed(0, "ss-u", "inf"), "row 1, sound_id 84090: ss-u is 'inf'"),
        (changed(0, "ss-u", "79%"), "ss-u is '79%'"),
        (changed(0, "ss-u", -0.1), "row 1, sound_id 84090: ss-u is -0.1, negative"),
        (changed(2, "m-m", 3), r"row 3, sound_id 007: the classes sum to 3\.\d+, not 1"),
        (frame(probabilities=100 * random_posteriors(3)), r"sum to 100, not 1: divide by it .*percentages.*\(3 rows"),
        (frame(probabilities=np.zeros((3, 23))), "the classes sum to 0"),
        (frame(probabilities=LOGITS - 9), "negative: apply softmax to logits .3 rows"),
        (frame(probabilities=np.abs(LOGITS)), "or apply softmax to logits"),
        (frame().assign(fold=[0, 1, "x"]), "row 3, sound_id 007: fold is 'x'"),
        (frame().assign(fold=[0, 1.5, 2]), "row 2, sound_id NA: fold 1.5 is none of"),
        (frame().assign(fold=[0, -1, 2]), "fold -1 is none of"),
        (
            frame().assign(ground_truth=["m-m", "", "fx-other"]),
            "row 3, sound_id 007: ground_truth 'fx-other' is no class",
        ),
        (frame().iloc[:0], "at least one"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, table, message):
    with pytest.raises(ValueError, match=message) as error:
        read(saved(tmp_path, table))
    assert "posteriors.csv" in str(error.value)


def test_a_column_that_is_there_twice_and_an_absent_file_are_named(tmp_path):
    path = saved(tmp_path, frame())
    lines = [f"{line},{'fx-o' if row == 0 else 0.5}" for row, line in enumerate(path.read_text().splitlines())]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="'fx-o' occurs twice"):
        read(path)
    with pytest.raises(FileNotFoundError, match="absent.csv is absent"):
        read(tmp_path / "absent.csv")


def test_ids_are_spelt_as_datasets_spells_them(tmp_path):
    assert read(saved(tmp_path, frame(["gro\u0308n ", "b", "c"]))).ids[0] == "gr\u00f6n"


def test_clips_are_aligned_and_missing_ones_counted():
    posteriors = Posteriors(np.array(IDS), random_posteriors(3), np.array([0, 1, 2]), np.array([5, -1, 7]), "model.csv")
    aligned = posteriors.for_ids(["007", 84090])
    assert aligned.ids.tolist() == ["007", "84090"] and aligned.folds.tolist() == [2, 0]
    assert aligned.labels.tolist() == [7, 5]
    np.testing.assert_array_equal(aligned.probabilities, posteriors.probabilities[[2, 0]])
    with pytest.raises(ValueError, match=r"model.csv lacks 2 of 3 clips, such as x, 7 \(it holds 84090 and 2 others"):
        posteriors.for_ids(["x", "007", 7])


@given(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True), st.randoms(use_true_random=False))
def test_alignment_is_a_permutation(ids, random):
    posteriors = Posteriors(np.array(ids).astype(str), random_posteriors(len(ids)))
    shuffled = random.sample(ids, len(ids))
    there_and_back = posteriors.for_ids(shuffled).for_ids(ids)
    np.testing.assert_array_equal(there_and_back.probabilities, posteriors.probabilities)


def test_a_table_that_changes_is_read_again(tmp_path):
    first, second = (Posteriors(np.array(IDS), random_posteriors(3, seed)) for seed in (0, 1))
    for table in (first, second):
        write(tmp_path / "fold_1.csv", table, overwrite=True)
        found = read_fold(tmp_path, 1)
        np.testing.assert_allclose(found.probabilities, table.probabilities, atol=1e-5)
        assert read_fold(tmp_path, 1) is found  # of 31,000 clips it takes a second
    with pytest.raises(ValueError, match=r"must hold fold_0 to fold_4, .*: pass one of .*fold_1\.csv"):
        read(tmp_path)


def test_nothing_trained_on_a_clip_scores_it():
    Posteriors(np.array(IDS), random_posteriors(3)).check_unseen(fold=1)  # made without labels
    folded = Posteriors(np.array(IDS), random_posteriors(3), np.array([1, 1, 2]), source="folds.csv")
    folded.for_ids(IDS[:2]).check_unseen(fold=1)
    with pytest.raises(ValueError, match="folds.csv scores 1 clips, such as 007, test clips of fold 1"):
        folded.check_unseen(fold=1)


@pytest.mark.parametrize(
    "ids, probabilities, folds, message",
    [
        (["a"], np.ones((1, 23)), None, "row 0 is no distribution"),
        (["a", "b"], random_posteriors(1), None, "as many ids"),
        (["a"], random_posteriors(1), [0, 1], "as many ids"),
        (["a", "a"], random_posteriors(2), None, "sound_id a is in rows 1 and 2"),
    ],
)
def test_posteriors_made_in_memory_are_checked(ids, probabilities, folds, message):
    with pytest.raises(ValueError, match=message):
        Posteriors(np.array(ids), probabilities, folds)


# ---- the official layout


def write_folds(folder, clips=40, seed=0, folds=5):
    """Predictions in the official layout; returns labels, predictions, scores by clip number."""
    rng = np.random.default_rng(seed)
    labels, predicted, scores = rng.integers(0, 23, clips), rng.integers(0, 23, clips), rng.uniform(0.05, 1, clips)
    for fold in range(folds):
        rows = np.arange(fold, clips, folds)
        place = folder / f"fold_{fold}" / "evaluation"
        place.mkdir(parents=True)
        columns = {"ground_truth": labels, "prediction": predicted}
        table = pd.DataFrame({"sound_id": rows} | {k: [CLASSES[v[r]] for r in rows] for k, v in columns.items()})
        table.assign(prediction_score=scores[rows]).to_csv(place / "predictions.csv", index=False)
    return labels, predicted, scores


def test_five_folds_become_one_table(tmp_path):
    labels, predicted, scores = write_folds(tmp_path / "base" / "both")
    for path in (tmp_path / "base" / "both", tmp_path / "base"):
        found = read(path)
        clips = found.ids.astype(int)
        assert sorted(clips) == list(range(40)) and (found.folds == clips % 5).all()
        assert (found.labels == labels[clips]).all() and (found.probabilities.argmax(1) == predicted[clips]).all()
        np.testing.assert_allclose(found.probabilities.max(1), np.minimum(scores[clips], 0.999))
    one = read(tmp_path / "base" / "both" / "fold_3" / "evaluation" / "predictions.csv")
    assert one.folds is None and (one.ids.astype(int) % 5 == 3).all()


@given(st.lists(st.tuples(st.integers(0, 22), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_rest_of_a_largest_posterior_is_spread_evenly(rows):
    labels, scores = np.array([label for label, _ in rows]), np.array([score for _, score in rows])
    probabilities = spread(labels, scores)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == labels).all() and probabilities.min() > 0
    np.testing.assert_allclose(probabilities[np.arange(len(labels)), labels], np.clip(scores, 0.05, 0.999))
    assert (np.ptp(np.sort(probabilities, axis=1)[:, :-1], axis=1) < 1e-12).all()


def test_what_is_wrong_in_a_folder_is_named(tmp_path):
    write_folds(tmp_path / "base" / "both")
    write_folds(tmp_path / "base" / "audio", seed=1)
    with pytest.raises(ValueError, match="base must hold fold_0 to fold_4, it has folds .*pass one of .*audio, .*both"):
        read(tmp_path / "base")
    with pytest.raises(ValueError, match="must hold fold_0 to fold_4"):
        read(tmp_path)
    file = tmp_path / "base" / "both" / "fold_2" / "evaluation" / "predictions.csv"
    text = file.read_text()
    lines = text.splitlines()
    for line, message in {
        "2,m-m,m-m,93.1": "row 1, sound_id 2: prediction_score 93.1 is not in",
        "2,m-m,m-m,": "prediction_score is ''",
        "2,m-m,fx-other,0.9": "row 1, sound_id 2: prediction 'fx-other' is no class",
        "2,music,m-m,0.9": "row 1, sound_id 2: ground_truth 'music' is no class",
        "7,m-m,m-m,0.9": "sound_id 7 is in rows 1 and 2",
        "3,m-m,m-m,0.9": "both: sound_id 3 is in rows",
    }.items():
        file.write_text("\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "base" / "both")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="fold_2/evaluation/predictions.csv is absent"):
        read(tmp_path / "base" / "both")
    file.parent.rmdir()
    file.parent.parent.rmdir()
    with pytest.raises(ValueError, match=r"it has folds \[0, 1, 3, 4\]"):
        read(tmp_path / "base" / "both")


def test_unlabelled_folds_have_no_labels(tmp_path):
    write_folds(tmp_path)
    for file in tmp_path.glob("*/*/*.csv"):
        pd.read_csv(file).drop(columns="ground_truth").to_csv(file, index=False)
    assert read(tmp_path).labels is None


def test_real_predictions_score_what_was_published():
    base = read(need_shared("real_predictions") / "base" / "both")
    assert len(base.ids) == 10956 and np.bincount(base.folds).tolist() == [2192, 2191, 2191, 2191, 2191]
    assert hierarchical_scores(base.labels, base.probabilities.argmax(1))["hF"] == pytest.approx(0.7864, abs=5e-5)
