"""What is handed in to the challenge: a system output (CSV) and its description (YAML), written and checked.

<Surname>_<Institution>_task1_<n>.output.csv    id, predicted_bst_second_level_class, prediction_score
<Surname>_<Institution>_task1_<n>.meta.yaml     submission, system, results
"""

import codecs
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from haf_utils.io.files import atomic_write
from haf_utils.io.layouts import csv_rows, read_csv
from haf_utils.metrics import check_probabilities
from haf_utils.taxonomy import CLASSES, to_labels

__all__ = ["COLUMNS", "file_names", "read_ids", "validate", "write", "write_metadata"]

COLUMNS = ("id", "predicted_bst_second_level_class", "prediction_score")
_LABEL = re.compile(r"[^\W_]+(?:-[^\W_]+)*_[^\W_]+(?:-[^\W_]+)*_task1_[1-4]")  # at most four systems a team
_ID_COLUMNS = ("anonymous_id", "sound_id", "id")  # of the evaluation set, of the development sets, of an output

# Required keys of the .meta.yaml; None stands for a value, a list for one or more of the same.
_AUTHOR = dict.fromkeys(("lastname", "firstname", "email", "corresponding"))
_AUTHOR["affiliation"] = dict.fromkeys(("abbreviation", "institute", "location"))
_SUBMISSION = dict.fromkeys(("label", "name", "abbreviation")) | {"authors": [_AUTHOR]}
_DESCRIPTION = """input_sampling_rate audio_representation text_representation data_augmentation machine_learning_method
    external_data_usage hierarchical_setting""".split()
_SYSTEM = {"source_code": None, "description": dict.fromkeys(_DESCRIPTION)}
_SYSTEM |= {"complexity": dict.fromkeys(("total_parameters", "MACS")), "external_datasets": None}


def file_names(surname: str, institution: str, number: int) -> tuple[str, str]:
    """Names of the system output and of its description, as the challenge wants them.

    Raises ValueError for a number outside 1..4 and for names with other characters than letters, digits and hyphens.
    """
    label = f"{surname}_{institution}_task1_{number}"
    if not _LABEL.fullmatch(label):
        allowed = "surname and institution are letters, digits and hyphens, the number is 1 to 4"
        raise ValueError(f"{label!r} is no submission label: {allowed}")
    return f"{label}.output.csv", f"{label}.meta.yaml"


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or pass overwrite=True")


