"""The command line, `haf`: arguments are read before anything slow is imported; a command imports what it needs.

Exit codes: 0; 1 where something that was asked for could not be done, or a check found problems; 2 for wrong requests,
and for what cannot be checked at all; 130 for an interrupt.
"""

import argparse
import gc
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from haf_utils.io.progress import FORESEEABLE, adapt, printable

__all__ = ["main"]

_FOLDERS = {
    "dataset": "folder in BSD10k's layout (default: the embedded dataset)",
    "extra": "folder of BSD35k-CS",
    "evaluation": "folder of the challenge's evaluation set",
    "runs": "folder for results (default: runs/ in the repository)",
    "scratch": "folder for decoded audio and embeddings (default: the folder for results)",
}
_SLURM = {  # fields of `experiment.sweeps.Slurm`
    "partition": (str, "partition of the cluster"),
    "account": (str, "account that is charged"),
    "gres": (str, "resources of a job, such as gpu:1"),
    "time": (int, "minutes a job (default: 240); what does not fit is put back into the queue and goes on"),
    "runs_per_job": (int, "runs that share a job (default: 10)"),
    "cpus": (int, "cores of a job (default: 2)"),
    "memory": (str, "memory of a job, such as 16G"),
    "poll": (float, "seconds between questions to the scheduler (default: 10)"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) name -> exit code.

    What a user can mend is printed as one sentence. SystemExit, with code 2, where argparse refuses the arguments.
    """
    adapt()
    gc.set_threshold(50_000)  # imports make many objects and no garbage
    try:
        code = _carry_out(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has stopped; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FORESEEABLE as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 2


def _carry_out(arguments: Sequence[str]) -> int:
    # A shell leaves the ~ of --out=~/x as it is.
    arguments = [re.sub(r"^([\w-]+=)?(~.*)", lambda m: (m[1] or "") + os.path.expanduser(m[2]), a) for a in arguments]
    given, rest = _parser().parse_known_args(arguments)
    # argparse takes a list in one piece: of `haf sweep train=head --runs x fold=0` it leaves the last word.
    listed = getattr(given, "grid", getattr(given, "audio", None))
    if rest and (listed is None or any(word.startswith("-") for word in rest)):
        _parser().parse_args(arguments)  # refuses them
    elif rest and listed is not None:
        listed += rest
    return given.command(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="haf", description="HAF-CLAP: heterogeneous audio classification.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    text = "Classify any recordings with a trained model, or with the average of several."
    example = "Example: haf predict runs/embedded-mini/haf-joint_* ~/recordings --out classes.csv"
    predict = _command(commands, "predict", _predict, text, example)
    predict.add_argument("run", metavar="RUN", help="run folder; more are averaged with it; of a folder of runs, ours")
    predict.add_argument("audio", nargs="+", metavar="PATH", help="sound files, or folders of them")
    predict.add_argument("--metadata", metavar="CSV", help="titles, tags, descriptions, keyed by sound_id, id or file")
    predict.add_argument("--out", metavar="CSV", help="where to write all posteriors")
    predict.add_argument("--overwrite", action="store_true", help="replace an existing --out")
    predict.add_argument("--weights", nargs="+", type=float, metavar="W", help="weights of the runs (default: equal)")
    predict.add_argument("--views", type=int, default=0, help="random views a model averages (default: fixed windows)")
    predict.add_argument("--segments", action="store_true", help="a timeline: each window with its start and end in s")
    predict.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    engine = "what embeds audio on a CPU (default: auto, OpenVINO where many recordings pay for it, else PyTorch)"
    predict.add_argument("--engine", choices=("auto", "torch", "openvino"), default="auto", help=engine)

    text = "Write a trained model into a new folder, to hand on. haf predict reads it, huggingface_hub can push it."
    export = _command(commands, "export", _export, text)
    export.add_argument("run", metavar="RUN", help="run folder")
    export.add_argument("out", metavar="FOLDER", help="new folder for weights, configuration, and a card with scores")

    text = "Train a grid of parameters, seeds and folds, here or on a cluster. Finished runs are skipped, others go on."
    example = "Example: haf sweep train=head smoothing=none,uniform,hierarchical fold=0,1,2,3,4 seed=0,1,2"
    sweep = _command(commands, "sweep", _sweep, text, example)
    sweep.add_argument("grid", nargs="+", metavar="GRID", help="name=value,value, or a YAML or JSON file of grids")
    for name, text in _FOLDERS.items():
        sweep.add_argument(f"--{name}", default="", metavar="FOLDER", help=text)
    sweep.add_argument("--profile", default="mini", help="mini or full (default: mini)")
    sweep.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    sweep.add_argument("--workers", type=int, help="local processes (default: one a core, or a GPU)")
    sweep.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    sweep.add_argument("--retrain", action="store_true", help="train again, beside them, what other code has trained")
    sweep.add_argument("--plan", action="store_true", help="name the runs, say which are finished, and stop")
    sweep.add_argument("--parameters", action=_Parameters, nargs=0, help="list every parameter with its default")
    cluster = sweep.add_argument_group("on a Slurm cluster")
    cluster.add_argument("--slurm", action="store_true", help="submit jobs instead of working here")
    for name, (kind, text) in _SLURM.items():
        cluster.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, help=text)

    text = "Write class probabilities of every clip, a table a fold. They are a third input, or label BSD35k-CS."
    example = "Example: haf posteriors RUNS… --out teacher, then haf sweep teacher=teacher extra_weight=1.0 fold=0,1"
    tables = _command(commands, "posteriors", _posteriors, text, example)
    tables.add_argument("source", nargs="+", metavar="SOURCE", help="words (a classifier of the texts), or run folders")
    tables.add_argument("--out", required=True, metavar="FOLDER", help="where to write fold_0.csv to fold_4.csv")
    for name in ("dataset", "extra", "evaluation", "scratch"):
        where = "with words" if name == "evaluation" else "with RUNS: as they say"
        tables.add_argument(f"--{name}", default="", metavar="FOLDER", help=f"{_FOLDERS[name]}; {where}")
    tables.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    tables.add_argument("--split", default="", choices=("official", "uploader"), help="with words: their folds")
    tables.add_argument("--encoder", default="", metavar="DIR", help="with words: a frozen sentence encoder")

    text = (
        "All recipes in a folder of runs, best first. hF is pooled over folds, mean over seeds, with its 95 % interval."
    )
    board = _command(commands, "leaderboard", _leaderboard, text)
    board.add_argument("runs", metavar="FOLDER", help="folder of run folders, or of such folders (runs/)")
    board.add_argument("--csv", metavar="FILE", help="also write the table here")

    text = "The paired difference of two systems. It is that on the test clips they share, with its 95 % interval."
    compare = _command(commands, "compare", _compare, text)
    for name in ("a", "b"):
        compare.add_argument(name, metavar="SYSTEM", help="run folder, or output folder of the official baseline")

    text = "Check a dataset. Every recording is read once, and what is wrong, in metadata too, is printed."
    validate = _command(commands, "validate", _validate, text)
    validate.add_argument("root", metavar="FOLDER", help="BSD10k, BSD35k-CS, the evaluation set, FSD50K or NSynth")
    validate.add_argument("--json", metavar="FILE", help="also write the whole report here")
    validate.add_argument("--manifest", metavar="CSV", help="keep the measurements here, not in the user's cache")
    validate.add_argument("--workers", type=int, help="threads that read recordings (default: one a core, at most 4)")
    validate.add_argument("--deep", action="store_true", help="read all again, and compare it with the audio stores")
    validate.add_argument("--stores", default="runs", metavar="FOLDER", help="where --deep looks (default: runs)")

    submission = _command(commands, "submission", None, "Check what is handed in to the challenge.")
    checks = submission.add_subparsers(metavar="check", required=True)
    check = _command(checks, "check", _check, "List what is wrong in a file.")
    check.add_argument("file", metavar="FILE", help="system output, a .csv")
    check.add_argument("--ids", metavar="METADATA.csv", help="metadata of the clips to be classified")
    return parser


def _command(commands, name: str, run: Callable | None, text: str, example: str = "") -> argparse.ArgumentParser:
    """A command that `run` carries out; the list of commands shows the first sentence of its `text`."""
    short = text.partition(". ")[0].rstrip(".").replace("%", "%%")
    parser = commands.add_parser(name, help=short[0].lower() + short[1:], description=text, epilog=example)
    parser.set_defaults(command=run)
    return parser


def _predict(given) -> int:
    if given.out and Path(given.out).exists() and not given.overwrite:
        raise FileExistsError(f"{given.out} exists: choose another name, or pass --overwrite")
    if given.out and not (Path(given.out).parent.is_dir() and os.access(Path(given.out).parent, os.W_OK)):
        raise OSError(f"--out {given.out}: its folder does not exist or cannot be written to")
    if given.views < 0:
        raise ValueError(f"--views {given.views} must be at least 0")
    runs = [given.run, *takewhile(lambda path: (Path(path) / "config.json").is_file(), given.audio)]
    recordings = given.audio[len(runs) - 1 :]
    if not recordings:
        raise ValueError("there is nothing to classify: name files or folders after the run folders")

    weights = given.weights
    if Path(given.run).is_dir() and not (Path(given.run) / "config.json").is_file():
        from haf_utils.experiment.members import trained_ours

        ours, names, left_out = trained_ours(given.run)
        runs, weights = list(ours), given.weights or list(ours.values())
        print(f"ours: {', '.join(f'{name} ({run.name})' for name, run in zip(names, runs, strict=True))}")
        if left_out:
            print(f"left out of it, as they need more than a recording and its text: {', '.join(left_out)}")
    from haf_utils.experiment import predict as predicting
    from haf_utils.experiment.workspace import caveat
    from haf_utils.io.files import atomic_write, inert

    texts = predicting.read_texts(given.metadata) if given.metadata else {}
    paths = predicting.find_recordings(recordings)
    models = [predicting.load_system(run, given.device, given.engine) for run in runs]
    table = predicting.classify_files(models, paths, texts, weights, given.views, given.segments)
    unwritten = None
    if given.out:  # before anything is printed, as whoever reads that may stop reading
        options = {"index": False, "float_format": "%.6f", "errors": "surrogateescape"}  # names that are not UTF-8
        try:
            atomic_write(given.out, lambda path: table.assign(file=inert(table["file"])).to_csv(path, **options))
        except OSError as error:  # the work is done: it is printed all the same
            unwritten = error
    for _, row in table.iterrows():
        span = f"  {row['start']:.1f} to {row['end']:.1f} s" if given.segments else ""
        print(f"{printable(row['file'])}{span}\n    {printable(predicting.describe(row))}")
    rows = f"{len(table)} {'segment' if given.segments else 'recording'}{'s' * (len(table) != 1)}"
    if unwritten:
        raise OSError(f"{given.out} could not be written ({unwritten}); the classes stand above")
    if given.out:
        print(f"{rows} in {given.out}")
    if len(runs) > 1:
        print(f"the average of {len(runs)} runs")
    for model in models:
        if model.config.posteriors:
            print(f"note: the third input of {model.name}, class probabilities, is left empty; its scores are with it")
    for profile in sorted({model.config.profile for model in models}):
        if note := caveat(profile, ""):
            print(note)
    if given.metadata:
        print(f"{given.metadata} has a text for {int(table['text'].sum())} of {rows}")
    if others := predicting.passed_over(recordings):
        print(f"passed over: {others}")
    lost = int((table["problem"] != "").sum())
    if lost:
        print(f"{lost} of {rows} could not be classified", file=sys.stderr)
    return int(lost > 0)


def _export(given) -> int:
    from haf_utils.experiment.export import export

    print(f"{export(given.run, given.out)}: haf predict {given.out} recordings/")
    return 0


class _Parameters(argparse.Action):
    """Lists the parameters of a run and leaves, as --help does."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from haf_utils.config import FinetuneConfig

        source = inspect.getsource(FinetuneConfig)
        print("Type, default and choices of a run's parameters; None: as the profile says.")
        print(source[source.index("    dataset:") :], end="", flush=True)
        parser.exit()


def _sweep(given) -> int:
    if unused := [f"--{name.replace('_', '-')}" for name in _SLURM if name in given and not given.slurm]:
        raise ValueError(f"{', '.join(unused)} is for a Slurm cluster: pass --slurm")

    from haf_utils.config import FinetuneConfig
    from haf_utils.experiment.grids import grid, read_grid

    places = {name: getattr(given, name) for name in (*_FOLDERS, "profile", "device")}
    grids = read_grid(given.grid)
    grid(FinetuneConfig(**places), grids)  # refuses what is wrong before anything is made or loaded

    from haf_utils.experiment.workspace import finetune_config, workspace

    configs = grid(finetune_config(workspace(**places)), grids)
    from haf_utils.experiment.sweeps import Slurm, state, sweep

    if given.plan:
        print("\n".join(f"{state(recipe, given.retrain):<12}{recipe.name}" for recipe in configs))
        return 0

    slurm = Slurm(**{name: getattr(given, name) for name in _SLURM if name in given}) if given.slurm else None
    print(f"{len(configs)} runs in {configs[0].runs}")
    outcome = sweep(configs, given.workers, slurm, given.retry_failed, retrain=given.retrain)
    print(outcome, *["--retry-failed tries again what failed"] * bool(outcome.failed), sep="\n")
    if outcome.folders:
        from haf_utils.experiment.leaderboard import leaderboard
        from haf_utils.runs import load_run

        print(_table(leaderboard([load_run(folder) for folder in outcome.folders])))
    return 1 if outcome.failed or outcome.absent else 0


def _posteriors(given) -> int:
    if given.source == ["words"]:
        import subprocess

        from haf_utils.profiles import REPOSITORY

        names = ("dataset", "extra", "evaluation", "device", "split", "encoder")
        options = [f"--{name}={getattr(given, name)}" for name in names if getattr(given, name)]
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        words = [sys.executable, "-m", "tools.posteriors", given.out, *options]  # readers of texts stand in tools/
        return subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, check=False).returncode
    if unused := [f"--{name}" for name in ("evaluation", "split", "encoder") if getattr(given, name)]:
        raise ValueError(f"{', '.join(unused)} goes with words, not with runs: leave it out")
    from haf_utils.experiment.teacher import teach
    from haf_utils.runs import load_run

    where = {name: getattr(given, name) for name in ("dataset", "extra", "scratch") if getattr(given, name)}
    for file in teach([load_run(run) for run in given.source], given.out, device=given.device, **where):
        print(file)
    return 0


