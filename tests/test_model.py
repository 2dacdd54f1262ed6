import itertools

import pytest
import torch

from haf_utils.config import FUSIONS, MODALITIES
from haf_utils.losses import one_hot_targets, soft_cross_entropy
from haf_utils.model import Features, GatedResidual, HafClassifier, LinearClassifier, TextAuxClassifier

SIZE, LATENT = 24, 16


def features(presence, seed=0):
    generator = torch.Generator().manual_seed(seed)
    presence = torch.tensor(presence, dtype=torch.float32)
    audio = torch.randn(len(presence), SIZE, generator=generator)
    return Features(audio, torch.randn(len(presence), SIZE, generator=generator) * presence[:, None], presence)


def classifier(**options):
    torch.manual_seed(0)
    return HafClassifier(SIZE, LATENT, **options).eval()


@pytest.mark.parametrize(("modality", "fusion", "gating"), list(itertools.product(MODALITIES, FUSIONS, (True, False))))
def test_every_combination_gives_logits_and_weights(modality, fusion, gating):
    model = classifier(modality=modality, fusion=fusion, gating=gating)
    logits, weights = model(features([1, 0, 1, 0.5]))
    assert logits.shape == (4, 23) and weights.shape == (4, 2)
    assert (weights >= 0).all() and (weights.sum(1) <= 1 + 1e-6).all()
    loss = soft_cross_entropy(logits, one_hot_targets(torch.arange(4)))
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_missing_text_has_weight_zero_and_no_influence(fusion):
    model, given = classifier(fusion=fusion), features([0, 1, 0])
    output = model(given)
    assert (output.weights[[0, 2], 1] == 0).all() and (output.weights[[0, 2], 0] == 1).all()
    assert output.weights[1, 1] > 0
    noisy = given._replace(text=given.text + torch.tensor([[5.0], [0.0], [5.0]]))
    if fusion == "attention":  # whatever stands in the place of a missing text, noise say, counts for nothing
        torch.testing.assert_close(model(noisy).logits, output.logits, rtol=0, atol=0)
    else:
        torch.testing.assert_close(model(noisy).logits, output.logits)


def test_presence_enters_the_attention_as_its_logarithm():
    model, given = classifier(), features([1, 1, 1])
    full = model(given).weights
    half = model(given._replace(presence=torch.full((3,), 0.5))).weights
    # softmax(s + log p): the odds of text against audio shrink by p
    torch.testing.assert_close(half[:, 1] / half[:, 0], 0.5 * full[:, 1] / full[:, 0])
    torch.testing.assert_close(half.sum(1), torch.ones(3))


def test_mean_fusion_weighs_by_presence_and_attention_is_adaptive():
    weights = classifier(fusion="mean")(features([1, 0.5, 0])).weights
    torch.testing.assert_close(weights, torch.tensor([[1 / 2, 1 / 2], [2 / 3, 1 / 3], [1.0, 0.0]]))
    assert classifier()(features([1.0] * 8)).weights[:, 0].std() > 1e-3


def test_text_only_without_text_falls_back_to_the_bias():
    model = classifier(modality="text")
    output = model(features([0, 0, 1]))
    torch.testing.assert_close(output.logits[0], output.logits[1])
    torch.testing.assert_close(output.logits[0], model.classifier[-1].bias)
    assert output.weights.tolist() == [[0, 0], [0, 0], [0, 1]]


def test_one_modality_does_not_see_the_other():
    given = features([1, 1, 0])
    for modality, changed in (
        ("audio", given._replace(text=given.text + 1, presence=1 - given.presence)),
        ("text", given._replace(audio=given.audio + 1)),
    ):
        model = classifier(modality=modality)
        torch.testing.assert_close(model(changed).logits, model(given).logits, rtol=0, atol=0)
        assert not any(name.startswith("text" if modality == "audio" else "audio") for name in model.state_dict())


def test_a_closed_gate_leaves_the_normalised_input():
    block = GatedResidual(LATENT, 0.0)
    torch.nn.init.zeros_(block.gate.weight)
    torch.nn.init.constant_(block.gate.bias, -1e4)
    x = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), torch.nn.functional.layer_norm(x, (LATENT,)))
    open_block = GatedResidual(LATENT, 0.0, gating=False)
    open_block.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(open_block(x), open_block.norm(x + open_block.transform(x)))
    assert open_block.gate is None


