from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from haf_utils.plots.style import publish, synthetic_note
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


def test_a_published_figure_is_written_closed_and_followed_by_its_finding(tmp_path, capsys):
    figure = plt.figure()
    publish(figure, tmp_path, "01_nothing", "Nothing is higher than nothing.")
    assert (tmp_path / "01_nothing.png").is_file() and not plt.fignum_exists(figure.number)
    assert "Markdown" in capsys.readouterr().out.splitlines()[-1]
