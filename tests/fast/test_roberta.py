"""The fast way through RoBERTa equals transformers': same embeddings, same gradients, whatever the padding."""

import pytest
import torch

from haf_utils.clap import PAD, ClapNetwork, pad_tokens
from haf_utils.fast.roberta import encode
from haf_utils.profiles import profile

CONFIG = profile("mini").clap
LENGTHS = (2, 17, 5, 5, 31)


@pytest.fixture(scope="module")
def roberta():
    torch.manual_seed(0)
    return ClapNetwork(CONFIG).text_branch.eval()


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(1)
    rows = [[0, *torch.randint(4, CONFIG.vocab_size, (n - 2,), generator=generator).tolist(), 2] for n in LENGTHS]
    return pad_tokens(rows)


def plain(roberta, tokens):
    return roberta(**tokens).pooler_output


def packed(roberta, tokens):
    return encode(roberta, tokens["input_ids"], tokens["attention_mask"])


def gradients(roberta, embed, tokens):
    roberta.zero_grad()
    (embed(roberta, tokens) ** 3).sum().backward()
    return {name: p.grad.clone() for name, p in roberta.named_parameters() if p.grad is not None}


def longer(tokens, by):
    """The same texts with more padding."""
    return {
        "input_ids": torch.nn.functional.pad(tokens["input_ids"], (0, by), value=PAD),
        "attention_mask": torch.nn.functional.pad(tokens["attention_mask"], (0, by)),
    }


@torch.no_grad()
def test_embeddings_are_transformers(roberta, tokens):
    expected = plain(roberta, tokens)
    assert expected.abs().max() > 0.1 and (expected[0] - expected[1]).norm() > 0.05
    assert (packed(roberta, tokens) - expected).abs().max() < 1e-5
    assert (packed(roberta, longer(tokens, 9)) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_a_text_does_not_depend_on_its_neighbours(roberta, tokens):
    together = packed(roberta, tokens)
    for row, length in enumerate(LENGTHS):
        alone = {name: values[row : row + 1, :length] for name, values in tokens.items()}
        assert (packed(roberta, alone) - together[row]).abs().max() < 1e-5


def test_gradients_are_transformers(roberta, tokens):
    expected, found = gradients(roberta, plain, tokens), gradients(roberta, packed, tokens)
    assert found.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        # A key's bias moves no softmax: its gradient is rounding alone.
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * largest, name


@torch.no_grad()
def test_bf16_stays_close(roberta, tokens):
    expected = packed(roberta, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = packed(roberta, tokens).float()
    assert 0 < (found - expected).norm(dim=1).max() < 0.15 * (expected[0] - expected[1]).norm()


def test_gradients_in_bf16_stay_close(roberta, tokens):
    expected = gradients(roberta, packed, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(roberta, packed, tokens)
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-3 * largest, name
    assert any((found[name] - gradient).norm() > 0 for name, gradient in expected.items())


def test_dropout_acts_in_training_alone(roberta, tokens):
    roberta.train()
    torch.manual_seed(0)
    one, other = packed(roberta, tokens), packed(roberta, tokens)
    roberta.eval()
    assert (one - other).norm() > 1e-3
    assert torch.equal(packed(roberta, tokens), packed(roberta, tokens))
