"""The mini PaSST: what it is trained on, that a stopped training goes on, and the file that is shipped."""

import hashlib
import json
import re
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest import mock

import hypothesis
import pytest
import torch
import train_clap_mini
import train_passt_mini
from hypothesis import strategies
from make_mini import captioned_clips

from haf_utils.passt import build_passt
from haf_utils.profiles import PROFILES, REPOSITORY
from haf_utils.taxonomy import CLASSES, NAMES, TOP_NAMES

CLIPS = 64
SIZES = PROFILES["mini"].passt
CLASS_WORDS = set(re.findall(r"\w+", " ".join([*NAMES.values(), *TOP_NAMES.values()]).lower()))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with generated clips and their texts."""
    folder = tmp_path_factory.mktemp("drawn")
    here = partial(captioned_clips, workers=1)  # starting processes takes longer than a few clips
    with mock.patch.object(train_clap_mini, "captioned_clips", here):
        train_clap_mini.Clips(folder, CLIPS, SIZES.sample_rate, train_passt_mini.SEED)
    return folder


@pytest.fixture
def train(drawn, tiny, tmp_path):
    """Train on a copy of the drawn clips: the folder that a run of the script, of the name and options given, wrote."""

    def run(name: str, *options: str) -> Path:
        scratch = tmp_path / name
        if not scratch.exists():
            shutil.copytree(drawn, scratch)
        fixed = ["--clips", str(CLIPS), "--epochs", "2", "--batch", "16", "--dataset", str(Path(tiny.dataset).parent)]
        train_passt_mini.main([*fixed, "--scratch", str(scratch), "--out", str(scratch / "out"), *options])
        return scratch / "out"

    return run


def test_a_stopped_training_goes_on_to_the_same_bits(train, tmp_path):
    straight = (train("straight") / "model.safetensors").read_bytes()
    half = (train("stopped", "--stop-after", "1") / "model.safetensors").read_bytes()
    out = train("stopped")
    assert half != straight == (out / "model.safetensors").read_bytes()
    log = (out / "train.log").read_text()
    assert [line.split(":")[0] for line in log.splitlines() if line.startswith("epoch")] == ["epoch 1", "epoch 2"]
    assert hashlib.sha256(straight).hexdigest() in log
    trained, fresh = build_passt(SIZES, out).state_dict(), build_passt(SIZES).state_dict()
    assert all(not torch.equal(value, fresh[name]) for name, value in trained.items())
    with pytest.raises(SystemExit, match="resume.pt is of a training with other settings"):
        train("stopped", "--rate", "0.01")


def test_classes_do_not_enter_the_training(train, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "shuffled")
    file = tmp_path / "shuffled" / "clips.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line | {"code": "none"}) + "\n" for line in lines))
    digests = {(train(name, "--epochs", "1") / "model.safetensors").read_bytes() for name in ("shuffled", "drawn")}
    assert len({line["code"] for line in lines}) > 1 and len(digests) == 1


@hypothesis.given(strategies.sampled_from(CLASSES), strategies.sampled_from(CLASSES), strategies.text())
def test_a_caption_does_not_depend_on_the_class(code, other, title):
    text = {"title": title, "tags": "dog,bark", "description": "", "recipe": "dog", "label": 1}
    captions = {train_passt_mini.caption(text | {"code": value, "label": value}) for value in (code, other)}
    assert captions == {train_passt_mini.caption(text)}


def test_tags_are_content_words_and_no_words_of_class_names():
    captions = ["the dog barks at 120bpm in Kraków", "Dog and speech", *NAMES.values(), *TOP_NAMES.values()]
    vectorizer = train_passt_mini.tagger(captions)
    assert vectorizer.get_feature_names_out().tolist() == ["barks", "bpm", "dog", "kraków"]
    assert vectorizer.transform(captions[:3]).toarray().tolist() == [[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_the_shipped_checkpoint_is_what_its_readme_says():
    folder = REPOSITORY / "data" / "passt-mini"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    log, readme = (folder / "train.log").read_text(), (folder / "README.md").read_text()
    assert digest in log and digest in readme
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 3_000_000
    config = json.loads((folder / "config.json").read_text())
    assert not CLASS_WORDS & set(config.pop("words"))
    assert config == asdict(SIZES)
    build_passt(SIZES, folder)
    for scores in re.findall(r"(?:passt-mini|random weights|clap-mini): (accuracy .+)", log):
        assert re.search(r"[\d.]+(?= %)", scores)[0] in readme
