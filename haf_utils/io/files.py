"""Writing files so that a reader sees the old content or the new, never half of it."""

import errno
import json
import os
import platform
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

__all__ = ["atomic_write", "inert", "lives", "read_npz", "remove_leftovers", "state", "walk", "writable",
           "write_json"]  # fmt: skip


def atomic_write(path: str | os.PathLike, write: Callable[[Path], object], size: int = 0) -> None:
    """Call `write` with a temporary path and rename the result: a reader of `path` sees the old file or the new.

    A failing `write` leaves the old file as it was; a full disk is an OSError (ENOSPC) that says what was needed,
    `size` bytes where they are known, and what there was. Temporary files that killed writers of this machine left in
    the folder are removed first. The file is as readable as the umask has it, whatever the library that writes it does.
    """
    path = Path(path)
    remove_leftovers(writable(path.parent))
    temporary = path.with_name(f".{path.stem}.{os.getpid()}@{platform.node()}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        free, written = shutil.disk_usage(path.parent).free, max(0, state(temporary)[0])
        full = free < max(size - written, 1 << 20) or "(os error 27)" in str(error)
        if isinstance(error, RuntimeError) and not full:  # torch's; it has no number
            raise OSError(f"{path} could not be written: {error}") from error
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        need = f"{size / 1e6:.1f} MB" if size else f"more than {written / 1e6:.1f} MB"
        there = f"{(free + written) / 1e6:.1f} MB there (or less, by a quota or ulimit -f)"
        raise OSError(errno.ENOSPC, f"the disk is full: {need} needed, {there}: make room", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def writable(folder: Path | str) -> Path:
    """`folder`, made where it is absent. Raises OSError, with what to do, where nothing can be written to it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    raise PermissionError(f"{folder} cannot be written to: name another folder (runs=…, haf --runs, make run RUNS=…)")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers, processes of this machine, have ended."""
    name = re.compile(rf"\..*\.(\d+)@{re.escape(platform.node())}(\.[^.]*)?")
    for entry in os.scandir(folder):
        if (match := name.fullmatch(entry.name)) and not lives(int(match[1])):
            Path(entry.path).unlink(missing_ok=True)


def lives(process: int) -> bool:
    """Whether this machine still runs the process of this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def state(path: Path | str) -> tuple[int, int]:
    """Size in bytes and time of change in ns of a file, by which a change is noticed; (-1, -1) where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def walk(folder: Path | str) -> Iterator[Path]:
    """Every file in `folder` and below, sorted within each folder. Links are followed, no folder is entered twice. What
    is no folder (a pipe, a link to nothing) is a file here: reading it gives the reason."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        yield from (Path(place, name) for name in sorted(files))


def inert(texts):
    """A Series of texts for a CSV file: an apostrophe stands before what a spreadsheet would take for a formula."""
    return texts.str.replace(r"^(?=[=+@\t\r-])", "'", regex=True)


def write_json(path: Path | str, content: dict) -> None:
    """Write `content` as indented JSON, atomically. File names that are not UTF-8 keep their bytes, as escapes."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    atomic_write(path, lambda p: p.write_bytes(text.encode("utf-8", "backslashreplace")))


def read_npz(path: Path | str, **shapes: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """Arrays of a cache that `np.savez` wrote, by name; None where there is no such file, and, with a line that says
    so, where it cannot be read (its checksums are compared) or has other shapes than `shapes`."""
    if not Path(path).is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in shapes}
        if {name: array.shape for name, array in arrays.items()} == shapes:
            return arrays
        reason = f"shapes {[array.shape for array in arrays.values()]}"
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error) or type(error).__name__
    print(f"{Path(path).name} cannot be used ({reason}): it is made again")
    return None
