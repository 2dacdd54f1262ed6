"""The benchmark measures what it says: every fast path against the slow one, on two clips."""

import json
import math
import os
import shutil
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
from conftest import REPOSITORY

from benchmarks import __main__ as bench
from benchmarks import alternatives
from benchmarks import gpu as bench_gpu
from benchmarks import growth as bench_growth
from benchmarks import rows as bench_rows
from benchmarks.gpu import ROWS as ROWS_ON_GPU
from benchmarks.gpu import gpu_table
from benchmarks.rows import QUICK, ROWS, Row, alternate, distance
from haf_utils import fast
from haf_utils.audio import prepare, to_float, windows
from haf_utils.clap import Clap, ClapNetwork
from haf_utils.fast import htsat, roberta
from haf_utils.metrics import hierarchical_scores
from haf_utils.profiles import profile

SMALL = replace(
    QUICK, clips=2, texts=6, cached=128, predictions=2_000, resampled=500, replicates=50, batch=2, matrix=64
)
CONFIG = replace(profile("mini").clap, vocab_size=50_265, text_dim=32, text_layers=1)


class SmallLaion(torch.nn.Module):
    """laion-clap's `CLAP_Module` in small: its own networks, called in its own way, since it comes in one size only.

    At its real size the benchmark itself compares (`make bench`), and so does the test of the checkpoint format.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    @property
    def model(self):
        return self

    def get_audio_embedding(self, data):
        out = self.network.audio_branch({"waveform": torch.stack([d["waveform"] for d in data])}, device="cpu")
        return F.normalize(self.network.audio_projection(out["embedding"]), dim=-1)

    def _texts(self, tokens):
        return F.normalize(self.network.text_projection(self.network.text_branch(**tokens).pooler_output), dim=-1)

    def get_text_embedding(self, texts, tokenizer=None):
        return self._texts(texts) if tokenizer is None else self._texts(tokenizer(texts)).numpy()

    def get_audio_embedding_from_filelist(self, paths):
        cut = [windows(prepare(path, CONFIG.audio.sample_rate), CONFIG.audio.window_samples)[0] for path in paths]
        return self.get_audio_embedding([{"waveform": torch.from_numpy(to_float(c))} for c in cut]).numpy()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    network = ClapNetwork(CONFIG).eval()
    network.audio_branch.bn0.requires_grad_(False)  # PyTorch gets laion-clap's gradient of it wrong at this size
    clap = Clap(network, alternatives.clip_tokenizer(), torch.device("cpu"))
    return SmallLaion(network).eval(), clap


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder in BSD10k layout with short recordings, and its metadata."""
    root = tmp_path_factory.mktemp("recordings") / "BSD10k"
    (root / "audio").mkdir(parents=True)
    (root / "metadata").mkdir()
    rng = np.random.default_rng(0)
    for row in range(4):
        time = np.arange(22_050 * (row + 1) // 2) / 22_050
        tone = 0.3 * np.sin(2 * np.pi * 220 * 2**row * time) + 0.1 * rng.standard_normal(len(time))
        soundfile.write(root / "audio" / f"{row}.wav", tone, 22_050)
    titles = "Rain on a roof;Church bell;Dog in the yard;Kick drum 808;Night train;Old door;Sea;Crowd laughs".split(";")
    table = pd.DataFrame({"title": titles, "tags": ["field recording,loop", "one shot"] * 4})
    table.to_csv(root / "metadata" / "BSD10k_metadata.csv", index=False)
    return root, root / "metadata" / "BSD10k_metadata.csv"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of networks converted for OpenVINO


@pytest.fixture
def embedded(recordings, monkeypatch):
    """The recordings in place of the embedded dataset."""
    monkeypatch.setattr(bench, "make_embedded", lambda size: recordings[0].parent)


@pytest.mark.parametrize("name", ROWS)
def test_both_sides_of_every_row_give_the_same(name, recordings, small, monkeypatch):
    monkeypatch.setattr(bench_rows, "networks", lambda text_layers: small)
    monkeypatch.setattr(alternatives, "hugging_face_audio", lambda: small[1].embed_audio)
    rows = ROWS[name](SMALL, *recordings)
    assert rows
    for row in rows:
        # One untrained layer tells hardly any texts apart: there bf16 cannot keep their distances.
        assert row.correct or row.work == "texts → embeddings, bf16", (row.work, row.check)
        assert row.ratio > 0 and len(row.ratios) >= 1
    if name in ("audio", "text", "joint", "metrics"):
        assert any(row.check for row in rows)
    assert list(bench.table(rows)["work"]) == [row.work for row in rows]


def test_a_row_is_reached_only_by_a_fast_and_correct_result():
    row = Row("work", "other", ours=(1.0, 2.0, 1.0), theirs=(2.0, 6.0, 4.0), target=3.0)
    assert row.ratios.tolist() == [2.0, 3.0, 4.0] and row.ratio == 3.0 and row.reached is True
    assert replace(row, target=3.1).reached is False
    assert replace(row, target=None).reached is None
    wrong = replace(row, correct=False, check="1 apart")
    assert wrong.reached is False
    assert "FAILED" in bench.table([wrong])["check"].iloc[0]


def test_functions_alternate():
    calls = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert all(len(values) == 3 for values in seconds.values())


def test_what_comes_before_a_turn_is_not_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_rows.time, "perf_counter", lambda: now[0])

    def last(seconds):
        return lambda: now.append(now.pop() + seconds)

    assert alternate({"a": last(1), "b": last(2)}, 2, before={"a": last(5)}) == {"a": (1.0, 1.0), "b": (2.0, 2.0)}


