"""The notebooks as pages, `make site`: with sound, contents and formulae, and nothing that is fetched from elsewhere.

    python -m tools.site [FOLDER]        # default: site/

Formulae become MathML, which browsers draw themselves. A Mermaid diagram is shown as JupyterLab drew it once; one
that has changed since stays text. A figure whose clips have places (`spots`: x and y as shares of the picture,
sound_id, title) tells their titles and plays those of the embedded dataset.
"""

import argparse
import base64
import hashlib
import html
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from haf_utils.datasets import load_bsd
from haf_utils.experiment.workspace import make_embedded
from haf_utils.io.files import atomic_write
from haf_utils.plots.data import load_excerpt
from haf_utils.plots.widgets import excerpt
from haf_utils.profiles import REPOSITORY
from tools.lab import SETTINGS

__all__ = ["diagram", "main", "page"]

_BLOCKS = "mathjax", "requirejs", "mermaidjs"  # of nbconvert's page: scripts from a content delivery network
_TEMPLATE = (
    "{% extends 'lab/index.html.j2' %}"
    + "".join(f"{{% block html_head_js_{name} %}}{{% endblock %}}" for name in _BLOCKS)
    + """{% block input %}{% if cell.metadata.get("jupyter", {}).get("source_hidden") %}<details><summary>code</summary>
{{ super() }}</details>{% else %}{{ super() }}{% endif %}{% endblock input %}"""
)
_LOOK = """<style>
.contents {font: 14px sans-serif; margin: 1em 6em}
.contents a {color: #0b4a99; text-decoration: underline}
math {font-size: 110%}
mtd[columnalign=left] {text-align: left} /* which browsers take from style sheets alone */
.formula, .jp-Editor, .jp-MarkdownOutput, .jp-OutputArea-output {overflow-x: auto}
img {max-width: 100%}
.jp-InputPrompt, .jp-OutputPrompt {color: #555 !important; opacity: 1 !important}
.spots {position: relative; width: fit-content}
.spots svg {position: absolute; inset: 0; width: 100%; height: 100%}
circle {fill: transparent; cursor: pointer}
circle:hover, circle.chosen {stroke: #000; stroke-width: 2}
.spots + div {font: 14px sans-serif}
details {min-width: 0; max-width: 100%; flex: 1; overflow-x: auto}
summary {font: 12px sans-serif; color: #555; cursor: pointer}
.jp-OutputArea-output pre {word-break: normal; overflow-wrap: anywhere}
@media (max-width: 700px) { /* figures keep their size, to be moved sideways, so that their words can be read */
  .contents {margin: 1em}
  .jp-RenderedImage {overflow-x: auto}
  .jp-RenderedImage img {max-width: none !important}
}
</style>"""


