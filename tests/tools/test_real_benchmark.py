"""What real predictions say: made-up variants in the official layout, with effects that are known."""

import numpy as np
import pandas as pd
import pytest
from conftest import need_shared
from sklearn.linear_model import LogisticRegression

from haf_utils.captions import add_text
from haf_utils.datasets import load_bsd
from haf_utils.metrics import hierarchical_scores
from haf_utils.posteriors import Posteriors
from haf_utils.taxonomy import CLASSES
from tools.real_benchmark import main
from tools.real_benchmark_tables import (
    AVERAGES,
    WORDS,
    blend,
    cross_fit,
    finding,
    forest_groups,
    geometric_mean,
    read_variants,
    variant_table,
    word_table,
)

CLIPS = 1150
LABELS = np.arange(CLIPS) % 23
FOLDS = np.arange(CLIPS) // 23 % 5
# variant, modality: share of clips predicted right
ACCURACY = {
    ("base", "audio"): 0.6,
    ("base", "both"): 0.75,
    ("combined_sw03", "both"): 0.5,
    ("mixup02", "both"): 0.75,
    ("mixup02", "audio"): 0.6,
    ("our-idea", "both"): 0.9,
}


def write_variant(folder, accuracy: float, seed: int, labels=LABELS, folds=FOLDS) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random(CLIPS) < accuracy
    predicted = np.where(right, labels, rng.integers(0, 23, CLIPS))
    table = pd.DataFrame({"sound_id": np.arange(CLIPS), "ground_truth": np.array(CLASSES)[labels]})
    table = table.assign(prediction=np.array(CLASSES)[predicted], prediction_score=np.where(right, 0.9, 0.4))
    for fold in range(5):
        place = folder / f"fold_{fold}" / "evaluation"
        place.mkdir(parents=True)
        table[folds == fold].sample(frac=1, random_state=seed).to_csv(place / "predictions.csv", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    for seed, ((variant, modality), accuracy) in enumerate(ACCURACY.items()):
        write_variant(folder / variant / modality, accuracy, seed)
    return folder


@pytest.fixture(scope="module")
def variants(folder):
    return read_variants(folder)[0]


def texts_of(labels, accuracy=0.6, seed=9):
    rng = np.random.default_rng(seed)
    told = np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, 23, len(labels)))
    return [f"word{chr(97 + label)} sound" for label in told]


def test_all_variants_are_read_on_the_same_clips_in_one_order(folder, variants):
    assert set(variants) == set(ACCURACY) and read_variants(folder)[1] == {}
    for (variant, modality), table in variants.items():
        clips = table.ids.astype(int)
        assert (table.ids == variants["base", "audio"].ids).all() and sorted(clips) == list(range(CLIPS))
        assert (table.labels == LABELS[clips]).all() and (table.folds == FOLDS[clips]).all()
        accuracy = (table.probabilities.argmax(1) == table.labels).mean()
        assert accuracy == pytest.approx(ACCURACY[variant, modality] + (1 - ACCURACY[variant, modality]) / 23, abs=0.05)


def test_one_bad_variant_ends_no_other_and_is_named(tmp_path):
    write_variant(tmp_path / "base" / "both", 0.7, 0)
    write_variant(tmp_path / "other-labels" / "both", 0.7, 1, labels=(LABELS + 1) % 23)
    write_variant(tmp_path / "other-folds" / "both", 0.7, 1, folds=np.roll(FOLDS, 1))
    write_variant(tmp_path / "damaged" / "both", 0.7, 1)
    (tmp_path / "damaged" / "both" / "fold_4" / "evaluation" / "predictions.csv").unlink()
    (tmp_path / "empty" / "audio").mkdir(parents=True)
    write_variant(tmp_path / "fine" / "both", 0.7, 2)
    variants, unusable = read_variants(tmp_path)
    assert set(variants) == {("base", "both"), ("fine", "both")}
    assert set(unusable) == {"other-labels/both", "other-folds/both", "damaged/both", "empty/audio"}
    assert "other clips, labels or folds" in unusable["other-folds/both"] and "fold_4" in unusable["damaged/both"]


