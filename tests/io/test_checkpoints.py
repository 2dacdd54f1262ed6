"""LAION's format is read in all its forms; anything else is refused with a reason, and nothing in it runs."""

import collections
import errno
import io
import os
import pickle
import resource
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haf_utils.io import checkpoints
from haf_utils.io.checkpoints import (
    CheckpointError,
    match_state,
    read_pickle,
    read_state,
    safetensors_copy,
    save_training,
    write_state,
)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio_branch.bn0.weight": torch.randn(5, generator=generator),
        "audio_branch.bn0.num_batches_tracked": torch.tensor(7),
        "logit_scale_a": torch.tensor(2.66),
        "text_branch.pooler.dense.weight": torch.randn(3, 4, generator=generator).half(),
    }


def laion_format(weights: dict) -> dict:
    """Everything that LAION's files are known to carry beside the weights."""
    own = collections.OrderedDict({f"module.{name}": value for name, value in weights.items()})
    own["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([parameter], 1e-3)
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 45,
        "name": "a name",
        "state_dict": own,
        "optimizer": optimizer.state_dict(),
        "best": np.float64(0.53),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "parameter": parameter,
        "blob": b"\x00\xff",
    }


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("archive", [True, False])
def test_laions_format_is_read_in_every_pickle_protocol(tmp_path, protocol, archive):
    path = tmp_path / "630k.pt"
    torch.save(laion_format(state()), path, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    assert same(read_state(path), state())
    content = read_pickle(path)
    assert content["best"] == 0.53 and content["count"] == 3 and content["flag"] is True and content["epoch"] == 45
    assert content["blob"] == b"\x00\xff" and torch.is_tensor(content["optimizer"]["state"][0]["exp_avg"])


def test_this_file_would_have_been_refused_by_weights_only(tmp_path):
    """Otherwise the fixture were too clean to prove anything."""
    for protocol in (2, 4):
        torch.save(laion_format(state()), tmp_path / "a.pt", pickle_protocol=protocol)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "a.pt", weights_only=True)


def test_numpy_2_names_are_known(tmp_path, monkeypatch):
    torch.save({"state_dict": state(), "best": np.float32(0.25)}, tmp_path / "a.pt")
    raw = (tmp_path / "a.pt").read_bytes()
    assert b"numpy.core.multiarray" in raw or b"numpy._core.multiarray" in raw
    assert checkpoints._ALLOWED["numpy._core.multiarray", "scalar"] is checkpoints._plain_number


def test_a_bare_state_dict_is_read(tmp_path):
    torch.save(state(), tmp_path / "a.pt")
    assert same(read_state(tmp_path / "a.pt"), state())


# Hostile and broken files ---------------------------------------------------------------------------------------------


class Runs:
    """Pickled, it calls `function(*arguments)` when an ordinary unpickler reads it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(victim) -> dict[str, object]:
    object_scalar = np.core.multiarray.scalar
    return {
        "system": Runs(os.system, f"touch {victim}"),
        "eval": Runs(eval, f"open({str(victim)!r}, 'w')"),
        "open": Runs(open, str(victim), "w"),
        "import": Runs(__import__, "this"),
        "torch.load": Runs(torch.load, str(victim)),
        "object scalar": Runs(object_scalar, np.dtype("O"), b"x"),
        "string scalar": Runs(object_scalar, np.dtype("S4"), b"abcd"),
    }


@pytest.mark.parametrize("name", list(hostile("x")))
@pytest.mark.parametrize("archive", [True, False])
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(tmp_path, name, archive):
    victim, path = tmp_path / "victim", tmp_path / "a.pt"
    content = {"state_dict": state() | {"x": hostile(victim)[name]}}
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match="refused.*Nothing in it was executed"):
        read_state(path)
    assert not victim.exists()


def test_the_fixture_is_really_malicious(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "a.pt"
    torch.save(hostile(victim)["system"], path)
    torch.load(path, weights_only=False)
    assert victim.exists()


def test_a_plain_pickle_is_not_even_read(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "a.pt"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(hostile(victim)["system"], protocol))
        with pytest.raises(CheckpointError):
            read_state(path)
        assert not victim.exists()


def test_a_tar_in_disguise_is_not_unpacked(tmp_path):
    """torch.load would take a tar archive whose first member bears the old format's mark for a checkpoint."""
    import tarfile

    path = tmp_path / "a.pt"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("storages")
        member.size = 0
        archive.addfile(member, io.BytesIO())
    raw = bytearray(path.read_bytes())
    raw[20:34] = checkpoints._OLD_MAGIC[:14].ljust(14, b"\0")
    path.write_bytes(raw)
    with pytest.raises(CheckpointError):
        read_state(path)


def test_a_torchscript_program_is_no_checkpoint(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>Entry not found</title>", "text file.*DOCTYPE"),
        (b"\x00\x01\x02garbage\xff", "no checkpoint of any known format"),
        (b"PK\x03\x04 and then nothing", "half a checkpoint"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, says):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_state(tmp_path / "a.pt")


def test_absent_files_and_folders(tmp_path):
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(CheckpointError, match="does not exist"):
            read_state(tmp_path / name)
    with pytest.raises(CheckpointError):
        read_state(tmp_path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 1}, {"state_dict": {"a": 1}}, {"state_dict": {}}, torch.zeros(2), {1: torch.zeros(2)}]
)
def test_a_file_without_a_state_dict_is_said(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "a.pt")


