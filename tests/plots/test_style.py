from types import SimpleNamespace

import pytest

from haf_utils.plots.style import synthetic_note
from haf_utils.profiles import REPOSITORY


def space(dataset, profile="mini"):
    return SimpleNamespace(dataset=str(dataset), profile=profile)


@pytest.mark.parametrize("size, profile", [("mini", "mini"), ("tiny", "tiny"), ("mini", "full")])
def test_the_embedded_dataset_is_called_synthetic(size, profile):
    note = synthetic_note(space(REPOSITORY / "data" / size / "BSD10k", profile))
    assert note.startswith("> **Synthetic stand-in data.**") and "make_mini.py" in note


@pytest.mark.parametrize("folder", [REPOSITORY / "data" / "downloads" / "BSD10k", "/recordings/BSD10k"])
def test_other_recordings_are_not(folder):
    note = synthetic_note(space(folder, "mini"))
    assert "stand-in data" not in note and "A small network trained on synthetic sounds" in note
    assert synthetic_note(space(folder, "full")) == ""