def test_predictions_do_not_depend_on_the_batch():
    model, given = classifier(), features([1, 0, 1, 0.3, 1])
    together = model(given).logits
    alone = torch.cat([model(given.map(lambda part, row=row: part[row : row + 1])).logits for row in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="modality='sound'.*both, audio, text"):
        HafClassifier(modality="sound")
    with pytest.raises(ValueError, match="fusion='attn'.*attention, concatenation, mean"):
        HafClassifier(fusion="attn")


def test_linear_classifier_reads_audio_alone():
    torch.manual_seed(0)
    model, given = LinearClassifier(SIZE).eval(), features([1, 0])
    output = model(given)
    assert output.logits.shape == (2, 23) and output.weights.tolist() == [[1, 0], [1, 0]]
    torch.testing.assert_close(model(given._replace(text=given.text + 1)).logits, output.logits, rtol=0, atol=0)


def text_aux(**options):
    torch.manual_seed(0)
    return TextAuxClassifier(SIZE, LATENT, dropout=0.0, **options)


def test_text_aux_answers_from_audio_alone_but_learns_from_text():
    model, given = text_aux(), features([1, 1, 0])
    changed = given._replace(text=given.text + 1, presence=1 - given.presence)
    torch.testing.assert_close(model(changed).logits, model(given).logits, rtol=0, atol=0)
    assert model(given).weights.tolist() == [[1, 0]] * 3
    target = one_hot_targets(torch.tensor([1, 2, 3]))
    loss = model.auxiliary_loss(given, target)
    loss.backward()
    assert loss.item() > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.audio.parameters())
    assert model.text_classifier[-1].weight.grad.abs().sum() > 0


def test_texts_that_are_missing_teach_nothing():
    model = text_aux()
    target = one_hot_targets(torch.tensor([1, 2]))
    assert model.auxiliary_loss(features([0, 0]), target).item() == 0
    both = features([1, 0])
    torch.testing.assert_close(
        model.auxiliary_loss(both, target),
        model.auxiliary_loss(both.map(lambda part: part[:1]), target[:1]),
    )


def test_the_alignment_moves_the_audio_and_not_the_text():
    model = text_aux(text_weight=0.0)
    model.auxiliary_loss(features([1, 1]), one_hot_targets(torch.tensor([0, 1]))).backward()
    assert model.audio[0][0].weight.grad.abs().sum() > 0
    assert model.text[0][0].weight.grad is None or model.text[0][0].weight.grad.abs().sum() == 0


def test_text_at_inference_is_a_gated_residual_that_a_missing_text_closes():
    model = text_aux(text_at_inference=True)
    given = features([1, 0])
    changed = model(given._replace(text=given.text + 1))
    assert not torch.equal(changed.logits[0], model(given).logits[0])
    torch.testing.assert_close(changed.logits[1], model(given).logits[1], rtol=0, atol=0)
    assert model(given).weights[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    "fusion, old, new", [("attention", "score", "fusion_logits"), ("concatenation", "join", "concat")]
)
def test_weights_of_the_first_version_are_loaded(fusion, old, new):
    model = HafClassifier(8, 4, fusion=fusion)
    state = {name.replace(new, old): value + 1 for name, value in model.state_dict().items()}
    assert any(name.startswith(old) for name in state)
    model.load_state_dict(state)
    assert all(torch.equal(value, state[name.replace(new, old)]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("modality", ["both", "audio"])
@pytest.mark.parametrize("fusion", ["attention", "concatenation", "mean"])
def test_posteriors_are_a_third_input_and_a_missing_row_has_no_influence(modality, fusion):
    model, given = classifier(modality=modality, fusion=fusion, posteriors=True), features([1, 0, 1, 1])
    q = torch.softmax(torch.randn(4, 23, generator=torch.Generator().manual_seed(5)), dim=1)
    q[2:] = 0
    output = model(given._replace(posteriors=q))
    assert output.weights.shape == (4, 3) and (output.weights[2:, 2] == 0).all() and (output.weights[:2, 2] > 0).all()
    with torch.no_grad():
        model.classes[0].weight.add_(1.0 + torch.arange(23.0))
    changed = (model(given._replace(posteriors=q)).logits != output.logits).any(1)
    assert changed.tolist() == [True, True, False, False]
    torch.testing.assert_close(model(given).logits[2:], output.logits[2:])