_INDEX = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>HAF-CLAP</title>
<style>body {font: 16px/1.5 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em}
li {margin: 1em 0} small {display: block; color: #555} code {background: #eee; padding: 0 .2em}</style>
<h1>HAF-CLAP</h1>
<p>How a network sorts sounds into 23 classes, by listening to them and by reading what their uploaders wrote: notebooks
that rebuild the system of a technical report of DCASE 2026 task 1 and test each of its parts. Each builds on those
before it; if you know PyTorch and not audio, begin with the first. Sounds, texts and labels are synthetic unless a page
says otherwise.</p>
<p>These pages can be read and listened to. To run and change the code, use the widgets and do the exercises, type
<code>make lab</code> in the repository; <code>make demo</code> opens a page that classifies a sound of yours.</p>
<ul>
"""
_SIGN = r"(<mo[^>]*>(?:\[|\(|,|&#x0005B;|&#x00028;|&#x0002C;)</mo>)<mo>&#x02212;"  # a minus that belongs to a number


def _mathml(formula: str, display: str) -> str:
    formula = convert(re.sub(r"\\arg\\(max|min)", r"\\mathrm{arg\\,\1}", formula), display=display)
    formula = re.sub(_SIGN, r'\1<mo form="prefix">&#x02212;', formula)
    return re.sub(
        "(?<!<msub>)(<mi>(?:ln|log|exp)</mi>)(?=<m[inrs])", r'\1<mspace width="0.167em"/>', formula
    )  # ln x, not lnx


class _Renderer(IPythonRenderer):
    def inline_math(self, text: str) -> str:
        return _mathml(text, "inline")

    def block_math(self, text: str) -> str:
        return f'<div class="formula">{_mathml(text, "block")}</div>'

    def block_mermaidjs(self, code: str) -> str:
        if not (drawn := diagram(code)).is_file():
            return super().block_mermaidjs(code)
        words = html.escape(", ".join(re.findall(r"\w[\[(]([^\])]*)", code)).replace("<br>", " "))
        image = base64.b64encode(drawn.read_bytes()).decode()
        shown = f'<img src="data:image/svg+xml;base64,{image}" width="1200" alt="{words}">'
        return f'<div class="jp-RenderedImage">{shown}</div>'


def diagram(code: str) -> Path:
    """The file of a Mermaid diagram as JupyterLab draws it, named by what it was drawn from."""
    return SETTINGS / f"diagram-{hashlib.sha256(code.strip().encode()).hexdigest()[:8]}.svg"


_PLAY = """<script>
for (const spot of document.querySelectorAll("[data-clip]")) {
  const figure = spot.closest(".spots"), [said, player] = figure.nextElementSibling.children;
  const tell = () => {
    for (const each of figure.querySelectorAll("[data-clip]"))
      each.classList.toggle("chosen", each.dataset.clip === spot.dataset.clip);
    said.textContent = spot.textContent;
    if (player.src = sounds[spot.dataset.clip] || "") player.play();
  };
  spot.onclick = tell;
  spot.onkeydown = press => press.key === "Enter" && tell();
}
</script>"""


def _with_spots(image: str, spots: list) -> str:
    circles = "".join(
        f'<circle cx="{x:.2%}" cy="{y:.2%}" r="7" tabindex="0" data-clip="{html.escape(clip)}">'
        f"<title>{html.escape(title)}</title></circle>"
        for x, y, clip, title in spots
    )
    below = "<div><p>Point at a mark for its clip's title; click it to hear it.</p><audio controls></audio></div>"
    return f'<div class="spots">{image}<svg>{circles}</svg></div>{below}'


def _sounds(wanted: set[str]) -> str:
    """A script with the beginnings of the embedded dataset's clips among those that are wanted, and the player's."""
    if not wanted:
        return ""
    clips = load_bsd(make_embedded() / "BSD10k").query("sound_id in @wanted")
    sounds = {clip.sound_id: excerpt(*load_excerpt(clip.path)).src_attr() for clip in clips.itertuples()}
    return f"<script>const sounds = {json.dumps(sounds)}</script>{_PLAY}"


def page(notebook: nbformat.NotebookNode, title: str, start: str = "index.html") -> str:
    """A notebook as one page, whose links to notebooks lead to their pages, and one to the page `start`. An image's
    text is the finding below it."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    images = [
        (below["data"].get("text/markdown", "a figure"), output.metadata.get("image/png", {}).get("spots", []))
        for output, below in pairwise([*outputs, {"data": {}}])
        if "image/png" in output.data
    ]
    of_images = iter(images)

    def shown(image: re.Match) -> str:
        finding, spots = next(of_images)
        text = re.sub('alt="No description[^"]*"', lambda _: f'alt="{html.escape(finding)}"', image[0])
        return _with_spots(text, spots) if spots else text

    exporter = HTMLExporter(raw_template=_TEMPLATE)
    exporter.register_filter("markdown2html", MarkdownWithMath(renderer=_Renderer(escape=False)).render)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    body = re.sub('<img [^>]*"data:image/png[^>]*>', shown, body)
    body = body.replace("</body>", _sounds({clip for _, spots in images for _, _, clip, _ in spots}) + "</body>")
    body = re.sub(r'(href="(?:\.\./|solutions/)?\d\d_\w+)\.ipynb', r"\1.html", body)
    headings = [(f"#{name}", text) for name, text in re.findall(r'<h2 id="([^"]*)">(.*?)<a', body, re.S)]
    contents = " · ".join(f'<a href="{to}">{text}</a>' for to, text in [(start, "Start"), *headings])
    return re.sub(r"(<body[^>]*>)", lambda m: f'{m[1]}{_LOOK}<nav class="contents">{contents}</nav>', body, count=1)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages and an index."""
    parser = argparse.ArgumentParser(prog="tools.site", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=REPOSITORY / "site", help="default: site/")
    folder, source, links = parser.parse_args(arguments).folder, REPOSITORY / "notebooks", {}
    for path in sorted(source.glob("**/[0-9][0-9]_*.ipynb")):
        notebook, name = nbformat.read(path, as_version=4), path.relative_to(source).with_suffix(".html")
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        text = page(notebook, title, "../" * (len(name.parts) - 1) + "index.html")
        atomic_write(folder / name, lambda file, text=text: file.write_text(text, "utf-8"))
        words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        parts = " · ".join(re.findall(r"(?m)^## (?:\d+\W+)?(?!Exercises|Summary|Glossary)(.*)", words))
        links[name] = html.escape(title), html.escape(parts)
    index = _INDEX
    for name, (title, parts) in links.items():
        if name.parent == Path():
            solved = [other.as_posix() for other in links if other.name == f"{name.name[:2]}_solutions.html"]
            solutions = "".join(f' (<a href="{other}">solutions</a>)' for other in solved)
            index += f'<li><a href="{name}">{title}</a>{solutions}<small>{parts}</small>\n'
    atomic_write(folder / "index.html", lambda file: file.write_text(index, "utf-8"))
    print(f"{len(links)} pages: {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"error: {error}")
