"""Folders and files of the datasets: which layout a folder has, and reading what lies in it as robustly as it needs.

Metadata comes from many hands: with a byte-order mark, with a few lines of Latin-1, with newlines inside of fields and
descriptions of 100 kB. Nothing of it may be lost, and what cannot be read is named with its file.
"""

import csv
import io
import json
import os
import re
import unicodedata
import warnings
from pathlib import Path

import pandas as pd

__all__ = ["EXTENSIONS", "LAYOUTS", "audio_files", "csv_rows", "expect_layout", "layout", "metadata_file",
           "nsynth_files", "read_csv", "read_json"]  # fmt: skip

EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")  # where a clip is there twice, the first of these wins


# What `layout` looks for; the texts appear in error messages.
LAYOUTS = {
    "bsd": "BSD10k or BSD35k-CS: metadata/BSD10k_metadata.csv (or BSD35k-CS_metadata.csv) and audio/<sound_id>.wav",
    "evaluation": "evaluation set: metadata/*.csv with a column anonymous_id, and audio/<anonymous_id>.wav",
    "fsd50k": "FSD50K: FSD50K.ground_truth/dev.csv or eval.csv, FSD50K.metadata/ and FSD50K.dev_audio/",
    "nsynth": "NSynth: nsynth-<split>/examples.json and nsynth-<split>/audio/, or one such folder itself",
}


