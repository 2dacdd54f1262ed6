"""From a folder on disk to the clips table: BSD10k, BSD35k-CS, the evaluation set, FSD50K and NSynth.

Every loader returns one pandas table with a row a clip and, in this order, the columns of `COLUMNS`:

    sound_id str            path str, NA where no audio was found      code str, "" unknown
    label int64, 0..22, -1 unknown      title, tags (comma list), description, uploader: str, "" missing
    confidence float64, NaN missing     source str: bsd10k, bsd35k-cs, evaluation, fsd50k or nsynth

and after them what only one source has: `license` (BSD, FSD50K), `set` (BSD10k v1.0), `labels` (FSD50K: tuple of str,
leaf-most), `record` (NSynth: dict) and `part` (FSD50K, NSynth: the publisher's own split). ``table.attrs`` holds plain
facts about the reading: ``source_file``, ``dropped`` (code -> rows that are not part of the task), ``dropped_ids``,
``absent_columns`` and ``problems``, a list of (category, sound_id, message).

With ``strict=True`` a problem that would put wrong rows into an experiment (a class outside the taxonomy, an id that
occurs twice) is a ValueError that names the rows. With ``strict=False``, as in `experiment.validation`, it is only
listed: an unknown class gets label -1, and of an id that occurs twice the first row is kept.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from haf_utils.folds import official_folds
from haf_utils.io import layouts
from haf_utils.io.layouts import EXTENSIONS, LAYOUTS, audio_files, layout, read_csv
from haf_utils.io.progress import bar
from haf_utils.taxonomy import CLASSES, TOP_LEVELS

__all__ = ["BSD_COLUMNS", "COLUMNS", "EXTENSIONS", "LAYOUTS", "audio_files", "layout", "leaf_labels", "load",
           "load_bsd", "load_evaluation", "load_features", "load_fsd50k", "load_nsynth", "features_folder",
           "official_folds", "read_csv", "read_features", "without"]  # fmt: skip

COLUMNS = tuple("sound_id path code label title tags description uploader confidence source".split())
# Columns of BSD10k-v1.2 and BSD35k-CS. v1.0 has `set` and neither confidence nor description.
BSD_COLUMNS = tuple("sound_id class class_idx class_top confidence uploader license title tags description".split())


def load(root: str | os.PathLike, strict: bool = True) -> pd.DataFrame:
    """Load the dataset in the folder `root`, whichever of the known layouts it has -> clips table."""
    loaders = {"bsd": load_bsd, "evaluation": load_evaluation, "fsd50k": load_fsd50k, "nsynth": load_nsynth}
    return loaders[layout(root)](root, strict=strict)


def load_bsd(root: str | os.PathLike, strict: bool = True) -> pd.DataFrame:
    """Clips table of BSD10k (v1.0, v1.1, v1.2), BSD35k-CS or own recordings in that layout.

    The class code decides, never ``class_idx``, whose form differs between releases. Rows of a ``-other`` class or of
    a bare top level are not part of the task: they are left out and counted in ``attrs["dropped"]``.

    Raises ValueError that names the file and the columns (missing column) or the rows (class, duplicates).
    """
    root = Path(root)
    layouts.expect_layout(root, "bsd")
    file = layouts.metadata_file(root)
    raw = read_csv(file)
    _need_columns(raw, file, ("sound_id", "class", "uploader", "title", "tags"), BSD_COLUMNS)
    raw["sound_id"], raw["class"] = _ids(raw.sound_id), raw["class"].str.strip()
    outside_task = raw["class"].str.endswith("-other") | raw["class"].isin(TOP_LEVELS)
    left_out, rows = raw[outside_task], raw[~outside_task]
    label = rows["class"].map({code: label for label, code in enumerate(CLASSES)}).fillna(-1).astype(np.int64)
    problems = [
        ("out of taxonomy", rows.sound_id[row], f"row {row + 1}: class {rows['class'][row]!r} is not in the taxonomy")
        for row in rows.index[label < 0]
    ]
    paths = _paths(raw.sound_id, root / "audio", problems)
    extra = [column for column in ("license", "set") if column in rows]
    table = rows[["sound_id", "title", "tags", "uploader", *extra]].assign(
        path=paths[~outside_task],
        code=rows["class"],
        label=label,
        description=rows.get("description", ""),
        confidence=pd.to_numeric(rows.get("confidence", np.nan), errors="coerce"),
        source=file.stem.removesuffix("_metadata").lower(),
    )
    facts = {"dropped": left_out["class"].value_counts().to_dict(), "dropped_ids": left_out.sound_id.to_list()}
    facts["absent_columns"] = [column for column in ("confidence", "license", "description") if column not in raw]
    return _finish(table, file, strict, problems, raw.attrs, **facts)


def load_evaluation(root: str | os.PathLike, strict: bool = True) -> pd.DataFrame:
    """Clips table of the challenge's evaluation set: anonymous ids, no labels (-1), no uploaders."""
    root = Path(root)
    layouts.expect_layout(root, "evaluation")
    file = layouts.metadata_file(root)
    raw = read_csv(file)
    columns = ("anonymous_id", "title", "tags", "description")
    _need_columns(raw, file, columns, columns)
    sound_id, problems = _ids(raw.anonymous_id), []
    table = _unlabelled(sound_id, _paths(sound_id, root / "audio", problems), "evaluation")
    table[["title", "tags", "description"]] = raw[["title", "tags", "description"]]
    return _finish(table, file, strict, problems, raw.attrs)