def test_without_a_plain_variant_there_is_nothing_to_compare_with(tmp_path):
    with pytest.raises(OSError, match="base is absent"):
        read_variants(tmp_path)
    write_variant(tmp_path / "base" / "both", 0.7, 0)
    for file in tmp_path.glob("*/*/*/*/*.csv"):
        pd.read_csv(file).drop(columns="ground_truth").to_csv(file, index=False)
    with pytest.raises(ValueError, match="ground_truth has gaps"):
        read_variants(tmp_path)


def test_differences_of_known_sign(variants):
    table = variant_table(variants, np.random.default_rng(0), 300).set_index("members")
    assert table.index[0] == "base/audio" and np.isnan(table.estimate["base/audio"]) and np.isnan(table.against.iloc[0])
    assert set(table.index) >= {f"{variant}/{modality}" for variant, modality in ACCURACY}
    for members, sign in {"base/both": 1, "our-idea/both": 1, "combined_sw03/both": -1, "mixup02/both": 0}.items():
        row = table.loc[members]
        assert (row.low > 0, row.high < 0) == (sign > 0, sign < 0)
        assert row.low < row.estimate < row.high and row.clips == CLIPS
        assert (row.p_value < 0.01) == (sign != 0)
    assert table.against["base/both"] == table.against["mixup02/audio"] == "base/audio"
    assert table.against["our-idea/both"] == "base/both"
    both = variants["our-idea", "both"]
    assert table.hF["our-idea/both"] == hierarchical_scores(both.labels, both.probabilities.argmax(1))["hF"]
    difference = table.hF["our-idea/both"] - table.hF["base/both"]
    assert table.estimate["our-idea/both"] == pytest.approx(difference)
    averages = table[table.group == AVERAGES]
    assert averages.system.tolist() == ["mean of all without BSD35k-CS", "mean of all"]
    assert list(averages.index) == ["5 variants", "6 variants"]


def test_the_same_seed_gives_the_same_table(variants):
    tables = [
        variant_table(dict(items), np.random.default_rng(3), 50) for items in (variants.items(), variants.items())
    ]
    pd.testing.assert_frame_equal(*tables)


def test_figure_and_title_say_what_is_in_the_table(variants):
    table = variant_table(variants, np.random.default_rng(0), 300)
    groups = forest_groups(table)
    assert sum(map(len, groups.values())) == table.estimate.notna().sum() and list(groups)[:2] == ["Text", AVERAGES]
    assert {"estimate", "low", "high", "p_value"} <= set(groups["Text"].columns)
    text = 100 * table.set_index("members").estimate["base/both"]
    assert finding(table).startswith(f"Text {text:+.1f}, averaging ")
    assert finding(table).endswith("2 of 3 other changes show no clear difference")
    assert finding(table[table.members != "combined_sw03/both"]).count("crowd") == 0


def test_words_are_read_out_of_fold_and_added(variants):
    ids, texts = np.arange(50, CLIPS), texts_of(LABELS[50:])
    vectors = np.eye(23)[LABELS[50:]] + np.random.default_rng(1).normal(0, 0.6, (CLIPS - 50, 23))
    table = word_table(variants, ids, texts, np.random.default_rng(0), vectors, 300).set_index("system")
    assert (table.group == WORDS).all() and (table.clips == CLIPS - 50).all()
    accuracy = 0.6 + 0.4 / 23
    assert table.hF["words, TF-IDF, against audio"] == pytest.approx(accuracy, abs=0.1)
    assert table.low["audio + words, TF-IDF"] > 0
    assert table.hF["words, both, against audio"] > table.hF["words, TF-IDF, against audio"]
    assert table.against["mean of all + words, TF-IDF"] == "mean of all"
    weak = {key: variants[key] for key in (("base", "audio"), ("mixup02", "audio"))}
    table = word_table(weak, ids, texts, np.random.default_rng(0), replicates=300).set_index("system")
    assert table.low["mean of all + words, TF-IDF"] > 0
    assert not table.index.str.contains("encoder|both|audio and text").any()
    with pytest.raises(ValueError, match="none of the 2 clips with texts"):
        word_table(variants, ["x", "y"], ["a", "b"], np.random.default_rng(0))


