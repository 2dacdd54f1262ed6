"""What several test files share."""

from pathlib import Path

import hypothesis
import pytest

# A busy machine makes no test fail.
hypothesis.settings.register_profile("haf", deadline=None)
hypothesis.settings.load_profile("haf")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"  # real recordings, real metadata, golden values: not part of the repository


def need_shared(name: str) -> Path:
    """Path of the real data called `name`, or skip the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"real data absent: {path}")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`Workspace` of the embedded dataset at its smallest (made in data/tiny where it is absent), with runs of its own.

    Loading it needs torch, which takes seconds that most test files need not spend.
    """
    from haf_utils.workspace import workspace

    return workspace(profile="tiny", runs=str(tmp_path_factory.mktemp("runs")))
