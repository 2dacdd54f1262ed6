import numpy as np
import pytest
import torch

from haf_utils.corpus import load_corpus
from haf_utils.inference import average_probabilities, classify, embed_rows, mean_logits, predict, view_noise
from haf_utils.inputs import CachedInputs, LiveInputs, clip_generator
from haf_utils.model import HafClassifier, Model
from haf_utils.profiles import profile


class Listener(torch.nn.Module):
    """A backbone that is cheap and hears every sample: the spectrum of the window, projected at random."""

    normalised = True

    def __init__(self, window, width=16):
        super().__init__()
        self.calls = 0
        self.sizes = []  # windows of each forward pass
        self.register_buffer("basis", torch.randn(64, width, generator=torch.Generator().manual_seed(0)))

    def embed_audio(self, waveforms):
        self.calls += 1
        self.sizes.append(len(waveforms))
        spectrum = torch.fft.rfft(waveforms[:, : waveforms.shape[1] // 128 * 128].reshape(len(waveforms), -1, 128))
        # the phase of the window decides, so that a rotated clip is another one
        return torch.nn.functional.normalize(spectrum.real[:, :20, :64].mean(1) @ self.basis, dim=1)

    def embed_text(self, tokens):
        self.calls += 1
        return torch.nn.functional.one_hot((tokens["input_ids"] * tokens["attention_mask"]).sum(1) % 16, 16).float()


def system(backbone, width=16):
    torch.manual_seed(0)
    return Model(backbone, HafClassifier(width, 8))


@pytest.fixture(scope="module")
def corpus(tiny):
    sizes = profile("tiny").clap.audio
    return load_corpus(tiny.dataset, "", "", f"{tiny.scratch}/stores", sizes.sample_rate)


@pytest.fixture
def live(corpus):
    window = profile("tiny").clap.audio.window_samples
    tokens = [[0, *text.encode(), 2] for text in corpus.table["text"]]
    return LiveInputs(corpus, window, tokens, corpus.presence, "cpu", "fp32")


def cached(rows=12, width=16):
    generator = torch.Generator().manual_seed(0)
    presence = (torch.arange(rows) % 4 != 0).float()
    audio, text = (torch.randn(rows, width, generator=generator) for _ in range(2))
    return CachedInputs(audio, text * presence[:, None], presence)


def names(rows):
    return np.array([f"clip {row}" for row in rows])


def test_mean_logits_are_the_normalised_geometric_mean():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 6, 23))
    posteriors = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.exp(logits.mean(0)) / np.exp(logits.mean(0)).sum(-1, keepdims=True)  # a constant a clip cancels
    np.testing.assert_allclose(mean_logits(posteriors), expected)
    np.testing.assert_allclose(mean_logits([posteriors[0]] * 2), posteriors[0])
    certain = mean_logits([np.eye(23), np.roll(np.eye(23), 1, axis=1)])  # a class ruled out has finite logits
    assert np.isfinite(certain).all() and certain[0, 0] == certain[0, 1] == pytest.approx(0.5, abs=1e-5)


def test_average_probabilities():
    rng = np.random.default_rng(0)
    members = rng.dirichlet(np.ones(23), (3, 7))
    np.testing.assert_allclose(average_probabilities(list(members)), members.mean(0))
    np.testing.assert_allclose(average_probabilities(list(members), [2, 0, 2]), (members[0] + members[2]) / 2)
    np.testing.assert_allclose(average_probabilities([members[0]]), members[0])
    np.testing.assert_allclose(average_probabilities(list(members), [1, 2, 3]).sum(1), 1)


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ([], None, "no probabilities"),
        ([np.ones((2, 23)), np.ones((3, 23))], None, "differ in shape"),
        ([np.ones((2, 23))] * 2, [1], "weights must be one a model, 2 in all"),
        ([np.ones((2, 23))] * 2, [1, -1], "weights"),
        ([np.ones((2, 23))] * 2, [0, 0], "weights"),
        ([np.ones((2, 23))] * 2, [1, np.nan], "weights"),
    ],
)
def test_members_that_cannot_be_averaged(members, weights, message):
    with pytest.raises(ValueError, match=message):
        average_probabilities(members, weights)


