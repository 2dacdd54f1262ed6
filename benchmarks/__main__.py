"""Speed of this project, measured against the alternatives without it and against the machine.

    python -m benchmarks [--quick] [--only audio,text,…] [--growth] [--stages] [--publish]

Every row is a ratio of two things measured alternately in the same process, on the embedded dataset: the median over
rounds, with the range.
The table, the machine and all seconds go to `<runs>/bench/bench.json`, the figure beside it (of a quick run or of some
rows, to `<runs>/bench/partial/`); `--publish` copies figures and tables into figures/ and the ratios into README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import torch

from benchmarks.figures import growth_figure, ratio_figure
from benchmarks.gpu import gpu_table
from benchmarks.growth import growth
from benchmarks.rows import FULL, QUICK, ROWS, Row, bf16_pays
from haf_utils.experiment.workspace import make_embedded
from haf_utils.io.files import atomic_write, write_json
from haf_utils.plots import style as plots
from haf_utils.profiles import REPOSITORY
from tools.publish import publish_table

__all__ = ["machine", "main", "stages", "table"]

NAMES = [*ROWS, "gpu"]  # what --only takes


def machine() -> dict[str, str | int | float]:
    """The machine and the versions that were measured."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16 in hardware": bf16_pays(),
        "memory (GB)": round(memory),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load before": round(os.getloadavg()[0], 2),
    }


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as text: work, against, ratio, spread, target, reached, check."""
    return pd.DataFrame(
        {
            "work": row.work,
            "against": row.against,
            "ratio": f"{row.ratio:.3g}",
            "spread": f"{row.ratios.min():.3g} – {row.ratios.max():.3g}",
            "target": "" if row.target is None else f"{row.target:g}",
            "reached": {None: "", True: "yes", False: "no"}[row.reached],
            "check": row.check if row.correct else f"FAILED: {row.check}",
        }
        for row in rows
    )


def stages(notebooks: Path) -> pd.DataFrame:
    """Time of `make run` by notebook and stage (the last heading), in seconds, from the executed notebooks."""
    spent: dict[tuple[str, str], float] = {}
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        stage = "start"
        for cell in nbformat.read(path, as_version=4).cells:
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            if cell.cell_type == "markdown" and headings:
                stage = headings[-1].lstrip("# ")
            seconds = cell.metadata.get("papermill", {}).get("duration")
            if seconds is not None:
                spent[path.stem, stage] = spent.get((path.stem, stage), 0.0) + seconds
    return pd.DataFrame(
        [(*place, round(seconds, 1)) for place, seconds in spent.items()], columns=["notebook", "stage", "seconds"]
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; returns 0, 1 where a result is wrong, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few examples, one round: about a minute, and rough")
    parser.add_argument("--only", default="", help=f"some of {','.join(NAMES)}, with commas between")
    parser.add_argument("--runs", default="", help="folder for results (default: runs/ in the repository)")
    parser.add_argument("--growth", action="store_true", help="also how time and memory grow up to 20,000 clips")
    parser.add_argument("--stages", action="store_true", help="only where the time of the last `make run` went")
    parser.add_argument("--publish", action="store_true", help="copy figures and tables into figures/ and README.md")
    options = parser.parse_args(arguments)
    runs, partial = Path(options.runs or REPOSITORY / "runs"), options.quick or options.only != ""
    folder = runs / "bench" / "partial" if partial else runs / "bench"
    if options.stages:
        if partial or options.growth or options.publish:
            print("error: --stages measures nothing: it goes with --runs alone", file=sys.stderr)
            return 2
        return _print_stages(runs / "embedded-mini" / "notebooks")
    if options.publish and partial:
        print("error: --publish takes a whole run, without --quick and --only", file=sys.stderr)
        return 2
    on_gpu = torch.cuda.is_available()
    wanted = [name.strip() for name in options.only.split(",") if name.strip()] or (NAMES if on_gpu else list(ROWS))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"error: --only {unknown[0]}: choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if "gpu" in wanted and not on_gpu:
        print("error: --only gpu: PyTorch sees no GPU here", file=sys.stderr)
        return 2
    dataset = make_embedded("mini") / "BSD10k"
    titles = dataset / "metadata" / "BSD10k_metadata.csv"
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    load = about["load before"]
    if load > 0.5:
        print(
            f"these cores have other work, or had a minute ago (load {load}): do not trust the ratios", file=sys.stderr
        )
        if options.publish:
            print("error: --publish needs a quiet machine: run it again in a minute or two", file=sys.stderr)
            return 2
    rows = []
    # Warnings of the alternatives: old names that laion-clap imports, and more workers than cores.
    for message in ("torch.meshgrid", "This DataLoader will create", "Importing from timm.models"):
        warnings.filterwarnings("ignore", message=message)
    for name in (name for name in wanted if name in ROWS):
        begun = time.monotonic()
        rows += ROWS[name](QUICK if options.quick else FULL, dataset, titles)
        print(f"{name} … {time.monotonic() - begun:.0f} s", flush=True)
    if rows and options.quick:  # targets are meant for the full sizes
        rows = [dataclasses.replace(row, target=None) for row in rows]
        print("few examples, one round: rough, and no measure of the targets")
    shown = table(rows)
    if rows:
        print(shown.to_string(index=False))
    record = {"machine": about, "rows": [_record(row) for row in rows]}
    if "gpu" in wanted:
        gpu = gpu_table(titles)
        print(gpu.to_string(index=False, na_rep=""))
        record["gpu"] = [line.dropna().to_dict() for _, line in gpu.iterrows()]
    write_json(folder / ("bench.json" if rows else "gpu.json"), record)
    if rows:
        atomic_write(folder / "bench.csv", lambda path: shown.to_csv(path, index=False))
        plots.style()
        plt.close(plots.save(ratio_figure(shown, about), folder, "bench"))
    print(f"results in {folder}")
    if options.growth:
        grown = growth()
        print(grown.to_string(index=False))
        atomic_write(folder / "growth.csv", lambda path: grown.to_csv(path, index=False))
        plt.close(plots.save(growth_figure(grown), folder, "bench_growth"))
    if options.publish:
        figures = ["bench.png", "bench.csv"] + (["bench_growth.png", "growth.csv"] if options.growth else [])
        _publish([folder / name for name in figures], rows, about)
    failed = any("FAILED" in str(line.get("note")) for line in record.get("gpu", []))
    return 0 if all(row.correct for row in rows) and not failed else 1


def _publish(files: Sequence[Path], rows: Sequence[Row], about: dict) -> None:
    """Copy figures and tables into figures/, and put the ratios into the README."""
    for file in files:
        shutil.copyfile(file, REPOSITORY / "figures" / file.name)
        print(f"figures/{file.name}")
    shown = pd.DataFrame(
        {
            "work": row.work,
            "against": row.against,
            "times as fast": f"{row.ratio:.3g} ({row.ratios.min():.3g} to {row.ratios.max():.3g})",
            "aim": "" if row.target is None else f"{row.target:g}",
        }
        for row in rows
    )
    note = (
        f"*Medians and ranges of alternating rounds; {about['cpu']}, {about['threads']} threads, "
        f"{about['instructions']}, bf16 in hardware: {'yes' if about['bf16 in hardware'] else 'no'}; "
        f"torch {about['torch']}.*"
    )
    publish_table(shown, "speed", note)


def _record(row: Row) -> dict:
    return dataclasses.asdict(row) | {"ratio": row.ratio, "reached": row.reached}


def _print_stages(notebooks: Path) -> int:
    spent = stages(notebooks)
    if spent.empty:
        print(f"error: {notebooks} holds no executed notebook: make run first", file=sys.stderr)
        return 2
    print(spent.groupby("notebook", as_index=False)["seconds"].sum().round(1).to_string(index=False), end="\n\n")
    print(spent.sort_values("seconds", ascending=False).head(25).to_string(index=False))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: nothing was written")
