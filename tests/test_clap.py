"""laion-clap's embeddings exactly, in every padding case, whatever the batch; and errors that say what to do."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
import soundfile
import torch
from conftest import REPOSITORY, need_shared
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch._inductor import config as inductor

from benchmarks.alternatives import laion_clap
from haf_utils import clap as clap_module
from haf_utils import fast
from haf_utils.audio import AudioError, fixed_windows, to_float
from haf_utils.clap import (
    Clap,
    ClapNetwork,
    load_clap,
    load_tokenizer,
    roberta_tokenizer,
    save_clap,
)
from haf_utils.datasets import load_bsd
from haf_utils.fast import frontend
from haf_utils.io.checkpoints import CheckpointError, read_state
from haf_utils.io.third_party import clap_networks
from haf_utils.profiles import PROFILES, AudioConfig, ClapConfig
from haf_utils.taxonomy import CLASSES, NAMES

CONFIG = PROFILES["mini"].clap
WINDOW, RATE = CONFIG.audio.window_samples, CONFIG.audio.sample_rate
SENTENCES = ["a dog barks twice", "rain on a tin roof, distant thunder", "", "piano C4 sustained", "crowd " * 200]


def small_tokenizer() -> Tokenizer:
    tokenizer = roberta_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """Coloured noise whose spectrum depends on the seed, int16 (n,)."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(frames) + 3 * np.sin(np.arange(frames) * rng.uniform(0.02, 0.5))
    return (samples * 2000).astype(np.int16)


@pytest.fixture(scope="module")
def mini() -> Clap:
    """A mini CLAP with random weights, with a front end as after training: weights of fan-in size spread the clips."""
    torch.manual_seed(0)
    network = ClapNetwork(CONFIG)
    network.audio_branch.bn0.running_mean.uniform_(-30, 0)
    network.audio_branch.bn0.running_var.uniform_(100, 400)
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return Clap(network.eval(), load_tokenizer(small_tokenizer(), CONFIG), torch.device("cpu"))


def test_threads_change_nothing(mini):
    """Batches on several threads share the network and the permutations of its tokens."""
    clips, before = [noise(WINDOW + 400 * seed, seed) for seed in range(20)], torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append((mini.embed_audio(clips, batch=3), mini.embed_text(SENTENCES * 7, batch=3)))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


# The network is laion-clap's ------------------------------------------------------------------------------------------


@pytest.fixture(params=["1", "0"], ids=["fast", "plain"])
def either_way(request, monkeypatch):
    monkeypatch.setenv("HAF_FAST", request.param)


def test_the_plain_and_the_fast_way_have_the_same_embeddings_and_gradients(mini, monkeypatch):
    waveforms = torch.from_numpy(np.stack([noise(WINDOW, seed) for seed in range(3)]))
    tokens, found = mini.tokenize(SENTENCES[:3]), []
    for switch in ("1", "0"):
        monkeypatch.setenv("HAF_FAST", switch)
        mini.network.zero_grad()
        audio, text = mini.network(waveforms, *tokens.values())
        ((audio @ text.T) ** 3).sum().backward()
        gradients = {name: p.grad.clone() for name, p in mini.network.named_parameters() if p.grad is not None}
        found.append((audio.detach(), text.detach(), gradients))
    mini.network.zero_grad()
    (audio, text, gradients), (plain_audio, plain_text, plain_gradients) = found
    assert 0 < (audio - plain_audio).abs().max() < 1e-5 and 0 < (text - plain_text).abs().max() < 1e-5
    assert gradients.keys() == plain_gradients.keys()
    largest = max(gradient.norm() for gradient in gradients.values())
    for name, gradient in plain_gradients.items():
        # A key's bias moves no softmax: its gradient is rounding alone.
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * largest, name


def test_the_switch_takes_one_and_zero_alone(mini, monkeypatch):
    monkeypatch.setenv("HAF_FAST", "no")
    with pytest.raises(ValueError, match="HAF_FAST=no.*choose 1"):
        mini.embed_text(["a"], progress=False)
    monkeypatch.setenv("HAF_FAST", "0")
    monkeypatch.setenv("HAF_COMPILE", "1")
    with pytest.raises(ValueError, match="HAF_COMPILE=1.*HAF_FAST=0.*choose one"):
        mini.embed_text(["a"], progress=False)


