"""Encoders over many windows in one row: no padding, in lanes, and in the last layer only the tokens that are read.

The attention is written here, because a window that two lanes share needs the keys and values of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn import functional

from guardproxy.engine.bfloat16_attention import bfloat16_attention
from guardproxy.engine.encoder.architectures import EncoderWeights, Layer, supports
from guardproxy.engine.lanes import LayerProgress
from guardproxy.engine.number_format import NumberFormat, padded_rows

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


def weights_of(model: Any) -> EncoderWeights:
    """The weights of a model that `PackedEncoder` supports: a StoredClassifier, or a model of transformers."""
    return EncoderWeights(_class_name(model), model.config, model.state_dict())


def _class_name(model: Any) -> str:
    return getattr(model, "class_name", type(model).__name__)


class PackedEncoder:
    """A BERT or MPNet classifier on the CPU, computed on packed windows. Its layers have the `number_format`.

    Norms and softmax compute in float32 in every format, and embeddings and classifier in the model's own type.
    """

    def __init__(self, model: Any, number_format: NumberFormat) -> None:
        self._architecture = weights_of(model).architecture(number_format)
        self._heads = int(model.config.num_attention_heads)
        self._size = int(model.config.hidden_size)
        self._model_dtype: torch.dtype = model.dtype
        self._dtype = number_format.dtype

    @staticmethod
    def supports(model: Any, device: torch.device) -> bool:
        """Whether the model is a BERT or MPNet classifier on the CPU. Any other model goes through its own forward."""
        return device.type == "cpu" and supports(_class_name(model), model.config)

    def lanes(self, row: PackedWindows, lanes: int) -> "list[EncoderLane]":
        """The lanes of one pass over `row`."""
        edges = lane_edges(row.starts, lanes)
        # Room for two layers is enough. A lane that stores layer n + 2 over layer n has attended at layer n + 1, and so
        # has waited until every lane that it shares a window with stored n + 1: these have read layer n by then.
        scratch = torch.empty((2, row.starts[-1], 2 * self._size), dtype=self._dtype)
        progress = LayerProgress(len(edges) - 1)
        return [
            EncoderLane(self, row, index, edges=edges, scratch=scratch, progress=progress)
            for index in range(len(edges) - 1)
        ]

    def run(self, lane: "EncoderLane") -> torch.Tensor:
        """Logits [windows that begin in the lane, outputs]."""
        columns = (column[lane.low : lane.high] for column in (lane.row.ids, lane.row.types, lane.row.positions))
        hidden = self._padded(self._architecture.embed(*columns).to(self._dtype), lane.high - lane.low)
        for index, layer in enumerate(self._architecture.layers):
            hidden = self._layer(lane, index, layer, hidden)
        return self._architecture.classify(hidden[: len(lane.first_tokens)].to(self._model_dtype))

    def _layer(self, lane: "EncoderLane", index: int, layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        # Keys and values of all rows, also in the last layer: the tokens that are read attend to all of their window.
        projected = layer.query_key_value(hidden)
        query = projected[:, : self._size]
        lane.store_keys(index, projected[: lane.high - lane.low, self._size :])
        spans = lane.all_queries
        if index == len(self._architecture.layers) - 1:  # the classifier reads only the first token of each window
            spans = lane.first_tokens
            rows = [first - lane.low for first, _, _ in spans]
            hidden, query = self._padded(hidden[rows], len(rows)), query[rows]
        out = torch.zeros_like(hidden)
        offset = 0
        for first, last, window in spans:
            part = slice(offset, offset + last - first)
            out[part] = self._attend(query[part], lane.load_keys(index, window), first - window[0])
            offset += last - first
        hidden = layer.attention_norm(layer.out(out).add_(hidden))
        return layer.norm(layer.down(layer.activate(layer.up(hidden))).add_(hidden))

    @staticmethod
    def _padded(hidden: torch.Tensor, rows: int) -> torch.Tensor:
        """`hidden` with rows of zeros behind its `rows`, so that no product has to add them."""
        missing = padded_rows(rows) - rows
        return functional.pad(hidden, (0, 0, 0, missing)) if missing else hidden

    def _attend(self, query: torch.Tensor, keys_values: torch.Tensor, first: int) -> torch.Tensor:
        """Attention of [n, size] over [m, 2 * size], split into heads; the queries begin at the token `first`."""
        rows, keys = len(query), len(keys_values)
        q = query.view(rows, self._heads, -1).transpose(0, 1)
        k, v = keys_values.view(keys, 2, self._heads, -1).permute(1, 2, 0, 3)
        bias = self._architecture.bias
        bias = None if bias is None else bias[:, first : first + rows, :keys]
        if self._dtype == torch.bfloat16:
            out = bfloat16_attention(q.contiguous(), k.contiguous(), v.contiguous(), bias)
        else:
            bias = None if bias is None else bias[None]
            out = functional.scaled_dot_product_attention(q[None], k[None], v[None], bias, scale=1.0)[0]
        return out.transpose(0, 1).reshape(rows, self._size)


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
        self._own: torch.Tensor | None = None  # the keys and values of the only lane
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

    def store_keys(self, layer: int, keys_values: torch.Tensor) -> None:
        """Store the lane's keys and values [rows, 2 * size], where all lanes read them."""
        if len(self._edges) == 2:  # no other lane reads them, so they need no copy
            self._own = keys_values
            return
        self._scratch[layer % 2, self.low : self.high] = keys_values
        # Only after the write: a lane that waits reads the scratch as soon as the progress advances.
        self._progress.advance(self._index)

    def load_keys(self, layer: int, window: tuple[int, int]) -> torch.Tensor:
        """Return the keys and values of a window, once all lanes that compute a part of it have stored theirs.

        Attention is bidirectional, so two lanes may wait for each other here. They cannot deadlock: each has stored its
        keys of this layer before it waits.
        """
        first, last = window
        if self._own is not None:
            return self._own[first:last]
        spans = enumerate(pairwise(self._edges))
        others = [lane for lane, (low, high) in spans if low < last and high > first and lane != self._index]
        if others:
            self._progress.wait_for(others, layer)
        return self._scratch[layer % 2, first:last]
