"""The plan: what a run needs and what is done already, said before anything is computed."""

import dataclasses
import shutil

import nbformat
import numpy as np
import pytest
from conftest import REPOSITORY

from haf_utils.clap import ClapNetwork
from haf_utils.config import FinetuneConfig
from haf_utils.datasets import load
from haf_utils.experiment.finetune import finetune
from haf_utils.experiment.workspace import caveat, finetune_config, workspace
from haf_utils.posteriors import Posteriors, write
from haf_utils.profiles import PROFILES, profile
from tools import preflight as plan
from tools.preflight import PreflightError, measure_step, memory_of, preflight
from tools.run_notebooks import main


def test_the_plan_says_what_is_needed_and_runs_nothing(tmp_path, capsys):
    assert main(["--profile", "tiny", "--runs", str(tmp_path), "--plan"]) == 0
    printed = capsys.readouterr().out
    for part in ("h of audio", "0 of", "GB for decoded audio", "checkpoint", "joint", "head", "to do"):
        assert part in printed
    assert not list(tmp_path.rglob("*.ipynb")) and not list(tmp_path.rglob("config.json"))


def test_the_plan_is_of_the_notebooks_that_are_asked_for(tmp_path, capsys):
    planned = {}
    for only in ("04", "06", "01"):
        assert main(["--profile", "tiny", "--runs", str(tmp_path), "--plan", "--only", only]) == 0
        planned[only] = capsys.readouterr().out
    assert "1 of notebooks 04 and 06" in planned["04"] and "notebook 05" not in planned["04"]
    assert "notebook 04" not in planned["06"].replace("of notebooks 04", "") and "ours:" in planned["06"]
    assert "0 of notebooks 04 and 06" in planned["01"] and "mode" not in planned["01"]


def test_the_stages_past_the_report_are_counted_where_they_are_asked_for(tmp_path, capsys):
    space = workspace(profile="tiny", runs=str(tmp_path))

    def runs(**changes):
        lines = list(preflight(dataclasses.replace(space, **changes), {"06": {"systems_of": "ours"}}))
        (line,) = [line for line in lines if line.startswith("runs ")]
        return int(line.split()[1]), "\n".join(lines)

    plain, _ = runs()
    table, ids = str(tmp_path / "table.csv"), load(space.dataset)["sound_id"].to_numpy(str)[1:]
    write(table, Posteriors(ids, np.full((len(ids), 23), 1 / 23)))
    folds = profile("tiny").ensemble_folds
    assert runs(posteriors=table)[0] == plain + 3 * folds  # third input, stages 2 and 3
    number, said = runs(posteriors=table, extra="")
    assert number == plain + folds and "left out: stage 2" in said and "BSD35k-CS" in said
    assert f"posteriors {len(ids)} of {len(ids) + 1} clips have a row in {table}" in said
    write(table, Posteriors(np.char.add("x", ids), np.full((len(ids), 23), 1 / 23)), overwrite=True)
    assert main(["--profile", "tiny", "--runs", str(tmp_path), "--plan", "--posteriors", table]) == 2
    assert f"error: {table} lacks {len(ids) + 1} of {len(ids) + 1} clips" in capsys.readouterr().err


def test_lines_come_as_they_are_found(tmp_path, monkeypatch):
    space = workspace(profile="tiny", runs=str(tmp_path))
    lines = preflight(space)
    assert "tiny on cpu" in next(lines) and "clips" in next(lines)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(PreflightError, match="GB free"):
        list(lines)


def test_the_plan_says_which_runs_are_finished_to_do_and_kept(tiny, tmp_path):
    space = dataclasses.replace(tiny, runs=str(tmp_path))
    config = finetune_config(space, train="head")
    given = {"04": {"train": "head"}}

    def planned(**changes):
        lines = list(preflight(space, {"04": given["04"] | changes}))
        return lines[[line.startswith("runs ") for line in lines].index(True) + 1]

    assert "1 to do: haf-head_f0_s0" in planned()
    folder = finetune(config, quiet=True)
    assert "1 finished: haf-head_f0_s0" in planned()
    assert "to do: haf-head_epochs=3_f0_s0" in planned(epochs=3)
    record = (folder / "config.json").read_text()
    (folder / "config.json").write_text(record.replace('"losses.py": "', '"losses.py": "0'))
    assert "finished, made by other code (losses.py)" in planned()
    assert "to do: another run of that name is kept" in planned(retrain=True)
    (folder / "config.json").write_text(record.replace('"epochs": 2', '"epochs": 7'))
    assert "another run of that name is kept" in planned()
    (folder / "config.json").write_text("{")
    assert "cannot be read" in planned()


