"""The upper layers of an MPNet over the kept output of its frozen lower layers.

The frozen layers give the same states in every epoch, so they are computed once: a third of the work of an epoch is
left if four of twelve layers are trained. The states are kept in float16, 2 bytes per number: some 1.6 GB for a million
tokens at a width of 768.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import MPNetForSequenceClassification

Rows = dict[str, torch.Tensor]


def additive_mask(mask: torch.Tensor) -> torch.Tensor:
    """0 where the mask [windows, tokens] is 1, else a large negative number; [windows, 1, 1, tokens]."""
    return (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min


@torch.no_grad()
def lower_states(
    model: MPNetForSequenceClassification, below: int, chosen: Sequence[int], rows: Rows
) -> dict[int, torch.Tensor]:
    """The output of the `below` lowest layers for the windows `chosen`: index to states [tokens, width] in float16.

    `rows` has the padded ids and the mask of these windows.
    """
    encoder = model.mpnet.encoder
    hidden = model.mpnet.embeddings(input_ids=rows["input_ids"])
    mask, bias = additive_mask(rows["attention_mask"]), encoder.compute_position_bias(hidden)
    for layer in encoder.layer[:below]:
        hidden = layer(hidden, mask, bias)[0]
    lengths = rows["attention_mask"].sum(1).tolist()
    return {index: hidden[row, : int(lengths[row])].half() for row, index in enumerate(chosen)}


class UpperLayers(torch.nn.Module):
    """The layers of an MPNet above its `below` lowest ones, and its classifier. The weights are shared with `model`."""

    def __init__(self, model: MPNetForSequenceClassification, below: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(model.mpnet.encoder.layer[below:])
        self.classifier = model.classifier
        self._bias = model.mpnet.encoder.compute_position_bias

    def forward(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [windows, outputs] from the kept states of the windows."""
        lengths = torch.tensor([len(state) for state in states], device=states[0].device)
        hidden = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True).float()
        mask = additive_mask(torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None])
        with torch.no_grad():
            bias = self._bias(hidden)
        *before, last = self.layers
        for layer in before:
            hidden = layer(hidden, mask, bias)[0]
        logits: torch.Tensor = self.classifier(_first_token(last, hidden, mask, bias))
        return logits


def _first_token(layer: torch.nn.Module, hidden: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A layer's output for the first token alone, [windows, 1, width]: the classifier reads no other one."""
    attention = layer.attention
    own = attention.attn
    first = hidden[:, :1]
    query, key, value = (
        linear(rows).unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)
        for linear, rows in ((own.q, first), (own.k, hidden), (own.v, hidden))
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(own.attention_head_size) + bias[:, :, :1] + mask
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    row = attention.LayerNorm(attention.dropout(own.o(mixed)) + first)
    out: torch.Tensor = layer.output(layer.intermediate(row), row)
    return out