def load_fsd50k(root: str | os.PathLike, strict: bool = True) -> pd.DataFrame:
    """Clips table of FSD50K (dev and eval, or the one that is there), with a column `labels` of leaf-most labels."""
    root = Path(root)
    layouts.expect_layout(root, "fsd50k")
    tables, problems, notes = [], [], {"not_utf8_rows": []}
    for name in ("dev", "eval"):
        file = root / "FSD50K.ground_truth" / f"{name}.csv"
        if not file.is_file():
            continue
        raw = read_csv(file)
        _need_columns(raw, file, ("fname", "labels"), ("fname", "labels", "mids", "split"))
        notes["not_utf8_rows"] += raw.attrs["not_utf8_rows"]
        info_file = root / "FSD50K.metadata" / f"{name}_clips_info_FSD50K.json"
        info = layouts.read_json(info_file) if info_file.is_file() else {}
        fname = _ids(raw.fname)
        if info_file.is_file():
            problems += [("no metadata", clip, f"not in {info_file.name}") for clip in fname if clip not in info]
        else:
            problems.append(("no metadata", "", f"{info_file} is absent: titles, tags and descriptions are empty"))
        table = _unlabelled(fname, _paths(fname, root / f"FSD50K.{name}_audio", problems), "fsd50k")
        entries = [info.get(clip, {}) for clip in fname]
        for column in ("title", "description", "uploader", "license"):
            table[column] = [entry.get(column) or "" for entry in entries]
        table["tags"] = [",".join(entry.get("tags") or []) for entry in entries]
        table["labels"] = [tuple(filter(None, labels.split(","))) for labels in raw.labels]
        table["part"] = raw.split if "split" in raw else name
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    table["labels"] = leaf_labels(table.labels)
    return _finish(table, root / "FSD50K.ground_truth", strict, problems, notes)


