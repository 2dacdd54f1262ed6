"""Ablations on text embeddings: what becomes of a text, and a small run from metadata to table and figure."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from haf_utils.captions import add_text
from haf_utils.datasets import load_bsd, load_features
from haf_utils.taxonomy import CLASSES
from tools.real_text import RECIPE, SPLITS, VARIANTS, WORDS, finding, main, text_vectors, write_dataset


@pytest.fixture(scope="module")
def metadata(tiny, tmp_path_factory):
    """The tiny dataset without its recordings."""
    root = tmp_path_factory.mktemp("metadata")
    shutil.copytree(f"{tiny.dataset}/metadata", root / "metadata")
    return root


def test_a_text_becomes_one_unit_vector_and_none_a_zero(metadata):
    texts = add_text(load_bsd(metadata)).text.tolist()
    vectors = text_vectors([*texts, texts[0], ""], 32)
    assert vectors.shape == (len(texts) + 2, 32) and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[-2], vectors[0])
    np.testing.assert_array_equal(vectors[-1], 0)
    length = np.linalg.norm(vectors, axis=1)
    assert np.all(np.isclose(length, 1, atol=1e-5) | (length == 0)) and (length > 0).mean() > 0.5
    np.testing.assert_array_equal(text_vectors(texts, 8), text_vectors(texts, 8))
    with pytest.raises(ValueError, match="pass --width"):
        text_vectors(texts, 100_000)


def test_the_dataset_is_read_as_one_that_ships_embeddings(metadata, tmp_path):
    clips = load_bsd(metadata)
    vectors = np.random.default_rng(0).standard_normal((len(clips), 5)).astype(np.float32)
    write_dataset(metadata, tmp_path, clips.sound_id, vectors)
    write_dataset(metadata, tmp_path, clips.sound_id, vectors)
    audio, text = load_features(tmp_path, load_bsd(tmp_path).sound_id)
    np.testing.assert_array_equal(text, vectors)
    assert not audio.any()
    with pytest.raises(ValueError, match="pass another --work"):
        write_dataset(metadata, tmp_path, clips.sound_id, vectors + 1)
    np.testing.assert_array_equal(load_features(tmp_path, clips.sound_id)[1], vectors)


def test_from_metadata_to_table_and_figure(metadata, tmp_path, capsys):
    arguments = [str(metadata), "--profile", "tiny", "--width", "16", "--folds", "2", "--epochs", "1", "--seeds", "2"]
    arguments += ["--workers", "1", "--replicates", "50", "--origin", "made up"]
    arguments += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    table = pd.read_csv(tmp_path / "out" / "07_real_text.csv")
    rows = [*VARIANTS, "the recipe, seed 1", WORDS]
    assert table.groupby("split").variant.apply(set).to_dict() == {split: set(rows) for split in SPLITS}
    assert (table.folds == 2).all() and (table.epochs == 1).all() and (table.origin == "made up").all()
    assert (table[table.variant == RECIPE].seeds == 2).all() and (table[table.variant != RECIPE].seeds == 1).all()
    assert table.estimate.isna().equals(table.variant == RECIPE)
    told = table.dropna(subset="estimate")
    assert ((told.low <= told.estimate) & (told.estimate <= told.high)).all() and table.hF.between(0, 1).all()
    assert (tmp_path / "out" / "07_real_text.png").stat().st_size > 10_000
    folders = sorted((tmp_path / "work" / "runs").glob("*/config.json"))
    assert len(folders) == 2 * 2 * (len(VARIANTS) + 1)
    config = json.loads(folders[0].read_text())["config"]
    assert config["train"] == "head" and config["modality"] == "text"
    times = [file.stat().st_mtime_ns for file in folders]
    assert main(arguments) == 0  # everything is there
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "work" / "runs").glob("*/config.json"))] == times
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "07_real_text.csv"), table)
    figure = tmp_path / "out" / "07_real_text.png"
    drawn = figure.read_bytes()
    figure.unlink()
    assert main(["--redraw", "--out", str(tmp_path / "out")]) == 0 and figure.read_bytes() == drawn
    assert main([*arguments[:3], *arguments[3:], "--width", "8"]) == 2  # runs of other vectors stand there
    assert "pass another --work" in capsys.readouterr().err


def test_raw_metadata_are_compared_with_cleaned_texts(tmp_path, capsys):
    """Tags say the class; a recorder's name, which cleaning removes, names half of the classes once more."""
    rng, labels = np.random.default_rng(0), np.arange(460) % 23
    told = np.where(rng.random(460) < 0.5, labels, rng.integers(0, 23, 460))
    recorder = np.where(labels % 2, "", [f"zoom-h{label}n" for label in labels])
    clips = pd.DataFrame({"sound_id": np.arange(460), "class": np.array(CLASSES)[labels], "uploader": "u"})
    tags = [
        ",".join(filter(None, pair))
        for pair in zip([f"word{chr(97 + label)}" for label in told], recorder, strict=True)
    ]
    (tmp_path / "metadata").mkdir()
    clips.assign(title="a sound", tags=tags).to_csv(tmp_path / "metadata" / "BSD10k_metadata.csv", index=False)
    table = clips.rename(columns={"class": "ground_truth"}).drop(columns="uploader")
    table = table.assign(prediction=table.ground_truth, prediction_score=0.9)
    for fold in range(5):
        place = tmp_path / "base" / f"fold_{fold}" / "evaluation"
        place.mkdir(parents=True)
        table[np.arange(460) // 23 % 5 == fold].to_csv(place / "predictions.csv", index=False)
    arguments = [str(tmp_path), "--cleaning", str(tmp_path / "base"), "--replicates", "200", "--out", str(tmp_path)]
    assert main(arguments) == 0 and "raw metadata" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "02_real_cleaning.csv").set_index("system")
    assert found.index.tolist() == ["cleaned texts", "raw metadata"] and (found.clips == 460).all()
    assert found.hF["cleaned texts"] == pytest.approx(0.5, abs=0.12) and found.low["raw metadata"] > 0.1
    assert found.estimate["raw metadata"] == pytest.approx(found.hF.diff().iloc[1], abs=2e-5)
    table.drop(columns="ground_truth").to_csv(tmp_path / "bare.csv", index=False)
    assert main([*arguments[:2], str(tmp_path / "bare.csv"), *arguments[3:]]) == 2
    assert "must tell the fold and the label" in capsys.readouterr().err


def test_the_title_says_what_is_in_the_table():
    rows = [(split, RECIPE, 0.7 - 0.1 * (split == "uploader"), None, None, None) for split in SPLITS]
    rows += [("official", "no mixup", 0.68, -0.02, -0.03, -0.01), ("official", "no gate", 0.7, 0.0, -0.01, 0.01)]
    rows += [("uploader", "no mixup", 0.6, 0.001, -0.01, 0.01), ("uploader", WORDS, 0.64, 0.04, 0.03, 0.05)]
    table = pd.DataFrame(rows, columns=["split", "variant", "hF", "estimate", "low", "high"])
    assert finding(table) == (
        "Real texts: hF 70.0, with uploaders apart 60.0;\nchanges whose interval leaves out zero: 1 of 3:\n"
        "“no mixup” -2.0 (official folds)"
    )


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path)]) == 2 and "absent" in capsys.readouterr().err
    assert main(["--redraw", "--out", str(tmp_path)]) == 2 and "07_real_text.csv is absent" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--encoder", "x"])
    assert "--encoder needs --embeddings" in capsys.readouterr().err
