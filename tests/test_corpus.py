import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from haf_utils.config import FOLDS
from haf_utils.corpus import load_corpus
from haf_utils.folds import official_folds
from haf_utils.taxonomy import CLASSES

RATE = 32_000


@pytest.fixture(scope="module")
def corpus(tiny):
    return load_corpus(tiny.dataset, tiny.extra, tiny.evaluation, f"{tiny.scratch}/stores", RATE)


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny BSD10k that a test may damage; gives folder and metadata file."""
    root = tmp_path / "BSD10k"
    shutil.copytree(tiny.dataset, root)
    return root, next((root / "metadata").glob("*_metadata.csv"))


def test_rows_are_in_the_order_that_the_folds_need(corpus, tiny):
    origin = corpus.table["origin"].tolist()
    assert sorted(set(origin), key=origin.index) == ["bsd10k", "bsd35k-cs", "evaluation"]
    assert origin == sorted(origin, key=["bsd10k", "bsd35k-cs", "evaluation"].index)
    own = corpus.table[corpus.table["origin"] == "bsd10k"]
    metadata = pd.read_csv(next((Path(tiny.dataset) / "metadata").glob("*_metadata.csv")), dtype=str)
    assert own["sound_id"].tolist() == metadata["sound_id"].tolist()
    assert corpus.table["sound_id"].is_unique
    assert (corpus.labels[corpus.table["origin"] == "evaluation"] == -1).all()
    assert corpus.presence.tolist() == [float(text != "") for text in corpus.table["text"]]
    assert len(corpus.samples(0)) > 0 and corpus.samples(0).dtype == np.int16


@pytest.mark.parametrize("fold", range(FOLDS))
def test_the_official_parts_are_the_official_folds(corpus, fold):
    part = corpus.parts("official", fold)
    own = (corpus.table["origin"] == "bsd10k").to_numpy()
    for name, rows in zip(("train", "validation", "test"), official_folds(corpus.labels[own])[fold], strict=True):
        assert np.flatnonzero((part == name) & own).tolist() == sorted(rows)


@pytest.mark.parametrize("split", ["official", "uploader"])
def test_extra_clips_train_only_and_every_test_clip_is_tested_once(corpus, split):
    origin = corpus.table["origin"].to_numpy()
    tested = []
    for fold in range(FOLDS):
        part = corpus.parts(split, fold)
        assert set(part[origin == "bsd35k-cs"]) <= {"train", ""}
        assert (part[origin == "evaluation"] == "evaluation").all()
        assert set(part[origin == "bsd10k"]) == {"train", "validation", "test"}
        tested += np.flatnonzero(part == "test").tolist()
    assert sorted(tested) == np.flatnonzero(origin == "bsd10k").tolist()


def test_the_uploader_split_keeps_uploaders_apart_in_the_extra_clips_too(corpus):
    uploader, origin = corpus.table["uploader"].to_numpy(), corpus.table["origin"].to_numpy()
    left_out = 0
    for fold in range(FOLDS):
        part = corpus.parts("uploader", fold)
        held_out = set(uploader[np.isin(part, ("validation", "test"))]) - {""}
        assert not held_out & set(uploader[part == "train"])
        left_out += ((part == "") & (origin == "bsd35k-cs")).sum()
    assert left_out > 0  # else this test says nothing


def test_extra_clips_of_nobody_known_stay(tiny, tmp_path):
    """An empty uploader is no uploader: a held-out clip without one takes no extra clip away."""
    for name, source in (("BSD10k", tiny.dataset), ("extra", tiny.extra)):
        shutil.copytree(source, tmp_path / name)
        file = next((tmp_path / name / "metadata").glob("*_metadata.csv"))
        pd.read_csv(file, dtype=str, keep_default_na=False).assign(uploader="").to_csv(file, index=False)
    corpus = load_corpus(str(tmp_path / "BSD10k"), str(tmp_path / "extra"), "", str(tmp_path / "stores"), RATE)
    extra = (corpus.table["origin"] == "bsd35k-cs").to_numpy()
    assert (corpus.parts("uploader", 0)[extra] == "train").all()


def test_clips_in_both_datasets_count_as_the_curated_ones(corpus, tiny):
    crowd = pd.read_csv(next((Path(tiny.extra) / "metadata").glob("*_metadata.csv")), dtype=str)
    crowd = crowd[crowd["class"].isin(CLASSES)]  # the "other" classes are no part of the task
    own = set(corpus.table.loc[corpus.table["origin"] == "bsd10k", "sound_id"])
    twice = crowd["sound_id"].isin(own).sum()
    assert twice > 0 and f"{twice} of the extra clips" in corpus.notes[0]
    kept = corpus.table.loc[corpus.table["origin"] == "bsd35k-cs", "sound_id"]
    assert not set(kept) & own


@pytest.mark.parametrize(("split", "fold", "message"), [("random", 0, "split='random'"), ("official", 5, "fold=5")])
def test_unknown_parts(corpus, split, fold, message):
    with pytest.raises(ValueError, match=message):
        corpus.parts(split, fold)


def test_a_lost_clip_keeps_its_row_and_leaves_its_part(copy, tmp_path):
    root, metadata = copy
    before = load_corpus(str(root), stores=str(tmp_path / "before"), sample_rate=RATE)
    broken = [before.table["sound_id"].iloc[row] for row in np.flatnonzero(before.parts("official", 0) == "test")[:2]]
    files = {path.stem: path for path in (root / "audio").iterdir()}
    files[broken[0]].unlink()
    files[broken[1]].write_bytes(b"no sound")
    load_corpus.cache_clear()
    after = load_corpus(str(root), stores=str(tmp_path / "after"), sample_rate=RATE)
    assert sorted(after.lost["sound_id"]) == sorted(broken) and (after.lost["reason"] != "").all()
    assert after.table["sound_id"].tolist() == before.table["sound_id"].tolist()
    changed = before.parts("official", 0) != after.parts("official", 0)
    assert after.table["sound_id"][changed].tolist() == [i for i in after.table["sound_id"] if i in broken]
    assert (after.parts("official", 0)[changed] == "").all()
    assert (after.table["readable"] == ~after.table["sound_id"].isin(broken)).all()


def embeddings_only(root, skip_text=(), skip_audio=(), width=512):
    """Replace the audio of a dataset by features, as BSD10k's features.zip has them."""
    ids = [path.stem for path in (root / "audio").iterdir()]
    shutil.rmtree(root / "audio")
    rng = np.random.default_rng(0)
    for modality, skip in (("audio", skip_audio), ("text", skip_text)):
        folder = root / "features" / f"clap_{modality}_embeddings"
        folder.mkdir(parents=True)
        for clip in ids:
            if clip not in skip:
                np.save(folder / f"{clip}.npy", rng.standard_normal(width).astype(np.float32))