def test_distance_notices_a_changed_neighbour_and_a_large_error():
    fp32 = np.random.default_rng(0).standard_normal((6, 4))
    words, share, farther = distance(fp32 + 1e-6, fp32)
    assert 0 < share < 1e-5 and farther == 0
    assert words == "off by 0.00 of the median distance, 100% keep their neighbour"
    assert distance(fp32 + 1.0, fp32)[1] > 0.5
    swapped = fp32.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert distance(swapped, fp32)[2] > bench_rows.NEIGHBOUR_TOLERANCE


def test_how_much_farther_a_changed_neighbour_is_is_said():
    fp32 = np.array([[0.0, 0.0], [1.0, 0.0], [-1.1, 0.0], [0.0, 5.0], [0.2, 5.0]])
    words, _, farther = distance(fp32 + np.array([[-0.2, 0.0], *[[0.0, 0.0]] * 4]), fp32)
    assert words.endswith("80% keep their neighbour, others take one 0.02 farther")
    assert farther == pytest.approx(0.1 / 5, rel=0.02)  # 1.1 instead of 1, the median distance is about 5


@pytest.mark.parametrize("seed", range(5))
def test_loops_give_the_scores_of_the_counts(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, rng.integers(2, 23), 60), rng.integers(0, 23, 60)
    expected = hierarchical_scores(truth, predicted)
    assert alternatives.loop_scores(truth.tolist(), predicted.tolist()) == pytest.approx(expected, abs=1e-12)


def test_every_product_of_htsat_is_counted(small):
    branch = small[1].network.audio_branch
    image = torch.randn(1, 1, CONFIG.spec_size, CONFIG.spec_size)
    expected = 0
    for layer in branch.layers:
        tokens, width = layer.input_resolution[0] * layer.input_resolution[1], layer.dim
        window = min(CONFIG.attention_window**2, tokens)
        block = 12 * width**2 + 2 * window * width  # query, key, value, projection, MLP; scores and what they weigh
        expected += 2 * tokens * (len(layer.blocks) * block + (layer.downsample is not None) * 2 * width**2)
    expected += 2 * math.prod(branch.layers[0].input_resolution) * branch.layers[0].dim * CONFIG.patch_size**2
    assert bench_rows.operations(branch, image) == expected
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert bench_rows.operations(branch, image) == expected


def test_texts_keep_their_natural_length():
    tokenizer = alternatives.clip_tokenizer()
    ids = tokenizer.encode("Sax Alto - F5. good sounds").ids
    assert ids[0] == 0 and ids[-1] == 2 and len(ids) == 10 and max(ids) < 50_265
    padded = alternatives.padded_tokens(tokenizer, ["a", "long " * 200])
    assert padded["input_ids"].shape == (2, 77)
    assert padded["attention_mask"].sum(1).tolist() == [3, 77]


