"""Download one file so that it can be interrupted at any moment, and is right once it has its name."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

__all__ = ["RemoteFile", "check_space", "fetch", "file_digest"]

BLOCK = 1 << 20  # bytes
_ARCHIVE = re.compile(r"(.+?)(?:\.jsonwav)?(?:\.zip|\.z\d{2,}|\.tar\.gz)$")


@dataclass(frozen=True)
class RemoteFile:
    """One file as its source states it. `checksum`: "md5:..." or "sha256:...", empty where the source states none."""

    name: str
    url: str
    size: int  # bytes
    checksum: str

    def __post_init__(self):
        # The name comes from the network and becomes a path.
        for name in (self.name, self.folder):
            if name in (".", "..") or "/" in name or "\\" in name:
                raise ValueError(f"the source names a file {self.name!r}, which is not a plain file name: refused")

        if self.checksum and not re.fullmatch(r"\w+:[0-9a-f]+", self.checksum):
            raise ValueError(f"the source states {self.checksum!r} as checksum of {self.name}: refused")

    @property
    def folder(self) -> str:
        """The folder that the archive unpacks to (parts of a split archive share it); "" for a file of its own."""
        match = _ARCHIVE.match(self.name)
        return match[1] if match else ""

    @property
    def group(self) -> str:
        """What --only calls it: metadata, features, audio, dev_audio, train, ..."""
        return self.folder.removeprefix("FSD50K.").removeprefix("nsynth-")


def fetch(file: RemoteFile, folder: Path, attempts: int = 5, pause: float = 2.0) -> Path:
    """Download a file, or the rest of it, and check it. Returns its path; it has that name only once it is right.

    A broken connection is taken up again where it broke; `attempts` in a row that bring nothing end it.
    Raises OSError (network, disk) or ValueError (a checksum or a size that is not as stated, a file of that name that
    is another).
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    kind, _, stated = file.checksum.partition(":")
    if path.exists():
        if path.is_file() and path.stat().st_size == file.size and (not stated or file_digest(path, kind) == stated):
            return path
        raise ValueError(f"{path} exists and is not what the source states now: move it away or choose --to")
    folder.mkdir(parents=True, exist_ok=True)
    if not part.exists() or part.stat().st_size > file.size:
        part.write_bytes(b"")
    failures = 0
    with tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, disable=None) as bar:
        while (have := part.stat().st_size) != file.size:
            bar.n = have
            try:
                _continue(file, part, have, bar)
                reason = "the connection ended early"
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                answer = getattr(error, "response", None)
                if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                    raise
                reason = str(error)
            failures = 0 if part.stat().st_size > have else failures + 1
            if failures == attempts:
                raise OSError(f"{file.url}: {reason}; tried {attempts} times. Run the command again to go on.")
            if failures:
                time.sleep(pause * 2**failures)
    if stated and (found := file_digest(part, kind)) != stated:
        part.unlink()  # going on from wrong bytes would never end
        raise ValueError(
            f"{file.url}: {kind} is {found} but the source states {stated}. The download was damaged on its way or the "
            f"source is wrong; it was deleted. Run the command again; if this repeats, report it to the source."
        )
    os.replace(part, path)
    return path


def _continue(file: RemoteFile, part: Path, have: int, bar: tqdm) -> None:
    """One request: append what the server sends after the first `have` bytes; begin again where it cannot resume."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(file.url, headers=headers, stream=True, timeout=(10, 60)) as answer:
        answer.raise_for_status()
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            have = bar.n = 0
        with open(part, "ab" if resumed else "wb") as out:
            # read1 hands over what has arrived; iter_content would lose it when the connection breaks inside a block.
            while block := answer.raw.read1(BLOCK):
                have += len(block)
                if have > file.size:
                    out.truncate(0)
                    raise ValueError(f"{file.url}: longer than the {file.size} bytes that the source states")
                out.write(block)
                bar.update(len(block))


def file_digest(path: Path, kind: str) -> str:
    """Hexadecimal digest of a file; kind: "md5", "sha256" or another of hashlib's, ValueError for one that it lacks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def check_space(folder: Path, need: float) -> None:
    """Raise OSError where the disk of `folder` (which need not exist yet) has less than `need` bytes free."""
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if need > free:
        raise OSError(
            errno.ENOSPC, f"{need / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free: make room or choose --to", str(folder)
        )
