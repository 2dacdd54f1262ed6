"""OpenVINO embeds as laion-clap's forward does, converts a network once, and reports nothing to anybody."""

import copy
import dataclasses
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from tokenizers import Tokenizer, models
from torch import nn

from haf_utils import clap as clap_module
from haf_utils.clap import Clap, ClapNetwork, load_clap
from haf_utils.fast import htsat as torch_htsat
from haf_utils.fast import openvino
from haf_utils.profiles import ClapConfig, profile

CONFIG = dataclasses.replace(profile("mini").clap, depths=(2, 2, 2))  # with shifted windows
WINDOW = CONFIG.audio.window_samples


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "haf-clap"


@pytest.fixture(scope="module")
def clap():
    torch.manual_seed(0)
    network = ClapNetwork(CONFIG).eval()
    for layer in network.audio_branch.layers:  # zero at the start, so that a wrong bias would not show
        for block in layer.blocks:
            nn.init.normal_(block.attn.relative_position_bias_table)
    for parameter in network.parameters():  # weights of fan-in size spread the embeddings
        if parameter.requires_grad and parameter.dim() == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return Clap(network, Tokenizer(models.BPE()), torch.device("cpu"))


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 1, CONFIG.spec_size, CONFIG.spec_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    lengths = rng.integers(WINDOW // 3, 3 * WINDOW, 12)  # some longer than a window
    return [
        (2000 * rng.standard_normal(n) + 3000 * np.sin(np.arange(n) * 0.03 * n / WINDOW)).astype(np.int16)
        for n in lengths
    ]


@pytest.fixture
def unconverted(monkeypatch):
    """Networks that are converted while the test runs, in order; none is in memory when it begins."""
    openvino._COMPILED.clear()
    convert, converted = openvino.library().convert_model, []
    monkeypatch.setattr(openvino.library(), "convert_model", lambda *a, **k: converted.append(a[0]) or convert(*a, **k))
    return converted


@torch.no_grad()
def laion_clap(network, images):
    return network.audio_branch.forward_features(images)["embedding"]


@pytest.mark.parametrize("threads", [1, 2])
def test_fp32_is_laion_claps_for_any_number_of_windows(clap, images, threads):
    expected, before = laion_clap(clap.network, images), torch.get_num_threads()
    assert expected.abs().max() > 0.1
    torch.set_num_threads(threads)
    try:
        encode = openvino.encoder(clap.network.audio_branch)
        for number in (5, 1, 2):
            assert (encode(images[:number]) - expected[:number]).abs().max() < 1e-5
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_bf16_stays_close(clap, images):
    expected = laion_clap(clap.network, images)
    found = openvino.encoder(clap.network.audio_branch, "bf16")(images)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm(dim=1).max() < 0.15 * (expected[0] - expected[1]).norm()


def test_recordings_have_the_same_embeddings(clap, clips):
    by_openvino = dataclasses.replace(clap, engine="openvino")
    full = clap.embed_audio(clips, progress=False)
    np.testing.assert_allclose(by_openvino.embed_audio(clips, progress=False), full, atol=1e-5)
    np.testing.assert_allclose(by_openvino.embed_audio(clips[3:4], progress=False), full[3:4], atol=1e-5)
    assert by_openvino.embed_audio([], progress=False).shape == (0, 512)
    low = dataclasses.replace(by_openvino, precision="bf16").embed_audio(clips, progress=False)
    distance = np.linalg.norm(full[:, None] - full[None], axis=2)
    assert 0 < np.linalg.norm(full - low, axis=1).max() < 0.15 * np.median(distance[distance > 0])
    assert clap.network.encoder is None


def test_signals_arrive_after_networks_have_gone():
    """A DataLoader's worker ends (SIGCHLD) where faulthandler has given signals a stack of their own, as in pytest."""
    code = f"""
import faulthandler, gc, signal, subprocess, sys
sys.path.insert(0, {str(REPOSITORY / "tests" / "fast")!r}), sys.path.insert(0, {str(REPOSITORY / "tests")!r})
from test_openvino import CONFIG, ClapNetwork, openvino, torch
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
networks = [ClapNetwork(CONFIG).eval().audio_branch for _ in range(3)]
for network in networks:
    openvino.encoder(network)(torch.zeros(1, 1, CONFIG.spec_size, CONFIG.spec_size))
while networks:
    del networks[0], network
    network = None
    gc.collect()
    subprocess.run(["true"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_weights_that_have_changed_are_converted_again(clap, clips, unconverted):
    network = copy.deepcopy(clap.network)
    changed = network.audio_branch.layers[0].blocks[0].mlp.fc1.weight
    with torch.no_grad():
        changed.mul_(2)
    of_torch = dataclasses.replace(clap, network=network)
    of_openvino = dataclasses.replace(of_torch, engine="openvino")
    first = of_openvino.embed_audio(clips[:2], progress=False)
    of_openvino.embed_audio(clips[:2], progress=False)
    assert len(unconverted) == 1
    with torch.no_grad():
        changed.mul_(-1)
    again = of_openvino.embed_audio(clips[:2], progress=False)
    assert len(unconverted) == 2 and np.abs(again - first).max() > 1e-3
    np.testing.assert_allclose(again, of_torch.embed_audio(clips[:2], progress=False), atol=1e-5)


def test_a_converted_network_is_read_from_the_cache(clap, images, cache, unconverted):
    expected = laion_clap(clap.network, images)
    openvino.encoder(clap.network.audio_branch)
    folder = cache / f"openvino-{openvino._digest(clap.network.audio_branch)}"
    assert sorted(path.name for path in folder.iterdir()) == ["htsat.bin", "htsat.xml"]
    for damage in (None, "htsat.bin", "htsat.xml", "gone"):
        openvino._COMPILED.clear()
        unconverted.clear()
        if damage == "gone":
            (folder / "htsat.xml").unlink()
        elif damage:
            content = (folder / damage).read_bytes()
            (folder / damage).write_bytes(content[: len(content) // 2])
        assert (openvino.encoder(clap.network.audio_branch)(images) - expected).abs().max() < 1e-5
        assert len(unconverted) == (damage is not None), damage


def test_the_cache_is_bounded_and_keeps_what_was_used_last(clap, cache, tmp_path, monkeypatch, unconverted):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = [f"openvino-{number}" for number in range(openvino._KEPT)]
    for age, name in enumerate(names):
        (tmp_path / "haf-clap" / name).mkdir(parents=True)
        os.utime(tmp_path / "haf-clap" / name, (1000 - age, 1000 - age))
    (tmp_path / "haf-clap" / "another.safetensors").touch()
    openvino.encoder(clap.network.audio_branch)
    left = {path.name for path in (tmp_path / "haf-clap").iterdir()}
    new = f"openvino-{openvino._digest(clap.network.audio_branch)}"
    assert left == {*names[:-1], new, "another.safetensors"}


def test_where_nothing_can_be_kept_it_works_and_says_so(clap, images, tmp_path, monkeypatch, unconverted):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    expected, weight = laion_clap(clap.network, images), clap.network.audio_branch.layers[0].blocks[0].mlp.fc1.weight
    with pytest.warns(UserWarning, match="could not be kept"):
        encode = openvino.encoder(clap.network.audio_branch)
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(2)
    found = encode(images)  # does not share the memory of the weights
    with torch.no_grad():
        weight.copy_(kept)
    assert (found - expected).abs().max() < 1e-5


# The choice of the engine -------------------------------------------------------------------------------------------


def chosen(clap, clips: int) -> bool:
    """Whether OpenVINO embeds `clips` recordings."""
    with clap.by_engine(clips):
        return clap.network.encoder is not None


def test_auto_takes_openvino_for_many_recordings_by_a_large_network_on_a_cpu(clap, monkeypatch):
    large = Clap(
        ClapNetwork(ClapConfig(text_layers=1, depths=(1, 1), heads=(4, 8))), clap.tokenizer, clap.device, engine="auto"
    )
    monkeypatch.setattr(openvino, "encoder", lambda *_: "an encoder")
    assert chosen(large, 512) and not chosen(large, 511)
    assert not chosen(dataclasses.replace(large, engine="torch"), 10_000)
    assert not chosen(dataclasses.replace(clap, engine="auto"), 10_000), "a small network does not pay for it"
    assert not chosen(dataclasses.replace(large, device=torch.device("cuda")), 10_000)
    monkeypatch.setenv("HAF_FAST", "0")
    assert not chosen(large, 10_000) and chosen(dataclasses.replace(large, engine="openvino"), 1)


def test_wrong_engines(clap):
    with pytest.raises(ValueError, match="engine='onnx' is unknown: choose auto, torch, openvino"):
        dataclasses.replace(clap, engine="onnx")
    with pytest.raises(ValueError, match="for a CPU, not for cuda:1"):
        dataclasses.replace(clap, engine="openvino", device=torch.device("cuda:1"))


def test_where_openvino_is_missing(clap, clips, monkeypatch):
    expected = clap.embed_audio(clips[:2], progress=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(clap_module, "_CLIPS_FOR_OPENVINO", 2)
    monkeypatch.setattr(clap_module, "_LAION_DIM", 1)
    with pytest.raises(ImportError, match="pip install --no-deps openvino==.*or choose engine 'torch'"):
        dataclasses.replace(clap, engine="openvino")
    auto = dataclasses.replace(clap, engine="auto")
    with pytest.warns(UserWarning, match="pip install --no-deps openvino.*PyTorch embeds audio instead"):
        np.testing.assert_allclose(auto.embed_audio(clips[:2], progress=False), expected, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto.embed_audio(clips[:1], progress=False)  # too few to take it anyway


def test_a_checkpoint_is_loaded_with_an_engine(clips, monkeypatch):
    by_torch, auto = load_clap("data/clap-mini"), load_clap("data/clap-mini", engine="auto")
    expected = by_torch.embed_audio(clips, progress=False)
    monkeypatch.setattr(clap_module, "_CLIPS_FOR_OPENVINO", 2)
    monkeypatch.setattr(clap_module, "_LAION_DIM", 1)
    monkeypatch.setattr(torch_htsat, "encode", None)  # HTSAT's forward pass is not PyTorch's
    np.testing.assert_allclose(auto.embed_audio(clips, progress=False), expected, atol=1e-5)


# The package ------------------------------------------------------------------------------------------------------


TELEMETRY = """
import os, pathlib, socket
class Telemetry:
    def __init__(self, *a, **k):
        pathlib.Path(os.environ["HOME"], "intel").mkdir(exist_ok=True)
    def send_event(self, *a, **k):
        socket.create_connection(("192.0.2.1", 443))
    send_error = start_session = end_session = force_shutdown = send_stack_trace = send_event
"""
PROGRAM = """
import socket
def refuse(*a, **k):
    print("a request")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
if {blocked}:
    from haf_utils.fast import openvino
    from torch import nn, zeros
    class Htsat(nn.Linear):
        patch_embed = type("", (), dict(img_size=(4, 4)))
        def forward_features(self, image):
            return dict(embedding=self(image).flatten(1))
    print(openvino.encoder(Htsat(4, 4).eval())(zeros(2, 1, 4, 4)).shape)
else:
    import openvino
"""


@pytest.mark.parametrize("blocked", [True, False])
def test_telemetry_beside_openvino_sends_and_writes_nothing(tmp_path, blocked):
    package = tmp_path / "packages" / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(TELEMETRY)
    (package / "backend" / "__init__.py").write_text("backend_ga4 = None")
    home = tmp_path / "home"
    home.mkdir()
    paths = os.pathsep.join([str(package.parent), str(REPOSITORY)])
    places = {"HOME": str(home), "PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = [sys.executable, "-c", PROGRAM.format(blocked=blocked)]
    done = subprocess.run(program, env=os.environ | places, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("a request" in done.stdout) is not blocked  # without the block both would happen
    assert [path.name for path in home.iterdir()] == ([] if blocked else ["intel"])
    assert ("[2, 16]" in done.stdout) is blocked


def test_openvino_is_pinned_alike_wherever_it_is_installed():
    names = ("Makefile", "environment.yml", "README.md", "haf_utils/fast/openvino.py")
    versions = [set(re.findall(r"openvino==([0-9.]+)", (REPOSITORY / name).read_text())) for name in names]
    assert versions == [{"2026.4.1"}] * 4
