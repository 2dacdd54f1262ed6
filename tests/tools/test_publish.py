"""Publishing keeps a notebook's own cells and takes the outputs."""

import base64
import io

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from haf_utils.io.files import write_json
from haf_utils.profiles import REPOSITORY
from tools import publish
from tools.publish import PublishError, publish_notebook


def cells():
    parameters = new_code_cell("seed: int = 0  # seed")
    parameters.metadata["tags"] = ["parameters"]
    return [new_markdown_cell("# 01 · Title"), parameters, new_code_cell("print(seed)")]


@pytest.fixture
def pair(tmp_path):
    source = tmp_path / "01_a.ipynb"
    nbformat.write(
        new_notebook(cells=cells(), metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}), source
    )
    run = new_notebook(cells=cells(), metadata={"papermill": {"duration": 3.2}})
    run.cells[2].outputs = [new_output("stream", text="1\n")]
    run.cells[2].execution_count = 7
    injected = new_code_cell("seed = 1")
    injected.metadata["tags"] = ["injected-parameters"]
    run.cells.insert(2, injected)
    return source, run, tmp_path / "run.ipynb"


def test_outputs_are_taken_and_cells_numbered(pair):
    source, run, executed = pair
    nbformat.write(run, executed)
    publish_notebook(source, executed)
    published = nbformat.read(source, as_version=4)
    assert [cell.source for cell in published.cells] == [cell.source for cell in cells()]
    assert [cell.execution_count for cell in published.cells if cell.cell_type == "code"] == [1, 2]
    assert published.cells[2].outputs[0].text == "1\n"
    assert "papermill" not in published.metadata


def test_an_image_keeps_its_look_its_text_and_its_places_and_takes_less_room(pair):
    source, run, executed = pair
    axes = plt.figure(figsize=(4, 3), dpi=80).add_subplot(title="Words stay sharp")
    axes.imshow(np.linspace(0, 1, 30 * 40).reshape(30, 40), cmap="magma")
    file = io.BytesIO()
    axes.figure.savefig(file, format="png")
    plt.close(axes.figure)
    kept = {"alt": "Bars rise.", "spots": [[0.5, 0.25, "17", "A dog"]]}
    image = {"image/png": base64.b64encode(file.getvalue()).decode()}
    metadata = {"image/png": kept | {"width": 3}, "other": 1}
    run.cells[3].outputs = [new_output("display_data", image, metadata=metadata)]
    nbformat.write(run, executed)
    publish_notebook(source, executed)
    (output,) = nbformat.read(source, as_version=4).cells[2].outputs
    assert output.metadata == {"image/png": kept}
    small = base64.b64decode(output.data["image/png"])
    before, after = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int) for png in (file.getvalue(), small))
    assert len(small) < len(file.getvalue()) and before.shape == after.shape
    assert np.percentile(np.abs(before - after), 99) <= 8  # of 255


def test_the_same_outputs_publish_as_the_same_bytes(pair):
    """pandas names every styled table at random, and its text is an address."""
    source, run, executed = pair
    published = []
    for _ in range(2):
        tables = [pd.DataFrame({"a": [1], "b": [number]}).style for number in range(2)]
        run.cells[3].outputs = [
            new_output("display_data", {"text/html": table.to_html(), "text/plain": repr(table)}) for table in tables
        ]
        nbformat.write(run, executed)
        publish_notebook(source, executed)
        published.append(source.read_text("utf-8"))
    assert published[0] == published[1]
    assert "T_table0_row0_col0" in published[0] and "T_table1_row0_col0" in published[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda run: run.cells[0].update(source="# other"), "was changed since it ran"),
        (lambda run: run.cells[3].update(outputs=[new_output("error", ename="E", evalue="", traceback=[])]), "error"),
        (lambda run: run.cells[3].outputs[0].update(text=f"{REPOSITORY}/runs"), "path of this machine"),
        (lambda run: run.cells[3].outputs[0].update(text="x" * 1_100_000), "MB"),
    ],
)
def test_what_cannot_be_published_is_refused_and_the_notebook_kept(pair, change, message):
    source, run, executed = pair
    before = source.read_bytes()
    change(run)
    nbformat.write(run, executed)
    with pytest.raises(PublishError, match=message):
        publish_notebook(source, executed)
    assert source.read_bytes() == before


def test_runs_of_other_code_are_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "other_code", lambda record: ("losses.py",) if record["old"] else ())
    for name, old in (("a", True), ("a~123456", False), ("b", True), ("c", False)):
        write_json(tmp_path / name / "config.json", {"digests": {}, "old": old})
        for file in ("history.csv", "metrics.json", "predictions.npz", "split.csv"):
            (tmp_path / name / file).write_text("{}")
    assert publish._only_by_other_code(tmp_path) == ["b"]  # beside "a" stands a run of today's code
