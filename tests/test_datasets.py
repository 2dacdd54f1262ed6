"""Loaders: five layouts to one table, and what can be wrong with a folder."""

import csv
import json

import numpy as np
import pytest
from conftest import need_shared

from haf_utils.datasets import (
    BSD_COLUMNS,
    COLUMNS,
    leaf_labels,
    load,
    load_bsd,
    load_evaluation,
    load_features,
    load_fsd50k,
    load_nsynth,
    read_csv,
    without,
)

V10_COLUMNS = ["sound_id", "class", "class_idx", "class_top", "set", "uploader", "license", "tags", "title"]


def write_csv(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def bsd_row(sound_id="1", code="fx-o", title="door.wav", tags="door,wood", description="A door.", confidence="4"):
    return [sound_id, code, "401", "fx", confidence, "me", "http://l", title, tags, description]


def make_bsd(root, rows=None, name="BSD10k", columns=BSD_COLUMNS, audio=()):
    write_csv(root / "metadata" / f"{name}_metadata.csv", columns, [bsd_row()] if rows is None else rows)
    write_csv(root / "metadata" / "BST_description.csv", ["class_key", "class_idx"], [["fx-o", "401"]])
    (root / "audio").mkdir()
    for file in audio:
        (root / "audio" / file).touch()
    return root


def test_bsd_v12(tmp_path):
    rows = [
        bsd_row("7", "ss-s"),
        bsd_row("0012", "m-sp", confidence=""),
        bsd_row("9", title="", tags="", description=""),
    ]
    table = load(make_bsd(tmp_path, rows, audio=["7.wav", "0012.FLAC", "7.mp3", "._9.wav", "9.txt"]))
    assert tuple(table.columns) == (*COLUMNS, "license")
    assert list(table.sound_id) == ["7", "0012", "9"]
    assert list(table.label) == [22, 0, 11] and list(table.code) == ["ss-s", "m-sp", "fx-o"]
    assert [path and path.rsplit("/")[-1] for path in table.path] == ["7.wav", "0012.FLAC", None]
    assert list(table.path.isna()) == [False, False, True]
    assert table.confidence[0] == 4 and np.isnan(table.confidence[1])
    assert (table.loc[2, ["title", "tags", "description"]] == "").all()
    assert set(table.source) == {"bsd10k"}


def test_bsd_v10_has_other_columns_and_other_indices(tmp_path):
    row = ["5", "is-k", "6", "is", "test", "me", "http://l", "piano,key", "C4.wav"]
    table = load_bsd(make_bsd(tmp_path, [row], columns=V10_COLUMNS))
    assert table.label[0] == 6 and table.title[0] == "C4.wav" and table.description[0] == ""
    assert table["set"][0] == "test" and np.isnan(table.confidence[0])
    assert table.attrs["absent_columns"] == ["confidence", "description"]


def test_the_code_decides_not_the_index(tmp_path):
    row = bsd_row(code="fx-a")
    row[2] = "0"
    assert load_bsd(make_bsd(tmp_path, [row])).label[0] == 15


def test_bsd35k_drops_and_counts_what_is_not_part_of_the_task(tmp_path, capsys):
    codes = ["fx-other", "m", "fx-v", "fx-other", "ss-other"]
    table = load(make_bsd(tmp_path, [bsd_row(str(i), code) for i, code in enumerate(codes)], name="BSD35k-CS"))
    assert list(table.sound_id) == ["2"] and set(table.source) == {"bsd35k-cs"}
    assert table.attrs["dropped"] == {"fx-other": 2, "m": 1, "ss-other": 1}
    assert table.attrs["dropped_ids"] == ["0", "1", "3", "4"]
    assert table[table.label > 0].attrs["dropped"] == table.attrs["dropped"]
    assert capsys.readouterr() == ("", "")


def test_evaluation(tmp_path):
    uuid = "0a1b2c3d-0000-4000-8000-000000000001"
    columns = ["anonymous_id", "title", "tags", "description"]
    write_csv(tmp_path / "metadata" / "eval.csv", columns, [[uuid, "dog.wav", "dog,bark", ""], ["x", "", "", ""]])
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / f"{uuid}.wav").touch()
    table = load(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert list(table.label) == [-1, -1] and list(table.code) == ["", ""]
    assert table.path[0].endswith(f"{uuid}.wav") and table.path[1] is None
    assert table.title[0] == "dog.wav" and set(table.source) == {"evaluation"}


def make_fsd50k(root):
    write_csv(
        root / "FSD50K.ground_truth" / "dev.csv",
        ["fname", "labels", "mids", "split"],
        [
            ["10", "Bark,Dog,Domestic_animals_and_pets,Animal", "m", "train"],
            ["11", "Dog,Domestic_animals_and_pets,Animal", "m", "val"],
            ["12", "Meow,Cat,Domestic_animals_and_pets,Animal,Rain,Water", "m", "train"],
        ],
    )
    write_csv(
        root / "FSD50K.ground_truth" / "eval.csv",
        ["fname", "labels", "mids"],
        [
            ["20", "Cat,Domestic_animals_and_pets,Animal", "m"],
            ["21", "Rain,Water", "m"],
            ["22", "Water", "m"],
            ["23", "Meow,Cat,Domestic_animals_and_pets,Animal", "m"],
        ],
    )
    info = {"10": {"title": "a.wav", "description": "d", "tags": ["x", "y"], "license": "l", "uploader": "u"}}
    for name, content in (("dev", info), ("eval", {"20": {"title": "é"}})):
        file = root / "FSD50K.metadata" / f"{name}_clips_info_FSD50K.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        (root / f"FSD50K.{name}_audio").mkdir()
    (root / "FSD50K.eval_audio" / "20.wav").touch()
    return root


def test_fsd50k(tmp_path):
    table = load(make_fsd50k(tmp_path))
    assert list(table.sound_id) == ["10", "11", "12", "20", "21", "22", "23"]
    assert list(table.labels) == [("Bark",), ("Dog",), ("Meow", "Rain"), ("Cat",), ("Rain",), ("Water",), ("Meow",)]
    assert list(table.part) == ["train", "val", "train", "eval", "eval", "eval", "eval"]
    assert table.tags[0] == "x,y" and table.uploader[0] == "u" and table.title[3] == "é"
    assert set(table.label) == {-1} and table.path[3].endswith("20.wav") and table.path[0] is None
    assert {sound_id for _, sound_id, _ in table.attrs["problems"]} == {"11", "12", "21", "22", "23"}


def test_fsd50k_of_one_part_without_metadata(tmp_path):
    make_fsd50k(tmp_path)
    (tmp_path / "FSD50K.ground_truth" / "dev.csv").unlink()
    (tmp_path / "FSD50K.metadata" / "eval_clips_info_FSD50K.json").unlink()
    table = load_fsd50k(tmp_path)
    assert len(table) == 4 and len(table.attrs["problems"]) == 1 and set(table.title) == {""}


def test_leaf_labels_keeps_labels_that_only_sometimes_go_together():
    smeared = [("Guitar", "Music"), ("Drum", "Music"), ("Guitar", "Drum", "Music"), ("Music",)]
    assert leaf_labels(smeared) == [("Guitar",), ("Drum",), ("Guitar", "Drum"), ("Music",)]
    twice = ("Drill", "Tools")
    assert leaf_labels([twice, twice]) == [("Drill",)] * 2
    assert leaf_labels([twice]) == [twice]
    assert leaf_labels([("A", "A")]) == [("A",)] and leaf_labels([]) == []


def note(pitch=60):
    strings = {"instrument_str": "bass_synthetic_068", "instrument_family_str": "bass", "note_str": "n"}
    return strings | {
        "instrument_source_str": "synthetic",
        "pitch": pitch,
        "velocity": 100,
        "qualities_str": ["dark"],
        "qualities": [0] * 10,
        "sample_rate": 16000,
    }


@pytest.mark.parametrize("nested", [True, False])
def test_nsynth(tmp_path, nested):
    folder = tmp_path / "nsynth-valid"
    (folder / "audio").mkdir(parents=True)
    (folder / "examples.json").write_text(json.dumps({"bass_synthetic_068-049-025": note(49)}))
    (folder / "audio" / "bass_synthetic_068-049-025.wav").touch()
    table = load(tmp_path if nested else folder)
    assert list(table.sound_id) == ["bass_synthetic_068-049-025"] and table.part[0] == "valid"
    assert table.record[0]["pitch"] == 49 and "qualities" not in table.record[0]
    assert table.path[0].endswith("-025.wav") and table.label[0] == -1


def test_nsynth_note_without_pitch(tmp_path):
    broken = note()
    del broken["pitch"]
    (tmp_path / "examples.json").write_text(json.dumps({"n1": broken}))
    with pytest.raises(ValueError, match="examples.json.*'n1' has no pitch"):
        load_nsynth(tmp_path)
    (tmp_path / "examples.json").write_text('{"n1": ')
    with pytest.raises(ValueError, match="examples.json is not valid JSON"):
        load_nsynth(tmp_path)


def test_without_counts_the_clips_of_other_tables(tmp_path):
    table = load_bsd(make_bsd(tmp_path, [bsd_row(i) for i in "1234"]))
    rest, removed = without(table, table[table.sound_id == "2"], table[table.sound_id == "4"])
    assert list(rest.sound_id) == ["1", "3"] and removed == 2 and list(rest.index) == [0, 1]
    assert rest.attrs["source_file"] == table.attrs["source_file"]
    assert without(table)[1] == 0


# Features ---------------------------------------------------------------------------------------------------------


def make_features(root, ids, text_ids=None):
    for modality, chosen in (("audio", ids), ("text", ids if text_ids is None else text_ids)):
        folder = root / "features" / f"clap_{modality}_embeddings"
        folder.mkdir(parents=True)
        for sound_id in chosen:
            np.save(folder / f"{sound_id}.npy", np.full((1, 512), int(sound_id), np.float64))
    return root / "features" / "clap_audio_embeddings"


def test_features_in_the_order_of_the_ids(tmp_path):
    make_features(tmp_path, ["1", "2", "3"])
    audio, text = load_features(tmp_path, ["3", "1"])
    assert audio.shape == text.shape == (2, 512) and audio.dtype == text.dtype == np.float32
    assert list(audio[:, 0]) == [3, 1] == list(text[:, 511])


def test_missing_and_damaged_features_are_named_and_the_rest_is_kept(tmp_path):
    folder = make_features(tmp_path, ["1", "2", "3", "4", "5", "6"])
    (folder / "2.npy").unlink()
    (folder / "3.npy").write_bytes((folder / "1.npy").read_bytes()[:300])
    np.save(folder / "4.npy", np.ones(7))
    np.save(folder / "5.npy", np.array([{"pickled": "object"}]), allow_pickle=True)
    (folder / "6.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"clap_audio_embeddings: 5 .* 2 \(.*3 \(.*4 \(.*5 \(.*6 \("):
        audio, text = load_features(tmp_path, "123456")
    assert list(np.isfinite(audio).all(1)) == [True] + [False] * 5
    assert np.isfinite(text).all()


def test_features_of_any_width_and_a_wrong_shape_is_named(tmp_path):
    folder = make_features(tmp_path, ["1", "2", "3"])
    for clip in "123":
        np.save(folder / f"{clip}.npy", np.full(768, int(clip)))
    np.save(folder / "1.npy", np.ones((4, 768)))
    with pytest.warns(UserWarning, match=r"1 \(ValueError: shape \(4, 768\) is no single vector"):
        audio, text = load_features(tmp_path, "123")
    assert audio.shape == (3, 768) and text.shape == (3, 512)
    np.save(folder / "1.npy", np.ones(100))
    with pytest.warns(UserWarning, match=r"shape \(100,\), where most have \(768,\)"):
        load_features(tmp_path, "123")


def test_features_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="features.zip"):
        load_features(tmp_path, ["1"])
    make_features(tmp_path, ["1"])
    with pytest.raises(ValueError, match="none of the 2 clips.*the folder has 1.npy"):
        load_features(tmp_path, ["8", "9"])


# What can be wrong ------------------------------------------------------------------------------------------------


def test_a_wrong_folder_says_what_was_expected_and_what_was_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"(?s)BSD10k_metadata.csv.*examples.json.*Found: notes.txt"):
        load(tmp_path)
    make_fsd50k(tmp_path)
    with pytest.raises(ValueError, match="expected BSD10k or BSD35k-CS.*found FSD50K"):
        load_bsd(tmp_path)
    with pytest.raises(ValueError, match="expected evaluation set.*found FSD50K"):
        load_evaluation(tmp_path)


def test_a_folder_above_or_below_is_suggested(tmp_path):
    make_bsd(tmp_path / "data")
    for folder in (tmp_path, tmp_path / "data" / "audio"):
        with pytest.raises(ValueError, match=f"Did you mean {tmp_path / 'data'}?"):
            load(folder)


def test_two_datasets_in_one_folder(tmp_path):
    make_bsd(tmp_path)
    write_csv(tmp_path / "metadata" / "BSD35k-CS_metadata.csv", BSD_COLUMNS, [bsd_row()])
    with pytest.raises(ValueError, match="several metadata files.*BSD10k_metadata.csv, BSD35k-CS_metadata.csv"):
        load(tmp_path)


@pytest.mark.parametrize("missing", ["sound_id", "class", "title", "tags", "uploader"])
def test_a_missing_column_is_named_with_file_and_layout(tmp_path, missing):
    columns = [column if column != missing else "renamed" for column in BSD_COLUMNS]
    with pytest.raises(
        ValueError, match=f"BSD10k_metadata.csv lacks the column {missing}.*class_idx.*found: .*renamed"
    ):
        load(make_bsd(tmp_path, columns=columns))


def test_classes_outside_the_taxonomy_and_duplicates_are_listed_together(tmp_path):
    rows = [bsd_row("1", "fx-zz"), bsd_row("2"), bsd_row("2"), bsd_row("3", ""), bsd_row("", "m-m")]
    make_bsd(tmp_path, rows)
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    message = str(error.value)
    assert "2 × out of taxonomy, 1 × duplicate id, 1 × missing id" in message
    assert "1: row 1: class 'fx-zz'" in message and "3: row 4: class ''" in message and "row 5 has no id" in message
    table = load(tmp_path, strict=False)
    assert list(table.sound_id) == ["1", "2", "3"] and list(table.label) == [-1, 11, -1]
    assert len(table.attrs["problems"]) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_mark_quoted_newlines_and_long_descriptions(tmp_path, encoding):
    long = "word " * 20_000
    rows = [bsd_row("1", description='two\nlines, "quoted"'), bsd_row("2", description=long), bsd_row("3")]
    make_bsd(tmp_path, rows)
    file = tmp_path / "metadata" / "BSD10k_metadata.csv"
    file.write_bytes(file.read_text("utf-8").encode(encoding))
    table = load(tmp_path)
    assert list(table.sound_id) == ["1", "2", "3"]
    assert table.description[0] == 'two\nlines, "quoted"' and table.description[1] == long


def test_latin_1_lines_are_read_with_a_warning_and_utf_8_lines_kept(tmp_path):
    make_bsd(tmp_path, [bsd_row("1", title="čeština"), bsd_row("2", title="XX")])
    file = tmp_path / "metadata" / "BSD10k_metadata.csv"
    file.write_bytes(file.read_bytes().replace(b"XX", b"caf\xe9"))
    with pytest.warns(UserWarning, match="BSD10k_metadata.csv: 1 lines are not UTF-8.*: 3"):
        table = load(tmp_path)
    assert list(table.title) == ["čeština", "café"] and table.attrs["not_utf8_rows"] == [3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable CSV"),
        ("a,b\n1,2,3\n", "not a readable CSV.*line 2: 3 fields"),
        ('a,b\n1,"never closed\n2,3\n', "not a readable CSV"),
        ("a,b\n1,2\n3,te\0xt\n", "line 3 holds NUL bytes"),
        ("a,b,a\n1,2,3\n", "the column 'a' occurs twice"),
        ("a;b\n1;2\n", "separated by semicolons"),
        ("a\tb\n1\t2\n", "separated by tabs"),
    ],
)
def test_a_broken_csv_names_file_and_row(tmp_path, content, message):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ValueError, match=f"x.csv.*{message}"):
        read_csv(tmp_path / "x.csv")


def test_utf_16_that_ends_in_the_middle_of_a_letter_is_read_with_a_warning(tmp_path):
    (tmp_path / "a.csv").write_bytes("sound_id,title\n1,x\n2,yz".encode("utf-16")[:-1])
    with pytest.warns(UserWarning, match="a.csv: 1 lines are not UTF-8.*: 3"):
        assert read_csv(tmp_path / "a.csv")["sound_id"].tolist() == ["1", "2"]


def test_commas_at_the_end_of_lines_shift_nothing(tmp_path):
    for header in ("a,b", "a,b,,"):
        (tmp_path / "x.csv").write_text(f"{header}\n1,2,\n3,4,,,\n5\n")
        assert read_csv(tmp_path / "x.csv").to_dict("list") == {"a": ["1", "3", "5"], "b": ["2", "4", ""]}


def test_a_table_with_semicolons_is_still_that_dataset(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "eval.csv").write_text('"anonymous_id";title\n1;2\n')
    with pytest.raises(ValueError, match="eval.csv.*separated by semicolons"):
        load(tmp_path)


def test_composed_and_decomposed_names_meet_and_doubles_are_refused(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = make_bsd(tmp_path, [bsd_row(composed), bsd_row("7")], audio=[f"{decomposed}.wav", "7.wav"])
    assert load(root).path.notna().all()
    (root / "audio" / f"{composed}.wav").touch()
    with pytest.raises(ValueError, match="two recordings of one name"):
        load(root)
    make_bsd(tmp_path / "ids", [bsd_row(composed), bsd_row(decomposed)])
    with pytest.raises(ValueError, match="1 × duplicate id"):
        load(tmp_path / "ids")


def test_ids_that_a_spreadsheet_changed_are_told_with_an_example(tmp_path):
    root = make_bsd(tmp_path, [bsd_row("101.0"), bsd_row("102.0")], audio=["101.wav", "102.wav"])
    with pytest.raises(ValueError, match=r"no id matches a recording, e.g. 101.0 and 101.wav"):
        load(root)
    assert ("no match", "") in {problem[:2] for problem in load(root, strict=False).attrs["problems"]}


def test_an_empty_table_and_texts_that_look_like_missing_values(tmp_path):
    assert len(load(make_bsd(tmp_path / "empty", []))) == 0
    table = load(make_bsd(tmp_path / "na", [bsd_row("1", title="NA", tags="null", description="NaN")]))
    assert list(table.loc[0, ["title", "tags", "description"]]) == ["NA", "null", "NaN"]


# Real data --------------------------------------------------------------------------------------------------------


def test_real_v10_metadata():
    table = load(need_shared("bsd10k_v1.0"))
    assert len(table) == 10_309 and table["set"].value_counts().to_dict() == {"train": 9389, "test": 920}
    assert np.bincount(table.label).tolist()[:5] == [689, 655, 291, 607, 529]
    assert table.path.isna().all()


def test_real_v12_rows_and_real_recordings():
    assert set(load(need_shared("bsd10k_v1.2_sample")).confidence) == {1}
    table = load(need_shared("real_audio"))
    assert len(table) == 585 and table.path.notna().all() and table.label.nunique() == 18
