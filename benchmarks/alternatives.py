"""The alternatives without this project that `benchmarks` compares it with.

laion-clap's and Hugging Face's networks are called as their documentation shows, at the real size with random weights,
since speed does not depend on the weights. Both run without gradients, which neither turns off by itself.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.utils.data import DataLoader, Dataset

from haf_utils.hatr import BATCH, MOST_ZEROED, NOISE, RATE, SMOOTHING, WEIGHT_DECAY, Hatr
from haf_utils.io.third_party import provide_operators
from haf_utils.model import Features
from haf_utils.taxonomy import CLASSES, PARENT

__all__ = [
    "NpyPairs",
    "clip_tokenizer",
    "hugging_face_audio",
    "laion_audio",
    "laion_clap",
    "loop_bootstrap",
    "loop_scores",
    "official_epoch",
    "padded_tokens",
]

TOKENS = 77  # laion-clap pads and truncates every text to this length


def laion_clap(text_layers: int = 12):
    """laion-clap's own ``CLAP_Module`` (HTSAT-tiny, RoBERTa with `text_layers` layers), random weights, eval mode.

    Only its downloads are avoided: three tokenizers at import, and RoBERTa weights that CLAP's checkpoint overwrites.
    So `get_text_embedding` needs a tokenizer.
    """
    provide_operators()
    import transformers

    def roberta(*_, **__):
        sizes = dict(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, num_hidden_layers=text_layers)
        return transformers.RobertaModel(transformers.RobertaConfig(**sizes, layer_norm_eps=1e-5))

    with ExitStack() as offline:
        for name in ("BertTokenizer", "RobertaTokenizer", "BartTokenizer"):
            offline.enter_context(mock.patch.object(getattr(transformers, name), "from_pretrained", lambda *_, **__: 0))
        offline.enter_context(mock.patch.object(transformers.RobertaModel, "from_pretrained", roberta))
        import laion_clap

        module = laion_clap.CLAP_Module(enable_fusion=False, device="cpu")
    return module.eval()


@torch.no_grad()
def laion_audio(module, paths: Sequence[str], batch: int = 16) -> np.ndarray:
    """Embeddings (N, 512) by laion-clap's `get_audio_embedding_from_filelist`, `batch` files a call."""
    calls = [paths[first : first + batch] for first in range(0, len(paths), batch)]
    return np.concatenate([module.get_audio_embedding_from_filelist(list(call)) for call in calls])


def hugging_face_audio(batch: int = 16):
    """A function from paths to embeddings (N, 512) by Hugging Face's ClapModel and ClapFeatureExtractor.

    Settings are those of the published ``laion/clap-htsat-unfused``; files are read by librosa, as its page does.
    """
    import librosa
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    # Its text network is not used: one layer is enough.
    model = ClapModel(ClapConfig(text_config={"num_hidden_layers": 1})).eval()
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)

    @torch.no_grad()
    def embed(paths: Sequence[str]) -> np.ndarray:
        parts = []
        for first in range(0, len(paths), batch):
            waveforms = [librosa.load(path, sr=48_000)[0] for path in paths[first : first + batch]]
            inputs = extractor(waveforms, sampling_rate=48_000, return_tensors="pt")
            parts.append(model.get_audio_features(**inputs).pooler_output.numpy())
        return np.concatenate(parts)

    return embed


def clip_tokenizer() -> Tokenizer:
    """A tokenizer with RoBERTa's special tokens and the merges that laion-clap ships for CLIP (49,410 entries).

    RoBERTa's tokenizer must be downloaded; this one cuts titles and tags into about as many tokens, so that lengths are
    realistic. Both sides of a measurement use it.
    """
    folder = Path(importlib.util.find_spec("laion_clap").submodule_search_locations[0]) / "clap_module"
    lines = gzip.open(folder / "bpe_simple_vocab_16e6.txt.gz").read().decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49_152 - 256 - 2 + 1]]  # as laion-clap's tokenizer reads it
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(TOKENS)
    return tokenizer