def leaf_labels(smeared: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Labels of each clip without those that another label of the clip implies; order kept.

    FSD50K's labels are smeared to the root of the AudioSet ontology, which is not shipped with it, so the hierarchy is
    read off the smearing itself: A is an ancestor of B if every clip with B also has A, and A is on more clips than B.
    Where both are on the same clips, two or more, A is the ancestor if it always stands after B: FSD50K lists labels
    from leaf to root. (In a subset of a few clips, two unrelated labels can look like that by chance.)
    """
    smeared = [tuple(dict.fromkeys(labels)) for labels in smeared]
    count = Counter(label for labels in smeared for label in labels)
    together = Counter((a, b) for labels in smeared for a in labels for b in labels if a != b)
    after = Counter((a, b) for labels in smeared for i, a in enumerate(labels) for b in labels[:i])
    ancestor_of = {
        (a, b)
        for (a, b), clips in together.items()
        if clips == count[b] and (count[a] > clips or after[a, b] == clips > 1)
    }
    return [tuple(a for a in labels if not any((a, b) in ancestor_of for b in labels)) for labels in smeared]


# What a caption is made of; the other fields of a note would only cost memory on 289,205 notes.
_NSYNTH_FIELDS = "pitch velocity instrument_str instrument_family_str instrument_source_str qualities_str".split()


def load_nsynth(root: str | os.PathLike, strict: bool = True) -> pd.DataFrame:
    """Clips table of NSynth with a column `record` (dict: pitch, velocity, family, source, qualities).

    `root` is one ``nsynth-<split>`` folder or a folder that holds several.
    """
    root = Path(root)
    layouts.expect_layout(root, "nsynth")
    tables, problems = [], []
    for file in layouts.nsynth_files(root):
        notes = layouts.read_json(file)
        names = pd.Series(list(notes), dtype=object)
        records = []
        for name, note in notes.items():
            if missing := [field for field in _NSYNTH_FIELDS if field not in note]:
                raise ValueError(f"{file}: note {name!r} has no {', '.join(missing)}: is this NSynth's own file?")
            records.append({"note_str": name} | {field: note[field] for field in _NSYNTH_FIELDS})
        table = _unlabelled(names, _paths(names, file.parent / "audio", problems), "nsynth")
        table["record"] = records
        table["part"] = file.parent.name.removeprefix("nsynth-")
        tables.append(table)
    return _finish(pd.concat(tables, ignore_index=True), root, strict, problems, {"not_utf8_rows": []})


def load_features(root: str | os.PathLike, sound_ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Precomputed embeddings as BSD10k and BSD35k-CS ship them -> audio (N, E), text (N, E'), float32, as stored.

    CLAP's have E = 512; those of another network may have any width, the same for all clips. A clip whose file is
    missing, damaged or of another shape gets a row of NaN and is named in one UserWarning a modality: take
    ``np.isfinite(audio).all(1)`` before training. Raises ValueError if none of the clips has its embedding.
    """
    sound_ids, result = list(sound_ids), []
    for modality in ("audio", "text"):
        values, lost = read_features(root, sound_ids, modality)
        folder = features_folder(root, modality)
        listed = [f"{sound_id} ({reason})" for sound_id, reason in lost]
        if len(lost) == len(sound_ids) and lost:
            there = next((file.name for file in folder.glob("*.npy")), "no .npy file")
            first = f"none of the {len(lost)} clips has a readable embedding, first {listed[0]}"
            raise ValueError(f"{folder}: {first}; the folder has {there}: are the ids those of this dataset?")
        if lost:
            shown = ", ".join(listed[:10]) + (", …" if len(lost) > 10 else "")
            warnings.warn(f"{folder}: {len(lost)} embeddings missing or damaged: {shown}", stacklevel=2)
        result.append(values)
    return result[0], result[1]


def features_folder(root: str | os.PathLike, modality: str) -> Path:
    """Where the embeddings of `modality`, audio or text, lie in a dataset."""
    return Path(root) / "features" / f"clap_{modality}_embeddings"


def read_features(
    root: str | os.PathLike, sound_ids: Sequence[str], modality: str
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Embeddings (N, E), NaN where there is none, and (sound_id, reason) of the clips that have none.

    E is the width that most clips have. Raises FileNotFoundError where there is no folder of embeddings.
    """
    folder = features_folder(root, modality)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is absent: unpack features.zip of the dataset into {root}")
    vectors: dict[int, np.ndarray] = {}
    reasons: dict[int, str] = {}
    for row, sound_id in enumerate(bar(sound_ids, description=f"{modality} embeddings")):
        file = folder / f"{sound_id}.npy"
        try:
            if not file.is_file():  # also a pipe, which would wait for its writer
                raise FileNotFoundError("there is no file")
            vector = np.load(file, allow_pickle=False)
            if vector.size == 0 or vector.size != max(vector.shape, default=0):
                raise ValueError(f"shape {vector.shape} is no single vector")
            vectors[row] = vector.reshape(-1).astype(np.float32)
            if not np.isfinite(vectors[row]).all():
                raise ValueError("values that are not finite")
        except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
            vectors.pop(row, None)
            reasons[row] = f"{type(error).__name__}: {error}".splitlines()[0]
    widths = Counter(map(len, vectors.values())).most_common(1)
    width = widths[0][0] if widths else 1
    values = np.full((len(sound_ids), width), np.nan, dtype=np.float32)
    for row, vector in vectors.items():
        if len(vector) == width:
            values[row] = vector
        else:
            reasons[row] = f"shape {vector.shape}, where most have {(width,)}"
    return values, [(sound_ids[row], reason) for row, reason in sorted(reasons.items())]


def without(table: pd.DataFrame, *others: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """`table` without the clips whose sound_id is in one of `others`, and how many were removed.

    For FSD50K clips that are also in BSD, and BSD35k-CS clips that are also in BSD10k: all carry Freesound's ids.
    """
    known = set().union(*(other.sound_id for other in others))
    keep = ~table.sound_id.isin(known)
    return table[keep].reset_index(drop=True), int((~keep).sum())


def _need_columns(table: pd.DataFrame, file: Path, needed: Sequence[str], layout_columns: Sequence[str]) -> None:
    if missing := [column for column in needed if column not in table]:
        columns = f"Columns of this layout: {', '.join(layout_columns)}; found: {', '.join(table.columns)}"
        raise ValueError(f"{file} lacks the column {', '.join(missing)}. {columns}")


def _ids(column: pd.Series) -> pd.Series:
    """Ids without spaces around them, in composed letters (NFC), as `audio_files` names recordings."""
    return column.str.strip().str.normalize("NFC")


def _paths(ids: pd.Series, folder: Path, problems: list) -> pd.Series:
    """Path of each clip's recording in `folder`, NA where there is none; a problem if none of the names meet."""
    files = audio_files(folder)
    paths = ids.map(files)
    if files and len(ids) and paths.isna().all():
        name = os.path.basename(min(files.values()))
        problems.append(("no match", "", f"no id matches a recording, e.g. {ids.iloc[0]} and {name} in {folder}"))
    return paths


def _unlabelled(sound_id: pd.Series, path: pd.Series, source: str) -> pd.DataFrame:
    empty = {column: "" for column in ("title", "tags", "description", "uploader")}
    table = pd.DataFrame({"sound_id": sound_id, "path": path, "code": "", "label": np.int64(-1)})
    return table.assign(**empty, confidence=np.nan, source=source)


def _finish(table, file: Path, strict: bool, problems: list, notes: dict, **facts) -> pd.DataFrame:
    """Check ids, settle problems, fix types and the order of columns."""
    twice = table.sound_id.duplicated()
    problems += [("duplicate id", sound_id, "the id occurs more than once") for sound_id in table.sound_id[twice]]
    empty = table.sound_id == ""
    problems += [("missing id", "", f"row {row + 1} has no id") for row in table.index[empty]]
    wrong = ("out of taxonomy", "duplicate id", "missing id", "no match")
    fatal = [problem for problem in problems if problem[0] in wrong]
    if strict and fatal:
        counts = Counter(category for category, _, _ in fatal)
        summary = ", ".join(f"{count} × {category}" for category, count in counts.items())
        listing = "\n".join(f"  {sound_id}: {message}" for _, sound_id, message in fatal[:20])
        more = f"\n  and {len(fatal) - 20} more" if len(fatal) > 20 else ""
        raise ValueError(f"{file}: {summary}. Correct or remove these rows:\n{listing}{more}")
    table = table[~twice & ~empty].reset_index(drop=True)
    table["path"] = table.path.astype(object).where(table.path.notna(), None)
    table["confidence"] = table.confidence.astype(np.float64)
    table = table[[*COLUMNS, *(column for column in table if column not in COLUMNS)]]
    # Plain values only: pandas copies attrs from table to table and writes them as JSON into parquet.
    table.attrs = {"source_file": str(file), "problems": problems, "not_utf8_rows": notes["not_utf8_rows"], **facts}
    return table
