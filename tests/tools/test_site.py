"""Pages of the notebooks: complete without anything from elsewhere."""

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from conftest import REPOSITORY
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from haf_utils.datasets import load_bsd
from tools import site
from tools.site import main, page

NOTEBOOKS = sorted((REPOSITORY / "notebooks").rglob("[0-9][0-9]_*.ipynb"))
FETCHED = r"""(?:src=["']|from ["']|import\(["']|<link[^>]*href=["'])https?:"""


def test_formulae_contents_links_sound_and_alternative_texts():
    image = new_output("display_data", {"image/png": "iVBORw0KGgo="})
    finding = new_output("display_data", {"text/markdown": 'Bars "rise" & fall.'})
    sound = new_output("display_data", {"text/html": "<audio src='data:audio/ogg;base64,T2dn'></audio>"})
    text = "# T\n\n## A part\n\n$x_i^2$ and\n\n$$\\arg\\max_c p_c$$\n\n"
    text += "[next](02_b.ipynb), [it](solutions/01_solutions.ipynb)"
    cells = [new_markdown_cell(text), new_code_cell("1", outputs=[image, finding, sound])]
    made = page(new_notebook(cells=cells), "T")
    assert made.count("<math") == 2 and made.count('display="block"') == 1 and "$" not in re.sub("<[^>]*>", "", made)
    assert '<nav class="contents"><a href="index.html">Start</a> · <a href="#A-part">A part</a></nav>' in made
    assert 'href="02_b.html"' in made and 'href="solutions/01_solutions.html"' in made and ".ipynb" not in made
    assert 'alt="Bars &quot;rise&quot; &amp; fall."' in made and "data:audio/ogg" in made
    assert not re.search(FETCHED, made)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_every_notebook_is_drawn(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    made = page(notebook, "")
    assert not re.search(FETCHED, made)
    for formula in re.findall("<math.*?</math>", made, re.S):
        assert "\\" not in re.sub("<[^>]*>", "", formula), formula


def test_every_diagram_is_a_picture_and_one_that_has_changed_is_text():
    code = "flowchart LR\n  a[first <br>step] --> b(last)\n"
    assert "a[first" in page(new_notebook(cells=[new_markdown_cell(f"# T\n\n```mermaid\n{code}```")]), "")
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if "```mermaid" in cell.source]
        made = page(notebook, "").partition("<main")[2]
        assert made.count("data:image/svg+xml;base64") == len(notebook.cells) and "-->" not in made
    # (The browser's tests compare the picture with what JupyterLab draws.)


def test_code_that_is_collapsed_in_jupyterlab_is_collapsed_in_the_page():
    cells = [new_code_cell("shown = 1"), new_code_cell("hidden = 2", metadata={"jupyter": {"source_hidden": True}})]
    shown, _, hidden = page(new_notebook(cells=cells), "").partition("<details>")
    assert "shown" in shown and "hidden" not in shown.partition("<main")[2] and "hidden" in hidden


@pytest.mark.parametrize(
    "formula, drawn",
    [
        (r"$$\sum_{i=0}^{n} x_i$$", "<munderover>"),  # limits above and below
        (r"$[-1, 1]$", '<mo form="prefix">−</mo><mn>1'),  # not the minus of a difference
        (r"$p \ln p$", '<mi>ln</mi><mspace width="0.167em"></mspace><mi>p'),
        (r"$\log_{10} p$", "<msub><mi>log</mi><mrow>"),
    ],
)
def test_formulae_look_as_in_a_book(formula, drawn):
    assert drawn in page(new_notebook(cells=[new_markdown_cell(formula)]), "T")


def test_marks_of_a_figure_tell_titles_and_play_clips(tiny, monkeypatch):
    monkeypatch.setattr(site, "make_embedded", lambda: Path(tiny.dataset).parent)
    clip = load_bsd(tiny.dataset).iloc[0].sound_id
    image = new_output("display_data", {"image/png": "iVBORw0KGgo="})
    image.metadata = {"image/png": {"spots": [[0.25, 0.5, clip, "Rain <b>"], [0.1, 0.2, "gone", "Of another dataset"]]}}
    plain = new_output("display_data", {"image/png": "iVBORw0KGgo="})
    finding = new_output("display_data", {"text/markdown": "A map."})
    made = page(new_notebook(cells=[new_code_cell("1", outputs=[plain, image, finding])]), "T")
    assert made.count('class="spots"') == 1
    assert f'<circle cx="25.00%" cy="50.00%" r="7" tabindex="0" data-clip="{clip}">' in made
    assert "<title>Rain &lt;b&gt;</title>" in made and "<title>Of another dataset</title>" in made
    sounds = json.loads(re.search("const sounds = (.*?)</script>", made)[1])
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds.pop(clip).partition("base64,")[2])))
    assert rate == 16_000 and np.abs(heard).max() > 0 and not sounds
    assert not re.search(FETCHED, made)


def test_an_index_leads_to_all_pages(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(site, "make_embedded", lambda: Path(tiny.dataset).parent)
    assert main([str(tmp_path)]) == 0
    index = (tmp_path / "index.html").read_text("utf-8")
    assert "name=viewport" in index  # else a phone shows it as small as a desk's
    links = re.findall('href="([^"]*)"', index)
    assert len(links) == len(NOTEBOOKS) and all((tmp_path / link).is_file() for link in links)
    found = re.findall(r'<li><a href="(\d\d)_.*href="solutions/(\d\d)_.*<small>\w', index)
    assert found == [(number, number) for number, _ in found] and 2 * len(found) == len(NOTEBOOKS)


def test_an_option_is_not_taken_for_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["--unknown"])
    assert "unrecognized arguments: --unknown" in capsys.readouterr().err and not any(tmp_path.iterdir())