def padded_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Token ids and mask (N, 77), every text padded as laion-clap pads it."""
    ids = torch.ones(len(texts), TOKENS, dtype=torch.long)
    for row, encoding in enumerate(tokenizer.encode_batch(list(texts))):
        ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


# One .npy file a clip and modality, as the official baseline reads them -----------------------------------------------


def augmented(embedding: np.ndarray) -> torch.Tensor:
    """An embedding (512,) with the official noise, then with up to 358 of its dimensions set to zero."""
    embedding = torch.from_numpy(embedding)
    embedding = embedding + NOISE * torch.randn_like(embedding)
    count = int(torch.randint(1, MOST_ZEROED + 1, ()))
    embedding[torch.randperm(len(embedding))[:count]] = 0
    return embedding


class NpyPairs(Dataset):
    """audio (512,), text (512,), label of each clip, from `<folder>/{audio,text}/<row>.npy`."""

    def __init__(self, folder: Path, labels: np.ndarray):
        self.folder, self.labels = Path(folder), labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int):
        audio, text = (np.load(self.folder / modality / f"{row}.npy") for modality in ("audio", "text"))
        return augmented(audio), augmented(text), int(self.labels[row])

    @staticmethod
    def write(folder: Path, audio: np.ndarray, text: np.ndarray) -> None:
        """Lay out embeddings (N, 512) as the datasets ship them."""
        for modality, values in (("audio", audio), ("text", text)):
            (Path(folder) / modality).mkdir(parents=True)
            for row, value in enumerate(values):
                np.save(Path(folder) / modality / f"{row}.npy", value)


def official_epoch(folder: Path, labels: np.ndarray, workers: int = 4) -> Callable[[], None]:
    """A function that trains the official baseline for an epoch as its code does: clips read and augmented one by one,
    batches of 64 by a DataLoader with 4 workers, PyTorch's default Adam."""
    network = Hatr()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    loss_function = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    loader = DataLoader(NpyPairs(folder, labels), BATCH, shuffle=True, num_workers=workers, drop_last=True)

    def run() -> None:
        network.train()
        for audio, text, label in loader:
            loss = loss_function(network(Features(audio, text, torch.ones(len(label)))).logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


# Scores by loops over classes and clips -------------------------------------------------------------------------------


def loop_scores(truth: Sequence[int], predicted: Sequence[int], lam: float = 0.75) -> dict[str, float]:
    """The scores of `metrics.hierarchical_scores`, by loops over classes and clips on sets of labels."""
    sets = [{("top", int(PARENT[label])), ("class", label)} for label in range(len(CLASSES))]
    parent = [int(top) for top in PARENT]
    precision, recall, f_score, right_rate, top_rate = [], [], [], [], []
    for label in sorted(set(truth)):
        of_predicted, of_labelled, right, right_top = [], [], 0, 0
        for true, guess in zip(truth, predicted, strict=True):
            if label not in (true, guess):
                continue
            weight = 1.0 if true == guess else lam
            score = weight * len(sets[true] & sets[guess]) / 2
            if guess == label:
                of_predicted.append(score)
            if true == label:
                of_labelled.append(score)
                right += true == guess
                right_top += parent[true] == parent[guess]
        precision.append(sum(of_predicted) / len(of_predicted) if of_predicted else 0.0)
        recall.append(sum(of_labelled) / len(of_labelled))
        both = precision[-1] + recall[-1]
        f_score.append(2 * precision[-1] * recall[-1] / both if both else 0.0)
        right_rate.append(right / len(of_labelled))
        top_rate.append(right_top / len(of_labelled))
    hits = sum(true == guess for true, guess in zip(truth, predicted, strict=True))
    top_hits = sum(parent[true] == parent[guess] for true, guess in zip(truth, predicted, strict=True))
    classes = len(precision)
    return {
        "hP": sum(precision) / classes,
        "hR": sum(recall) / classes,
        "hF": sum(f_score) / classes,
        "h_accuracy": (sum(right_rate) + sum(top_rate)) / 2 / classes,
        "accuracy": hits / len(truth),
        "top_accuracy": top_hits / len(truth),
        "macro_accuracy": sum(right_rate) / classes,
        "macro_top_accuracy": sum(top_rate) / classes,
    }


def loop_bootstrap(truth: np.ndarray, predicted: np.ndarray, rng: np.random.Generator) -> Iterator[dict[str, float]]:
    """Scores of one replicate after another: clips drawn with replacement within each class, scored by loops."""
    groups = [np.flatnonzero(truth == label) for label in np.unique(truth)]
    while True:
        drawn = np.concatenate([rng.choice(group, len(group)) for group in groups])
        yield loop_scores(truth[drawn].tolist(), predicted[drawn].tolist())
