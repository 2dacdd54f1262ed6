import copy
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import HAF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from haf_utils.cli import main
from haf_utils.metrics import hierarchical_scores
from haf_utils.submission import COLUMNS, file_names, read_ids, validate, write, write_metadata
from haf_utils.taxonomy import CLASSES

IDS = ["6f1c", "a2e0", "77b3"]
HEADER = ",".join(COLUMNS)


def posteriors(rows=3, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(23), rows)


def test_a_written_file_has_the_class_and_its_posterior(tmp_path):
    probabilities = posteriors()
    path = tmp_path / "new" / "out.csv"
    write(path, IDS, probabilities)
    table = pd.read_csv(path)
    assert tuple(table.columns) == COLUMNS and table["id"].tolist() == IDS
    assert table["predicted_bst_second_level_class"].tolist() == [CLASSES[c] for c in probabilities.argmax(1)]
    assert np.allclose(table["prediction_score"], probabilities.max(1), atol=1e-6)
    assert validate(path, IDS) == [] and [p.name for p in path.parent.iterdir()] == ["out.csv"]


def test_another_decision_keeps_its_own_posterior(tmp_path):
    probabilities = posteriors()
    write(tmp_path / "out.csv", IDS, probabilities, labels=["m-m", "fx-o", "ss-s"])
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["predicted_bst_second_level_class"].tolist() == ["m-m", "fx-o", "ss-s"]
    assert np.allclose(table["prediction_score"], probabilities[[0, 1, 2], [2, 11, 22]], atol=1e-6)


printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1)
printable = printable.filter(lambda name: name.isprintable() and name.strip())


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(printable, min_size=1, unique=True), st.integers(0, 9))
def test_what_is_written_is_valid_whatever_the_ids(tmp_path, ids, seed):
    path = tmp_path / "out.csv"
    write(path, ids, posteriors(len(ids), seed).astype(np.float32), overwrite=True)
    assert validate(path, ids) == []


def test_rounding_stays_within_zero_and_one(tmp_path):
    sure = np.eye(23)[[4]] * np.float32(1.0000001)
    write(tmp_path / "out.csv", [17], sure)
    assert (tmp_path / "out.csv").read_text() == f"{HEADER}\n17,is-s,1.000000\n"
    assert validate(tmp_path / "out.csv", [17]) == []


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="out.csv exists"):
        write(path, IDS, posteriors())
    assert path.read_text() == "precious"
    write(path, IDS, posteriors(), overwrite=True)
    assert validate(path) == []


