"""Tables that grow row by row and survive kills: CSV whose rows end with a checksum of their own.

A row that a kill has torn, or that changed on the disk, is dropped instead of believed; its work is done again.
"""

import csv
import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["append", "read"]


def read(path: Path, fields: Sequence[str]) -> tuple[list[tuple[str, ...]], int]:
    """Intact rows of a journal, oldest first, and how many lines are not intact; ([], 0) where there is no file."""
    rows, torn = [], 0
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        text, _, check = line.rpartition(b",")
        if check == b"%08x" % zlib.crc32(text):
            row = next(csv.reader([text.replace(b"\0", b"\n").decode("utf-8", "surrogateescape")]))
            if len(row) == len(fields):
                rows.append(tuple(row))
                continue
        torn += line not in (b"", _header(fields))
    return rows, torn


def append(path: Path, fields: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write rows to the end of a journal, which is made where it is absent."""
    with open(path, "a+b") as file:
        begins = not file.tell()
        if not begins:
            file.seek(-1, 2)
            file.write(b"" if file.read(1) == b"\n" else b"\n")
        lines = [_header(fields)] if begins else []
        for row in rows:
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerow(row)
            # Each row is one line: no name holds a NUL, which stands for the line break that some do hold.
            data = text.getvalue()[:-1].encode("utf-8", "surrogateescape").replace(b"\n", b"\0")
            lines.append(data + b",%08x" % zlib.crc32(data))
        file.write(b"".join(line + b"\n" for line in lines))


def _header(fields: Sequence[str]) -> bytes:
    return ",".join([*fields, "check"]).encode()
