"""Unpack a downloaded archive so that nothing lands outside its folder, and the folder is there whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from transfer.fetch import check_space
from transfer.split_zip import open_zip, parts_of

__all__ = ["unpack"]

BLOCK = 1 << 20  # bytes


def unpack(archive: Path, folder: Path, target: str) -> None:
    """Unpack a .zip (split or not) or .tar.gz into `folder`/`target`, which exists only once everything is there.

    What lies in the archive under a folder called `target`, at any depth, comes without that folder and those above it.
    Raises ValueError, and leaves nothing behind, for a damaged archive, a member with an absolute path or one that
    climbs out with "..", and for links; OSError if the disk is too small.
    """
    staging = folder / f"{target}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        with _members(archive, folder) as members:
            for name, source in tqdm(members, desc=f"unpack {archive.name}", unit=" files", disable=None):
                path = staging / _inside(archive, name, target)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as out:
                    shutil.copyfileobj(source, out, BLOCK)
        os.replace(staging, folder / target)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{archive} cannot be unpacked ({error}): delete it and run the command again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _members(archive: Path, folder: Path) -> Iterator[Iterator[tuple[str, BinaryIO]]]:
    """Name and content of every ordinary file in an archive; anything that is neither file nor folder is refused."""

    def refuse(name: str) -> ValueError:
        return ValueError(f"{archive}: {name!r} is a link or a device: refused, nothing was unpacked")

    def of_zip(opened: zipfile.ZipFile) -> Iterator[tuple[str, BinaryIO]]:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refuse(info.filename)
            if not info.is_dir() and not info.filename.startswith("__MACOSX/"):
                with opened.open(info) as source:
                    yield info.filename, source

    def of_tar(opened: tarfile.TarFile) -> Iterator[tuple[str, BinaryIO]]:
        for info in opened:
            if not (info.isreg() or info.isdir()):
                raise refuse(info.name)
            if info.isreg():
                yield info.name, opened.extractfile(info)

    if archive.suffix == ".zip":
        with open_zip(parts_of(archive)) as opened:
            check_space(folder, sum(info.file_size for info in opened.infolist()))
            yield of_zip(opened)
    else:
        # gzip.open checks the sum at the end of the stream, which tarfile's own reader ignores.
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as opened:
            yield of_tar(opened)
            while stream.read(BLOCK):
                pass


def _inside(archive: Path, name: str, target: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or parts[0].endswith(":"):
        raise ValueError(f"{archive}: {name!r} points outside the archive's folder: refused, nothing was unpacked")
    return Path(*(parts[parts.index(target) + 1 :] if target in parts[:-1] else parts))