def test_where_nothing_can_be_compiled_the_error_says_what_asked_for_it(monkeypatch):
    monkeypatch.setenv("HAF_COMPILE", "1")
    with inductor.patch({"cpp.cxx": (None, "/nonexistent/g++")}):
        with pytest.raises(RuntimeError, match="No working C\\+\\+ compiler") as caught:
            fast.compiled(torch.erfinv, True)(torch.zeros(3))
    assert "HAF_COMPILE=1" in caught.value.__notes__[0]


def test_only_training_is_compiled_and_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda: "compiled")
    fast._compiled.cache_clear()
    plain = lambda: "plain"  # noqa: E731
    for value, training, expected in (("0", True, "plain"), ("1", False, "plain"), ("1", True, "compiled")):
        monkeypatch.setenv("HAF_COMPILE", value)
        assert fast.compiled(plain, training)() == expected
    monkeypatch.delenv("HAF_COMPILE")
    assert fast.compiled(plain, True) is plain
    monkeypatch.setenv("HAF_COMPILE", "yes")
    with pytest.raises(ValueError, match="HAF_COMPILE=yes.*choose 1 or 0"):
        fast.compiled(plain, True)
    fast._compiled.cache_clear()


@torch.no_grad()
def test_it_is_laion_claps_forward(mini, either_way):
    """laion-clap's forward: DFT by convolution, group pooling, AudioSet head; here: FFT and the mean over tokens."""
    network = mini.network
    waveforms = torch.from_numpy(np.stack([to_float(noise(WINDOW, seed)) for seed in range(4)]))
    spectrum = network.audio_branch.spectrogram_extractor(waveforms)
    mel = network.audio_branch.logmel_extractor(spectrum)[:, 0].transpose(1, 2)
    assert (network.log_mel(waveforms) - mel).abs().max() < 1e-3  # dB
    own = network.audio_branch({"waveform": waveforms}, device="cpu")["embedding"]
    expected = torch.nn.functional.normalize(network.audio_projection(own), dim=-1)
    assert (network.audio_embedding(waveforms) - expected).abs().max() < 1e-5
    assert (expected[0] - expected[1]).norm() > 0.05  # or the comparison would say nothing


@torch.no_grad()
def test_log_mel_in_parts_is_that_of_the_whole_clip(either_way):
    """At real size, 1,001 frames: four parts on a CPU."""
    network = ClapNetwork(dataclasses.replace(CONFIG, audio=AudioConfig(), spec_size=256))
    samples = torch.from_numpy(noise(480_000))
    samples[100_000:200_000] = 0
    waveform = to_float(samples)[None]
    spectrum = torch.stft(waveform, 1024, 480, window=torch.hann_window(1024), pad_mode="reflect", return_complex=True)
    power = network.audio_branch.logmel_extractor.melW.T @ spectrum.abs().square()
    expected = 10 * power.clamp(min=1e-10).log10()
    assert expected.shape == (1, 64, 1001) and expected.min() == -100
    for given in (waveform, samples[None], torch.cat([waveform, waveform])):
        assert (network.log_mel(given) - expected).abs().max() < 1e-3  # dB