def test_cost_is_measured_for_each_number_of_clips(tmp_path):
    bench_growth.write_clips(tmp_path, 40)
    row = bench_growth.measure(str(tmp_path), 40)
    assert row["clips"] == 40
    assert 0 < row["store_seconds"] and 0 < row["epoch_seconds"] and 0 < row["epoch_memory_MB"]
    rows = pd.DataFrame([row, row | {"clips": 80}])
    figure = bench.growth_figure(rows)
    assert figure.axes
    plt.close(figure)


def test_a_gpus_first_step_is_not_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_gpu.time, "perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    def batches():
        for wait in (50, 1, 2):
            spend(wait)
            yield wait

    assert bench_gpu._timed(lambda wait: spend(100 if wait == 50 else 10), batches(), "cpu") == (23.0, 3.0)


TINY_CLAP = replace(
    CONFIG, depths=(2, 1), heads=(1, 1), htsat_dim=8, text_dim=16, text_heads=2, text_layers=2, embedding=16
)
TINY = replace(profile("tiny"), clap=TINY_CLAP, passt=replace(profile("tiny").passt, dim=32, depth=1))


def test_the_gpu_section_runs_where_it_is_told_to(recordings, capsys):
    rows = [row for row in ROWS_ON_GPU if row[2] != "compiled"]
    assert {row[:2] for row in rows} == {("CLAP", "training"), ("CLAP", "embedding"), ("PaSST", "training")}
    table = gpu_table(recordings[1], device="cpu", batch=2, steps=2, sizes=TINY, rows=rows)
    assert list(table["work"]) == [f"{row[0]} {row[1]}, batch 2, {row[3]}, {row[2]}" for row in rows]
    assert capsys.readouterr().out.count("batch 2, ") == len(rows)  # each is printed when it is there
    graphs = table["work"].str.contains("graphs")
    assert (table.loc[graphs, "note"] == "skipped: CUDA graphs need a GPU").all()
    measured = table[~graphs]
    assert measured["note"].isna().all() and (measured["milliseconds"] > 0).all()
    assert (measured["clips_per_second"] > 0).all() and (measured["share_of_matrix_rate"] > 0).all()
    assert measured["share_waiting"].between(0, 1).all()


def test_a_line_of_the_gpu_section_that_fails_or_is_too_late_says_so(recordings, monkeypatch):
    embedding = ("CLAP", "embedding", "plain", "fp32")
    rows = [("CLAP", "training", "plain", "fp32"), embedding]

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(bench_gpu, "training_step", out_of_memory)
    options = {"device": "cpu", "batch": 2, "steps": 1, "sizes": TINY}
    failed, measured = gpu_table(recordings[1], **options, rows=rows).to_dict("records")
    assert failed["note"] == "FAILED: OutOfMemoryError: no memory is left" and math.isnan(failed["milliseconds"])
    assert measured["milliseconds"] > 0
    skipped = gpu_table(recordings[1], **options, rows=[embedding], minutes=0)
    assert list(skipped["note"]) == ["skipped: 0 minutes are over"]


def test_gradients_that_differ_are_noticed(recordings, monkeypatch):
    """The comparison is made of two steps; here the second, which would be compiled, computes something else."""
    encode = htsat.encode
    monkeypatch.setattr(
        htsat, "encode", lambda *given: encode(*given) * (1.01 if os.environ["HAF_COMPILE"] == "1" else 1)
    )
    monkeypatch.setattr(fast, "compiled", lambda function, *_: function)
    monkeypatch.setattr(roberta, "compiled", lambda function, *_, **__: function)
    rows = [("CLAP", "training", "compiled", "fp32")]
    (line,) = gpu_table(recordings[1], "cpu", 2, 1, TINY, rows).to_dict("records")
    assert line["note"].startswith("FAILED: gradients_apart") and 1e-3 < line["gradients_apart"] < 0.1