_WHOLE = io.BytesIO()
torch.save(laion_format(state()), _WHOLE)


@settings(max_examples=30)
@given(cut=st.floats(0, 0.999), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3))
def test_a_damaged_file_is_an_error_of_ours_or_reads(tmp_path_factory, cut, flips):
    """Cut anywhere it is always refused; with bytes changed it is refused or read, and nothing else happens."""
    raw = bytearray(_WHOLE.getvalue())
    for place, mask in flips:
        raw[int(place * (len(raw) - 1))] ^= mask
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    path.write_bytes(raw)
    try:
        read_state(path)
    except CheckpointError:
        pass
    path.write_bytes(raw[: int(cut * len(raw))])
    with pytest.raises(CheckpointError):
        read_state(path)


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    write_state(state(), path)
    assert same(read_state(path), state())
    whole = path.read_bytes()
    for content in (whole[:-5], whole[:9], b"hello", b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="model.safetensors"):
            read_state(path)


# Which network fits ---------------------------------------------------------------------------------------------------


def htsat(dim=96, depths=(2, 2, 6, 2)) -> dict[str, torch.Tensor]:
    weights = {"audio_branch.patch_embed.proj.weight": torch.zeros(dim, 1, 4, 4)}
    for layer, depth in enumerate(depths):
        for block in range(depth):
            weights[f"audio_branch.layers.{layer}.blocks.{block}.norm1.weight"] = torch.zeros(dim * 2**layer)
    return weights | {"text_branch.embeddings.word_embeddings.weight": torch.zeros(50, 8)}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (htsat(128, (2, 2, 12, 2)), r"htsat_dim=128 \(HTSAT-base\), depths=\(2, 2, 12, 2\)"),
        (htsat() | {"audio_branch.patch_embed.fusion_model.local_att.0.weight": torch.zeros(1)}, "fusion checkpoint"),
        (htsat() | {"more": torch.zeros(1)}, "1 not expected .first more"),
        ({k: v for k, v in htsat().items() if "norm1" not in k}, "12 weights missing"),
        ({"conv1.weight": torch.zeros(3)}, "no CLAP with an HTSAT audio branch"),
        ({k: v for k, v in htsat().items() if "text" not in k}, "text branch is not RoBERTa"),
        (htsat() | {"text_branch.embeddings.word_embeddings.weight": torch.zeros(60, 8)}, "vocab_size=60"),
    ],
)
def test_a_checkpoint_of_another_network_is_described(found, says):
    match_state(htsat(), htsat(), "fits.pt")
    with pytest.raises(CheckpointError, match=says) as error:
        match_state(found, htsat(), "some.pt")
    assert "some.pt does not fit" in str(error.value)


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_state(state(), path)
    before = path.read_bytes()

    def full(tensors, beside):
        beside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="the disk is full: "):
        write_state({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.safetensors"]


def test_a_disk_that_is_really_full(tmp_path):
    """The system takes no more than 1 MB a file: what the library raises then is an OSError for the caller."""
    path = tmp_path / "model.safetensors"
    write_state(state(), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="the disk is full: 4.0 MB needed, .* MB there"):
            write_state({"a": torch.zeros(1_000_000)}, path)
        with pytest.raises(OSError, match="resume.pt could not be written|the disk is full: 4.0 MB needed"):
            save_training({"a": torch.zeros(1_000_000)}, tmp_path / "resume.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.safetensors"]


def test_a_copy_is_kept_once_and_follows_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "630k.pt"
    torch.save(laion_format(state()), path)
    copy = safetensors_copy(path)
    assert copy.suffix == ".safetensors" and copy.is_relative_to(tmp_path / "cache") and same(read_state(copy), state())
    reads = []
    monkeypatch.setattr(checkpoints, "read_pickle", lambda p: reads.append(p) or read_pickle(p))
    assert safetensors_copy(path) == copy and reads == []
    os.utime(path, ns=(1, 1))
    assert safetensors_copy(path) != copy and reads == [path]


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "630k.pt"
    torch.save(laion_format(state()), path)
    with pytest.warns(UserWarning, match="no safetensors copy"):
        assert same(read_state(safetensors_copy(path)), state())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_weight_that_is_not_finite_is_found_and_large_ones_are_fine(tmp_path, value):
    state = {"good": torch.full((100,), 65_504, dtype=torch.float16), "bad": torch.full((1000,), 3e38)}
    write_state(state, tmp_path / "large.safetensors")  # both sums overflow
    assert read_state(tmp_path / "large.safetensors").keys() == state.keys()
    state["bad"][[3, 5]] = torch.tensor([value, -value])
    write_state(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match="not finite, first bad"):
        read_state(tmp_path / "broken.safetensors")