@pytest.mark.parametrize("sizes", [(1001, 1024), (3, 7), (101, 256)])
def test_stretched_log_mel_is_pytorchs_interpolation(sizes):
    before, after = sizes
    with torch.inference_mode():  # what is kept from here must do for training too
        frontend.stretch(torch.zeros(1, 1, before, 8), after)
    own = torch.randn(3, 1, before, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    other = own.detach().clone().requires_grad_()
    found = frontend.stretch(own, after)
    expected = torch.nn.functional.interpolate(other, (after, 8), mode="bicubic", align_corners=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for x in (found, expected):
        x.square().sum().backward()
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-4)
    assert frontend.stretch(own, before) is own


@torch.no_grad()
def test_padding_does_not_change_a_text(mini):
    tokens = mini.tokenize(SENTENCES)
    alone = [mini.network.text_embedding(*mini.tokenize([text]).values())[0] for text in SENTENCES]
    wide = torch.nn.functional.pad(tokens["input_ids"], (0, 77 - tokens["input_ids"].shape[1]), value=1)
    together = mini.network.text_embedding(wide, (wide != 1).long())
    assert (torch.stack(alone) - together).abs().max() < 1e-5


def test_every_learnt_weight_gets_a_gradient_and_every_other_is_frozen(mini):
    network = ClapNetwork(CONFIG).train()
    audio, text = network(torch.randn(2, WINDOW), *mini.tokenize(["a", "b c"]).values(), augment=True)
    ((audio * text).sum() * network.logit_scale_a * network.logit_scale_t).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(p.requires_grad for n, p in network.named_parameters() if "extractor" in n or "transform." in n)


def test_the_plain_way_refuses_to_recompute_activations(monkeypatch):
    monkeypatch.setenv("HAF_FAST", "0")
    network = ClapNetwork(CONFIG)
    network.recompute_activations = True
    with pytest.raises(ValueError, match="no activation checkpointing.*HAF_FAST=1"):
        network.audio_embedding(torch.randn(1, WINDOW))
    with torch.no_grad():
        network.audio_embedding(torch.randn(1, WINDOW))


def test_recomputing_activations_gives_the_same_gradients(monkeypatch):
    monkeypatch.setenv("HAF_FAST", "1")
    waveforms, gradients = torch.randn(2, WINDOW), []
    for again in (False, True):
        torch.manual_seed(0)
        network = ClapNetwork(CONFIG)
        network.audio_branch.eval()
        network.recompute_activations = again
        network.audio_embedding(waveforms).square().cumsum(1).sum().backward()
        gradients.append(network.audio_branch.patch_embed.proj.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_spectrogram_stripes_are_hidden_in_training_only(mini, either_way):
    waveforms = torch.from_numpy(to_float(noise(WINDOW)))[None]
    torch.manual_seed(0)
    with torch.no_grad():
        plain = mini.network.audio_embedding(waveforms)
        assert torch.equal(mini.network.audio_embedding(waveforms, augment=True), plain)
        network = ClapNetwork(CONFIG).train()
        for module in network.audio_branch.layers.modules():
            module.eval()
        network.audio_branch.bn0.eval()
        views = [network.audio_embedding(waveforms, augment=True) for _ in range(2)]
        assert not torch.equal(*views)


def test_stripes_are_laion_claps():
    """The same ones, drawn alike, and nothing flows back through them."""
    augmenter, image = ClapNetwork(CONFIG).audio_branch.spec_augmenter.train(), torch.randn(5, 1, 101, 64)
    found, expected = image.clone().requires_grad_(), image.clone().requires_grad_()
    torch.manual_seed(0)
    hidden = frontend.hide_stripes(augmenter, found)
    torch.manual_seed(0)
    theirs = augmenter(expected * 1)
    assert torch.equal(hidden, theirs) and 0 < (theirs == 0).float().mean() < 0.7
    hidden.square().sum().backward()
    theirs.square().sum().backward()
    assert torch.equal(found.grad, expected.grad)


def test_the_front_end_stays_in_fp32_under_autocast(mini, either_way):
    waveforms = torch.from_numpy(to_float(noise(WINDOW)))[None]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert mini.network.log_mel(waveforms).dtype == torch.float32
        half = mini.network.audio_embedding(waveforms)
    assert half.dtype == torch.float32
    assert torch.equal(mini.network.log_mel(waveforms), mini.network.log_mel(waveforms.double()))


# Embedding ------------------------------------------------------------------------------------------------------------


def test_a_clip_does_not_depend_on_its_batch(mini):
    clips = [
        noise(frames, seed) for seed, frames in enumerate([WINDOW, 100, WINDOW - 1, 3 * WINDOW + 7, 2, WINDOW // 2])
    ]
    together = mini.embed_audio(clips, progress=False)
    assert together.shape == (6, 512) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for batch in (1, 2, 5):
        np.testing.assert_allclose(mini.embed_audio(clips, batch=batch, progress=False), together, atol=1e-5)
    shuffled = mini.embed_audio(clips[::-1], progress=False)[::-1]
    np.testing.assert_allclose(shuffled, together, atol=1e-5)
    np.testing.assert_array_equal(mini.embed_audio(clips, progress=False), together)


def test_a_long_clip_is_the_mean_of_its_fixed_windows(mini):
    long = np.concatenate([noise(WINDOW, 1), noise(WINDOW, 2), noise(5000, 3)])
    parts = [to_float(long[start : start + WINDOW]) for start in fixed_windows(len(long), WINDOW)]
    each = mini.embed_windows(torch.from_numpy(np.stack(parts))).numpy()
    assert len(each) == 3 and np.linalg.norm(each[0] - each[1]) > 0.01
    mean = each.mean(axis=0)
    embedded = mini.embed_audio([long], progress=False)[0]
    np.testing.assert_allclose(embedded, mean / np.linalg.norm(mean), atol=1e-5)


def test_files_and_samples_give_the_same(mini, tmp_path):
    samples = noise(40_000)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    # A 16-bit file is read as n / 32768 and quantised by 32767: one step less at most.
    np.testing.assert_allclose(
        mini.embed_audio([tmp_path / "a.wav"], progress=False), mini.embed_audio([samples], progress=False), atol=1e-3
    )
    (tmp_path / "b.wav").write_text("nothing")
    with pytest.raises(AudioError, match="b.wav"):
        mini.embed_audio([tmp_path / "a.wav", tmp_path / "b.wav"], progress=False)


def test_texts_come_back_in_order_whatever_the_batch(mini):
    texts = [word * times for times in (1, 40, 3, 12) for word in ("dog ", "rain, ", "a")] + [""]
    together = mini.embed_text(texts, progress=False)
    assert together.shape == (13, 512) and np.isfinite(together).all()
    for batch in (1, 4):
        np.testing.assert_allclose(mini.embed_text(texts, batch=batch, progress=False), together, atol=1e-5)
    np.testing.assert_allclose(mini.embed_text([texts[4]], progress=False)[0], together[4], atol=1e-5)


def test_nothing_to_embed(mini):
    assert mini.embed_audio([], progress=False).shape == (0, 512) == mini.embed_text([], progress=False).shape


def test_bf16_keeps_neighbours(mini, either_way):
    """Against the distance between clips, not by cosine, which is near 1 for anything with random weights."""
    half = dataclasses.replace(mini, precision="bf16")
    clips = [noise(WINDOW, seed) for seed in range(12)]
    full, low = mini.embed_audio(clips, progress=False), half.embed_audio(clips, progress=False)
    distance = np.linalg.norm(full[:, None] - full[None], axis=2)
    assert np.linalg.norm(full - low, axis=1).max() < 0.15 * np.median(distance[distance > 0])


def test_zero_shot_is_a_distribution_over_the_classes(mini):
    posteriors = mini.zero_shot(mini.embed_audio([noise(9000, seed) for seed in range(3)], progress=False))
    assert posteriors.shape == (3, len(CLASSES))
    np.testing.assert_allclose(posteriors.sum(axis=1), 1, atol=1e-5)
    own = mini.embed_text([f"word {number}" for number in range(23)], progress=False)
    assert (mini.zero_shot(own, [f"word {number}" for number in range(23)]).argmax(1) == np.arange(23)).mean() > 0.8


def test_zero_shot_by_hand(mini, monkeypatch):
    audio, anchors = np.eye(3, dtype=np.float32), np.zeros((23, 3), np.float32)
    anchors[0, 0] = anchors[5, 1] = 1
    monkeypatch.setattr(type(mini), "embed_text", lambda self, texts, progress: anchors)
    posteriors, scale = mini.zero_shot(audio), float(mini.network.logit_scale_a.detach().exp())
    np.testing.assert_allclose(posteriors[0, 0], np.exp(scale) / (np.exp(scale) + 22), rtol=1e-5)
    np.testing.assert_allclose(posteriors[2], np.full(23, 1 / 23), rtol=1e-5)
    assert posteriors[1].argmax() == 5
    assert np.isfinite(mini.zero_shot(1000 * audio)).all()


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_tokens_have_robertas_frame_and_length(mini):
    tokens = mini.tokenize(SENTENCES)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    assert ids.shape == mask.shape and ids.shape[1] == 77
    lengths = mask.sum(1)
    assert lengths[2] == 2 and lengths[4] == 77
    assert (ids[:, 0] == 0).all() and (ids[torch.arange(5), lengths - 1] == 2).all() and (ids[mask == 0] == 1).all()


def test_tokenizers_are_read_from_files_and_folders(mini, tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "roberta").mkdir()
    tokenizer.model.save(str(tmp_path / "roberta"))
    expected = tokenizer.encode("a dog barks").ids
    for source in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "roberta"):
        assert load_tokenizer(source, CONFIG).encode("a dog barks").ids == expected
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "absent", CONFIG)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        load_tokenizer(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        load_tokenizer(tokenizer, dataclasses.replace(CONFIG, vocab_size=50))


def test_robertas_own_tokenizer_on_real_titles():
    """Only where RoBERTa's files are in the hub's cache: nothing is downloaded by a test."""
    transformers = pytest.importorskip("transformers")
    import pandas as pd
    from huggingface_hub.errors import LocalEntryNotFoundError

    titles = need_shared("bsd10k_v1.0")
    try:
        file = clap_module.hf_hub_download(clap_module.ROBERTA, "tokenizer.json", local_files_only=True)
        ours = load_tokenizer(file, ClapConfig())
        theirs = transformers.RobertaTokenizer.from_pretrained("roberta-base", local_files_only=True)
    except (LocalEntryNotFoundError, OSError):
        pytest.skip("roberta-base is not in the hub's cache")
    texts = pd.concat([pd.read_csv(file) for file in titles.glob("*.csv")])["title"].astype(str).tolist()[:2000]
    expected = theirs(texts, truncation=True, max_length=77)["input_ids"]
    assert [encoding.ids for encoding in ours.encode_batch(texts)] == expected


# Saving and loading ---------------------------------------------------------------------------------------------------


def test_a_saved_clap_is_the_same(mini, tmp_path):
    save_clap(mini.network, mini.tokenizer, tmp_path / "own")
    assert sorted(os.listdir(tmp_path / "own")) == ["config.json", "model.safetensors", "tokenizer.json"]
    again = load_clap(tmp_path / "own")
    assert again.config == CONFIG
    for name, value in mini.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    assert torch.equal(again.tokenize(SENTENCES)["input_ids"], mini.tokenize(SENTENCES)["input_ids"])


def test_half_the_size_is_nearly_the_same(mini, tmp_path):
    save_clap(mini.network, mini.tokenizer, tmp_path / "whole")
    save_clap(mini.network, mini.tokenizer, tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.55 * sizes[1] and sizes[0] < 8e6
    again, clips = load_clap(tmp_path / "half"), [noise(WINDOW, seed) for seed in range(3)]
    np.testing.assert_allclose(
        again.embed_audio(clips, progress=False), mini.embed_audio(clips, progress=False), atol=5e-3
    )
    assert all(p.dtype == torch.float32 for p in again.network.parameters())


def test_what_cannot_be_loaded_says_why(mini, tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint 'absent'.*630k"):
        load_clap("absent")
    with pytest.raises(ValueError, match="precision='fp64'"):
        load_clap("absent", precision="fp64")
    save_clap(mini.network, mini.tokenizer, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"text_layers": 3}))
    with pytest.raises(CheckpointError, match="weights missing"):
        load_clap(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no configuration"):
        load_clap(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json does not exist"):
        load_clap(tmp_path)
    torch.save({"state_dict": mini.network.state_dict()}, tmp_path / "mini.pt")
    with pytest.raises(CheckpointError, match=r"does not fit.*htsat_dim=48, depths=\(1, 2, 2\), vocab_size=4000"):
        load_clap(tmp_path / "mini.pt", tokenizer=mini.tokenizer)


def test_a_known_name_without_network_says_what_to_do(monkeypatch, tmp_path):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(clap_module, "hf_hub_download", offline)
    with pytest.raises(OSError, match="630k-best.pt.*data/download.py clap"):
        load_clap("630k")


def test_a_download_is_compared_with_its_checksum(monkeypatch, tmp_path):
    """The cache names a large file by the SHA-256 that the hub states for it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    good = hashlib.sha256(b"weights").hexdigest()
    blob, link = tmp_path / good, tmp_path / "630k-best.pt"
    link.symlink_to(blob)

    def download(repository, name, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not yet")
        return str(link)

    monkeypatch.setattr(clap_module, "hf_hub_download", download)
    blob.write_bytes(b"weights")
    assert clap_module._fetch("a/b", "630k-best.pt") == link
    blob.write_bytes(b"weight")
    with pytest.raises(CheckpointError, match="SHA-256"):
        clap_module._fetch("a/b", "630k-best.pt")
    assert not blob.exists()


# The shipped checkpoint ----------------------------------------------------------------------------------------------


def test_the_shipped_checkpoint_is_what_its_readme_says(tiny):
    folder = REPOSITORY / "data" / "clap-mini"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    clap = load_clap("data/clap-mini")
    assert clap.config == PROFILES["mini"].clap
    assert sum(p.numel() for p in clap.network.parameters() if p.requires_grad) < 4e6
    clips = load_bsd(tiny.dataset)
    audio = clap.embed_audio(clips["path"].tolist(), progress=False)
    posteriors = clap.zero_shot(audio, [f"The sound of {name.lower()}." for name in NAMES.values()])
    assert (posteriors.argmax(1) == clips["label"]).mean() > 0.2  # chance is 0.04


# Real size ------------------------------------------------------------------------------------------------------------


def test_real_size_in_laions_format_is_laion_clap_itself(tmp_path, monkeypatch):
    """The same random weights, saved as LAION saves them, loaded by both: 1e-5 in every padding case."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    module = laion_clap()
    with torch.no_grad():
        module.model.audio_branch.bn0.running_mean.uniform_(-40, 0)
        module.model.audio_branch.bn0.running_var.uniform_(100, 400)
    # exact, one sample short, half, a third and a bit, tiny; stereo at another rate
    frames = [480_000, 479_999, 240_000, 170_001, 37]
    paths = [tmp_path / f"{number}.wav" for number in range(len(frames) + 1)]
    for number, path in enumerate(paths[:-1]):
        soundfile.write(path, noise(frames[number], number), 48_000)
    soundfile.write(paths[-1], np.stack([noise(30_000, 8), noise(30_000, 9)], axis=1), 22_050)
    tokenizer = load_tokenizer(small_tokenizer(), ClapConfig())

    def padded(texts):
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        ids = torch.tensor([row + [1] * (77 - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != 1).long()}

    with torch.no_grad():
        expected_audio = module.get_audio_embedding_from_filelist([str(path) for path in paths])
        # Long: laion-clap crops at random. Each of the fixed windows, given to it as a clip, is what is averaged here.
        long = np.concatenate([noise(480_000, 5), noise(300_000, 6)])
        parts = [to_float(long[start : start + 480_000]) for start in fixed_windows(len(long), 480_000)]
        mean = module.get_audio_embedding_from_data(parts).mean(axis=0)
        expected_text = module.get_text_embedding(SENTENCES, tokenizer=padded)
    weights = {f"module.{name}": value for name, value in module.model.state_dict().items()}
    weights["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"epoch": 1, "best": np.float64(0.5), "state_dict": weights}, tmp_path / "630k.pt", pickle_protocol=4)
    del module, weights

    clap = load_clap(tmp_path / "630k.pt", tokenizer=tokenizer)
    (tmp_path / "630k.pt").unlink()
    assert sum(p.numel() for p in clap.network.parameters()) > 150e6
    for switch in ("0", "1"):
        monkeypatch.setenv("HAF_FAST", switch)
        audio, text = clap.embed_audio(paths, progress=False), clap.embed_text(SENTENCES, progress=False)
        np.testing.assert_allclose(audio, expected_audio, atol=1e-5)
        embedded = clap.embed_audio([long], progress=False)[0]
        np.testing.assert_allclose(embedded, mean / np.linalg.norm(mean), atol=1e-5)
        np.testing.assert_allclose(text, expected_text, atol=1e-5)
    for embeddings in (audio, text):  # the weights tell clips and texts apart, so that the comparison means something
        distance = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
        assert np.sort(distance, axis=1)[:, 1].min() > 1e-4


def test_a_folder_of_transformers_clap_model_gives_its_embeddings(tmp_path):
    clap_networks()  # transformers imports torchvision, too, which needs its help

    from transformers import ClapConfig as Theirs
    from transformers import ClapModel

    text = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"intermediate_size": 64, "max_position_embeddings": 90, "layer_norm_eps": 1e-5, "projection_dim": 64}
    sound = {"patch_embeds_hidden_size": 32, "depths": [1, 2], "num_attention_heads": [2, 4], "hidden_size": 64}
    sound |= {"patch_size": 8, "patch_stride": [8, 8], "window_size": 4, "projection_dim": 64, "spec_size": 256}
    torch.manual_seed(0)
    theirs = ClapModel(Theirs(text_config=text, audio_config=sound, projection_dim=64)).eval()
    theirs.save_pretrained(tmp_path)
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    ours = load_clap(tmp_path)
    tokens, waveforms = ours.tokenize(SENTENCES), torch.from_numpy(np.stack([noise(480_000, seed) for seed in (0, 1)]))
    with torch.inference_mode():
        mel = ours.network.log_mel(waveforms).transpose(1, 2)[:, None]
        outputs = theirs.get_text_features(**tokens), theirs.get_audio_features(input_features=mel)
        expected = [getattr(output, "pooler_output", output) for output in outputs]
        found = ours.network.text_embedding(**tokens), ours.network.audio_embedding(waveforms)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(torch.nn.functional.normalize(one, dim=-1), other, atol=2e-5)
        assert (other[0] - other[1]).abs().max() > 1e-3


def test_weights_under_any_one_name_are_found_and_two_networks_are_not_guessed_between(mini, tmp_path):
    state = mini.network.state_dict()
    for content in ({"student": state, "optimizer": {"state": {0: {"exp_avg": state["logit_scale_a"]}}}}, state):
        torch.save(content, tmp_path / "a.pt")
        assert read_state(tmp_path / "a.pt").keys() == state.keys()
    torch.save({"student": state, "teacher": state}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="a.pt holds no state dict: 'student' is no tensor"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize(("key", "message"), [(None, "weights missing"), ((2, 3), "holds a damaged ClapModel")])
def test_a_clap_model_without_a_fitting_key_is_named(mini, tmp_path, key, message):
    save_clap(mini.network, mini.tokenizer, tmp_path)
    name = "audio_model.audio_encoder.layers.0.blocks.0.attention.self"
    state = {f"{name}.query.weight": torch.ones(4, 4)} | ({f"{name}.key.weight": torch.ones(key)} if key else {})
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{tmp_path.name}.*{message}"):
        load_clap(tmp_path)


@pytest.mark.parametrize("sizes", [{"htsat_dim": "x"}, {"text_heads": 0}, {"spec_size": 7}, {"htsat_dim": -4}])
def test_a_configuration_of_no_network_is_named(mini, tmp_path, sizes):
    save_clap(mini.network, mini.tokenizer, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | sizes))
    with pytest.raises(CheckpointError, match=f"{tmp_path.name} has a config.json of a network that cannot be built"):
        load_clap(tmp_path)


@pytest.mark.parametrize(
    "wrapper",
    ["model.", "module.model.", "_orig_mod.", "clap_model.", "net.", "module.clap_model.", "model.student.", "ema."],
)
def test_checkpoints_in_the_usual_wrappers_are_read(mini, tmp_path, monkeypatch, wrapper):
    save_clap(mini.network, mini.tokenizer, tmp_path)
    state = {f"{wrapper}{name}": value for name, value in mini.network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    again = load_clap(f"~/{tmp_path.name}").network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in mini.network.state_dict().items())