@pytest.mark.slow  # compiling takes minutes
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 0.1)])
def test_compiled_steps_have_the_same_gradients(precision, tolerance, recordings, tmp_path, monkeypatch):
    """With dropout, stochastic depth and SpecAugment, of every parameter; texts of several lengths."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    rows = [row for row in ROWS_ON_GPU if row[2:] == ("compiled", precision)]
    (line,) = gpu_table(recordings[1], "cpu", 4, 2, TINY, rows, minutes=60).to_dict("records")
    assert line["milliseconds"] > 0 and line["gradients_apart"] < tolerance, line


def test_the_figure_of_the_published_table_has_plain_numbers_and_no_label_on_a_stroke():
    table = pd.read_csv(REPOSITORY / "figures" / "bench.csv")
    figure = bench.ratio_figure(table, {"cpu": "a processor", "threads": 2})
    figure.canvas.draw()
    (axes,) = figure.axes
    assert {"1", "2", "5", "10"} <= {label.get_text() for label in axes.get_xticklabels()}
    for row, label in zip(table.itertuples(), axes.texts, strict=True):
        assert label.get_text() == f"{row.ratio:.3g} ×"
        ends = [float(end) for end in row.spread.split(" – ")] + [row.target]
        assert label.get_position()[0] > np.nanmax(ends), row.work
    plt.close(figure)


def test_a_run_writes_table_figure_and_seconds(tmp_path, embedded, capsys, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", SMALL)
    arguments = ["--quick", "--only", "metrics", "--runs", str(tmp_path)]
    assert bench.main(arguments) == 0
    folder = tmp_path / "bench" / "partial"  # a quick look does not take the place of a whole run
    record = json.loads((folder / "bench.json").read_text())
    assert record["machine"]["cores"] >= 1 and len(record["rows"]) == 2
    columns = ["work", "against", "ratio", "spread", "target", "reached", "check"]
    assert list(pd.read_csv(folder / "bench.csv").columns) == columns
    assert (folder / "bench.png").stat().st_size > 1_000
    printed = capsys.readouterr().out
    assert "bootstrap replicates" in printed and f"results in {folder}" in printed
    assert not plt.get_fignums()  # no figure is left open


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--only", "speed"], "speed"),
        (["--stages", "--growth"], "--stages measures nothing"),
        (["--stages", "--only", "speed"], "--stages measures nothing"),
        (["--quick", "--publish"], "takes a whole run"),
        (["--only", "metrics", "--publish"], "takes a whole run"),
    ],
)
def test_wrong_arguments_are_named(arguments, said, tmp_path, capsys):
    assert bench.main([*arguments, "--runs", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_nothing_is_published_from_a_busy_machine(monkeypatch, tmp_path, capsys, embedded):
    monkeypatch.setattr(bench, "machine", lambda: {"load before": 0.9})
    assert bench.main(["--publish", "--runs", str(tmp_path)]) == 2
    assert "quiet" in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_measured(capsys, tmp_path):
    assert bench.main(["--only", "gpu", "--runs", str(tmp_path)]) == 2
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("note, code", [("skipped: 8 minutes are over", 0), ("FAILED: out of memory", 1)])
def test_a_gpu_alone_makes_no_table_of_ratios(note, code, embedded, monkeypatch, tmp_path, capsys):
    measured = pd.DataFrame({"work": ["embedding", "training"], "clips_per_second": [3000.0, math.nan]})
    measured["note"] = [math.nan, note]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(bench, "gpu_table", lambda titles: measured)
    assert bench.main(["--only", "gpu", "--runs", str(tmp_path)]) == code
    record = json.loads((tmp_path / "bench" / "partial" / "gpu.json").read_text())
    assert record["machine"]["gpu"] == "a card" and record["gpu"][0] == {"work": "embedding", "clips_per_second": 3000}
    assert record["gpu"][1] == {"work": "training", "note": note}
    assert sorted(path.name for path in (tmp_path / "bench" / "partial").iterdir()) == ["gpu.json"]
    assert "3000" in capsys.readouterr().out


def test_stages_are_read_from_executed_notebooks(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    cells = [new_code_cell("1"), new_markdown_cell("# 04 · Title\ntext\n## Training"), new_code_cell("2")]
    cells += [new_code_cell("3"), new_markdown_cell("no heading"), new_code_cell("4")]
    for cell, seconds in zip([cells[0], cells[2], cells[3], cells[5]], (1.0, 2.0, 3.0, 4.0), strict=True):
        cell.metadata["papermill"] = {"duration": seconds}
    nbformat.write(new_notebook(cells=cells), tmp_path / "04_finetuning.ipynb")
    spent = bench.stages(tmp_path)
    assert spent["stage"].tolist() == ["start", "Training"]
    assert spent["seconds"].tolist() == [1.0, 9.0]


def test_make_knows_the_benchmark():
    assert "-m benchmarks" in (REPOSITORY / "Makefile").read_text()
