"""The shelves of `haf_utils`: who may import whom, what is light, how large it may grow. CONTRIBUTING has a table."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import haf_utils

PACKAGE = REPOSITORY / "haf_utils"
FILES = sorted(PACKAGE.rglob("*.py"))
MACHINERY = ("experiment", "io", "fast", "plots")
# `haf_utils.training.finetune` stays importable: a function that imports experiment.finetune when it is called.
EXCEPTIONS = {("training", "experiment.finetune")}


def name_of(file: Path) -> str:
    """experiment/sweeps.py -> experiment.sweeps; of a package's __init__.py, the folder."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(nodes) -> set[str]:
    """Full names of what these nodes of a program import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


MODULES = {name_of(file) for file in FILES}
TREES = {name_of(file): ast.parse(file.read_text("utf-8")) for file in FILES}
EVERYWHERE = {name: imported(ast.walk(tree)) for name, tree in TREES.items()}
OURS = {
    name: {other.removeprefix("haf_utils.") for other in names if other.startswith("haf_utils.")} & MODULES
    for name, names in EVERYWHERE.items()
}


def shelf(name: str) -> str:
    """The folder that a module stands in; "" for the flat files, "cli" for the commands."""
    folder = name.partition(".")[0]
    return folder if folder in (*MACHINERY, "cli") else ""


def third_party(name: str) -> set[str]:
    tops = {other.partition(".")[0] for other in EVERYWHERE[name]}
    return tops - sys.stdlib_module_names - {"haf_utils"}


ALLOWED = {
    "": {"", "io", "fast"},
    "cli": {"", "io", "experiment"},
    "experiment": {"", "io", "fast", "experiment"},
    "plots": {"", "io", "plots"},
    "io": {"io"},
    "fast": {"fast"},
}


def test_a_shelf_imports_what_its_row_allows():
    arrows = {(name, other) for name, others in OURS.items() for other in others}
    wrong = {(name, other) for name, other in arrows if shelf(other) not in ALLOWED[shelf(name)]}
    assert wrong <= EXCEPTIONS, sorted(wrong - EXCEPTIONS)
    assert len(arrows) > 100


def test_the_exception_is_imported_when_it_is_called():
    for name, other in EXCEPTIONS:
        assert f"haf_utils.{other}" not in imported(TREES[name].body)


def test_fast_is_a_leaf():
    names = [name for name in MODULES if shelf(name) == "fast"]
    assert len(names) >= 5
    assert {package for name in names for package in third_party(name)} <= {"torch", "numpy", "openvino"}
    assert sum("openvino" in third_party(name) for name in names) <= 1


def test_torch_in_io_only_where_it_has_to_be():
    with_torch = {name for name in MODULES if shelf(name) == "io" and {"torch", "safetensors"} & third_party(name)}
    assert with_torch == {"io.checkpoints", "io.third_party"}


def test_nobody_imports_benchmarks_and_tools():
    wrong = [name for name in MODULES if third_party(name) & {"benchmarks", "tools", "tests", "data"}]
    assert not wrong


def test_there_is_no_circle():
    left = {name: OURS[name] & MODULES - {name} for name in MODULES}
    for name, other in EXCEPTIONS:
        left[name] -= {other}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, left


@pytest.mark.parametrize(
    ("slow", "names"),
    [
        # Fusing posteriors, scoring, reading a dataset, a submission: a second, not five.
        (
            ["torch", "transformers"],
            "audio captions controls corpus datasets ensembles folds metrics posteriors profiles runs statistics "
            "submission taxonomy experiment.validation",
        ),
        (["torch", "pandas", "scipy", "sklearn"], "cli config io.files profiles taxonomy"),
    ],
)
def test_what_is_light_stays_light(slow, names):
    names = names.split()
    assert set(names) <= MODULES
    program = "import sys\n" + "\n".join(f"import haf_utils.{name}" for name in names)
    program += f"\nprint([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def lines(files) -> int:
    return sum(len(file.read_text("utf-8").splitlines()) for file in files)


def test_the_method_stays_thin():
    """Whoever adds, deletes: a rule of this repository's, which says nothing of whether a change is right."""
    flat = list(PACKAGE.glob("*.py"))
    too_long = "haf_utils is to stay thin (CONTRIBUTING.md): delete as many lines as you add, or raise the number here"
    assert len(flat) <= 30, too_long
    assert lines(flat) <= 5_600, too_long
    assert lines(FILES) <= 11_500, too_long


def test_the_map_names_every_module_once():
    """`haf_utils.__doc__` has a line for all modules of the method and each shelf; README shows the same lines."""
    method, rest = haf_utils.__doc__.split("The machinery")
    machinery = rest.split("What may be touched")[0]
    flat = {name for name in MODULES if not shelf(name) and name != "__init__"}
    listed = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*)  ", method, re.MULTILINE)
    assert sorted(name for entry in listed for name in entry.split(", ")) == sorted(flat)
    assert set(re.findall(r"^    (\w+)/?  ", machinery, re.MULTILINE)) == {*MACHINERY, "cli"}
    readme = (REPOSITORY / "README.md").read_text("utf-8").splitlines()
    picture = [line.strip() for line in (method + machinery).splitlines() if line.startswith("    ")]
    assert [line.strip() for line in readme if line.strip() in picture] == picture