def layout(root: str | os.PathLike) -> str:
    """Key in `LAYOUTS` of the layout that the folder `root` has.

    Raises FileNotFoundError where there is no such folder, ValueError (what is known, what was found) where it has
    none of the layouts.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: pass the folder that holds a dataset")
    found = _known_layout(root)
    if found is None:
        entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
        listing = ", ".join(entries[:12]) + f" and {len(entries) - 12} more" * (len(entries) > 12) or "an empty folder"
        near = [folder for folder in (root.parent, *filter(Path.is_dir, root.iterdir())) if _known_layout(folder)]
        known, hint = "\n  ".join(LAYOUTS.values()), f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{root} has none of the known layouts. Known:\n  {known}\nFound: {listing}.{hint}")
    return found


def _known_layout(root: Path) -> str | None:
    if any((root / "FSD50K.ground_truth" / name).is_file() for name in ("dev.csv", "eval.csv")):
        return "fsd50k"
    if nsynth_files(root):
        return "nsynth"
    for file in _metadata_files(root):
        header = re.split('["\\s]*[,;\t|]["\\s]*', _decode(file)[0].split("\n", 1)[0].strip('"\r '))
        if "anonymous_id" in header:
            return "evaluation"
        if "sound_id" in header or file.stem.endswith("_metadata"):
            return "bsd"
    return None


def expect_layout(root: Path, wanted: str) -> None:
    """Raise ValueError, with what was expected and what was found, unless `root` has the layout `wanted`."""
    found = layout(root)
    if found != wanted:
        raise ValueError(f"{root}: expected {LAYOUTS[wanted]}; found {LAYOUTS[found]}. Use load() or another folder")


def audio_files(folder: str | os.PathLike) -> dict[str, str]:
    """Audio files in `folder`, name without extension, in composed letters (NFC), -> path; empty if there is no folder.
    Raises ValueError where two files of one format have the same name."""
    files: dict[str, tuple[int, str]] = {}
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, extension = os.path.splitext(entry.name)
                if extension.lower() in EXTENSIONS:
                    stem = unicodedata.normalize("NFC", stem)
                    candidate = (EXTENSIONS.index(extension.lower()), entry.path)
                    other = files.get(stem, candidate)
                    if other[0] == candidate[0] and other != candidate:
                        both = f"{other[1]!r} and {entry.name!r}"  # in other Unicode letters, or "a.wav", "a.WAV"
                        raise ValueError(f"{both} are two recordings of one name: rename or remove one")
                    files[stem] = min(other, candidate)
    return {stem: path for stem, (_, path) in files.items()}


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def csv_rows(path: str | os.PathLike) -> tuple[list[tuple[int, list[str]]], list[int]]:
    """Rows of a CSV file, each with the number of its (last) line, and the lines that are not UTF-8, read as Latin-1.

    Fields may hold quoted newlines and be of any length; a byte-order mark is dropped. Raises ValueError that names
    file and line, for NUL bytes, for quotes that do not match, for another separator than commas; OSError.
    """
    text, odd = _decode(Path(path))
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}: line {line} holds NUL bytes, the file is damaged there: restore it or cut them out")
    header = text.split("\n", 1)[0]
    for sign, name in _SEPARATORS.items():
        if sign in header and "," not in header:
            raise ValueError(f"{path}: its fields are separated by {name}: export it again, with commas")
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable CSV table: line {reader.line_num}: {error}") from error
    return rows, odd


def read_csv(path: str | os.PathLike) -> pd.DataFrame:
    """A CSV file with a header -> table of str, "" where a field is empty or a row ends early.

    Lines that are not UTF-8 are read as Latin-1, with a warning that names them, so that no text is lost; their numbers
    are in ``attrs["not_utf8_rows"]``. Raises ValueError that names file and line: what `csv_rows` raises, a column that
    occurs twice, a row with more fields than the header (empty ones at the end do not count).
    """
    rows, lines = csv_rows(path)
    if lines:
        shown = ", ".join(map(str, lines[:10])) + (", …" if len(lines) > 10 else "")
        warnings.warn(f"{path}: {len(lines)} lines are not UTF-8 and were read as Latin-1: {shown}", stacklevel=3)
    rows = [(line, row) for line, row in rows if row]
    if not rows:
        raise ValueError(f"{path} is not a readable CSV table: it is empty")
    names = [name.strip() for name in rows[0][1]]
    while names and not names[-1]:  # commas at the end of all lines
        names.pop()
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: the column {twice[0]!r} occurs twice in its header: rename or remove one")
    for line, row in rows[1:]:
        if any(row[len(names) :]):
            fields = f"{len(row)} fields, its header has {len(names)}"
            raise ValueError(f"{path} is not a readable CSV table: line {line}: {fields}")
    cells = [[*row[: len(names)], *[""] * (len(names) - len(row))] for _, row in rows[1:]]
    table = pd.DataFrame(cells, columns=names, dtype=str)
    table.attrs["not_utf8_rows"] = lines
    return table


def read_json(path: Path) -> dict:
    """A JSON file that holds an object. Raises ValueError that names the file."""
    text, _ = _decode(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object keyed by clip, found a {type(content).__name__}")
    return content


def _decode(path: Path) -> tuple[str, list[int]]:
    """Text of a file, and the numbers of the lines that had to be read as Latin-1."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
        return text, [number for number, line in enumerate(text.split("\n"), start=1) if "\ufffd" in line]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        lines, odd = [], []
        for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            try:
                lines.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                lines.append(line.decode("latin-1"))
                odd.append(number)
        return "\n".join(lines), odd


def metadata_file(root: Path) -> Path:
    """The one CSV file that holds the clips of BSD or the evaluation set in `root`. Raises ValueError for several."""
    files = [file for file in _metadata_files(root) if file.stem.endswith("_metadata")] or _metadata_files(root)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{root} holds several metadata files ({names}): keep each dataset in a folder of its own")
    return files[0]


def _metadata_files(root: Path) -> list[Path]:
    """CSV files that can hold the clips: in metadata/, else in `root` itself."""
    for folder in (root / "metadata", root):
        # Hidden files: macOS archives carry a "._name.csv" beside each file.
        files = sorted(file for file in folder.glob("*.csv") if file.is_file() and not file.name.startswith("."))
        files = [file for file in files if file.name != "BST_description.csv"]
        if files:
            return files
    return []


def nsynth_files(root: Path) -> list[Path]:
    """The examples.json of each NSynth split in `root`, or of `root` itself."""
    own = root / "examples.json"
    return [own] if own.is_file() else sorted(root.glob("nsynth-*/examples.json"))
