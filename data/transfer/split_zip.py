"""Read a split zip archive (``x.z01``, ``x.z02``, ..., ``x.zip``) in place: no joined copy, no external program.

Parts laid end to end are almost a zip file. What is wrong with them is the central directory: it gives every member as
an offset into its own part, where an ordinary zip counts from the first byte. So the parts are read as one file whose
end is replaced in memory by a corrected directory, and Python's `zipfile` does the rest. Record layouts and names of
fields: PKWARE APPNOTE 6.3.10, sections 4.3.12 (central directory), 4.3.14 to 4.3.16 (end records), 4.5.3 (Zip64).
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_zip", "parts_of"]

_ENTRY = struct.Struct("<4s6H3I5H2I")  # central directory entry, without name, extra fields and comment
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_IN_ZIP64 = 0xFFFFFFFF  # in a 32-bit field: the value stands in the Zip64 extra field
_LONGEST_COMMENT = 0xFFFF


def parts_of(path: Path) -> list[Path]:
    """The parts of the archive that ends in `path` (``x.zip``), in order; `path` alone where it is not split.

    Raises FileNotFoundError where a part between the first and the last is missing.
    """
    numbered = {}
    for part in path.parent.iterdir():
        if part.stem == path.stem and (match := re.fullmatch(r"\.z(\d{2,})", part.suffix)):
            numbered[int(match[1])] = part
    missing = [f"{path.stem}.z{number:02d}" for number in range(1, max(numbered, default=0)) if number not in numbered]
    if missing:
        raise FileNotFoundError(f"{path}: parts are missing beside it: {', '.join(missing)}")
    return [numbered[number] for number in sorted(numbered)] + [path]


@contextmanager
def open_zip(parts: Sequence[Path]) -> Iterator[zipfile.ZipFile]:
    """Open an archive given by its parts, the ``.zip`` last; a single part is an ordinary zip file.

    Raises zipfile.BadZipFile, naming the file, where the end of the archive is damaged or parts are missing.
    """
    with ExitStack() as stack:
        if len(parts) == 1:
            yield stack.enter_context(zipfile.ZipFile(parts[0]))
            return
        files = [stack.enter_context(open(part, "rb")) for part in parts]
        sizes = [part.stat().st_size for part in parts]
        starts = [0, *itertools.accumulate(sizes)]
        everything = _Joined(files, sizes)
        try:
            directory_start, directory = _read_directory(everything, starts[:-1])
            end = _corrected_end(directory, starts[:-1], directory_start)
        except (struct.error, IndexError) as error:
            raise zipfile.BadZipFile(f"{parts[-1]}: the directory of the split archive is damaged ({error})") from error
        except zipfile.BadZipFile as error:
            raise zipfile.BadZipFile(f"{parts[-1]}: {error}") from error
        whole = io.BufferedReader(
            _Joined([everything, io.BytesIO(end)], [directory_start, len(end)]), buffer_size=1 << 18
        )
        yield stack.enter_context(zipfile.ZipFile(whole))


class _Joined(io.RawIOBase):
    """The first `sizes[i]` bytes of each file, one after the other, as one seekable file to read from."""

    def __init__(self, files: Sequence[BinaryIO | io.RawIOBase], sizes: Sequence[int]):
        self._files = files
        self._starts = [0, *itertools.accumulate(sizes)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if position < 0:
            raise OSError(f"cannot seek to {position}")
        self._position = position
        return position

    def readinto(self, buffer) -> int:
        if self._position >= self._starts[-1]:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        self._files[index].seek(self._position - self._starts[index])
        data = self._files[index].read(min(len(buffer), self._starts[index + 1] - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _read_directory(everything: _Joined, starts: list[int]) -> tuple[int, bytes]:
    """Where the central directory begins in the joined parts, and its bytes."""

    def read(position: int, count: int) -> bytes:
        everything.seek(position)
        blocks = []
        while count and (block := everything.read(count)):  # a read ends where a part ends
            blocks.append(block)
            count -= len(block)
        return b"".join(blocks)

    size = everything.seek(0, io.SEEK_END)
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = read(tail_start, size - tail_start)
    if (at := tail.rfind(b"PK\5\6")) < 0:
        raise zipfile.BadZipFile("no end of a zip archive found")
    _, last, first_of_directory, _, _, length, offset, _ = _END.unpack_from(tail, at)
    locator_at = tail_start + at - _LOCATOR_64.size
    locator = read(locator_at, _LOCATOR_64.size) if locator_at > 0 else b""
    if locator[:4] == b"PK\6\7":
        _, part, end_64, _ = _LOCATOR_64.unpack(locator)
        record = _END_64.unpack(read(starts[part] + end_64, _END_64.size))
        _, _, _, _, last, first_of_directory, _, _, length, offset = record
    if last + 1 != len(starts):
        raise zipfile.BadZipFile(f"the archive was split into {last + 1} parts, {len(starts)} are here")
    position = starts[first_of_directory] + offset
    return position, read(position, length)


def _corrected_end(directory: bytes, starts: list[int], directory_start: int) -> bytes:
    """The central directory with offsets from the first byte of the first part, and matching end records.

    Sizes and offsets all go to a Zip64 extra field, whether they need it or not: one form instead of eight.
    """
    entries, position = [], 0
    while position < len(directory):
        fields = _ENTRY.unpack_from(directory, position)
        signature, *head, packed, unpacked, name_length, extra_length, comment_length, part, inner, outer, offset = (
            fields
        )
        if signature != b"PK\1\2":
            raise zipfile.BadZipFile(f"no directory entry at byte {position} of the directory")
        extra_at = position + _ENTRY.size + name_length
        name = directory[position + _ENTRY.size : extra_at]
        wide, others = _take_zip64(directory[extra_at : extra_at + extra_length])
        position = extra_at + extra_length + comment_length

        # The Zip64 field holds only those values that did not fit where they belong, in this order.
        if unpacked == _IN_ZIP64:
            (unpacked,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        if packed == _IN_ZIP64:
            (packed,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        if offset == _IN_ZIP64:
            (offset,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        if part == 0xFFFF:
            (part,) = struct.unpack("<I", wide[:4])
        extra = struct.pack("<2H3Q", 1, 24, unpacked, packed, starts[part] + offset) + others
        lengths = (len(name), len(extra), 0)  # the comment is dropped, the part is the first
        entries.append(
            _ENTRY.pack(signature, *head, _IN_ZIP64, _IN_ZIP64, *lengths, 0, inner, outer, _IN_ZIP64) + name + extra
        )
    corrected = b"".join(entries)
    count, length = len(entries), len(corrected)
    return (
        corrected
        + _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, length, directory_start)
        + _LOCATOR_64.pack(b"PK\6\7", 0, directory_start + length, 1)
        + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _IN_ZIP64, _IN_ZIP64, 0)
    )


def _take_zip64(extra: bytes) -> tuple[bytes, bytes]:
    """Split the extra fields of an entry into the body of the Zip64 field (empty if there is none) and the others."""
    wide, others, position = b"", b"", 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        field = extra[position : position + 4 + size]
        if kind == 1:
            wide = field[4:]
        else:
            others += field
        position += 4 + size
    return wide, others
