"""The notebooks as pages, `make site`: with sound, contents and formulae, and nothing that is fetched from elsewhere.

    python -m tools.site [FOLDER]        # default: site/

Formulae become MathML, which browsers draw themselves. A Mermaid diagram is shown as JupyterLab drew it once; one
that has changed since stays text.
"""

import base64
import hashlib
import html
import re
import sys
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from haf_utils.io.files import atomic_write
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
math {font-size: 110%}
.formula, .jp-Editor, .jp-MarkdownOutput, .jp-OutputArea-output {overflow-x: auto}
img {max-width: 100%}
details {min-width: 0; max-width: 100%; flex: 1; overflow-x: auto}
summary {font: 12px sans-serif; color: #555; cursor: pointer}
.jp-OutputArea-output pre {word-break: normal; overflow-wrap: anywhere}
@media (max-width: 700px) { /* figures keep their size, to be moved sideways, so that their words can be read */
  .contents {margin: 1em}
  .jp-RenderedImage {overflow-x: auto}
  .jp-RenderedImage img {max-width: none !important}
}
</style>"""


class _Renderer(IPythonRenderer):
    def inline_math(self, text: str) -> str:
        return convert(text.replace(r"\arg\max", r"\mathrm{arg\,max}").replace(r"\arg\min", r"\mathrm{arg\,min}"))

    def block_math(self, text: str) -> str:
        formula = self.inline_math(text).replace('display="inline"', 'display="block"', 1)
        return f'<div class="formula">{formula}</div>'

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


def page(notebook: nbformat.NotebookNode, title: str) -> str:
    """A notebook as one page, whose links to notebooks lead to their pages. An image's text is the finding below it."""
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])] + [{}]
    images = [place for place, data in enumerate(outputs) if "image/png" in data]
    findings = iter([outputs[place + 1].get("text/markdown", "a figure") for place in images])
    exporter = HTMLExporter(raw_template=_TEMPLATE)
    exporter.register_filter("markdown2html", MarkdownWithMath(renderer=_Renderer(escape=False)).render)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    body = re.sub(r'alt="No description[^"]*"', lambda _: f'alt="{html.escape(next(findings))}"', body)
    body = re.sub(r'(href="(?:\.\./|solutions/)?\d\d_\w+)\.ipynb', r"\1.html", body)
    headings = re.findall(r'<h2 id="([^"]*)">(.*?)<a', body, re.S)
    contents = " · ".join(f'<a href="#{name}">{text}</a>' for name, text in headings)
    return re.sub(r"(<body[^>]*>)", lambda m: f'{m[1]}{_LOOK}<nav class="contents">{contents}</nav>', body, count=1)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages and an index."""
    given = sys.argv[1:] if arguments is None else arguments
    folder, source, links = Path(given[0]) if given else REPOSITORY / "site", REPOSITORY / "notebooks", []
    for path in sorted(source.glob("**/[0-9][0-9]_*.ipynb")):
        notebook, name = nbformat.read(path, as_version=4), path.relative_to(source).with_suffix(".html")
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        text = page(notebook, title)
        atomic_write(folder / name, lambda file, text=text: file.write_text(text, "utf-8"))
        links.append(f'<li><a href="{name.as_posix()}">{html.escape(title)}</a></li>')
    index = f"<!doctype html><meta charset=utf-8><title>HAF-CLAP</title><h1>HAF-CLAP</h1><ul>{''.join(links)}</ul>"
    atomic_write(folder / "index.html", lambda file: file.write_text(index, "utf-8"))
    print(f"{len(links)} pages: {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
