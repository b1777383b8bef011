"""The layout of a packed pass: many prompts in one row without padding, and the keys that each token attends to.

The tokens to compute are a forest of segments, laid out depth first: a segment attends to itself, to the segments above
it, and to cached keys and values before the root. This order makes the queries of every block of keys one contiguous
range, so a policy text that all checks share is one matrix product. attention.py computes the layout's attention.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Protocol

import torch

from guardproxy.engine.lanes import LayerProgress

# The least tokens between a cut and an end of its segment: a verdict is read there, and short pieces gain nothing.
_MIN_PIECE = 16


@dataclass(frozen=True, slots=True, eq=False)
class KVSpan:
    """Keys and values of positions [low, high) of a buffer [layers, 2, kv heads, capacity, head size]."""

    buffer: torch.Tensor = field(repr=False)
    low: int
    high: int

    def of(self, layer: int) -> torch.Tensor:
        """Keys and values of one layer: [2, kv heads, tokens, head size]."""
        return self.buffer[layer, :, :, self.low : self.high]


@dataclass(slots=True, eq=False)
class Segment:
    """A run of tokens to compute behind `parent`, or for a root behind the cached `past`.

    `positions` are absolute. A tree of continuations has an additive `mask` [tokens, earlier + tokens], because its
    tokens see only their own branch; `earlier` holds its tokens of previous passes. Without a mask attention is causal.
    `offset` is the segment's first row, once laid out. A segment with `cut` continues where a lane's edge cut its
    parent, whose only child it is.
    """

    tokens: list[int]
    positions: list[int]
    parent: "Segment | None" = None
    past: tuple[KVSpan, ...] = ()
    mask: torch.Tensor | None = None
    earlier: KVSpan | None = None
    children: "list[Segment]" = field(default_factory=list)
    offset: int = -1
    cut: bool = False

    @property
    def stop(self) -> int:
        """The row behind the segment's last."""
        return self.offset + len(self.tokens)

    @property
    def size(self) -> int:
        """Tokens of the segment and of its whole subtree."""
        return len(self.tokens) + sum(child.size for child in self.children)

    def chain(self) -> "list[Segment]":
        """The segments from the root to this one."""
        return [*(self.parent.chain() if self.parent else []), self]


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """Keys that all queries in [first, last) see in full: the keys of `span`, or of the row's tokens [low, high)."""

    first: int
    last: int
    span: KVSpan | None = None
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class DiagonalBlock:
    """The attention of a segment, rows [low, high), to itself: causal, or by `mask` over `earlier` and itself."""

    low: int
    high: int
    mask: torch.Tensor | None = None
    earlier: KVSpan | None = None


@dataclass(slots=True)
class PassPlan:
    """A pass that is laid out. `scratch` receives the keys and values of the row: [layers, 2, kv heads, row, size].

    Lane k computes the rows [edges[k], edges[k + 1]).
    """

    tokens: list[int]
    positions: list[int]
    key_blocks: list[KeyBlock]
    diagonal_blocks: list[DiagonalBlock]
    edges: list[int]
    scratch: torch.Tensor
    kernel: "AttentionKernel"

    def lanes(self, selected: Sequence[int]) -> "list[DecoderLane]":
        """The lanes of the pass, when the rows `selected` are read behind the last layer."""
        progress = LayerProgress(len(self.edges) - 1)
        return [DecoderLane(self, index, progress, selected) for index in range(len(self.edges) - 1)]


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """The rows of a lane that need attention (None: all), and their blocks, whose queries count from row `low`."""

    rows: torch.Tensor | None
    key_blocks: list[KeyBlock]
    diagonal_blocks: list[DiagonalBlock]
    low: int