def test_no_clip_is_scored_by_what_was_fitted_on_it():
    """Inputs that name the clip: a model that saw a clip would know it, one that did not cannot."""
    rng = np.random.default_rng(0)
    labels, folds = rng.integers(0, 4, 60), np.arange(60) % 5
    clips = Posteriors(np.arange(60).astype(str), np.full((60, 23), 1 / 23), folds, labels)
    posteriors = cross_fit(LogisticRegression(C=1e4), np.eye(60), clips)
    np.testing.assert_allclose(posteriors.sum(1), 1)
    for fold in range(5):
        test = folds == fold
        assert np.ptp(posteriors[test], axis=0).max() < 1e-6  # unseen inputs look alike
    assert posteriors[:, 4:].max() == 0


def test_weights_of_a_fold_come_from_the_other_folds():
    rng = np.random.default_rng(0)
    labels, folds = np.arange(500) % 23, np.arange(500) // 23 % 5
    clips = Posteriors(np.arange(500).astype(str), np.full((500, 23), 1 / 23), folds, labels)
    good = 0.9 * np.eye(23)[labels] + 0.1 / 23
    noise = rng.dirichlet(np.ones(23), 500)
    mixed = blend([good, noise], clips)
    np.testing.assert_allclose(mixed.sum(1), 1)
    assert (mixed.argmax(1) == labels).all()
    # The labels of a fold do not reach the weights of that fold.
    shuffled = Posteriors(clips.ids, clips.probabilities, folds, np.where(folds == 2, rng.permutation(labels), labels))
    np.testing.assert_array_equal(blend([good, noise], shuffled)[folds == 2], mixed[folds == 2])
    assert not np.allclose(blend([good, noise], shuffled)[folds == 1], mixed[folds == 1])


def test_geometric_mean():
    a, b = np.random.default_rng(0).dirichlet(np.ones(23), (2, 5))
    expected = np.sqrt(a * b) / np.sqrt(a * b).sum(1, keepdims=True)
    np.testing.assert_allclose(geometric_mean([a, b]), expected)
    np.testing.assert_allclose(geometric_mean([a, a]), a)
    certain = np.eye(23)[:2]
    assert np.isfinite(geometric_mean([certain, certain[::-1]])).all()


def test_the_command_writes_table_and_figure(folder, tmp_path, capsys):
    metadata = tmp_path / "bsd" / "metadata"
    metadata.mkdir(parents=True)
    columns = {"sound_id": np.arange(CLIPS), "class": np.array(CLASSES)[LABELS], "uploader": "u", "tags": ""}
    table = pd.DataFrame(columns).assign(title=texts_of(LABELS))
    table.to_csv(metadata / "BSD10k_metadata.csv", index=False)
    arguments = [
        str(folder),
        "--metadata",
        str(tmp_path / "bsd"),
        "--origin",
        "made up",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "07_real_benchmark.csv",
        "07_real_benchmark.png",
    ]
    written = pd.read_csv(tmp_path / "out" / "07_real_benchmark.csv")
    assert (written.origin == "made up").all() and (written.group == WORDS).any() and written.hF.between(0, 1).all()
    assert "sound_id" not in written  # predictions are not published
    assert "other changes show no clear difference" in capsys.readouterr().out
    figure = tmp_path / "out" / "07_real_benchmark.png"
    drawn, before = figure.read_bytes(), (tmp_path / "out" / "07_real_benchmark.csv").read_bytes()
    figure.unlink()
    assert main(["--redraw", "--out", str(tmp_path / "out")]) == 0 and figure.read_bytes() == drawn
    assert (tmp_path / "out" / "07_real_benchmark.csv").read_bytes() == before


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "base is absent" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["--redraw", "--out", str(tmp_path)]) == 2 and "07_real_benchmark.csv" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--encoder", "x"])
    assert "--encoder needs --metadata" in capsys.readouterr().err


def test_what_real_predictions_and_words_come_to():
    variants, unusable = read_variants(need_shared("real_predictions"))
    assert len(variants) == 39 and not unusable
    clips = add_text(load_bsd(need_shared("bsd10k_v1.0")))
    table = word_table(variants, clips.sound_id, clips.text, np.random.default_rng(0), replicates=500)
    table = table.set_index("system")
    assert (table.clips == 10309).all()
    assert table.hF["words, TF-IDF, against audio"] >= 0.729
    assert table.estimate["audio + words, TF-IDF"] >= 0.02 and table.low["audio + words, TF-IDF"] > 0
    best = table.loc["mean of all without BSD35k-CS + words, TF-IDF"]
    assert best.hF >= 0.805 and best.low > 0
