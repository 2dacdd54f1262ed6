"""The repository agrees with itself: pins, notebooks, what the Makefile says."""

import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from unittest import mock

import nbformat
import pandas as pd
import papermill
import pytest
import submitit
import yaml
from conftest import REPOSITORY

import haf_utils
from haf_utils.config import FinetuneConfig
from haf_utils.experiment import sweeps
from tools import run_notebooks as pipeline
from tools.publish import with_table

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PINS = dict(
    line.split("==") for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and line[0] != "#"
)


def test_every_requirement_is_pinned_exactly():
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines), lines


def test_the_packages_that_the_project_is_made_for_are_pinned():
    promised = {"jupyterlab", "torch", "laion-clap", "matplotlib", "seaborn", "pandas", "ipywidgets", "papermill"}
    assert promised <= set(PINS)
    assert PINS["torch"] == "2.13.0" and PINS["torchvision"] == "0.28.0"
    assert "torchaudio" not in PINS  # its registry build cannot be loaded beside a CPU build of torch


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_dependency_is_pinned_and_every_pin_is_within_its_bound():
    def number(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    groups = [project()["project"]["dependencies"], *project()["project"]["optional-dependencies"].values()]
    bounds = dict(line.split(">=") for group in groups for line in group if not line.startswith("haf-clap["))
    assert set(bounds) == set(PINS)
    assert not {name: PINS[name] for name, least in bounds.items() if number(PINS[name]) < number(least)}
    assert set(project()["project"]["optional-dependencies"]) == {"notebooks", "slurm", "dev"}


def test_one_version():
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == haf_utils.__version__
    assert f"## {haf_utils.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_hooks_lint_as_make_does():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert {hook["rev"] for hook in hooks if "ruff" in hook["repo"]} == {f"v{PINS['ruff']}"}


def test_the_environment_reads_the_pins_and_adds_none():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert conda == ["python=3.11", "pip"]
    assert [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)] == [
        ["-r requirements.txt"]
    ]


def test_the_installed_packages_are_the_pinned_ones():
    from importlib.metadata import version

    assert {name: version(name).split("+")[0] for name in PINS} == PINS