class DecoderLane:
    """The part of a pass that one thread computes: the rows [low, high), and the blocks that these rows attend to.

    Rows, and the queries and keys of blocks, count from the start of the packed row. `selected` are the lane's rows
    that are read behind the last layer.
    """

    def __init__(self, plan: PassPlan, index: int, progress: LayerProgress, selected: Sequence[int]) -> None:
        self.plan = plan
        self.index = index
        self.progress = progress
        self.low, self.high = low, high = plan.edges[index], plan.edges[index + 1]
        # No segment crosses an edge (`_cut`), so a diagonal block belongs to one lane and needs no other lane's keys.
        self.diagonal_blocks = [block for block in plan.diagonal_blocks if low <= block.low < high]
        clipped = [replace(block, first=max(block.first, low), last=min(block.last, high)) for block in plan.key_blocks]
        # Cached keys first: by the time that they are done, the other lanes may have stored the rest.
        self.key_blocks = sorted(
            (block for block in clipped if block.first < block.last), key=lambda block: block.span is None
        )
        self.selected = sorted({row for row in selected if low <= row < high})
        self._last_layer: list[KeyBlock] | None = None
        # A tree of continuations has a mask and reads nearly every row: there is nothing to save in its last layer.
        if all(block.mask is None for block in self.diagonal_blocks):
            self._last_layer = self._blocks_of_selected()

    def attention_rows(self, layer: int) -> AttentionRows:
        """The attention to compute at `layer`: in the last layer only for the selected rows, if that saves work."""
        scratch = self.plan.scratch
        if self._last_layer is not None and layer == scratch.shape[0] - 1:
            rows = torch.tensor(self.selected, dtype=torch.long, device=scratch.device) - self.low
            return AttentionRows(rows, self._last_layer, [], 0)
        return AttentionRows(None, self.key_blocks, self.diagonal_blocks, self.low)

    def _blocks_of_selected(self) -> list[KeyBlock]:
        """The blocks of the selected rows; their queries are indices into `selected`.

        A row attends to its own segment up to itself, which is a block of keys that it sees in full, so no diagonal
        block is left.
        """
        starts = {
            row: block.low for block in self.diagonal_blocks for row in self.selected if block.low <= row < block.high
        }
        blocks = [KeyBlock(index, index + 1, None, starts[row], row + 1) for index, row in enumerate(self.selected)]
        for block in self.key_blocks:
            first, last = bisect_left(self.selected, block.first), bisect_left(self.selected, block.last)
            if first < last:
                blocks.append(replace(block, first=first, last=last))
        return blocks

    @property
    def tokens(self) -> list[int]:
        """The lane's part of the plan's tokens."""
        return self.plan.tokens[self.low : self.high]

    @property
    def positions(self) -> list[int]:
        """The lane's part of the plan's positions."""
        return self.plan.positions[self.low : self.high]

    def store_keys(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store the lane's keys and values [kv heads, rows, size], where all lanes read them."""
        self.plan.scratch[layer, 0, :, self.low : self.high] = key
        self.plan.scratch[layer, 1, :, self.low : self.high] = value
        # Only after both writes: a lane that waits reads the scratch as soon as the progress advances.
        self.progress.advance(self.index)

    def load_keys(self, layer: int, block: KeyBlock) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of a block, once the lanes that compute them have stored them."""
        if block.span is not None:
            keys, values = block.span.of(layer).unbind(0)
            return keys, values
        # Keys lie before their queries in the row, so a lane waits for earlier lanes only: no two wait for each other.
        edges = self.plan.edges
        earlier = [lane for lane in range(self.index) if edges[lane] < block.high and edges[lane + 1] > block.low]
        if earlier:
            self.progress.wait_for(earlier, layer)
        keys, values = self.plan.scratch[layer, :, :, block.low : block.high].unbind(0)
        return keys, values


class AttentionKernel(Protocol):
    """Attention over the blocks of a lane, as a device computes it."""

    def __call__(self, lane: DecoderLane, layer: int, query: torch.Tensor, scale: float, cap: float) -> torch.Tensor:
        """[heads, rows, size] in, [rows, heads, size] out. `cap` is the softcap of the logits, 0 for none."""
        ...


def plan_pass(
    roots: list[Segment], lanes: int, scratch: Callable[[int], torch.Tensor], kernel: AttentionKernel, *, linear: int
) -> PassPlan:
    """Lay out the forest for at most `lanes` lanes; `scratch(rows)` allocates the buffer for keys and values.

    Segments that a lane's edge falls in are cut, also in `roots`. A segment that is cut stays the object of its own
    end, and its beginning becomes a new parent. `linear` is the cost of a token without attention, as a number of keys
    to attend to.
    """
    order, key_blocks, diagonal_blocks = lay_out(roots)
    edges = [0, order[-1].stop]
    if lanes > 1:
        edges = _cut(order, roots, lanes, linear)
        order, key_blocks, diagonal_blocks = lay_out(roots)
    tokens = [token for segment in order for token in segment.tokens]
    positions = [position for segment in order for position in segment.positions]
    return PassPlan(tokens, positions, key_blocks, diagonal_blocks, edges, scratch(len(tokens)), kernel)


def _cut(order: Sequence[Segment], roots: list[Segment], lanes: int, linear: int) -> list[int]:
    """Cut the segments that the edges of `lanes` lanes of similar cost fall in; return the edges.

    An edge moves to the nearer end of its segment when the segment has a mask, whose rows belong together, or when a
    piece would be too short.
    """
    # A token attends to as many keys as its position says.
    costs = list(accumulate(linear + position for segment in order for position in segment.positions))
    edges = {0, len(costs)}
    for lane in range(lanes - 1, 0, -1):  # last edge first: a cut leaves the offsets before it as they are
        wanted = bisect_left(costs, costs[-1] * lane // lanes)
        segment = next(candidate for candidate in order if candidate.offset <= wanted < candidate.stop)
        first = wanted - segment.offset
        if segment.mask is not None or min(first, len(segment.tokens) - first) < _MIN_PIECE:
            edges.add(segment.offset if 2 * first < segment.stop - segment.offset else segment.stop)
            continue
        head = Segment(segment.tokens[:first], segment.positions[:first], segment.parent, segment.past)
        head.offset, head.children, head.cut = segment.offset, [segment], segment.cut
        siblings = segment.parent.children if segment.parent else roots
        # Segments compare by identity (eq=False), so index() finds this one and not one with the same tokens.
        siblings[siblings.index(segment)] = head
        # The object keeps its end, because checks hold it as the segment in which their prompt ends.
        segment.tokens, segment.positions = segment.tokens[first:], segment.positions[first:]
        segment.parent, segment.past, segment.cut, segment.offset = head, (), True, wanted
        order = [*order, head]
        edges.add(wanted)
    return sorted(edges)


def lay_out(roots: Sequence[Segment]) -> tuple[list[Segment], list[KeyBlock], list[DiagonalBlock]]:
    """Set the offset of every segment; return the segments in row order, and the blocks that they attend to."""
    order: list[Segment] = []
    pasts = _split_pasts(roots)
    key_blocks: list[KeyBlock] = []
    end = 0
    # Sorted by their pasts, roots that share cached keys are neighbours, and their queries one range.
    ranked = sorted(roots, key=lambda root: [(id(span.buffer), span.low, span.high) for span in pasts[id(root)]])
    starts: list[int] = []
    for root in ranked:
        starts.append(end)
        end = _place(root, end, order, key_blocks)
    starts.append(end)
    _add_past_blocks([pasts[id(root)] for root in ranked], starts, 0, key_blocks)
    diagonal_blocks = [DiagonalBlock(segment.offset, segment.stop, segment.mask, segment.earlier) for segment in order]
    return order, key_blocks, diagonal_blocks


def _place(segment: Segment, offset: int, order: list[Segment], key_blocks: list[KeyBlock]) -> int:
    """Place a subtree from row `offset` on; return the row behind it."""
    segment.offset = offset
    order.append(segment)
    end = segment.stop
    for child in segment.children:
        end = _place(child, end, order, key_blocks)
    if segment.children:
        # Depth first, the whole subtree lies right behind the segment: one range of queries for its keys.
        key_blocks.append(KeyBlock(segment.stop, end, None, segment.offset, segment.stop))
    return end


def _split_pasts(roots: Sequence[Segment]) -> dict[int, list[KVSpan]]:
    """Each root's past by id(root), cut wherever another root's part of the same buffer begins or ends.

    Afterwards two spans of a buffer are equal or disjoint, so shared keys can be found by comparing spans.
    """
    cuts: dict[int, set[int]] = {}
    for root in roots:
        for span in root.past:
            cuts.setdefault(id(span.buffer), set()).update((span.low, span.high))
    out: dict[int, list[KVSpan]] = {}
    for root in roots:
        parts: list[KVSpan] = []
        for span in root.past:
            edges = sorted(cut for cut in cuts[id(span.buffer)] if span.low <= cut <= span.high)
            parts += [KVSpan(span.buffer, low, high) for low, high in pairwise(edges)]
        out[id(root)] = parts
    return out


def _add_past_blocks(
    pasts: Sequence[Sequence[KVSpan]], starts: Sequence[int], depth: int, key_blocks: list[KeyBlock]
) -> None:
    """Add one block for each cached span and the neighbouring roots that see it. Root k begins at row starts[k]."""
    index = 0
    while index < len(pasts):
        if depth >= len(pasts[index]):
            index += 1
            continue
        span = pasts[index][depth]
        last = index
        while last < len(pasts) and depth < len(pasts[last]) and _same(pasts[last][depth], span):
            last += 1
        key_blocks.append(KeyBlock(starts[index], starts[last], span))
        _add_past_blocks(pasts[index:last], starts[index : last + 1], depth + 1, key_blocks)
        index = last


def _same(a: KVSpan, b: KVSpan) -> bool:
    return a.buffer is b.buffer and a.low == b.low and a.high == b.high