def test_noise_views_repeat_and_do_not_depend_on_order_or_batch():
    inputs, rows = cached(), np.arange(12)
    model = system(None)  # cached clips never run a backbone: there is none
    first = predict(model, inputs, rows, names(rows), rows % 23, views=4, deviation=0.3, seed=5, batch=64)
    again = predict(model, inputs, rows, names(rows), rows % 23, views=4, deviation=0.3, seed=5, batch=5)
    assert first.posteriors.shape == (4, 12, 23) and first.plain.shape == (12, 23) and first.weights.shape == (12, 2)
    np.testing.assert_allclose(first.posteriors, again.posteriors, atol=1e-5)
    shuffled = np.array([7, 3, 11])
    part = predict(model, inputs, shuffled, names(shuffled), shuffled, views=4, deviation=0.3, seed=5, batch=2)
    np.testing.assert_allclose(part.posteriors, first.posteriors[:, shuffled], atol=1e-5)
    other = predict(model, inputs, rows, names(rows), rows % 23, views=4, deviation=0.3, seed=6)
    assert np.abs(other.posteriors - first.posteriors).max() > 1e-3
    assert np.abs(first.posteriors[0] - first.posteriors[1]).max() > 1e-3
    np.testing.assert_allclose(other.plain, first.plain)
    np.testing.assert_allclose(first.probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(first.probabilities, first.posteriors.mean(0))


def test_without_views_the_plain_posteriors_stand():
    inputs, rows = cached(), np.arange(12)
    none = predict(system(None), inputs, rows, names(rows), rows, views=0)
    np.testing.assert_array_equal(none.posteriors, none.plain[None])
    still = predict(system(None), inputs, rows, names(rows), rows, views=2, deviation=0.0)
    np.testing.assert_allclose(still.posteriors, np.stack([still.plain] * 2), atol=1e-6)


def test_a_missing_text_stays_missing_in_every_view():
    inputs, rows = cached(), np.arange(12)
    model = system(None)
    absent = inputs.presence == 0
    noisy = predict(model, inputs, rows, names(rows), rows, views=3, deviation=0.5)
    assert (noisy.weights[absent, 1] == 0).all()
    loud = CachedInputs(inputs.audio, inputs.text + 100 * absent[:, None], inputs.presence)
    same = predict(model, loud, rows, names(rows), rows, views=3, deviation=0.5)
    np.testing.assert_allclose(same.posteriors[:, absent], noisy.posteriors[:, absent], atol=1e-6)


def test_view_noise_is_standard_normal_and_follows_from_seed_clip_and_view():
    ids = [f"{i}" for i in range(400)]
    views = view_noise(ids, 0, (10, 6))
    audio, text = next(views)
    assert audio.shape == (400, 10) and text.shape == (400, 6) and audio.dtype == np.float32
    assert abs(audio.mean()) < 0.05 and audio.std() == pytest.approx(1, abs=0.05)
    assert len(np.unique(audio[:, 0])) == 400
    second, _ = next(views)
    assert not np.array_equal(second, audio)
    alone = view_noise(["17"], 0, (10, 6))
    np.testing.assert_array_equal(next(alone)[0], audio[17:18])
    np.testing.assert_array_equal(next(alone)[0], second[17:18])
    assert not np.array_equal(next(view_noise(ids, 1, (10, 6)))[0], audio)


def test_generators_of_clips():
    draws = {clip_generator(*key).integers(2**60) for key in [(0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b")]}
    assert len(draws) == 4
    assert clip_generator(0, 1, "a", "noise").integers(2**60) == clip_generator(0, 1, "a", "noise").integers(2**60)


def test_live_views_repeat_and_do_not_depend_on_the_batch(live, corpus):
    model, rows = system(Listener(live.window)), np.arange(0, 40, 3)
    ids, labels = corpus.table["sound_id"].to_numpy()[rows], corpus.labels[rows]
    one = predict(model, live, rows, ids, labels, views=2, deviation=1e-4, seed=1, batch=64)
    turned = np.arange(len(rows))[::-1]
    two = predict(model, live, rows[turned], ids[turned], labels[turned], views=2, deviation=1e-4, seed=1, batch=3)
    np.testing.assert_allclose(two.posteriors[:, turned], one.posteriors, atol=1e-5)
    np.testing.assert_allclose(two.plain[turned], one.plain, atol=1e-5)
    # A random window or offset makes views of every clip differ, also of a short one.
    assert (np.abs(one.posteriors[0] - one.posteriors[1]).max(1) > 1e-6).mean() > 0.9


def test_texts_are_embedded_once_and_plain_prediction_has_no_chance_in_it(live, corpus):
    backbone, rows = Listener(live.window), np.arange(8)
    model = system(backbone)
    ids, labels = corpus.table["sound_id"].to_numpy()[rows], corpus.labels[rows]
    predict(model, live, rows, ids, labels, views=3, batch=8)
    assert backbone.calls == 2 + 3  # audio and text once, then one window a view
    first, second = (classify(model, embed_rows(model, live, rows, 8))[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_long_clips_are_heard_through_windows_that_are_averaged(corpus):
    longest = int(np.argmax([len(corpus.samples(row)) for row in range(len(corpus.table))]))
    window = len(corpus.samples(longest)) // 3 + 1
    live = LiveInputs(corpus, window, [[0, 2]] * len(corpus.table), corpus.presence, "cpu", "fp32")
    batch = live.prepare(np.array([longest, 0]))
    assert (batch.clip == 0).sum() == 3
    model = system(Listener(window))
    together = live.embed_audio(model, batch)
    pieces = torch.cat([model.backbone.embed_audio(w[None].float() / 32767.0) for w in batch.windows[:3]])
    expected = torch.nn.functional.normalize(pieces.mean(0), dim=0)
    torch.testing.assert_close(together[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


def test_long_clips_are_embedded_a_bounded_number_of_windows_at_a_time(corpus):
    rows = np.arange(20)
    shortest = min(len(corpus.samples(row)) for row in rows)
    live = LiveInputs(corpus, shortest // 6, [[0, 2]] * len(corpus.table), corpus.presence, "cpu", "fp32")
    model = system(Listener(shortest // 6))
    together = embed_rows(model, live, rows, 20).audio  # five windows a clip
    assert sum(model.backbone.sizes) == 100 and max(model.backbone.sizes) <= 32
    alone = torch.cat([embed_rows(model, live, rows[[row]], 1).audio for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