@pytest.mark.parametrize(
    "ids, probabilities, labels, message",
    [
        (["a", "b", "a"], posteriors(), None, "id a occurs more than once"),
        (["a", 1, "1"], posteriors(), None, "id 1 occurs more than once"),
        (["a", None, "b"], posteriors(), None, "position 1 is empty"),
        (["a", float("nan"), "b"], posteriors(), None, "position 1 is empty"),
        (["a", "x\n", "b"], posteriors(), None, "position 1 is empty or not printable"),
        (["a", " ", "b"], posteriors(), None, "position 1 is empty"),
        (["a", "b"], posteriors(), None, "2 ids, 3 rows"),
        ([], np.empty((0, 23)), None, "at least one"),
        (IDS, np.ones((3, 23)), None, "row 0"),
        (IDS, posteriors()[:, :5], None, "shape"),
        (IDS, posteriors(), [0, 1], "2 labels"),
        (IDS, posteriors(), [0, 1, 23], "23 at position 2"),
    ],
)
def test_nothing_wrong_is_written(tmp_path, ids, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out.csv", ids, probabilities, labels)
    assert list(tmp_path.iterdir()) == []


def problems(tmp_path, text, expected=None):
    path = tmp_path / "out.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return validate(path, expected)


def test_order_is_free_and_ids_may_be_numbers(tmp_path):
    assert problems(tmp_path, f"{HEADER}\n2,fx-o,0.5\n1,m-m,1\n3,ss-s,0\n", [1, 2, 3]) == []


@pytest.mark.parametrize(
    "row, message",
    [
        ("b,fx-o", "line 3: 2 fields instead of 3"),
        ("", "line 3: 0 fields instead of 3"),
        ("b,fx-o,0.5,", "line 3: 4 fields instead of 3"),
        (",fx-o,0.5", "line 3: the id is empty"),
        ("a,fx-o,0.5", "line 3: id 'a' stood on line 2 already"),
        ("b,fx,0.5", "line 3: 'fx' is not a second-level class code"),
        ("b,fx-other,0.5", "line 3: 'fx-other' is not"),
        ("b,11,0.5", "line 3: '11' is not"),
        ("b, fx-o,0.5", "line 3: ' fx-o' is not"),
        ("b,fx-o,", "line 3: score '' is not a number"),
        ("b,fx-o,79%", "line 3: score '79%' is not a number"),
        ("b,fx-o,0_1", "line 3: score '0_1' is not a number"),
        ("b,fx-o,\u0661", "line 3: score '\u0661' is not a number"),
        ("b,fx-o,1.01", "line 3: score 1.01 is not in"),
        ("b,fx-o,-0.1", "line 3: score -0.1 is not in"),
        ("b,fx-o,nan", "line 3: score nan is not in"),
        ('b,fx-o,"0.5', "line 3: unexpected end of data"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    found = problems(tmp_path, f"{HEADER}\na,m-m,0.5\n{row}\n")
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: the header is ''"),
        (HEADER + "\n", "the file holds no rows"),
        ("id,class,score\na,m-m,1\n", "line 1: the header is 'id,class,score'"),
        ("a,m-m,1\n", "line 1: the header is"),
        (b"\xef\xbb\xbf" + f"{HEADER}\na,m-m,1\n".encode(), "line 1: the header is"),
        (f"{HEADER}\n\xe9,m-m,1\n".encode("latin-1"), "not readable as UTF-8"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    assert any(message in problem for problem in problems(tmp_path, text))


def test_ids_must_be_those_of_the_metadata(tmp_path):
    found = problems(tmp_path, f"{HEADER}\na,m-m,1\nz,m-m,1\n", list("abcdefgh"))
    assert found == [
        "line 3: id 'z' is not one of the clips to be classified",
        "7 of 8 ids are missing: b, c, d, e, f, ...",
    ]


@pytest.mark.parametrize("column", ["anonymous_id", "sound_id"])
def test_the_command_says_what_is_wrong(tmp_path, capsys, column):
    metadata, path = tmp_path / "metadata.csv", tmp_path / "out.csv"
    pd.DataFrame({column: IDS, "title": ["x", "NA", ""]}).to_csv(metadata, index=False)
    assert read_ids(metadata) == IDS
    write(path, IDS, posteriors())
    assert main(["submission", "check", str(path), "--ids", str(metadata)]) == 0
    assert capsys.readouterr().out == f"{path}: right\n"
    assert main(["submission", "check", str(path)]) == 0
    assert "not compared" in capsys.readouterr().out
    path.write_text(path.read_text().replace(IDS[1], "else"))
    assert main(["submission", "check", str(path), "--ids", str(metadata)]) == 1
    out = capsys.readouterr().out
    assert "line 3: id 'else'" in out and "1 of 3 ids are missing: a2e0" in out and "do not hand it in" in out


def test_the_command_says_what_it_cannot_check(tmp_path, capsys):
    assert main(["submission", "check", str(tmp_path / "absent.csv")]) == 2
    assert "absent.csv" in capsys.readouterr().err
    (tmp_path / "metadata.csv").write_text("name\nx\n")
    assert main(["submission", "check", str(tmp_path / "absent.csv"), "--ids", str(tmp_path / "metadata.csv")]) == 2
    assert "none of the columns" in capsys.readouterr().err


def test_the_installed_command_returns_the_exit_code(tmp_path):
    (tmp_path / "out.csv").write_text(f"{HEADER}\na,fx,1\n")
    done = subprocess.run([HAF, "submission", "check", str(tmp_path / "out.csv")], capture_output=True, text=True)
    assert done.returncode == 1 and "line 2: 'fx'" in done.stdout and done.stderr == ""


def test_file_names():
    label = "Jing_CQUPT-AUL_task1_4"
    assert file_names("Jing", "CQUPT-AUL", 4) == (f"{label}.output.csv", f"{label}.meta.yaml")
    assert file_names("Müller", "TU", 1)[0] == "Müller_TU_task1_1.output.csv"


@pytest.mark.parametrize(
    "parts", [("Jing", "X", 0), ("Jing", "X", 5), ("", "X", 1), ("De Vries", "X", 1), ("a_b", "X", 1), ("a", "../X", 1)]
)
def test_wrong_file_names(parts):
    with pytest.raises(ValueError, match="submission label"):
        file_names(*parts)


# ---- description


def description():
    affiliation = {"abbreviation": "EX", "institute": "Example Institute", "location": "Zürich, Switzerland"}
    author = {"lastname": "Doe", "firstname": "Ada", "email": "ada@example.org", "corresponding": True}
    submission = {
        "label": "Doe_EX_task1_2",
        "name": "HAF-CLAP",
        "abbreviation": "HAF",
        "authors": [{**author, "affiliation": affiliation}],
    }
    keys = "input_sampling_rate audio_representation text_representation data_augmentation machine_learning_method "
    keys += "external_data_usage hierarchical_setting"
    system = {
        "source_code": "https://example.org",
        "description": dict.fromkeys(keys.split(), "log-mel"),
        "complexity": {"total_parameters": np.int64(158_000_000), "MACS": 2.5e9},
        "external_datasets": ["FSD50K"],
    }
    return submission, system


def fold(seed):
    rng = np.random.default_rng(seed)
    truth = np.arange(230) % 22  # the last class has no clip
    predicted = np.where(rng.random(230) < 0.7, truth, rng.integers(0, 22, 230))
    return hierarchical_scores(truth, predicted, per_class=True)


def test_description_holds_fractions_overall_and_class_by_class(tmp_path):
    submission, system = description()
    path = tmp_path / "Doe_EX_task1_2.meta.yaml"
    folds = [fold(seed) for seed in range(5)]
    results = {"bsd10k-v1.2": [scores["per_class"] for scores in folds], "bsd35k-cs": folds[0]["per_class"]}
    write_metadata(path, submission, system, results)
    content = yaml.safe_load(path.read_text("utf-8"))
    assert list(content) == ["submission", "system", "results"]
    assert content["submission"] == submission
    assert content["system"]["complexity"] == {"total_parameters": 158_000_000, "MACS": 2_500_000_000}
    written = content["results"]["development_datasets"]
    assert list(written["bsd35k-cs"]) == ["overall"] and list(written["bsd10k-v1.2"]["class_wise"]) == list(CLASSES)
    for name in ("hP", "hR", "hF"):
        assert written["bsd10k-v1.2"]["overall"][name] == pytest.approx(np.mean([s[name] for s in folds]), abs=5e-5)
        assert written["bsd35k-cs"]["overall"][name] == pytest.approx(folds[0][name], abs=5e-5)
        one = np.mean([s["per_class"].set_index("code").loc["fx-o", name] for s in folds])
        assert written["bsd10k-v1.2"]["class_wise"]["fx-o"][name] == pytest.approx(one, abs=5e-5)
    assert written["bsd10k-v1.2"]["class_wise"]["ss-s"] == {"hP": None, "hR": None, "hF": None}
    with pytest.raises(FileExistsError, match="meta.yaml exists"):
        write_metadata(path, submission, system, results)
    write_metadata(path, submission, system, results, overwrite=True)


def changed(keys, value):
    """(submission, system) with one value replaced, or removed where `value` is ...."""
    content = dict(zip(("submission", "system"), description(), strict=True))
    place = copy.deepcopy(content)
    content = place
    *path, last = keys
    for key in path:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content["submission"], content["system"]


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (("submission", "name"), ..., "submission.name is missing"),
        (("submission", "authors"), [], "submission.authors must be a list"),
        (("submission", "authors", 0, "email"), "", r"submission.authors\[0\].email is empty"),
        (("submission", "authors", 0, "affiliation", "location"), ..., "affiliation.location is missing"),
        (("submission", "authors", 0, "affiliation"), "EX", "affiliation must be a mapping"),
        (("system", "description", "text"), "x", "system.description.text is unknown"),
        (("system", "complexity", "MACS"), "2 G", "system.complexity.MACS must be a positive number, got '2 G'"),
        (("system", "complexity", "MACS"), 0, "system.complexity.MACS must be a positive number"),
        (("system", "complexity", "total_parameters"), float("nan"), "total_parameters must be a positive number"),
        (("submission", "label"), "Doe_EX_task1_3", "and the file <label>.meta.yaml"),
        (("submission", "label"), "Doe_EX_task1_5", "<1 to 4>"),
    ],
)
def test_wrong_descriptions_are_named(tmp_path, keys, value, message):
    with pytest.raises(ValueError, match=message):
        write_metadata(
            tmp_path / "Doe_EX_task1_2.meta.yaml", *changed(keys, value), {"bsd10k-v1.2": fold(0)["per_class"]}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "results, message",
    [
        ({}, "at least one development dataset"),
        ({"bsd10k-v1.2": []}, "holds no table"),
        ({"bsd10k-v1.2": fold(0)["per_class"].drop(columns="hP")}, "columns code, hP"),
        ({"bsd10k-v1.2": fold(0)["per_class"].iloc[::-1]}, "taxonomy order"),
        ({"bsd10k-v1.2": fold(0)["per_class"].assign(hF=78.5)}, "not percentages"),
    ],
)
def test_wrong_results_are_named(tmp_path, results, message):
    with pytest.raises(ValueError, match=message):
        write_metadata(tmp_path / "Doe_EX_task1_2.meta.yaml", *description(), results)
