"""What is in a dataset's folder and what is wrong with it, before hours of computing depend on it.

Every recording is read once (`experiment.manifest`), the metadata are checked. `haf validate` prints the report.
"""

import os
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from haf_utils.datasets import audio_files, features_folder, load, read_features
from haf_utils.experiment import manifest as manifests
from haf_utils.io.progress import printable
from haf_utils.io.recordings import CATEGORIES as DEFECTS
from haf_utils.io.store import changed_clips

__all__ = ["CATEGORIES", "NOTES", "Report", "validate"]

# What each category means, in the order of the summary.
CATEGORIES = DEFECTS | {
    "duplicate id": "ids that occur more than once in the metadata",
    "missing id": "rows of the metadata without an id",
    "no match": "ids of which none matches a recording",
    "duplicate audio": "recordings with the same sound as an earlier one",
    "out of taxonomy": "rows whose class is not in the Broad Sound Taxonomy",
    "not UTF-8": "lines of the metadata read as Latin-1",
    "stored samples": "clips of an audio store that changed on the disk: the next run decodes them again",
    "not listed": "recordings that no row of the metadata names",
    "no metadata": "clips without title, tags and description of their own",
    "embedding": "precomputed embeddings that are missing, damaged or of another shape",
    "no audio": "no recordings at all: metadata, or metadata and features, only",
}
# Worth knowing, legal in the official datasets.
NOTES = ("short", "out of phase", "not listed", "no metadata", "no audio")


@dataclass(frozen=True)
class Report:
    """root; clips, the table as `datasets.load` gives it; manifest, a row a recording (`manifest.FIELDS` and
    sound_id), and manifest_path; findings: category, sound_id, message, one row each."""

    root: Path
    clips: pd.DataFrame
    manifest: pd.DataFrame
    manifest_path: Path | None
    findings: pd.DataFrame

    @property
    def problems(self) -> pd.DataFrame:
        """Findings without those that are legal in the official datasets (`NOTES`)."""
        return self.findings[~self.findings.category.isin(NOTES)]

    @property
    def ok(self) -> bool:
        return self.problems.empty

    @property
    def hours(self) -> float:
        """Sound that could be decoded, in hours."""
        played = self.manifest[self.manifest.rate > 0]
        return float((played.frames / played.rate).sum() / 3600)

    def __str__(self) -> str:
        lines = [f"{self.root}: {len(self.clips):,} clips, {self.hours:.2f} h of sound"]
        if dropped := self.clips.attrs.get("dropped"):
            codes = ", ".join(f"{code} {count}" for code, count in dropped.items())
            lines.append(f"  {sum(dropped.values()):,} rows are not part of the task and left out: {codes}")
        read = self.manifest[self.manifest.frames > 0]
        for column, unit in (("rate", " Hz"), ("channels", " channels")):
            if len(read):
                counts = read[column].value_counts()
                shown = ", ".join(f"{value}{unit} × {count:,}" for value, count in counts.head(6).items())
                lines.append("  " + shown + (", …" if len(counts) > 6 else ""))
        for category, meaning in CATEGORIES.items():
            found = self.findings[self.findings.category == category]
            if len(found):
                mark = "note" if category in NOTES else "problem"
                lines.append(f"{mark}: {len(found):,} × {category} ({meaning})")
                for sound_id, message in found[["sound_id", "message"]].head(5).itertuples(index=False):
                    lines.append("    " + printable(": ".join(filter(None, (sound_id, message)))))
                if len(found) > 5:
                    lines.append(f"    and {len(found) - 5:,} more")
        if self.manifest_path:
            lines.append(f"manifest: {self.manifest_path}")
        lines.append("nothing is wrong" if self.ok else f"{len(self.problems):,} problems")
        return "\n".join(lines)

    def to_json(self) -> dict:
        """The report as plain values: root, clips, hours, ok, counts by category, findings."""
        return {
            "root": str(self.root),
            "source": self.clips.source.iloc[0] if len(self.clips) else "",
            "clips": len(self.clips),
            "hours": round(self.hours, 4),
            "ok": self.ok,
            "dropped": self.clips.attrs.get("dropped") or {},
            "counts": dict(Counter(self.findings.category)),
            "findings": self.findings.to_dict("records"),
            "manifest": str(self.manifest_path or ""),
        }


def validate(
    root: str | os.PathLike,
    workers: int | None = None,
    manifest: str | os.PathLike | None = None,
    deep: bool = False,
    stores: str | os.PathLike = "runs",
) -> Report:
    """Check the dataset in `root`, in any known layout -> `Report`. Nothing in `root` is written.

    Recordings that were measured before and have not changed are not read again: their rows are in the `manifest`, by
    default in the user's cache. deep: read all recordings again, and compare what is kept of them in audio stores below
    the folder `stores` (where runs or their scratch are) with its checksums.

    Raises ValueError or FileNotFoundError where `root` cannot be read as a dataset.
    """
    root = Path(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report says it
        clips = load(root, strict=False)
    findings = list(clips.attrs["problems"])
    if clips.empty and not findings:
        raise ValueError(f"{root}: its metadata lists no clip of the task: restore its rows or name another folder")
    findings += [("not UTF-8", "", f"line {line}") for line in clips.attrs["not_utf8_rows"]]

    listed = clips[clips.path.notna()]
    named = set(listed.path)
    left_out = set(clips.attrs.get("dropped_ids", ()))
    for folder in sorted({root / "audio", *(Path(path).parent for path in named)}):
        extra = {name: path for name, path in audio_files(folder).items() if path not in named and name not in left_out}
        findings += [("not listed", name, path) for name, path in extra.items()]
    if len(listed):
        findings += [("missing", clip, "no recording") for clip in clips.sound_id[clips.path.isna()]]
        path = Path(manifest) if manifest else manifests.default_path(root)
        measured = manifests.update(path, listed.path, workers, again=deep)
    else:
        findings.append(("no audio", "", f"no recording of {len(clips):,} clips is there"))
        path, measured = None, pd.DataFrame(columns=list(manifests.FIELDS))
    for modality in ("audio", "text") if (root / "features").is_dir() else ():
        folder = features_folder(root, modality)
        lost = read_features(root, clips.sound_id, modality)[1] if folder.is_dir() else [("", f"{folder} is absent")]
        findings += [("embedding", clip, f"{modality}: {reason}") for clip, reason in lost]
    measured.insert(0, "sound_id", listed.sound_id.to_numpy())

    for sound_id, problem in measured.loc[measured.problem != "", ["sound_id", "problem"]].itertuples(index=False):
        category, message = problem.split(": ", 1)
        findings.append((category, sound_id, message))
    # Silent recordings of one length are all alike, and are named as silent already.
    heard = measured[(measured.audio_hash != "") & ~measured.problem.str.startswith("silent")]
    first = heard.groupby("audio_hash").sound_id.transform("first")
    again = heard.audio_hash.duplicated()
    pairs = zip(heard.sound_id[again], first[again], strict=True)
    findings += [("duplicate audio", a, f"same sound as {b}") for a, b in pairs]
    for index in sorted(Path(stores).rglob("stores/*/*/index.csv")) if deep else ():
        changed = changed_clips(index.parent)
        inside = changed[[Path(path).resolve().is_relative_to(root.resolve()) for path in changed["path"]]]
        findings += [("stored samples", clip, f"in {index.parent}") for clip in inside["sound_id"]]
    table = pd.DataFrame(findings, columns=["category", "sound_id", "message"], dtype=object)
    return Report(root, clips, measured, path, table)
