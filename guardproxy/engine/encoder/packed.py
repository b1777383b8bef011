"""BERT over many windows in one row: no padding, in lanes, and in the last layer only the tokens that are read.

The modules are those of transformers. The attention between them is written here, because a window that two lanes share
needs the keys and values of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn import functional

from guardproxy.engine.lanes import LayerProgress

# A lane's edge moves to the start of a window that is this close to the even cut, in tokens.
_NEAR = 8


@dataclass(frozen=True, slots=True)
class PackedWindows:
    """The tokens of all windows in one row, one behind the other; window k is [starts[k], starts[k + 1])."""

    ids: torch.Tensor
    types: torch.Tensor
    positions: torch.Tensor
    starts: list[int]


def pack_windows(windows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> PackedWindows:
    """Lay out windows of (token ids, segment types) in their order."""
    ids = torch.tensor([token for window, _ in windows for token in window])
    types = torch.tensor([kind for _, window in windows for kind in window])
    positions = torch.cat([torch.arange(len(window)) for window, _ in windows])
    return PackedWindows(ids, types, positions, [0, *accumulate(len(window) for window, _ in windows)])


def lane_edges(starts: Sequence[int], lanes: int) -> list[int]:
    """Cut a row into at most `lanes` lanes of similar length; return the edges, both ends of the row included.

    Lanes that meet at the start of a window need not wait for each other's keys.
    """
    total = starts[-1]
    out = {0, total}
    for lane in range(1, lanes):
        even = total * lane // lanes
        near = min(starts, key=lambda start: abs(start - even))
        out.add(near if abs(near - even) <= _NEAR else even)
    return sorted(out)


class PackedBert:
    """A BertForSequenceClassification on the CPU, in float32, computed on packed windows."""

    def __init__(self, model: Any) -> None:
        self._embeddings, self._layers = model.bert.embeddings, model.bert.encoder.layer
        self._pooler, self._classifier = model.bert.pooler, model.classifier
        self._heads = int(model.config.num_attention_heads)

    @staticmethod
    def supports(model: Any, device: torch.device) -> bool:
        """Whether the model is a float32 BERT encoder on the CPU. Any other model goes through its own forward."""
        return (
            type(model).__name__ == "BertForSequenceClassification"
            and not model.config.is_decoder
            and device.type == "cpu"
            and model.dtype == torch.float32
        )

    def lanes(self, row: PackedWindows, lanes: int) -> "list[EncoderLane]":
        """The lanes of one pass over `row`."""
        edges = lane_edges(row.starts, lanes)
        # Room for two layers is enough. A lane that stores layer n + 2 over layer n has attended at layer n + 1, and so
        # has waited until every lane that it shares a window with stored n + 1: these have read layer n by then.
        scratch = torch.empty((2, 2, row.starts[-1], self._layers[0].attention.self.all_head_size))
        progress = LayerProgress(len(edges) - 1)
        return [
            EncoderLane(self, row, index, edges=edges, scratch=scratch, progress=progress)
            for index in range(len(edges) - 1)
        ]

    def run(self, lane: "EncoderLane") -> torch.Tensor:
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

    def _layer(self, lane: "EncoderLane", index: int, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        attention = layer.attention.self
        # Keys and values of all rows, also in the last layer: the tokens that are read attend to all of their window.
        lane.store_keys(index, attention.key(hidden), attention.value(hidden))
        queries = lane.all_queries
        if index == len(self._layers) - 1:  # the classifier reads only the first token of each window
            queries = lane.first_tokens
            hidden = hidden[[first - lane.low for first, _, _ in queries]]
        query = attention.query(hidden)
        out = torch.empty_like(query)
        offset = 0
        for first, last, window in queries:
            keys, values = lane.load_keys(index, window)
            rows = slice(offset, offset + last - first)
            out[rows] = self._attend(query[rows], keys, values, attention.scaling)
            offset += last - first
        hidden = layer.attention.output(out, hidden)
        result: torch.Tensor = layer.output(layer.intermediate(hidden), hidden)
        return result

    def _attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention of [n, size] over [m, size], split into heads."""
        q, k, v = (rows.view(1, len(rows), self._heads, -1).transpose(1, 2) for rows in (query, keys, values))
        return functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).reshape(query.shape)


class EncoderLane:
    """The part of a row that one thread computes: its tokens [low, high).

    `all_queries` and `first_tokens` are (first, last, window): the rows [first, last) attend to all of `window`.
    """

    def __init__(
        self,
        bert: PackedBert,
        row: PackedWindows,
        index: int,
        *,
        edges: Sequence[int],
        scratch: torch.Tensor,
        progress: LayerProgress,
    ) -> None:
        self.row = row
        self.low, self.high = edges[index], edges[index + 1]
        self._bert, self._edges, self._index, self._scratch, self._progress = bert, edges, index, scratch, progress
        windows = [window for window in pairwise(row.starts) if window[0] < self.high and window[1] > self.low]
        self.all_queries = [(max(first, self.low), min(last, self.high), (first, last)) for first, last in windows]
        # A window's first token lies in one lane, so each window gets its logits once.
        self.first_tokens = [(window[0], window[0] + 1, window) for window in windows if window[0] >= self.low]

    def __call__(self) -> torch.Tensor:
        """Logits [windows that begin in the lane, outputs]."""
        try:
            return self._bert.run(self)
        except BaseException:
            self._progress.fail()
            raise

    def store_keys(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store the lane's keys and values [rows, size], where all lanes read them."""
        self._scratch[layer % 2, 0, self.low : self.high] = keys
        self._scratch[layer % 2, 1, self.low : self.high] = values
        # Only after both writes: a lane that waits reads the scratch as soon as the progress advances.
        self._progress.advance(self._index)

    def load_keys(self, layer: int, window: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of a window, once all lanes that compute a part of it have stored theirs.

        Attention is bidirectional, so two lanes may wait for each other here. They cannot deadlock: each has stored its
        keys of this layer before it waits.
        """
        first, last = window
        spans = enumerate(pairwise(self._edges))
        others = [lane for lane, (low, high) in spans if low < last and high > first and lane != self._index]
        if others:
            self._progress.wait_for(others, layer)
        keys, values = self._scratch[layer % 2, :, first:last].unbind(0)
        return keys, values
