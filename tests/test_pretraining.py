"""The objective, the mixture, and exact resume."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from haf_utils import pretraining
from haf_utils.clap import Clap, ClapNetwork, load_clap, load_tokenizer, roberta_tokenizer
from haf_utils.io.third_party import clap_networks
from haf_utils.pretraining import (
    caption_group,
    contrastive_loss,
    plan_epoch,
    pretrain,
    retrieval_scores,
)
from haf_utils.profiles import PROFILES, Pretraining

CONFIG = PROFILES["mini"].clap
SETTINGS = Pretraining(epochs=3, batch=4, rate=1e-3, warmup=0.2, ema=0.9)
SOUNDS = [f"sound {letter}" for letter in "abcdefghijkl"]


class Tones:
    """A store of twelve tones, whose pitch tells them apart."""

    def samples(self, sound_id: str) -> np.ndarray:
        time = np.arange(30_000) / CONFIG.audio.sample_rate
        return (8000 * np.sin(2 * np.pi * 150 * 1.4 ** int(sound_id) * time)).astype(np.int16)


def clips(source: str = "fsd50k") -> pd.DataFrame:
    rows = [(str(number), source, [sound, f"{sound} again"]) for number, sound in enumerate(SOUNDS)]
    return pd.DataFrame(rows, columns=["sound_id", "source", "captions"])


def fresh_clap() -> Clap:
    tokenizer = roberta_tokenizer(models.BPE())
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SOUNDS, trainer)
    torch.manual_seed(0)
    return Clap(ClapNetwork(CONFIG), load_tokenizer(tokenizer, CONFIG), torch.device("cpu"))


def train(folder, clap=None, **options) -> tuple[pd.DataFrame, dict]:
    clap = clap or fresh_clap()
    options = {"settings": SETTINGS, "table": clips(), "stores": {"fsd50k": Tones()}, "folder": folder} | options
    history = pretrain(clap, **options)
    return history, clap.network.state_dict()


# The objective --------------------------------------------------------------------------------------------------------


def pairs(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = torch.nn.functional.normalize(torch.randn(2, count, 8, generator=generator), dim=-1)
    return both[0], both[1]


def test_the_loss_is_laion_claps_where_nothing_repeats():
    clap_networks()  # puts laion_clap_module within reach
    from laion_clap_module.loss import ClipLoss

    audio, text = pairs()
    scale = torch.tensor(14.3)
    expected = ClipLoss()(audio, text, scale)
    torch.testing.assert_close(contrastive_loss(audio, text, scale, scale, torch.arange(6)), expected)


def test_each_direction_has_its_temperature():
    audio, text = pairs()
    a, t = torch.tensor(3.0), torch.tensor(20.0)
    rows = torch.nn.functional.cross_entropy(a * audio @ text.T, torch.arange(6))
    columns = torch.nn.functional.cross_entropy(t * text @ audio.T, torch.arange(6))
    torch.testing.assert_close(contrastive_loss(audio, text, a, t, torch.arange(6)), (rows + columns) / 2)


def test_a_repeated_caption_is_no_negative():
    """Its pairs weigh as if the others of its group were not in the batch."""
    audio, text = pairs(5)
    text = text.clone()
    text[3] = text[1]
    one = torch.tensor(9.0)
    loss = contrastive_loss(audio, text, one, one, torch.tensor([0, 1, 2, 1, 4]))
    terms = []
    for row in range(5):
        rest = [column for column in range(5) if column == row or {row, column} != {1, 3}]
        for one_way, other in ((audio, text), (text, audio)):
            logits = 9 * one_way[row] @ other[rest].T
            terms.append(torch.logsumexp(logits, 0) - logits[rest.index(row)])
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert contrastive_loss(audio, text, one, one, torch.zeros(5).long()) == 0


def test_captions_that_differ_in_case_only_are_the_same():
    assert caption_group(" A dog\n") == caption_group("a dog") != caption_group("a cat")


# What a batch is made of ----------------------------------------------------------------------------------------------


@given(
    first=st.integers(0, 60), second=st.integers(0, 60), share=st.sampled_from([0.0, 0.25, 0.5]), seed=st.integers(0, 9)
)
def test_batches_have_their_shares_and_no_clip_twice(first, second, share, seed):
    sources = np.array(["fsd50k"] * first + ["nsynth"] * second)
    try:
        plan = plan_epoch(sources, 8, {"nsynth": share}, seed, 0)
    except ValueError:
        assert first < 8 - round(8 * share) or second < round(8 * share) or first + second < 8 or share == 0
        return
    assert plan.shape[1] == 8 and len(np.unique(plan)) == plan.size
    if first and second:
        assert ((sources[plan] == "nsynth").sum(axis=1) == round(8 * share)).all()
    np.testing.assert_array_equal(plan, plan_epoch(sources, 8, {"nsynth": share}, seed, 0))


def test_every_epoch_has_its_own_order():
    sources = np.array(["fsd50k"] * 40)
    orders = {plan_epoch(sources, 8, {}, seed, epoch).tobytes() for seed in range(2) for epoch in range(3)}
    assert len(orders) == 6


def test_one_source_alone_needs_no_mixture():
    assert plan_epoch(np.array(["nsynth"] * 16), 8, {"nsynth": 0.25}, 0, 0).shape == (2, 8)


def test_warm_up_then_cosine():
    factor = pretraining._schedule(100, Pretraining(warmup=0.1))
    values = [factor(step) for step in range(100)]
    assert values[0] == 0.1 and values[9] == values[10] == 1.0
    assert (np.diff(values[:10]) > 0).all() and (np.diff(values[10:]) < 0).all() and 0 < values[-1] < 0.01


# Training -------------------------------------------------------------------------------------------------------------


def test_it_learns_and_the_average_is_what_remains(tmp_path):
    """The shipped checkpoint, which has never heard these words, learns which tone is called what."""
    clap = load_clap("data/clap-mini")
    settings = Pretraining(epochs=12, batch=12, rate=5e-4, warmup=0.1, ema=0.5)

    def retrieval(current: Clap) -> dict[str, float]:
        heard = [Tones().samples(str(number)) for number in range(12)]
        return retrieval_scores(current.embed_audio(heard, progress=False), current.embed_text(SOUNDS, progress=False))

    history, weights = train(tmp_path, clap, settings=settings, evaluate=retrieval)
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    assert history["text_to_audio_mAP@10"].iloc[-1] > history["text_to_audio_mAP@10"].iloc[0] + 0.1
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in saved["ema"]["model"].items())
    assert not torch.equal(saved["network"]["logit_scale_a"], weights["logit_scale_a"])


def test_a_stopped_run_ends_at_the_same_weights_bit_for_bit(tmp_path):
    """Stopped after an epoch; stopped by an error in the middle of one; never stopped."""
    history, whole = train(tmp_path / "whole")
    train(tmp_path / "parts", stop_after=1)

    def stop(current):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", evaluate=stop)
    assert len(torch.load(tmp_path / "parts" / "resume.pt", weights_only=True)["history"]) == 1
    torch.manual_seed(99)  # another state of the global generator changes nothing
    again, parts = train(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    columns = ["epoch", "loss", "rate", "scale_a", "scale_t"]
    pd.testing.assert_frame_equal(history[columns], again[columns])
    done, finished = train(tmp_path / "parts")  # nothing left to do
    assert len(done) == 3 and all(torch.equal(whole[name], finished[name]) for name in whole)


def test_a_killed_process_goes_on_to_the_same_weights(tmp_path):
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_pretraining as t
        calls = []
        def kill(current):
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return {{}}
        t.train({str(tmp_path / "killed")!r}, evaluate=kill)
    """
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert os.listdir(tmp_path / "killed") == ["resume.pt"]
    _, parts = train(tmp_path / "killed")
    _, whole = train(tmp_path / "whole")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    train(tmp_path, stop_after=1)
    data = bytearray((tmp_path / "resume.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "resume.pt").write_bytes(data)
    with pytest.raises(ValueError, match="resume.pt is damaged .*: delete it"):
        train(tmp_path)


def test_a_failed_save_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    train(tmp_path, stop_after=1)
    before = (tmp_path / "resume.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="the disk is full: "):
        train(tmp_path)
    assert (tmp_path / "resume.pt").read_bytes() == before and os.listdir(tmp_path) == ["resume.pt"]


def test_a_loss_that_is_no_number_stops_with_the_clips(tmp_path):
    train(tmp_path, stop_after=1)
    before = (tmp_path / "resume.pt").read_bytes()
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    saved["network"]["logit_scale_t"].fill_(torch.nan)
    torch.save(saved, tmp_path / "resume.pt")
    broken = (tmp_path / "resume.pt").read_bytes()
    with pytest.raises(FloatingPointError, match=r"nan in epoch 2, batch 1, with the clips \['\d+', .*last good epoch"):
        train(tmp_path)
    assert (tmp_path / "resume.pt").read_bytes() == broken != before


def test_bf16_is_near_fp32_and_leaves_weights_in_fp32(tmp_path):
    histories = {}
    for precision in ("fp32", "bf16"):
        clap = dataclasses.replace(fresh_clap(), precision=precision)
        histories[precision], weights = train(tmp_path / precision, clap, stop_after=1)
        assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    fp32, bf16 = (history["loss"].item() for history in histories.values())
    assert bf16 != fp32 and bf16 == pytest.approx(fp32, rel=0.02)


def test_another_run_is_not_continued(tmp_path):
    train(tmp_path, stop_after=1)
    for other in ({"seed": 1}, {"table": clips()[:8]}, {"settings": Pretraining(epochs=4, batch=4)}):
        with pytest.raises(ValueError, match="other clips or settings"):
            train(tmp_path, **other)


@pytest.mark.parametrize("bad", [[], [""], ["fine", "  "], "a string", None])
def test_a_row_without_captions_is_named(tmp_path, bad):
    table = clips()
    table.at[5, "captions"] = bad
    with pytest.raises(ValueError, match="row 5 .*sound_id 5"):
        train(tmp_path, table=table)


def test_other_bad_input(tmp_path):
    with pytest.raises(ValueError, match="no column 'captions'"):
        train(tmp_path, table=clips().drop(columns="captions"))
    with pytest.raises(ValueError, match="12 captioned clips do not fill one batch of 64"):
        train(tmp_path, settings=Pretraining(batch=64))
    with pytest.raises(ValueError, match="do not fill a batch"):
        plan_epoch(np.array(["a"] * 9 + ["b"] * 9), 8, {"a": 0.9, "b": 0.9}, 0, 0)


# Retrieval ------------------------------------------------------------------------------------------------------------


def test_retrieval_of_known_rankings():
    audio = np.eye(12, dtype=np.float32)
    perfect = retrieval_scores(audio, audio)
    assert set(perfect.values()) == {1.0} and len(perfect) == 8
    shifted = retrieval_scores(audio, np.roll(audio, 1, axis=0) + 0.5 * audio)  # the partner is always second
    assert shifted["audio_to_text_R@1"] == 0 and shifted["audio_to_text_R@5"] == 1
    assert shifted["text_to_audio_mAP@10"] == pytest.approx(0.5)


def test_a_repeated_caption_has_several_right_answers():
    audio = np.eye(4, dtype=np.float32)
    text = np.stack([audio[1], audio[0], audio[2], audio[3]])  # 0 and 1 are exchanged, but say the same
    strict, fair = retrieval_scores(audio, text), retrieval_scores(audio, text, np.array([7, 7, 2, 3]))
    assert strict["audio_to_text_R@1"] == 0.5 and fair["audio_to_text_R@1"] == 1.0
    assert fair["text_to_audio_mAP@10"] > strict["text_to_audio_mAP@10"]


@given(seed=st.integers(0, 99), count=st.integers(1, 30))
def test_retrieval_scores_are_ordered_shares(seed, count):
    rng = np.random.default_rng(seed)
    scores = retrieval_scores(rng.standard_normal((count, 5)), rng.standard_normal((count, 5)))
    for way in ("audio_to_text", "text_to_audio"):
        assert 0 <= scores[f"{way}_R@1"] <= scores[f"{way}_mAP@10"] <= scores[f"{way}_R@10"] <= 1
