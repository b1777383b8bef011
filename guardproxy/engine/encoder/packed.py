"""Encoders over many windows in one row: no padding, in lanes, and in the last layer only the tokens that are read.

The modules are those of transformers. The attention between them is written here, because a window that two lanes share
needs the keys and values of both.
"""

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, slots=True)
class _Layer:
    """The steps of one encoder layer: the products of the attention, its end (output, residual, norm), feed-forward."""

    query: Callable[[torch.Tensor], torch.Tensor]
    key: Callable[[torch.Tensor], torch.Tensor]
    value: Callable[[torch.Tensor], torch.Tensor]
    end_attention: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    feed_forward: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Architecture:
    """An encoder as steps on rows [tokens, size].

    `embed` makes the rows of a packed row's tokens [low, high), `classify` logits of the first tokens' rows. `bias` is
    added to the attention scores before the softmax, [heads, longest window, longest window], or None.
    """

    embed: Callable[[PackedWindows, int, int], torch.Tensor]
    layers: tuple[_Layer, ...]
    classify: Callable[[torch.Tensor], torch.Tensor]
    bias: torch.Tensor | None = None


def _bert(model: Any) -> _Architecture:
    embeddings = model.bert.embeddings

    def embed(row: PackedWindows, low: int, high: int) -> torch.Tensor:
        rows: torch.Tensor = embeddings(
            input_ids=row.ids[None, low:high],
            token_type_ids=row.types[None, low:high],
            position_ids=row.positions[None, low:high],
        )[0]
        return rows

    def layer(module: Any) -> _Layer:
        attention = module.attention.self
        return _Layer(
            attention.query,
            attention.key,
            attention.value,
            module.attention.output,
            lambda hidden: module.output(module.intermediate(hidden), hidden),
        )

    layers = tuple(layer(module) for module in model.bert.encoder.layer)
    return _Architecture(embed, layers, lambda rows: model.classifier(model.bert.pooler(rows[:, None])))


def _mpnet(model: Any) -> _Architecture:
    """MPNet (Song et al. 2020, arXiv:2004.09297): no segment types, and a bias by relative position in every layer."""
    embeddings, encoder = model.mpnet.embeddings, model.mpnet.encoder

    def embed(row: PackedWindows, low: int, high: int) -> torch.Tensor:
        positions = row.positions[None, low:high] + embeddings.padding_idx + 1
        rows: torch.Tensor = embeddings(input_ids=row.ids[None, low:high], position_ids=positions)[0]
        return rows

    def layer(module: Any) -> _Layer:
        attention = module.attention
        return _Layer(
            attention.attn.q,
            attention.attn.k,
            attention.attn.v,
            lambda out, hidden: attention.LayerNorm(attention.attn.o(out) + hidden),
            lambda hidden: module.output(module.intermediate(hidden), hidden),
        )

    longest = model.config.max_position_embeddings
    with torch.inference_mode():
        bias = encoder.compute_position_bias(torch.empty(1, longest, 1))[0]
    layers = tuple(layer(module) for module in encoder.layer)
    return _Architecture(embed, layers, lambda rows: model.classifier(rows[:, None]), bias)


_ARCHITECTURES = {"BertForSequenceClassification": _bert, "MPNetForSequenceClassification": _mpnet}


class PackedEncoder:
    """A BERT or MPNet classifier on the CPU, computed on packed windows."""

    def __init__(self, model: Any) -> None:
        self._architecture = _ARCHITECTURES[type(model).__name__](model)
        self._heads = int(model.config.num_attention_heads)
        self._size = int(model.config.hidden_size)
        self._dtype: torch.dtype = model.dtype

    @staticmethod
    def supports(model: Any, device: torch.device) -> bool:
        """Whether the model is a BERT or MPNet classifier on the CPU. Any other model goes through its own forward."""
        return (
            type(model).__name__ in _ARCHITECTURES
            and not getattr(model.config, "is_decoder", False)
            and device.type == "cpu"
        )

    def lanes(self, row: PackedWindows, lanes: int) -> "list[EncoderLane]":
        """The lanes of one pass over `row`."""
        edges = lane_edges(row.starts, lanes)
        # Room for two layers is enough. A lane that stores layer n + 2 over layer n has attended at layer n + 1, and so
        # has waited until every lane that it shares a window with stored n + 1: these have read layer n by then.
        scratch = torch.empty((2, 2, row.starts[-1], self._size), dtype=self._dtype)
        progress = LayerProgress(len(edges) - 1)
        return [
            EncoderLane(self, row, index, edges=edges, scratch=scratch, progress=progress)
            for index in range(len(edges) - 1)
        ]

    def run(self, lane: "EncoderLane") -> torch.Tensor:
        """Logits [windows that begin in the lane, outputs]."""
        hidden = self._architecture.embed(lane.row, lane.low, lane.high)
        for index, layer in enumerate(self._architecture.layers):
            hidden = self._layer(lane, index, layer, hidden)
        return self._architecture.classify(hidden)

    def _layer(self, lane: "EncoderLane", index: int, layer: _Layer, hidden: torch.Tensor) -> torch.Tensor:
        # Keys and values of all rows, also in the last layer: the tokens that are read attend to all of their window.
        lane.store_keys(index, layer.key(hidden), layer.value(hidden))
        queries = lane.all_queries
        if index == len(self._architecture.layers) - 1:  # the classifier reads only the first token of each window
            queries = lane.first_tokens
            hidden = hidden[[first - lane.low for first, _, _ in queries]]
        query = layer.query(hidden)
        out = torch.empty_like(query)
        offset = 0
        for first, last, window in queries:
            keys, values = lane.load_keys(index, window)
            rows = slice(offset, offset + last - first)
            out[rows] = self._attend(query[rows], keys, values, first - window[0])
            offset += last - first
        return layer.feed_forward(layer.end_attention(out, hidden))

    def _attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, first: int) -> torch.Tensor:
        """Attention of [n, size] over [m, size], split into heads; the queries begin at the window's token `first`."""
        q, k, v = (rows.view(1, len(rows), self._heads, -1).transpose(1, 2) for rows in (query, keys, values))
        bias = self._architecture.bias
        mask = None if bias is None else bias[None, :, first : first + len(query), : len(keys)]
        return functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(query.shape)


class EncoderLane:
    """The part of a row that one thread computes: its tokens [low, high).

    `all_queries` and `first_tokens` are (first, last, window): the rows [first, last) attend to all of `window`.
    """

    def __init__(
        self,
        encoder: PackedEncoder,
        row: PackedWindows,
        index: int,
        *,
        edges: Sequence[int],
        scratch: torch.Tensor,
        progress: LayerProgress,
    ) -> None:
        self.row = row
        self.low, self.high = edges[index], edges[index + 1]
        self._encoder, self._edges, self._index = encoder, edges, index
        self._scratch, self._progress = scratch, progress
        windows = [window for window in pairwise(row.starts) if window[0] < self.high and window[1] > self.low]
        self.all_queries = [(max(first, self.low), min(last, self.high), (first, last)) for first, last in windows]
        # A window's first token lies in one lane, so each window gets its logits once.
        self.first_tokens = [(window[0], window[0] + 1, window) for window in windows if window[0] >= self.low]

    def __call__(self) -> torch.Tensor:
        """Logits [windows that begin in the lane, outputs]."""
        try:
            return self._encoder.run(self)
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
