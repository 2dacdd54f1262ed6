"""What code a result came from: a digest of each file of the package that the code in question imports.

The files are found by following the imports: no list has to be kept by hand, and a change elsewhere (a figure, a
command) does not count.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import haf_utils

__all__ = ["changed_files", "code_digests", "imported_digests"]

_PACKAGE = Path(haf_utils.__file__).resolve().parent


@cache
def code_digests(module: str = "haf_utils.experiment.finetune") -> dict[str, str]:
    """File below the package -> digest, for `module` and all that it imports of this package, directly or not."""
    file = _file(module)
    if file is None:
        raise ValueError(f"{module} is no module of this package")
    return _digests([file])


def changed_files(known: Mapping[str, str], module: str = "haf_utils.experiment.finetune") -> tuple[str, ...]:
    """Files in which the code that made something, as it was recorded, differs from today's."""
    now = code_digests(module)
    return tuple(sorted(name for name in known.keys() | now.keys() if known.get(name) != now.get(name)))


def imported_digests(source: str) -> dict[str, str]:
    """The same for what a piece of Python (the cells of a notebook) imports of this package."""
    return _digests(_imports(ast.parse(source)))


def _digests(pending: list[Path] | Iterator[Path]) -> dict[str, str]:
    pending, found = list(pending), {}
    while pending:
        file = pending.pop()
        name = file.relative_to(_PACKAGE).as_posix()
        if name not in found:
            tree = ast.parse(file.read_text("utf-8"))
            found[name] = hashlib.sha256(ast.dump(_bare(tree)).encode()).hexdigest()[:16]
            pending += _imports(tree)
    return dict(sorted(found.items()))


def _imports(tree: ast.Module) -> Iterator[Path]:
    """Files of this package that `tree` imports, anywhere in it."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from filter(None, map(_file, names))


def _file(module: str) -> Path | None:
    """The file of a module of this package; None for a package's name, another's module or an attribute."""
    top, *parts = module.split(".")
    file = _PACKAGE.joinpath(*parts).with_suffix(".py")
    return file if top == "haf_utils" and parts and file.is_file() else None


def _bare(tree: ast.Module) -> ast.Module:
    """`tree` without docstrings: like comments, they change no result."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                value.value = ""
    return tree
