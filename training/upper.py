"""The upper layers of an MPNet or a BERT over the kept output of its frozen lower layers.

The frozen layers give the same states in every epoch, so they are computed once: a third of the work of an epoch is
left if four of twelve layers are trained. The states are kept in float16, 2 bytes per number: some 1.6 GB for a million
tokens at a width of 768.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import BertForSequenceClassification, MPNetForSequenceClassification

Rows = dict[str, torch.Tensor]
Encoder = MPNetForSequenceClassification | BertForSequenceClassification


def additive_mask(mask: torch.Tensor) -> torch.Tensor:
    """0 where the mask [windows, tokens] is 1, else a large negative number; [windows, 1, 1, tokens]."""
    return (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min


def _added(model: Encoder, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What every layer adds to its attention scores: the mask, and MPNet's bias by relative position."""
    added = additive_mask(mask)
    return added + model.mpnet.encoder.compute_position_bias(hidden) if _is_mpnet(model) else added


def _is_mpnet(model: Encoder) -> bool:
    return isinstance(model, MPNetForSequenceClassification)


def _run(layer: torch.nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """The output of a layer, which an MPNet's layer returns in a tuple."""
    out = layer(hidden, added)
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def lower_states(model: Encoder, below: int, chosen: Sequence[int], rows: Rows) -> dict[int, torch.Tensor]:
    """The output of the `below` lowest layers for the windows `chosen`: index to states [tokens, width] in float16.

    `rows` has the padded ids, the mask and the segment types, which an MPNet lacks, of these windows.
    """
    body = model.base_model
    types = {} if _is_mpnet(model) else {"token_type_ids": rows["token_type_ids"]}
    hidden = body.embeddings(input_ids=rows["input_ids"], **types)
    added = _added(model, hidden, rows["attention_mask"])
    for layer in body.encoder.layer[:below]:
        hidden = _run(layer, hidden, added)
    lengths = rows["attention_mask"].sum(1).tolist()
    return {index: hidden[row, : int(lengths[row])].half() for row, index in enumerate(chosen)}


class UpperLayers(torch.nn.Module):
    """The layers of an encoder above its `below` lowest ones, and its classifier, with the weights of `model`."""

    def __init__(self, model: Encoder, below: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(model.base_model.encoder.layer[below:])
        pooled = [] if _is_mpnet(model) else [model.bert.pooler, model.dropout]  # an MPNet's classifier has its own
        self.head = torch.nn.Sequential(*pooled, model.classifier)
        # A function is not copied with this module, and the lower layers that it knows are no part of the module.
        self._added = lambda hidden, mask: _added(model, hidden, mask)

    def forward(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [windows, outputs] from the kept states of the windows."""
        lengths = torch.tensor([len(state) for state in states], device=states[0].device)
        hidden = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True).float()
        with torch.no_grad():
            mask = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
            added = self._added(hidden, mask)
        *before, last = self.layers
        for layer in before:
            hidden = _run(layer, hidden, added)
        logits: torch.Tensor = self.head(_first_token(last, hidden, added))
        return logits


def _first_token(layer: torch.nn.Module, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """A layer's output for the first token alone, [windows, 1, width]: the classifier reads no other one."""
    own, linears, dropout, norm = _attention(layer)
    first = hidden[:, :1]
    query, key, value = (
        linear(rows).unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)
        for linear, rows in zip(linears, (first, hidden, hidden), strict=False)
    )
    scores = query @ key.transpose(-1, -2) * own.attention_head_size**-0.5 + added[:, :, :1]
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    row = norm(dropout(linears[3](mixed)) + first)
    out: torch.Tensor = layer.output(layer.intermediate(row), row)
    return out


def _attention(
    layer: torch.nn.Module,
) -> tuple[torch.nn.Module, tuple[torch.nn.Module, ...], torch.nn.Module, torch.nn.Module]:
    """A layer's attention, its products (queries, keys, values, output), and the dropout and the norm behind them."""
    attention = layer.attention
    if hasattr(attention, "attn"):  # an MPNet's
        own = attention.attn
        return own, (own.q, own.k, own.v, own.o), attention.dropout, attention.LayerNorm
    own, end = attention.self, attention.output
    return own, (own.query, own.key, own.value, end.dense), end.dropout, end.LayerNorm
