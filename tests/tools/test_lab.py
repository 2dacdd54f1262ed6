"""The working copy of `make lab`: nothing of a reader's is overwritten, and what is shown is trusted."""

import nbformat
import pytest
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook, new_output

from haf_utils.experiment.workspace import workspace
from tools.lab import working_copy


def write(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = new_code_cell(source, outputs=[new_output("display_data", {"text/html": f"<audio id='{path}'></audio>"})])
    nbformat.write(new_notebook(cells=[cell]), path)


def source_of(path):
    return nbformat.read(path, as_version=4).cells[0].source


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))  # where signatures are kept
    write(tmp_path / "notebooks" / "01_a.ipynb", "1")
    write(tmp_path / "notebooks" / "solutions" / "01_solutions.ipynb", "2")
    return tmp_path / "notebooks", tmp_path / "work"


def test_copies_are_complete_and_trusted(folders):
    source, copy = folders
    assert working_copy(source, copy) == []
    names = {"01_a.ipynb", "solutions/01_solutions.ipynb"}
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*.ipynb")} == names
    for name in names:
        assert NotebookNotary().check_signature(nbformat.read(copy / name, as_version=4))
        assert (copy / name).read_bytes() == (source / name).read_bytes()


def test_what_was_not_touched_follows_the_repository(folders):
    source, copy = folders
    working_copy(source, copy)
    write(source / "01_a.ipynb", "newer")
    assert working_copy(source, copy) == [] and source_of(copy / "01_a.ipynb") == "newer"


def test_what_a_reader_changed_is_kept_and_named(folders):
    source, copy = folders
    working_copy(source, copy)
    write(copy / "01_a.ipynb", "mine")
    write(copy / "own.ipynb", "my own")
    for _ in range(2):
        assert working_copy(source, copy) == ["01_a.ipynb"]
        assert source_of(copy / "01_a.ipynb") == "mine" and source_of(copy / "own.ipynb") == "my own"
    write(copy / "elsewhere" / "x.ipynb", "x")
    (copy / ".copied.json").write_text("{")  # a copy whose record is lost or damaged is a reader's own
    assert working_copy(source, copy) == ["01_a.ipynb"]


def test_experiments_leave_the_figures_of_the_main_job_alone(tmp_path, monkeypatch):
    space = workspace(profile="tiny", runs=str(tmp_path / "runs"))
    monkeypatch.delenv("HAF_OUTPUTS", raising=False)
    assert str(space.outputs) == space.runs
    monkeypatch.setenv("HAF_OUTPUTS", str(tmp_path / "work"))
    assert space.outputs == tmp_path / "work" / "embedded-tiny"
