import dataclasses
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import soundfile
from safetensors.torch import load_file, save_file

from haf_utils.cli import main
from haf_utils.config import FinetuneConfig
from haf_utils.experiment import assembly
from haf_utils.experiment import export as exporting
from haf_utils.experiment.assembly import SHIPPED
from haf_utils.experiment.export import export
from haf_utils.experiment.members import trained_ours
from haf_utils.experiment.predict import (
    classify_files,
    find_recordings,
    load_system,
    match_texts,
    passed_over,
    predict_again,
    read_texts,
)
from haf_utils.experiment.workspace import Workspace
from haf_utils.fast import htsat
from haf_utils.io.checkpoints import CheckpointError
from haf_utils.io.files import write_json
from haf_utils.profiles import REPOSITORY, profile
from haf_utils.runs import RunError, load_run
from haf_utils.taxonomy import CLASSES
from haf_utils.training import finetune

RATE = 16_000
SYSTEMS = {
    "head": {"train": "head"},
    "joint": {},
    "passt": {"system": "passt"},
    "text_aux": {"system": "text_aux", "train": "head"},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A dataset of five clips a class, some longer than a window, every other one with a text; a run a system."""
    if not (REPOSITORY / profile("tiny").checkpoint).is_dir():
        pytest.skip("the embedded checkpoint is absent")
    root = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    (root / "data/audio").mkdir(parents=True)
    (root / "data/metadata").mkdir()
    rows = []
    for clip, code in enumerate(CLASSES * 5):
        samples = rng.normal(0, 0.1, RATE * (4 if clip % 20 == 0 else 1) // 2)
        soundfile.write(root / f"data/audio/{clip}.wav", samples, RATE)
        title = f"{code} sound of class {code}" if clip % 2 else ""
        rows.append((clip, code, "", "", 5, f"u{clip % 7}", "", title, "", ""))
    columns = "sound_id class class_idx class_top confidence uploader license title tags description".split()
    pd.DataFrame(rows, columns=columns).to_csv(root / "data/metadata/BSD10k_metadata.csv", index=False)
    return root


@pytest.fixture(scope="module")
def runs(work):
    config = FinetuneConfig(str(work / "data"), str(work / "runs"), profile="tiny", epochs=1, batch=16)
    return {name: finetune(dataclasses.replace(config, **fields), quiet=True) for name, fields in SYSTEMS.items()}


@pytest.fixture(scope="module")
def models(runs):
    return {name: load_system(folder) for name, folder in runs.items()}


@pytest.fixture(scope="module")
def texts(work):
    return read_texts(work / "data/metadata/BSD10k_metadata.csv")


@pytest.mark.parametrize("name", SYSTEMS)
def test_files_get_the_posteriors_of_the_run(runs, models, texts, work, name):
    test = load_run(runs[name]).part("test")
    paths = [work / f"data/audio/{id_}.wav" for id_ in test.ids]
    table = classify_files([models[name]], paths, texts)
    np.testing.assert_allclose(table[list(CLASSES)].to_numpy(), test.plain, atol=2e-5)
    assert table["class"].tolist() == [CLASSES[label] for label in test.plain.argmax(1)]
    np.testing.assert_allclose(table["score"], test.plain.max(1), atol=2e-5)
    again = classify_files([models[name]], paths[::-1][:3], texts)
    np.testing.assert_allclose(again["score"], table["score"][::-1][:3], atol=2e-5)


@pytest.mark.parametrize("name", ["head", "passt"])
def test_more_views_begin_with_those_that_the_run_recorded(runs, name, work):
    space = Workspace(str(work / "data"), "", "", "", "", str(work / "runs"), "", "tiny", "cpu", "fp32")
    run = load_run(runs[name])
    again, recorded = predict_again(run, "test", 3, space), run.part("test")
    assert again.ids.tolist() == recorded.ids.tolist() and again.posteriors.shape[0] == 3
    np.testing.assert_allclose(again.posteriors[:2], recorded.posteriors, atol=1e-6)


def test_openvino_gives_the_posteriors_of_torch(runs, models, texts, work, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = [work / f"data/audio/{clip}.wav" for clip in (0, 1, 2)]  # the first is longer than a window
    expected = classify_files([models["joint"]], paths, texts, views=1)[list(CLASSES)]
    by_openvino = load_system(runs["joint"], engine="openvino")
    monkeypatch.setattr(htsat, "encode", None)  # PyTorch's forward pass
    found = classify_files([by_openvino], paths, texts, views=1)[list(CLASSES)]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert by_openvino.clap.network.encoder is None


def test_views_are_random_windows_and_repeat_exactly(models, texts, work):
    model = models["joint"]
    paths = [work / "data/audio/0.wav", work / "data/audio/1.wav"]
    plain, views = (classify_files([model], paths, texts, views=v)[list(CLASSES)].to_numpy() for v in (0, 3))
    np.testing.assert_allclose(views.sum(1), 1, atol=1e-5)
    assert (np.abs(views - plain).max(1) > 0).all()
    np.testing.assert_array_equal(views, classify_files([model], paths, texts, views=3)[list(CLASSES)].to_numpy())


def test_an_ensemble_is_the_weighted_mean_of_its_runs(models, texts, work):
    models = [models["joint"], models["passt"]]
    paths = find_recordings([work / "data/audio"])[:5]
    a, b = (classify_files([model], paths, texts)[list(CLASSES)].to_numpy() for model in models)
    both = classify_files(models, paths, texts, weights=[3, 1])[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(both, 0.75 * a + 0.25 * b, atol=1e-6)
    with pytest.raises(ValueError, match="weights must be one a model, 2 in all"):
        classify_files(models, paths, texts, weights=[1])
    with pytest.raises(ValueError, match="no model"):
        classify_files([], paths)


def test_only_a_system_that_reads_texts_is_moved_by_them(models, texts, work):
    path = [work / "data/audio/1.wav"]
    for name, reads in (("joint", True), ("text_aux", False), ("passt", False)):
        model = models[name]
        with_text, without = (classify_files([model], path, t)[list(CLASSES)].to_numpy() for t in (texts, {}))
        assert model.reads_text == reads
        assert np.allclose(with_text, without, atol=1e-6) != reads


def test_what_cannot_be_decoded_keeps_a_row(models, work, tmp_path):
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    paths = [tmp_path / "empty.wav", work / "data/audio/3.wav", tmp_path / "absent.wav", tmp_path / "silent.wav"]
    table = classify_files([models["passt"]], paths)
    assert table["problem"].tolist() == [
        "empty: the file has no bytes",
        "",
        "missing: no such file",
        "silent: peak 0.0e+00",
    ]
    assert table["class"].eq("").tolist() == [True, False, True, True]
    assert table["score"].isna().tolist() == [True, False, True, True]


def older(folder: Path) -> Path:
    """A run folder as an older version left it, which noted no digests."""
    metrics = load_run(folder).metrics
    write_json(folder / "metrics.json", {name: metrics[name] for name in metrics.keys() - {"digest", "weights"}})
    return folder


def test_a_run_that_cannot_hear_is_refused(runs, tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        load_system(tmp_path / "nothing")
    copy = older(shutil.copytree(runs["head"], tmp_path / "copy"))
    record = load_run(copy).config
    record["config"]["fusion"] = "concatenation"
    write_json(copy / "config.json", record)
    with pytest.raises(RunError, match="does not hold the classifier"):
        load_system(copy)
    for checkpoint, message in ((SHIPPED, "train on audio"), ("another", "another checkpoint than")):
        record["digests"]["checkpoint"] = checkpoint
        write_json(copy / "config.json", record)
        with pytest.raises(RunError, match=message):
            load_system(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match="no model.safetensors"):
        load_system(copy)


def test_the_command(runs, work, tmp_path, capsys):
    (tmp_path / "sounds").mkdir()
    shutil.copy(work / "data/audio/1.wav", tmp_path / "sounds")
    (tmp_path / "sounds/broken.flac").write_bytes(b"nothing")
    (tmp_path / "texts.csv").write_text("file,title\n1.wav,door slam\n")
    out = tmp_path / "out.csv"
    asked = ["predict", str(runs["joint"]), str(runs["passt"]), str(tmp_path / "sounds"), "--out", str(out)]
    asked += ["--metadata", str(tmp_path / "texts.csv"), "--views", "2"]
    assert main(asked) == 1  # one of the two was lost
    printed = capsys.readouterr()
    assert printed.out.count(" %") == 3 and "not classified: damaged" in printed.out
    assert "1 of 2 recordings could not be classified" in printed.err
    assert "the average of 2 runs" in printed.out and "has a text for 1 of 2 recordings" in printed.out
    table = pd.read_csv(out, keep_default_na=False)
    assert table["text"].tolist() == [True, False] and float(table["score"][0]) > 0
    assert main(asked) == 2 and "exists" in capsys.readouterr().err
    assert main([*asked, "--overwrite"]) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["RUN", "RUN"], "nothing to classify"),
        (["RUN", "FOLDER"], "holds no sound file"),
        (["FOLDER", "x.wav"], "is no run folder"),
        (["RUN", "x.wav", "--views", "-1"], "at least 0"),
        (["RUN", "x.wav", "--weights", "1", "2"], "weights must be one a model, 1 in all"),
        (["RUN", "x.wav", "--metadata", "METADATA"], "needs a column"),
        (["RUN", "x.wav", "--device", "cuda:77"], "cuda"),
        (["RUN", "x.wav", "--engine", "openvino"], "PaSST, which PyTorch alone embeds"),
    ],
)
def test_wrong_arguments(runs, tmp_path, capsys, arguments, message):
    (tmp_path / "m.csv").write_text("name,title\na,b\n")
    stand_for = {"RUN": str(runs["passt"]), "FOLDER": str(tmp_path), "METADATA": str(tmp_path / "m.csv")}
    assert main(["predict", *(stand_for.get(word, word) for word in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_texts_are_cleaned_and_keyed_by_name(tmp_path):
    (tmp_path / "m.csv").write_text('sound_id,title,tags\n12,Door_slam.wav,"door,wood"\nv1.2,rain,\n')
    texts = read_texts(tmp_path / "m.csv")
    assert texts["12"].startswith("Door slam") and "wood" in texts["12"] and texts["v1.2"] == "rain"


def test_a_text_for_two_names_that_look_the_same_is_refused(tmp_path):
    paths = [tmp_path / "caf\u00e9.wav", tmp_path / "cafe\u0301.wav"]
    assert match_texts(paths[:1] * 2, {"caf\u00e9": "x"}) == ["x", "x"]
    with pytest.raises(ValueError, match="fits .* and .*rename one of them"):
        match_texts(paths, {"caf\u00e9": "x"})


@pytest.mark.parametrize("rows", ["", ",a title\n,another\n"])
def test_a_table_without_a_single_text_is_named(tmp_path, rows):
    (tmp_path / "texts.csv").write_text(f"sound_id,title\n{rows}")
    with pytest.raises(ValueError, match="texts.csv has no row with a sound_id"):
        read_texts(tmp_path / "texts.csv")


def test_two_clips_of_one_name_have_their_own_texts(tmp_path):
    paths = [tmp_path / "a/1.wav", tmp_path / "b/1.wav", tmp_path / "cafe\u0301.wav", tmp_path / "2.flac"]
    texts = tmp_path / "m.csv"
    texts.write_text("file,title\n./a/1.wav,rain\nb//1.wav,wind\ncaf\u00e9,coffee\n2.wav,bell\n", "utf-8")
    assert match_texts(paths, read_texts(texts)) == ["rain", "wind", "coffee", "bell"]
    assert match_texts(paths[1:2], read_texts(texts)) == ["wind"]
    assert match_texts([tmp_path / "1.wav", tmp_path / "1.mp3"], {"1.wav": "x", "1.mp3": "y"}) == ["x", "y"]
    with pytest.raises(ValueError, match=r"'1' fits .*a/1.wav and .*b/1.wav"):
        match_texts(paths, {"1": "rain"})
    with pytest.raises(ValueError, match="no id of the texts matches a recording, e.g. 101.0 and 101.wav"):
        match_texts([tmp_path / "101.wav"], {"101.0": "rain"})
    texts.write_text("file,title\na/1.wav,rain\n./a/1.wav,wind\n", "utf-8")
    with pytest.raises(ValueError, match="'a/1.wav' occurs more than once"):
        read_texts(texts)


def test_views_do_not_depend_on_how_a_path_is_spelt(models, work, tmp_path, monkeypatch):
    name = "caf\u00e9\udcff.wav"  # not UTF-8, as names on old disks
    shutil.copy(work / "data/audio/0.wav", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    spelt = [name, f"./{name}", f"../{tmp_path.name}/{name}", tmp_path / name]
    tables = [classify_files([models["joint"]], [path], views=2)[list(CLASSES)] for path in spelt]
    assert all(table.equals(tables[0]) for table in tables)
    assert len(find_recordings([*spelt, "."])) == 1


def test_weights_that_are_not_finite_are_refused(runs, tmp_path):
    copy = shutil.copytree(runs["passt"], tmp_path / "copy")
    state = {name: value * float("nan") for name, value in load_file(copy / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors is not as its run wrote it"):
        load_system(copy)
    older(copy)
    with pytest.raises(CheckpointError, match="model.safetensors holds weights that are not finite"):
        load_system(copy)


def test_what_is_no_recording_in_a_folder_is_listed(tmp_path):
    for name in ("a.wav", "b.M4A", "c.m4a", "notes", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert passed_over([tmp_path, tmp_path / "sub", tmp_path / "a.wav"]) == ".m4a (2), .txt (1), notes (1)"
    assert passed_over([tmp_path / "a.wav"]) == ""
    for kind in range(20):
        (tmp_path / f"x\x1b.{kind}").touch()
    assert re.fullmatch(r"(\S+ \(\d\),? ){12}and 11 other kinds", passed_over([tmp_path]))


def test_control_characters_of_a_name_do_not_reach_the_terminal(runs, work, tmp_path, capsys):
    shutil.copy(work / "data/audio/0.wav", tmp_path / "\x1b[31m\nred \u00fc.wav")
    assert main(["predict", str(runs["head"]), str(tmp_path)]) == 0
    assert "\\x1b[31m\\nred \u00fc.wav\n    " in capsys.readouterr().out


def test_a_timeline_says_when_which_class_is_heard(models, work, tmp_path, capsys, runs):
    model, rng = models["joint"], np.random.default_rng(1)
    window = model.window / model.sample_rate
    rate = 16_000
    parts = [rng.normal(0, 0.1, int(window * rate)), np.zeros(3 * int(window * rate)), rng.normal(0, 0.1, rate // 2)]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), rate)
    soundfile.write(tmp_path / "short.wav", parts[2], rate)
    (tmp_path / "lost.wav").touch()
    paths = [tmp_path / f"{name}.wav" for name in ("long", "lost", "short")]
    table = classify_files([model, models["passt"]], paths, segments=True)
    total = 4 * window + 0.5
    assert [Path(file).stem for file in table["file"]] == ["long"] * 5 + ["lost", "short"]
    starts = [0, window, 2 * window, 3 * window, total - window]
    expected = [*((start, start + window) for start in starts), (np.nan, np.nan), (0, 0.5)]
    np.testing.assert_allclose(table[["start", "end"]], expected, atol=1e-3)
    assert table["problem"][2] == "silent: no sound in this segment" and "no bytes" in table["problem"][5]
    assert [place for place, name in enumerate(table["class"]) if name == ""] == [2, 5]
    whole = classify_files([model, models["passt"]], [tmp_path / "short.wav"])
    np.testing.assert_allclose(table.loc[[6], list(CLASSES)], whole[list(CLASSES)], atol=1e-6)
    soundfile.write(tmp_path / "first.wav", parts[0], rate)  # a segment is what it would be alone
    alone = classify_files([model], [tmp_path / "first.wav"])
    first = classify_files([model], [tmp_path / "long.wav"], segments=True)
    np.testing.assert_allclose(first.loc[[0], list(CLASSES)], alone[list(CLASSES)], atol=1e-3)
    assert main(["predict", str(runs["joint"]), str(tmp_path / "long.wav"), "--segments"]) == 1
    printed = capsys.readouterr()
    assert f"long.wav  0.0 to {window:.1f} s" in printed.out and "1 of 5 segments could not be" in printed.err


def test_the_lines_of_the_readme_run(runs, work, tmp_path, monkeypatch):
    text = (REPOSITORY / "README.md").read_text("utf-8")
    lines = text.split("The same from Python:")[1].split("```python\n")[1].split("```")[0]
    shutil.copytree(runs["head"], tmp_path / "runs/embedded-mini/haf-head_f0_s0")
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    shutil.copy(work / "data/audio/1.wav", tmp_path / "rain.wav")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    assert names["table"]["class"][0] in CLASSES and bool(names["table"]["text"][0])
    assert names["embeddings"].shape == (1, 512)
    assert len(lines.split("\n\n")[1].splitlines()) + 2 <= 6


def test_a_folder_of_runs_is_the_system_ours(runs, work, tmp_path, capsys):
    shares, names, _ = trained_ours(work / "runs")
    assert set(shares) < {runs["head"], runs["text_aux"], runs["passt"]}  # CLAP members of this profile are heads
    sound, out = work / "data/audio/2.wav", tmp_path / "out.csv"
    assert main(["predict", str(work / "runs"), str(sound), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    members = (f"{name} ({run.name})" for name, run in zip(names, shares, strict=True))
    assert printed.splitlines()[0] == f"ours: {', '.join(members)}"
    expected = classify_files([load_system(run) for run in shares], [sound], weights=list(shares.values()))
    np.testing.assert_allclose(pd.read_csv(out)[list(CLASSES)], expected[list(CLASSES)], atol=1e-5)


# What is handed on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_exported_model_predicts_the_same_wherever_it_is(runs, models, texts, work, name, tmp_path, monkeypatch):
    (out,) = [export(runs[name], tmp_path / "model").rename(tmp_path / "elsewhere")]
    monkeypatch.setattr(assembly, "checkpoint_of", None)  # nothing but the folder is needed
    paths = [work / f"data/audio/{clip}.wav" for clip in (0, 1, 2)]
    expected, found = (
        classify_files([model], paths, texts)[list(CLASSES)] for model in (models[name], load_system(out))
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not any(str(work) in file.read_text() for file in (*out.glob("*.json"), out / "README.md"))


def test_the_model_card_has_the_scores_and_is_one_of_the_hubs(runs, tmp_path):
    out = export(runs["joint"], tmp_path / "model")
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.pipeline_tag == "audio-classification" and card.data.library_name == "haf-clap"
    run = load_run(runs["joint"])
    assert f"| hF | {100 * run.metrics['test']['hF']:.1f} % |" in card.text and "synthetic sounds" in card.text
    low, high = card.text.split("| hF |")[1].split("|")[1].removesuffix(" % ").split(" to ")
    assert float(low) - 0.05 <= 100 * run.metrics["test"]["hF"] <= float(high) + 0.05  # as they are rounded
    assert f"On {len(run.part('test').ids)} test clips of fold 0" in card.text
    files = {"README.md", "config.json", "metrics.json", "model.safetensors", "tokenizer.json"}
    assert {file.name for file in out.iterdir()} == files


def test_an_export_overwrites_nothing_and_is_whole_or_not_there(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    assert main(["export", str(runs["head"]), str(tmp_path / "mine")]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err and not list((tmp_path / "mine").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "card", lambda run, model: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(runs["head"], tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main(["export", str(runs["head"]), str(tmp_path / "model")]) == 0
    sound = runs["head"].parents[1] / "data/audio/1.wav"
    assert main(["predict", str(tmp_path / "model"), str(sound)]) == 0
    assert "1.wav" in capsys.readouterr().out
    with pytest.raises(RunError, match="holds no predictions"):
        export(tmp_path / "model", tmp_path / "again")
