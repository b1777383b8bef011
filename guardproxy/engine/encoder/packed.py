"""BERT over many windows in one row: no padding, in lanes, and of the last layer only what the classifier reads.

The modules are those of transformers; the attention between them is written here, because a window that two lanes
share needs the keys and values of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn import functional

from guardproxy.engine.lanes import LayerProgress

# Lanes are cut between two windows where that is this close to the even cut, in tokens.
_NEAR = 8


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of all windows, one behind the other; window k is [starts[k], starts[k + 1])."""

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    starts: list[int]


def row_of(windows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Row:
    """Windows as (token ids, segment types), laid out in their order."""
    ids = torch.tensor([token for window, _ in windows for token in window])
    types = torch.tensor([kind for _, window in windows for kind in window])
    positions = torch.cat([torch.arange(len(window)) for window, _ in windows])
    return Row(ids, types, positions, [0, *accumulate(len(window) for window, _ in windows)])


def edges(starts: Sequence[int], lanes: int) -> list[int]:
    """Where a row is cut into at most so many lanes of like length."""
    total = starts[-1]
    out = {0, total}
    for at in range(1, lanes):
        even = total * at // lanes
        near = min(starts, key=lambda start: abs(start - even))
        out.add(near if abs(near - even) <= _NEAR else even)
    return sorted(out)


class Bert:
    """A BertForSequenceClassification on the CPU, in float32."""

    def __init__(self, model: Any) -> None:
        self._embeddings, self._layers = model.bert.embeddings, model.bert.encoder.layer
        self._pooler, self._classifier = model.bert.pooler, model.classifier
        self._heads = int(model.config.num_attention_heads)

    @staticmethod
    def fits(model: Any, device: torch.device) -> bool:
        """Whether this is such a model: any other goes through its own forward."""
        return (
            type(model).__name__ == "BertForSequenceClassification"
            and not model.config.is_decoder
            and device.type == "cpu"
            and model.dtype == torch.float32
        )

    def lanes(self, row: Row, lanes: int) -> "list[Lane]":
        """The lanes of one pass over `row`."""
        cuts = edges(row.starts, lanes)
        # Two layers' keys and values: a lane that gives those of the next but one has waited for whoever reads these.
        kept = torch.empty((2, 2, row.starts[-1], self._layers[0].attention.self.all_head_size))
        progress = LayerProgress(len(cuts) - 1)
        return [Lane(self, row, at, cuts=cuts, kept=kept, progress=progress) for at in range(len(cuts) - 1)]

    def run(self, lane: "Lane") -> torch.Tensor:
        """Logits [windows that begin in the lane, outputs]."""
        row, low, high = lane.row, lane.low, lane.high
        hidden = self._embeddings(
            input_ids=row.ids[None, low:high],
            token_type_ids=row.types[None, low:high],
            position_ids=row.positions[None, low:high],
        )[0]
        for index, layer in enumerate(self._layers):
            hidden = self._layer(lane, index, layer, hidden)
        logits: torch.Tensor = self._classifier(self._pooler(hidden[:, None]))
        return logits

    def _layer(self, lane: "Lane", index: int, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        attention = layer.attention.self
        lane.give(index, attention.key(hidden), attention.value(hidden))
        asking = lane.every
        if index == len(self._layers) - 1:  # the classifier reads the first token of each window
            asking = lane.firsts
            hidden = hidden[[first - lane.low for first, _, _ in asking]]
        query = attention.query(hidden)
        out = torch.empty_like(query)
        at = 0
        for first, last, window in asking:
            keys, values = lane.keys(index, window)
            some = slice(at, at + last - first)
            out[some] = self._attend(query[some], keys, values, attention.scaling)
            at += last - first
        hidden = layer.attention.output(out, hidden)
        result: torch.Tensor = layer.output(layer.intermediate(hidden), hidden)
        return result

    def _attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        """[n, size] over [m, size]."""
        q, k, v = (each.view(1, len(each), self._heads, -1).transpose(1, 2) for each in (query, keys, values))
        return functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).reshape(query.shape)


class Lane:
    """What one thread computes of a row: its tokens [low, high)."""

    def __init__(
        self, bert: Bert, row: Row, index: int, *, cuts: Sequence[int], kept: torch.Tensor, progress: LayerProgress
    ) -> None:
        self.row = row
        self.low, self.high = cuts[index], cuts[index + 1]
        self._bert, self._cuts, self._index, self._kept, self._progress = bert, cuts, index, kept, progress
        windows = list(pairwise(row.starts))
        inside = [each for each in windows if each[0] < self.high and each[1] > self.low]
        # (first, last, window): who asks, and the window whose keys it sees.
        self.every = [(max(first, self.low), min(last, self.high), (first, last)) for first, last in inside]
        self.firsts = [(each[0], each[0] + 1, each) for each in inside if each[0] >= self.low]

    def __call__(self) -> torch.Tensor:
        """Logits [windows that begin in it, outputs]."""
        try:
            return self._bert.run(self)
        except BaseException:
            self._progress.fail()
            raise

    def give(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the lane's keys and values [rows, size] where all lanes see them."""
        self._kept[layer % 2, 0, self.low : self.high] = keys
        self._kept[layer % 2, 1, self.low : self.high] = values
        self._progress.advance(self._index)

    def keys(self, layer: int, window: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a window, once all lanes that compute of it have given theirs."""
        first, last = window
        spans = enumerate(pairwise(self._cuts))
        others = [at for at, (low, high) in spans if low < last and high > first and at != self._index]
        if others:
            self._progress.wait_for(others, layer)
        keys, values = self._kept[layer % 2, :, first:last].unbind(0)
        return keys, values
