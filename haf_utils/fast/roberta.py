"""RoBERTa without padding, on transformers' modules: the batch as one packed sequence; only attention sees (B, T).

Titles and tags differ so much in length that most of a padded batch is padding. The last layer is computed for the
first tokens only, since the pooler reads no others.
"""

import torch
import torch.nn.functional as F
from torch import nn

from haf_utils.fast import compiled
from haf_utils.fast.ops import gather, linear

__all__ = ["encode"]


def encode(roberta: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Tokens (B, T), int64, padded at their ends, and their mask -> the pooled first tokens (B, D).

    Equals `pooler_output` of transformers' RobertaModel within rounding, with the same gradients. Dropout has the same
    rates but draws in another order.
    """
    mask = attention_mask.bool()
    packed = mask.flatten().nonzero().squeeze(1)  # (N,): position in the padded batch of each packed token
    padded = (mask.flatten().cumsum(0) - 1).clamp(min=0)  # (B · T,): packed token at each position; any in padding
    first = F.pad(mask.sum(1).cumsum(0), (1, 0))[:-1]  # (B,): the first packed token of each text
    x = roberta.embeddings(input_ids=input_ids).flatten(0, 1).index_select(0, packed)
    # The number of tokens differs from batch to batch.
    return compiled(_layers, roberta.training, dynamic=True)(roberta, x, packed, padded, mask, first)


def _layers(roberta: nn.Module, x, packed, padded, mask: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    layers = roberta.encoder.layer
    for layer in layers:
        attention, output, rows = layer.attention.self, layer.attention.output, first if layer is layers[-1] else None
        attended = _attention(attention, x, packed, padded, mask, rows)
        x = x if rows is None else x.index_select(0, rows)
        x = output.LayerNorm(x + output.dropout(linear(output.dense, attended)))
        hidden = linear(layer.intermediate.dense, x, gelu=True)
        x = layer.output.LayerNorm(x + layer.output.dropout(linear(layer.output.dense, hidden)))
    return torch.tanh(linear(roberta.pooler.dense, x))


def _attention(
    attention: nn.Module,
    x: torch.Tensor,
    packed: torch.Tensor,
    padded: torch.Tensor,
    mask: torch.Tensor,
    first: torch.Tensor | None,
) -> torch.Tensor:
    """Self-attention of packed tokens x (N, D) inside their texts: (N, D), or (B, D) for the `first` ones alone."""
    (batch, length), heads = mask.shape, attention.num_attention_heads

    def pad(values: torch.Tensor) -> torch.Tensor:  # (N, D) -> (B, heads, T, D / heads)
        return gather(values, 0, padded, packed).view(batch, length, heads, -1).transpose(1, 2)

    key, value = pad(linear(attention.key, x)), pad(linear(attention.value, x))
    if first is None:
        query = pad(linear(attention.query, x))
    else:
        query = linear(attention.query, x.index_select(0, first)).view(batch, heads, 1, -1)
    dropout = attention.dropout.p if attention.training else 0.0
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask[:, None, None], dropout_p=dropout, scale=attention.scaling
    )
    attended = attended.transpose(1, 2).flatten(2).flatten(0, 1)  # (B · T or B, D)
    return attended.index_select(0, packed) if first is None else attended