@pytest.fixture
def embeddings(tmp_path):
    """BSD10k's layout with embeddings of 40 dimensions and no recordings."""
    root = tmp_path / "shipped"
    shutil.copytree(workspace(profile="tiny").dataset, root, ignore=lambda folder, names: {"audio"} & set(names))
    ids = [line.split(",")[0] for line in (root / "metadata/BSD10k_metadata.csv").read_text().splitlines()]
    for modality in ("audio", "text"):
        folder = root / "features" / f"clap_{modality}_embeddings"
        folder.mkdir(parents=True)
        for sound_id in filter(str.isdigit, ids):
            np.save(folder / f"{sound_id}.npy", np.random.default_rng(int(sound_id)).standard_normal(40))
    return root


def test_embeddings_alone_need_no_weights(embeddings, tmp_path):
    """In full, where neither a checkpoint nor a network is here."""
    space = workspace(dataset=str(embeddings), profile="full", runs=str(tmp_path / "runs"))
    printed = "\n".join(preflight(space))
    assert "head on the embeddings that the dataset ships" in printed and "checkpoint" not in printed
    assert "it hears waveforms" in printed and "notebook 05" in printed and "memory" not in printed
    assert caveat("mini", str(embeddings)) == ""  # mini's networks, of which it warns, embed nothing here


def test_weights_that_cannot_be_had_stop_the_plan(tmp_path):
    (tmp_path / "w.pt").write_text("no weights")
    space = workspace(profile="tiny", runs=str(tmp_path), checkpoint=str(tmp_path / "w.pt"))
    with pytest.raises(PreflightError, match="w.pt"):
        list(preflight(space))
    space = workspace(profile="tiny", runs=str(tmp_path), passt=str(tmp_path / "w.pt"))
    assert any("cannot be trained, the other members can" in line for line in preflight(space))


def test_memory_grows_with_the_part_of_a_batch_alone():
    """CLAP takes 8 GB at batch 64, PaSST 22 GB for its backward pass alone."""
    assert memory_of("CLAP", 64) == pytest.approx(8e9, rel=0.05)
    assert memory_of("PaSST", 64) == pytest.approx(22.4e9 + 20 * 86e6, rel=0.02)
    assert memory_of("PaSST", 64, 4) == memory_of("PaSST", 16) < 24e9 < memory_of("PaSST", 64)
    assert memory_of("CLAP", 64, precision="fp32") > memory_of("CLAP", 64)


def test_a_step_at_real_size_can_be_measured():
    """A joint training step of the full networks, 158 M parameters, with random weights."""
    network = ClapNetwork(profile("full").clap)
    before = network.logit_scale_a.item(), next(network.text_projection.parameters()).detach().clone()
    step = measure_step(network, batch=1, steps=1, update=False)
    assert step.seconds > 0 and step.memory == 0
    assert (next(network.text_projection.parameters()) == before[1]).all()


def test_the_recipes_of_notebook_05_are_counted():
    cells = nbformat.read(REPOSITORY / "notebooks/05_ablations.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    first = next(place for place, source in enumerate(code) if "groups = {" in source)
    last = next(place for place, source in enumerate(code) if "recipes = {" in source)
    config = FinetuneConfig("", "", extra="x")
    names = {"space": config, "base": config, "shares": [0.1, 0.3], "without": [], "dataclasses": dataclasses}
    exec("\n".join(code[first : last + 1]), names)
    assert abs(len(names["recipes"]) + 2 - plan._VARIANTS) <= 3


def test_own_recordings_under_a_small_profile_are_told_what_it_is(tmp_path):
    own = tmp_path / "BSD10k"
    own.symlink_to(workspace(profile="tiny").dataset)
    assert "synthetic sounds" in caveat("mini", str(own)) and caveat("full", str(own)) == ""
    assert caveat("mini", "") == caveat("mini", str(own))  # of recordings that are to be classified
    assert caveat("mini", str(REPOSITORY / "data/mini/BSD10k")) == ""
    assert {name for name, sizes in PROFILES.items() if not sizes.caveat} == {"full"}
