"""A frozen sentence encoder: a tiny random BERT, saved as any encoder is."""

import numpy as np
import pytest

from haf_utils.io.third_party import provide_operators
from tools.text_encoders import embed_texts, encode_texts, sentence_classifier

TEXTS = ["rain", "a dog barks at the rain", "", "dog", "the rain at a dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    import torch

    provide_operators()
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *"rain a dog barks at the".split()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=8, **sizes)).save_pretrained(folder)
    return folder


def test_one_unit_vector_a_text_whatever_its_batch(encoder):
    together, alone = encode_texts(TEXTS, encoder), encode_texts(TEXTS, encoder, batch=1)
    assert together.shape == (5, 16) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(together, alone, atol=1e-5)  # padding is no part of the mean
    np.testing.assert_allclose(encode_texts(TEXTS[::-1], encoder)[::-1], together, atol=1e-5)
    assert np.linalg.norm(together[1] - together[4]) > 1e-3


def test_the_mean_is_over_the_tokens_of_the_last_layer(encoder):
    import torch
    from transformers import AutoModel

    with torch.no_grad():
        states = AutoModel.from_pretrained(encoder).eval()(torch.tensor([[3, 4, 2]])).last_hidden_state[0]
    mean = states.mean(0).numpy()
    np.testing.assert_allclose(encode_texts(["a dog rain"], encoder)[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_long_text_is_cut_at_the_tokenizers_limit(encoder):
    long, cut = encode_texts(["dog " * 50, "dog " * 8], encoder)
    np.testing.assert_allclose(long, cut, atol=1e-5)


@pytest.mark.parametrize("texts, message", [("dog", "got one string"), (["dog", None], "text 1 is None")])
def test_what_is_no_text_is_named(encoder, texts, message):
    with pytest.raises(ValueError, match=message):
        encode_texts(texts, encoder)


def test_what_is_no_encoder_is_named_with_what_to_pass(tmp_path):
    for model in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OSError, match=f"{model} is no encoder that transformers can load: pass a folder"):
            encode_texts(["rain"], model)


def test_embeddings_are_computed_once_and_never_mistaken(encoder, tmp_path):
    file = tmp_path / "new" / "embeddings.npz"
    vectors = embed_texts(TEXTS, encoder, file)
    before = file.stat().st_mtime_ns
    np.testing.assert_array_equal(embed_texts(TEXTS, encoder, file), vectors)
    for texts, model in ((TEXTS[:-1], encoder), (TEXTS[::-1], encoder), (TEXTS, tmp_path / "another")):
        with pytest.raises(ValueError, match="embeddings.npz holds embeddings of other texts or of another encoder"):
            embed_texts(texts, model, file)
    assert file.stat().st_mtime_ns == before


def test_the_classifier_reads_vectors():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    vectors = np.eye(3)[labels] + rng.normal(0, 0.3, (300, 3))
    model = sentence_classifier().fit(vectors[:200], labels[:200])
    assert model.predict_proba(vectors[200:]).shape == (100, 3)
    assert model.score(vectors[200:], labels[200:]) > 0.9
