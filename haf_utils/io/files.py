"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["atomic_write", "write_json"]


def atomic_write(path: Path | str, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path and rename the result: a reader of `path` sees the old file or the new.

    A failing `write` (a full disk, say) leaves the old file as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: dict) -> None:
    """Write `content` as indented JSON, atomically."""
    atomic_write(path, lambda p: p.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8"))