def imports(source: str) -> set[str]:
    """Top-level names of what a program imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain} | {
        node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0
    }


def test_whatever_is_imported_is_pinned():
    folders = [REPOSITORY / name for name in ("haf_utils", "benchmarks", "tools", "data", "tests")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    sources = {path: path.read_text("utf-8") for path in files}
    for path in NOTEBOOKS:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        sources[path] = re.sub(r"^[%!].*", "", "\n".join(cells), flags=re.MULTILINE)
    # data/ and tests/ put their files, and laion-clap its modules, on the path by themselves.
    ours = {path.stem for path in files} | {path.parent.name for path in files} | {"laion_clap_module"}
    elsewhere = {"hear21passt"}  # installed without its dependencies, see below
    owners, pinned = packages_distributions(), {re.sub(r"[-_.]+", "-", name).lower() for name in PINS}
    missing = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path, source in sources.items()
        for name in imports(source) - sys.stdlib_module_names - ours - elsewhere
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name, [])} & pinned
    ]
    assert len(sources) > 60
    assert not missing, missing


def test_hear21passt_is_pinned_alike_wherever_it_is_installed():
    texts = [(REPOSITORY / name).read_text() for name in ("Makefile", "environment.yml", "README.md")]
    versions = {found for text in texts for found in re.findall(r"hear21passt==([0-9.]+)", text)}
    assert versions == {"0.0.26"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_conventions(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.match(r"\w+: \S+.* = .*#", line), f"a parameter needs a type and a comment: {line}"
        # papermill cannot read a definition with a second equals sign, and then leaves the parameter out of its help.
        assert line.count("=") == 1, f"the comment of a parameter holds an equals sign: {line}"
    others = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code" and cell is not tagged[0])
    unused = [name for name in papermill.inspect_notebook(str(path)) if not re.search(rf"\b{name}\b", others)]
    assert not unused, f"parameters that nothing in the notebook uses: {unused}"
    assert "plots.save(" not in others, "plots.publish gives a figure its words, also for those who cannot see it"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts in (list(range(1, len(code) + 1)), [None] * len(code))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < 1_000_000
    sounds = re.findall(r"data:audio/([\w-]+);base64,([^\"'\\]*)", path.read_text("utf-8"))
    assert all(kind == "ogg" and len(sound) < 4 / 3 * 15_000 for kind, sound in sounds), "excerpt() makes small ones"
    shown = [cell.source for cell in code if not cell.metadata.get("jupyter", {}).get("source_hidden")]
    lengths = [sum(map(bool, map(str.strip, source.splitlines()))) for source in shown]
    assert max(lengths) <= 30 and statistics.median(lengths) <= 12, lengths


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_check_that_fails_says_where_to_look(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    answers = re.findall(r"^(\w+) = None", "\n".join(code), re.MULTILINE)
    checks = [source for source in code for name in answers if f"if {name} is not None" in source]
    assert len(checks) == len(answers) >= 3
    found = [node for source in checks for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    assert found and not [ast.unparse(node) for node in found if node.msg is None]
    solved = nbformat.read(path.parent / "solutions" / f"{path.name[:2]}_solutions.ipynb", as_version=4)
    assert all(cell.source in code for cell in solved.cells if " is not None:" in cell.source), "not the same check"


def test_the_readme_shows_the_published_results():
    text = (REPOSITORY / "README.md").read_text()
    results = pd.read_csv(REPOSITORY / "figures" / "results.csv", dtype=str)
    assert with_table(text, results, "results") == text
    speed = pd.read_csv(REPOSITORY / "figures" / "bench.csv", dtype=str)
    for row in speed.itertuples():
        assert f"| {row.work} | {row.against} | {row.ratio} (" in text
    for name in re.findall(r"\]\((figures/[^)]+\.png)\)", text):
        assert (REPOSITORY / name).is_file()


@pytest.mark.parametrize("own, expected", [({}, ["0", "-1"]), ({"MALLOC_MMAP_MAX_": "7"}, ["7", "-1"])])
def test_processes_on_a_cpu_keep_freed_memory_unless_a_user_sets_it_otherwise(own, expected, monkeypatch, tmp_path):
    names = "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"
    started = []
    monkeypatch.setattr(submitit.LocalExecutor, "submit", lambda *_: started.append([os.environ[n] for n in names]))
    makefile = f"include {REPOSITORY / 'Makefile'}\nshow:\n\t@echo $${names[0]} $${names[1]}\n"
    with mock.patch.dict(os.environ, own):
        for name in set(names) - set(own):
            os.environ.pop(name, None)
        show = subprocess.run(["make", "-s", "-f", "-", "show"], input=makefile, capture_output=True, text=True)
        assert show.stdout.split() == expected
        sweeps._start_locally([FinetuneConfig("", "")], tmp_path, 1, None, False)
        assert started == [expected]
        pipeline.main(["--data", str(tmp_path / "absent")])
        assert [os.environ[name] for name in names] == expected


def test_the_readme_quotes_the_real_benchmark():
    text = (REPOSITORY / "README.md").read_text().split("in five lines")[1].split("Notebook 07")[0]
    table = pd.read_csv(REPOSITORY / "figures" / "07_real_benchmark.csv").dropna(subset="estimate")
    quoted = ["text added to audio", "mean of 5 different variants", "audio + words, TF-IDF"]
    quoted += ["mean of all without BSD35k-CS + words, TF-IDF", "weight 1"]
    assert set(quoted) <= set(table.system)
    for row in table[table.system.isin(quoted)].itertuples():
        numbers = f"{100 * row.estimate:+.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        assert numbers.replace("-", "−") in text, row.system
    rows = table[table.group == "Regularizers"]
    open_ = (rows.low <= 0) & (rows.high >= 0)
    assert f"{open_.sum()} of {len(rows)} show no clear difference" in text and not (rows.low > 0).any()


def test_notebooks_are_numbered_without_gaps():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n:02d}" for n in range(len(NOTEBOOKS))]


def test_shipped_checkpoint_is_small_and_what_its_page_says():
    folder = REPOSITORY / "data" / "clap-mini"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    json.loads((folder / "config.json").read_text())
    import hashlib

    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()


def test_the_words_scores_that_notebook_06_quotes_are_those_of_the_table():
    table = pd.read_csv(REPOSITORY / "figures" / "07_real_text.csv").query("variant.str.startswith('metadata')")
    text = (REPOSITORY / "notebooks" / "06_ensemble_evaluation.ipynb").read_text("utf-8")
    for _, row in table.iterrows():
        assert f"{100 * row.hF:.1f} [{100 * row.hF_low:.1f}, {100 * row.hF_high:.1f}]" in text
    assert list(table.split) == ["official", "uploader"]
