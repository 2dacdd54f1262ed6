"""RoBERTa's forward pass on transformers' own modules, on words alone.

A batch of texts is padded to the longest, and in titles and tags most of a batch is padding: of 8 texts with 23 tokens
on average the longest has 45. All but attention acts on each token alone, so here the tokens of all texts stand in one
row without padding, and only attention sees them text by text. And of the last layer only what the first token becomes
is used: no other is computed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from haf_utils.fast.ops import linear
from haf_utils.gather import gather

__all__ = ["encode"]


def encode(roberta: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Tokens (B, T), int64, padded at their ends, and their mask -> the pooled first tokens (B, D).

    Equals `pooler_output` of transformers' RobertaModel within rounding, with the same gradients. Dropout acts as
    there, but draws in another order.
    """
    mask = attention_mask.bool()
    places = mask.flatten().nonzero().squeeze(1)  # of the tokens among all places, padding included
    x = roberta.embeddings(input_ids=input_ids).flatten(0, 1).index_select(0, places)
    first = F.pad(mask.sum(1).cumsum(0), (1, 0))[:-1]  # each text's first token
    # Which token stands in each place; in padding, which nobody looks at, any one.
    tokens = (mask.flatten().cumsum(0) - 1).clamp(min=0)
    *layers, last = roberta.encoder.layer
    for layer in layers:
        gathered = _attention(layer.attention.self, x, places, tokens, mask)
        x = _feed_forward(layer, _attended(layer.attention, x, gathered))
    gathered = _attention(last.attention.self, x, places, tokens, mask, first)
    x = _feed_forward(last, _attended(last.attention, x.index_select(0, first), gathered))
    return torch.tanh(linear(roberta.pooler.dense, x))


def _attention(
    attention: nn.Module,
    x: torch.Tensor,
    places: torch.Tensor,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    first: torch.Tensor | None = None,
) -> torch.Tensor:
    """What each of the tokens x (N, D) gathers from its text: (N, D), or (B, D) for the `first` ones alone."""
    (batch, length), heads = mask.shape, attention.num_attention_heads

    def padded(values: torch.Tensor) -> torch.Tensor:  # (N, D) -> (B, heads, T, D / heads)
        return gather(values, 0, tokens, places).view(batch, length, heads, -1).transpose(1, 2)

    key, value = padded(linear(attention.key, x)), padded(linear(attention.value, x))
    if first is None:
        query = padded(linear(attention.query, x))
    else:
        query = linear(attention.query, x.index_select(0, first)).view(batch, heads, 1, -1)
    dropout = attention.dropout.p if attention.training else 0.0
    gathered = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask[:, None, None], dropout_p=dropout, scale=attention.scaling
    )
    gathered = gathered.transpose(1, 2).flatten(2).flatten(0, 1)  # (B · T or B, D)
    return gathered.index_select(0, places) if first is None else gathered


def _attended(attention: nn.Module, x: torch.Tensor, gathered: torch.Tensor) -> torch.Tensor:
    out = attention.output
    return out.LayerNorm(x + out.dropout(linear(out.dense, gathered)))


def _feed_forward(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = linear(layer.intermediate.dense, x, gelu=True)
    return layer.output.LayerNorm(x + layer.output.dropout(linear(layer.output.dense, hidden)))
