"""Publish what the embedded run made, so that a reader of the repository sees results before running anything.

    python -m tools.publish [--runs FOLDER]

Copies the figures into figures/, the cells' outputs into notebooks/ and the results into the README's table. The
notebooks keep their own cells: what papermill injected, its timings and the paths of this machine stay out.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pandas as pd
from PIL import Image

from haf_utils.experiment.finetune import other_code
from haf_utils.io.files import atomic_write
from haf_utils.profiles import REPOSITORY
from haf_utils.runs import finished

__all__ = ["main", "publish_notebook", "publish_table", "with_table"]

_LIMIT = 1_000_000  # bytes: larger notebooks are slow to show on the web


class PublishError(ValueError):
    """A notebook cannot be published; the message names it and says why."""


def publish_notebook(source: Path, executed: Path) -> None:
    """Put the outputs of `executed` into `source`, cells numbered 1 to n.

    Raises PublishError where the two do not have the same cells, an output is an error or holds a path of this
    machine, or the notebook became too large.
    """
    notebook = nbformat.read(source, as_version=4)
    run = nbformat.read(executed, as_version=4)
    # papermill adds one cell, with the parameters that it was given.
    ran = [cell for cell in run.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in ran] != [cell.source for cell in notebook.cells]:
        raise PublishError(f"{source.name} was changed since it ran: make run, and publish again")
    number = 0
    for cell, done in zip(notebook.cells, ran, strict=True):
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        cell.outputs = [_clean(output, number) for output in done.outputs]
        if any(output.output_type == "error" for output in cell.outputs):
            raise PublishError(f"{source.name}: cell {number} ended in an error")
    notebook.metadata = {
        name: notebook.metadata[name] for name in ("kernelspec", "language_info") if name in notebook.metadata
    }
    text = _without_chance(nbformat.writes(notebook)) + "\n"
    home = re.search(rf"({re.escape(str(REPOSITORY))}|{re.escape(str(Path.home()))}/|/tmp/)[^\"\\ ]*", text)
    if home:
        raise PublishError(f"{source.name} shows a path of this machine: {home[0]}")
    if len(text) > _LIMIT:
        raise PublishError(f"{source.name} would have {len(text) / 1e6:.1f} MB: draw its figures smaller")
    atomic_write(source, lambda path: path.write_text(text, "utf-8"))


def _without_chance(text: str) -> str:
    """Without what differs from run to run: addresses of objects, and the names that pandas draws for its tables."""
    text = re.sub(r" at 0x[0-9a-f]+>", ">", text)
    drawn = dict.fromkeys(re.findall(r"\bT_[0-9a-f]{5}(?=[_\\ ])", text))
    for number, name in enumerate(drawn):
        text = text.replace(name, f"T_table{number}")
    return text


def with_table(text: str, table: pd.DataFrame, name: str, note: str = "") -> str:
    """The README's `text` with `table`, and a `note` below it, between the two marks of this `name`.

    Raises PublishError where it has no such marks.
    """
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    lines = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise PublishError(f"README.md lacks the marks {begin} and {end} around its table")
    return f"{before}{begin}\n{lines}\n" + (f"\n{note}\n" if note else "") + f"{end}{after}"


def publish_table(table: pd.DataFrame, name: str, note: str = "") -> None:
    """Write `table` and its `note` into README.md, as `with_table` does."""
    readme = REPOSITORY / "README.md"
    text = with_table(readme.read_text("utf-8"), table, name, note)
    atomic_write(readme, lambda path: path.write_text(text, "utf-8"))
    print("README.md")


def _only_by_other_code(root: Path) -> list[str]:
    """Runs that no run of today's code stands beside: their numbers are not those of this code."""
    current: dict[str, bool] = {}
    for file in sorted(root.glob("*/config.json")):
        record = json.loads(file.read_text("utf-8"))
        if "digests" in record and finished(file.parent):  # a run, and no checkpoint of pretraining
            name = file.parent.name.split("~")[0]
            current[name] = current.get(name, False) or not other_code(record)
    return [name for name, is_current in current.items() if not is_current]


def _clean(output: nbformat.NotebookNode, number: int) -> nbformat.NotebookNode:
    if "execution_count" in output:
        output.execution_count = number
    if "metadata" in output:
        image = {key: value for key, value in output.metadata.get("image/png", {}).items() if key in ("alt", "spots")}
        output.metadata = {"image/png": image} if image else {}
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = _in_256_colours(output.data["image/png"])
    return output


def _in_256_colours(png: str) -> str:
    """A base64 PNG with a palette, a third of the size; text and lines stay as sharp. figures/ keeps all colours."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main(arguments: list[str] | None = None) -> int:
    """Publish figures and notebooks; returns 0, or 1 with the reason."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="", help="folder of results (default: runs/ in the repository)")
    root = Path(parser.parse_args(arguments).runs or REPOSITORY / "runs") / "embedded-mini"
    notebooks = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    try:
        if marked := _only_by_other_code(root):
            raise PublishError(
                f"made by other code than today's: {', '.join(marked[:5])}{' …' if len(marked) > 5 else ''}: "
                "make figures RETRAIN=1 trains them again, beside these"
            )
        for notebook in notebooks:
            executed = root / "notebooks" / notebook.name
            if not executed.is_file():
                raise PublishError(f"{executed} is absent: make run first")
            publish_notebook(notebook, executed)
            print(f"notebooks/{notebook.name}")
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = REPOSITORY / "figures"
    for notebook in notebooks:
        for old in folder.glob(f"{notebook.name[:2]}_*.png"):
            if not old.with_suffix(".csv").is_file():  # beside its numbers lies a figure of a tool: it stays
                old.unlink()
    for figure in sorted((root / "figures").glob("*.png")):
        shutil.copyfile(figure, folder / figure.name)
        print(f"figures/{figure.name}")
    shutil.copyfile(root / "results.csv", folder / "results.csv")
    print("figures/results.csv")
    publish_table(pd.read_csv(root / "results.csv", dtype=str), "results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
