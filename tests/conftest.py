"""What several test files share."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"  # real recordings, real metadata, golden values: not part of the repository


def need_shared(name: str) -> Path:
    """Path of the real data called `name`, or skip the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"real data absent: {path}")
    return path