def write(path: Path | str, ids: Sequence, probabilities, labels=None, overwrite: bool = False) -> None:
    """Write a system output: a row a clip with its id, its class code and the posterior of that class.

    ids (N,), unique; probabilities (N, 23). The class is the one with the largest posterior, or `labels` (N,), codes or
    0..22, where another rule has decided (`ensembles.decide`).
    Raises ValueError for ids that are empty, repeated or not printable, lengths that differ and rows that are no
    distributions; FileExistsError unless `overwrite`.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    probabilities = check_probabilities(probabilities)
    names = pd.Series(list(ids), dtype=object)
    chosen = probabilities.argmax(1) if labels is None else to_labels(labels)
    if not len(names) == len(probabilities) == len(chosen) or len(names) == 0:
        numbers = f"{len(names)} ids, {len(probabilities)} rows of probabilities and {len(chosen)} labels"
        raise ValueError(f"{numbers} must be as many, and at least one")
    # A line break inside an id would be legal CSV, and trip every reader that goes line by line.
    wrong = [pd.isna(name) or not str(name).strip() or not str(name).isprintable() for name in names]
    if any(wrong):
        row = wrong.index(True)
        raise ValueError(f"the id at position {row} is empty or not printable: {names[row]!r}")
    names = names.astype(str)
    if names.duplicated().any():
        raise ValueError(f"id {names[names.duplicated()].iloc[0]} occurs more than once")
    # float32 posteriors can exceed 1 by a rounding error, which the validator would refuse.
    scores = np.clip(probabilities[np.arange(len(names)), chosen], 0, 1)
    table = pd.DataFrame(dict(zip(COLUMNS, (names, np.array(CLASSES)[chosen], scores), strict=True)))
    atomic_write(path, lambda p: table.to_csv(p, index=False, float_format="%.6f", lineterminator="\n"))


def _row_problems(row: list[str], expected: set[str] | None) -> list[str]:
    if len(row) != len(COLUMNS):
        return [f"{len(row)} fields instead of {len(COLUMNS)}"]
    name, code, score = row
    problems = []
    if not name.strip():
        problems.append("the id is empty")
    elif expected is not None and name not in expected:
        problems.append(f"id {name!r} is not one of the clips to be classified")
    if code not in CLASSES:
        problems.append(f"{code!r} is not a second-level class code such as 'fx-o'")
    try:
        if not 0 <= float(score.encode("ascii").replace(b"_", b"x")) <= 1:  # 1_0 is a number in Python alone
            problems.append(f"score {score} is not in [0, 1]")
    except ValueError:
        problems.append(f"score {score!r} is not a number")
    return problems


def validate(path: Path | str, expected_ids: Sequence | None = None) -> list[str]:
    """Problems of a system output, each with its line in the file (the header is line 1); empty if it is right.

    Checked: the header; three fields a row; every id once, and all of `expected_ids` and no others where given; only
    second-level codes; scores in [0, 1]. The order of rows is free.
    Raises OSError where the file cannot be opened.
    """
    expected = None if expected_ids is None else {str(name) for name in expected_ids}
    first_line: dict[str, int] = {}
    try:
        rows, not_utf8 = csv_rows(path)
    except ValueError as error:
        return [str(error).removeprefix(str(path)).lstrip(": ")]
    problems = [f"line {line}: not readable as UTF-8" for line in not_utf8]
    if Path(path).read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        problems.append("line 1: the header is not at the beginning, where a byte-order mark is: save without it")
    header = rows[0][1] if rows else []
    if tuple(header) != COLUMNS:
        problems.append(f"line 1: the header is {','.join(header)!r} instead of {','.join(COLUMNS)!r}")
    for line, row in rows[1:]:
        problems += [f"line {line}: {problem}" for problem in _row_problems(row, expected)]
        if row and row[0] in first_line:
            problems.append(f"line {line}: id {row[0]!r} stood on line {first_line[row[0]]} already")
        elif row:
            first_line[row[0]] = line
    if missing := sorted((expected or set()) - first_line.keys()):
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        problems.append(f"{len(missing)} of {len(expected or ())} ids are missing: {some}")
    if not first_line:
        problems.append("the file holds no rows")
    return problems


def read_ids(path: Path | str) -> list[str]:
    """Ids of the clips in a metadata CSV (column anonymous_id, sound_id or id). Raises ValueError if it has none."""
    table = read_csv(path)
    for column in _ID_COLUMNS:
        if column in table:
            return table[column].tolist()
    raise ValueError(f"{path} has none of the columns {', '.join(_ID_COLUMNS)}, only {', '.join(table.columns)}")


def _lacking(content, required, where: str) -> list[str]:
    """Dotted names of the required keys that `content` does not have, and of those nobody asks for."""
    if required is None:
        return [f"{where} is empty"] if content is None or content == "" else []
    if isinstance(required, list):
        if not isinstance(content, (list, tuple)) or not content:
            return [f"{where} must be a list of at least one"]
        return [p for i, item in enumerate(content) for p in _lacking(item, required[0], f"{where}[{i}]")]
    if not isinstance(content, Mapping):
        return [f"{where} must be a mapping of {', '.join(required)}"]
    problems = [f"{where}.{key} is missing" for key in required if key not in content]
    problems += [f"{where}.{key} is unknown" for key in content if key not in required]
    there = [key for key in required if key in content]
    return problems + [p for key in there for p in _lacking(content[key], required[key], f"{where}.{key}")]


def _development_results(dataset: str, tables: pd.DataFrame | Sequence[pd.DataFrame]) -> dict:
    tables = [tables] if isinstance(tables, pd.DataFrame) else list(tables)
    if not tables:
        raise ValueError(f"results[{dataset!r}] holds no table")
    names = ["hP", "hR", "hF"]
    for table in tables:
        lacking = {"code", *names} - set(table.columns)
        if lacking or tuple(table["code"]) != CLASSES:
            needed = "the per_class table of hierarchical_scores: in taxonomy order, columns code, hP, hR, hF"
            raise ValueError(f"results[{dataset!r}] must be {needed}")
        if ((table[names] < 0) | (table[names] > 1)).any(axis=None):
            raise ValueError(f"results[{dataset!r}] must be fractions in [0, 1], not percentages")

    def fractions(values: pd.Series) -> dict:
        # A class that no fold holds has no score: null, as it is not 0.
        return {name: None if pd.isna(value) else round(float(value), 4) for name, value in values.items()}

    overall = pd.DataFrame([table[names].mean() for table in tables]).mean()
    result = {"overall": fractions(overall)}
    if dataset != "bsd35k-cs":  # of the crowd-sourced set the challenge asks for the overall scores alone
        by_class = pd.concat(tables).groupby("code", sort=False)[names].mean()
        result["class_wise"] = {code: fractions(row) for code, row in by_class.iterrows()}
    return result


def write_metadata(
    path: Path | str, submission: Mapping, system: Mapping, results: Mapping, overwrite: bool = False
) -> None:
    """Write the description of a system, `<label>.meta.yaml`.

    - submission: label (as in the file's name), name, abbreviation, authors (each lastname, firstname, email,
      corresponding, affiliation with abbreviation, institute, location).
    - system: source_code, description (input_sampling_rate, audio_representation, text_representation,
      data_augmentation, machine_learning_method, external_data_usage, hierarchical_setting), complexity
      (total_parameters, MACS: numbers), external_datasets.
    - results: dataset ("bsd10k-v1.2", "bsd35k-cs") -> the ``per_class`` table of `metrics.hierarchical_scores`, or
      one table a fold, which are averaged. Written as fractions, overall and class by class.

    Raises ValueError that names what is missing, unknown or out of range; FileExistsError unless `overwrite`.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    if problems := _lacking(submission, _SUBMISSION, "submission") + _lacking(system, _SYSTEM, "system"):
        raise ValueError(f"{path.name}: " + "; ".join(problems))
    label = submission["label"]
    if not _LABEL.fullmatch(str(label)) or path.name != f"{label}.meta.yaml":
        wanted = "must be <Surname>_<Institution>_task1_<1 to 4> and the file <label>.meta.yaml"
        raise ValueError(f"submission.label {label!r} {wanted}; it is {path.name}")
    complexity = {}
    for key, value in system["complexity"].items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < np.inf:
            raise ValueError(f"system.complexity.{key} must be a positive number, got {value!r}")
        complexity[key] = int(value)
    if not results:
        raise ValueError("results must name at least one development dataset")
    scores = {dataset: _development_results(dataset, tables) for dataset, tables in results.items()}
    content = {"submission": submission, "system": {**system, "complexity": complexity}}
    content["results"] = {"development_datasets": scores}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    atomic_write(path, lambda p: p.write_text(text, encoding="utf-8"))
