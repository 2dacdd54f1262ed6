"""HATR, the challenge's official baseline, from its published description: a deep classifier on frozen CLAP embeddings.

It is the control that a CLAP fine-tuned end to end has to beat. Ours, since the description leaves it open: where a
residual block has its activations, and the biases of the Xavier-initialised layers (0).
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from haf_utils.inputs import CachedInputs, clip_generator, torch_seed
from haf_utils.io.progress import bar
from haf_utils.metrics import hierarchical_scores
from haf_utils.model import Features, Output
from haf_utils.taxonomy import CLASSES

__all__ = ["Hatr", "train_hatr", "zero_dimensions"]

# Numbers of the official baseline.
DROPOUT = 0.1
SMOOTHING = 0.01
RATE, WEIGHT_DECAY = 1e-3, 1e-5
STEP_EPOCHS, STEP_FACTOR = 20, 0.5
BATCH, EPOCHS, PATIENCE = 64, 100, 15
NOISE, MOST_ZEROED = 1e-4, 358


def layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(), nn.Dropout(dropout))


class Residual(nn.Module):
    """LeakyReLU(x + narrow(wide(x))), (B, size) -> (B, size), each of the two layers followed by BatchNorm."""

    def __init__(self, size: int, width: int, dropout: float):
        super().__init__()
        wide = (nn.Linear(size, width), nn.BatchNorm1d(width), nn.LeakyReLU(), nn.Dropout(dropout))
        self.change = nn.Sequential(*wide, nn.Linear(width, size), nn.BatchNorm1d(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x + self.change(x))


class Hatr(nn.Module):
    """`Features` of a batch -> `Output`; 7,319,513 parameters with 512-d embeddings and 23 classes.

    The baseline has no state for a missing text: it reads the zero embedding like any other.
    """

    def __init__(self, embedding: int = 512, dropout: float = DROPOUT):
        super().__init__()

        def branch() -> nn.Sequential:
            first, residuals = layer(embedding, 512, dropout), [Residual(512, 1024, dropout) for _ in range(3)]
            last = (layer(512, 256, dropout), nn.Linear(256, 128), nn.BatchNorm1d(128))
            return nn.Sequential(nn.BatchNorm1d(embedding), first, *residuals, *last)

        self.audio, self.text = branch(), branch()
        self.attention = nn.Sequential(nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 2))
        self.dropout = nn.Dropout(dropout)
        self.projector = nn.Sequential(layer(128, 256, dropout), layer(256, 128, dropout), layer(128, 64, dropout))
        self.refinement = nn.Sequential(*(Residual(64, 128, dropout) for _ in range(2)))
        self.head = nn.Sequential(layer(64, 32, dropout), nn.Linear(32, len(CLASSES)))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: Features) -> Output:
        audio, text = self.audio(features.audio), self.text(features.text)
        weights = torch.softmax(self.attention(torch.cat([audio, text], dim=1)), dim=1)
        fused = self.dropout(weights[:, :1] * audio + weights[:, 1:] * text)
        return Output(self.head(self.refinement(self.projector(fused))), weights)


def zero_dimensions(x: torch.Tensor, generator: torch.Generator, most: int = MOST_ZEROED) -> torch.Tensor:
    """Set 1 to `most` dimensions of each row of x (B, E) to zero; how many and which are drawn for each row."""
    count = torch.randint(1, min(most, x.shape[1]) + 1, (len(x), 1), generator=generator)
    drawn = torch.rand(x.shape, generator=generator)
    ascending = torch.from_numpy(np.sort(drawn.numpy(), axis=1))  # NumPy's sort uses vector instructions
    largest_zeroed = ascending.gather(1, count - 1)
    return x * (drawn > largest_zeroed).to(x)


def _augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return zero_dimensions(x + NOISE * torch.randn(x.shape, generator=generator).to(x), generator)


def train_hatr(
    inputs: CachedInputs,
    labels: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    seed: int = 0,
    epochs: int | None = None,
    quiet: bool = False,
) -> tuple[Hatr, pd.DataFrame]:
    """Train as the official baseline does -> the epoch of best validation accuracy, and the history (a row an epoch).

    labels (N,) of all rows of `inputs`; train, validation: rows; epochs: at most so many (None: the official 100).
    With fewer than 64 training clips all of them are one batch.
    """
    device = inputs.audio.device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Hatr(inputs.audio.shape[1]).to(device)
    # Fused: one pass over weights, gradients and moments, much faster on a CPU.
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, STEP_EPOCHS, STEP_FACTOR)
    truth = torch.from_numpy(np.array(labels)).to(device)
    batch = min(BATCH, len(train))
    history, best, best_accuracy, best_epoch = [], None, -1.0, 0
    for epoch in bar(range(1, (epochs or EPOCHS) + 1), description="HATR", unit="epoch", quiet=quiet):
        model.train()
        generator = torch.Generator().manual_seed(torch_seed(seed, epoch, "hatr"))
        order = clip_generator(seed, epoch, "hatr order").permutation(train)
        losses = []
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(seed, epoch, "hatr dropout"))
            for start in range(0, len(order) - batch + 1, batch):  # an incomplete last batch is left out
                rows = torch.from_numpy(order[start : start + batch]).to(device)
                audio, text = (_augment(values[rows], generator) for values in (inputs.audio, inputs.text))
                features = Features(audio, text, inputs.presence[rows])
                loss = F.cross_entropy(model(features).logits, truth[rows], label_smoothing=SMOOTHING)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        scheduler.step()
        scores = _validate(model, inputs, labels, validation)
        history.append({"epoch": epoch, "loss": float(np.mean(losses)), **scores})
        if scores["validation_accuracy"] > best_accuracy:
            best = {name: value.clone() for name, value in model.state_dict().items()}
            best_accuracy, best_epoch = scores["validation_accuracy"], epoch
        if epoch - best_epoch >= PATIENCE:
            break
    model.load_state_dict(best)
    return model.eval(), pd.DataFrame(history)


@torch.no_grad()
def _validate(model: Hatr, inputs: CachedInputs, labels: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    model.eval()
    logits = model(inputs.embed(None, inputs.prepare(rows))).logits
    loss = F.cross_entropy(logits, torch.from_numpy(labels[rows]).to(logits.device))
    scores = hierarchical_scores(labels[rows], logits.argmax(1).cpu().numpy())
    return {"validation_loss": loss.item()} | {f"validation_{name}": scores[name] for name in ("hF", "accuracy")}
