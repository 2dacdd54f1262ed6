"""Prompts to a language model and its answers: by what is asked, what is read back, and what is refused by name."""

import json
import shutil

import numpy as np
import pytest

from haf_utils.datasets import load_bsd
from haf_utils.posteriors import read
from haf_utils.taxonomy import CLASSES, NAMES
from tools.language_model import main


@pytest.fixture(scope="module")
def asked(tiny, tmp_path_factory):
    """The prompts of the tiny dataset: path, and a list of its lines."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    assert main(["prompts", tiny.dataset, str(file)]) == 0
    return file, [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def answer(label: int, top: float = 0.78) -> dict:
    return {code: top if code == CLASSES[label] else round((1 - top) / 22, 2) for code in CLASSES}


def write_lines(path, rows) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")


def test_a_prompt_holds_what_is_known_of_the_clip_and_every_class(asked, tiny, tmp_path):
    _, rows = asked
    clips = load_bsd(tiny.dataset)
    assert [row["sound_id"] for row in rows] == clips.sound_id.tolist()
    assert len({row["custom_id"] for row in rows}) == len(rows)
    for row, clip in zip(rows, clips.itertuples(), strict=True):
        for value in (clip.title, clip.tags, clip.description):
            assert (value or "(none)") in row["prompt"]
        assert all(f"{code}: " in row["prompt"] and NAMES[code] in row["prompt"] for code in CLASSES)
        assert "Duration: " in row["prompt"] and "(unknown)" not in row["prompt"]
    assert "drum loops" in rows[0]["prompt"]  # a definition of the dataset's own
    root = tmp_path / "bare"
    (root / "metadata").mkdir(parents=True)
    shutil.copy(f"{tiny.dataset}/metadata/BSD10k_metadata.csv", root / "metadata")
    assert main(["prompts", str(root), str(tmp_path / "bare.jsonl")]) == 0
    bare = json.loads((tmp_path / "bare.jsonl").read_text("utf-8").splitlines()[0])
    assert "Duration: (unknown)" in bare["prompt"] and "drum loops" not in bare["prompt"]
    assert bare["custom_id"] != rows[0]["custom_id"]  # another prompt


def test_answers_come_back_from_any_nesting(asked, tmp_path):
    file, rows = asked
    labels = np.arange(len(rows)) % 23
    shapes = (
        lambda values: values,
        json.dumps,
        lambda values: f"```json\n{json.dumps(values)}\n```",
        lambda values: {"body": {"choices": [{"role": "assistant", "text": json.dumps(values)}], "tokens": 12}},
    )
    answered = [
        {"custom_id": row["custom_id"], "response": shapes[place % 4](answer(label))}
        for place, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]
    write_lines(tmp_path / "answers.jsonl", answered[::-1])  # a batch comes back in any order
    assert main(["answers", str(file), str(tmp_path / "answers.jsonl"), str(tmp_path / "out.csv")]) == 0
    table = read(tmp_path / "out.csv").for_ids([row["sound_id"] for row in rows])
    np.testing.assert_array_equal(table.probabilities.argmax(1), labels)
    np.testing.assert_allclose(table.probabilities[0, 0], 0.78, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("Sounds like rain to me, so ss-n.", "line 3: the answer is prose"),
        (answer(0) | {"rain": 0.0}, "line 3: rain is no class code"),
        ({code: value for code, value in answer(0).items() if code != "fx-o"}, "line 3: fx-o is missing"),
        ({code: 100 * value for code, value in answer(0).items()}, "line 3: m-sp is 78.0, no probability"),
        (answer(0) | {"m-sp": "0.78"}, "line 3: m-sp is '0.78', no probability"),
        (answer(0) | {"m-sp": float("nan")}, "line 3: m-sp is nan, no probability"),
        (answer(0) | {"m-sp": -0.1}, "line 3: m-sp is -0.1, no probability"),
        (dict.fromkeys(CLASSES, 0.01), "line 3: the probabilities sum to 0.23, not to 1"),
        ('{"m-sp": 0.5, "m-si', "line 3: Unterminated string"),
    ],
)
def test_an_answer_that_is_none_is_named_and_the_others_go_on(bad, message, asked, tmp_path, capsys):
    file, rows = asked
    answered = [{"custom_id": row["custom_id"], "answer": answer(1)} for row in rows]
    answered[2]["answer"] = bad
    write_lines(tmp_path / "answers.jsonl", answered)
    assert main(["answers", str(file), str(tmp_path / "answers.jsonl"), str(tmp_path / "out.csv")]) == 1
    printed = capsys.readouterr().err
    assert message in printed and f"1 of {len(rows)} clips have no usable answer: {rows[2]['sound_id']}" in printed
    table = read(tmp_path / "out.csv")
    assert len(table.ids) == len(rows) - 1 and rows[2]["sound_id"] not in table.ids


def test_doubled_foreign_and_missing_answers_are_named(asked, tmp_path, capsys):
    file, rows = asked
    first, second, third = ({"custom_id": row["custom_id"], "answer": answer(1)} for row in rows[:3])
    again = first | {"answer": answer(4)}
    lines = [first, again, second, "no JSON at all", {"custom_id": "x", "answer": answer(0)}, [1], third]
    write_lines(tmp_path / "answers.jsonl", lines)
    assert main(["answers", str(file), str(tmp_path / "answers.jsonl"), str(tmp_path / "out.csv")]) == 1
    printed = capsys.readouterr().err
    assert f"line 2: a second answer for sound_id {rows[0]['sound_id']}" in printed
    assert "line 4: Expecting value" in printed and "line 5: custom_id 'x' is not in" in printed
    assert "line 6: custom_id '' is not in" in printed
    assert f"{len(rows) - 3} of {len(rows)} clips" in printed and rows[-1]["sound_id"] in printed
    assert read(tmp_path / "out.csv").probabilities.argmax(1).tolist() == [1, 1, 1]


def test_nothing_usable_and_nothing_overwritten(asked, tmp_path, capsys):
    file, rows = asked
    write_lines(tmp_path / "answers.jsonl", [{"custom_id": rows[0]["custom_id"], "answer": "rain"}])
    arguments = ["answers", str(file), str(tmp_path / "answers.jsonl"), str(tmp_path / "out.csv")]
    assert main(arguments) == 2 and "nothing is usable" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    write_lines(tmp_path / "answers.jsonl", [{"custom_id": rows[0]["custom_id"], "answer": answer(3)}])
    (tmp_path / "out.csv").write_text("a user's")
    assert main(arguments) == 2 and "exists" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "a user's"
    for other in (tmp_path / "answers.jsonl", tmp_path / "out.csv"):
        (tmp_path / "out.csv").write_text("rain\n")
        assert main(["answers", str(other), *arguments[2:]]) == 2
        assert f"{other} holds no prompts" in capsys.readouterr().err
    assert main(["prompts", str(tmp_path), str(file)]) == 2  # no dataset
    assert main(["prompts"]) == 2 and main([]) == 2 and "ANSWERS.jsonl" in capsys.readouterr().err