def test_a_dataset_of_embeddings_alone(copy, tmp_path):
    root, metadata = copy
    told = pd.read_csv(metadata, dtype=str, keep_default_na=False).query("title != '' and tags != ''")["sound_id"]
    no_text, no_audio = told.iloc[0], told.iloc[1]
    embeddings_only(root, {no_text}, {no_audio})
    with pytest.warns(UserWarning, match="missing or damaged"):
        corpus = load_corpus(str(root), stores=str(tmp_path / "stores"), sample_rate=RATE)
    assert corpus.stores == {} and corpus.features[0].shape == (len(corpus.table), 512)
    assert np.isfinite(corpus.features[0]).all() and np.isfinite(corpus.features[1]).all()
    row = corpus.table.index[corpus.table["sound_id"] == no_text][0]
    assert corpus.presence[row] == 0 and corpus.table["text"].iat[row] != ""
    assert corpus.lost["sound_id"].tolist() == [no_audio]
    assert corpus.parts()[corpus.table["sound_id"] == no_audio] == ""


def test_embeddings_of_another_width_and_those_of_two_networks(copy, tmp_path):
    root, _ = copy
    other = tmp_path / "other"
    shutil.copytree(root, other)
    embeddings_only(root, width=768)
    embeddings_only(other, width=100)
    assert load_corpus(str(root), evaluation="", stores=str(tmp_path)).features[1].shape[1] == 768
    metadata = next((other / "metadata").glob("*_metadata.csv"))
    table = pd.read_csv(metadata, dtype=str, keep_default_na=False)
    table.assign(anonymous_id=table["sound_id"]).drop(columns="sound_id").to_csv(other / "metadata/e.csv", index=False)
    metadata.unlink()
    with pytest.raises(ValueError, match=r"other has embeddings of widths \[100, .* 768"):
        load_corpus(str(root), evaluation=str(other), stores=str(tmp_path))


def test_what_has_embeddings_alone_is_left_out_beside_recordings(copy, tmp_path):
    root, metadata = copy
    other = tmp_path / "other"
    shutil.copytree(root, other)
    table = pd.read_csv(metadata, dtype=str, keep_default_na=False)
    renamed = table.assign(sound_id="x" + table["sound_id"])
    renamed.to_csv(next((other / "metadata").glob("*_metadata.csv")), index=False)
    shutil.rmtree(other / "audio")
    (other / "features").mkdir()
    corpus = load_corpus(str(root), str(other), stores=str(tmp_path / "stores"), sample_rate=RATE)
    assert set(corpus.table["origin"]) == {"bsd10k"} and "other is left out" in corpus.notes[-1]


def test_metadata_alone_is_not_enough(copy, tmp_path):
    root, _ = copy
    shutil.rmtree(root / "audio")
    with pytest.raises(ValueError, match="neither audio/ nor features/.*audio.zip"):
        load_corpus(str(root), stores=str(tmp_path), sample_rate=RATE)