def _table(table) -> str:
    """A leaderboard for reading: percent with one decimal."""
    shown = table.copy()
    interval = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in zip(table["low"], table["high"], strict=True)]
    shown["hF"] = [f"{100 * value:.1f} %" for value in table["hF"]]
    shown.insert(2, "95 % interval", interval)
    return shown.drop(columns=["low", "high"]).to_string(index=False)


def _leaderboard(given) -> int:
    from haf_utils.experiment.leaderboard import leaderboard, read_all
    from haf_utils.io.files import atomic_write

    runs, left_out = read_all(given.runs)
    table = leaderboard(runs)
    print(_table(table))
    if table["other code"].any():
        print("other code: runs that were made by other code than today's")
    for run, reason in left_out.itertuples(index=False):
        print(f"left out: {run}: {reason}")
    if given.csv:
        atomic_write(given.csv, lambda path: table.to_csv(path, index=False))
    return 0


def _compare(given) -> int:
    from haf_utils.experiment.leaderboard import compare_systems, scored

    table, lines = compare_systems(scored(given.a), scored(given.b))
    print(f"a = {given.a}\nb = {given.b}\n{(100 * table).round(1).to_string()}")
    print("\n".join(lines))
    return 0


def _validate(given) -> int:
    from haf_utils.experiment.validation import validate
    from haf_utils.io.files import write_json

    report = validate(given.root, given.workers, given.manifest, given.deep, given.stores)
    if given.json:
        write_json(given.json, report.to_json())
    print(report)
    return 0 if report.ok else 1


def _check(given) -> int:
    from haf_utils.submission import read_ids, validate

    expected = read_ids(given.ids) if given.ids else None
    problems = validate(given.file, expected)
    for problem in problems[:20]:
        print(f"{given.file}: {problem}")
    if problems:
        print(f"{given.file}: {len(problems)} problems, do not hand it in")
        return 1
    checked = "" if expected else " (its ids were not compared: pass --ids METADATA.csv)"
    print(f"{given.file}: right{checked}")
    return 0
