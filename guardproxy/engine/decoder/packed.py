"""One forward pass over many prompts without padding: which tokens are computed, and what each may attend to.

The tokens to compute are segments in one row, depth first: a segment attends to itself, to the segments above it, and
to kept keys and values at the top. So every block of keys is seen by one contiguous range of queries, and a policy
text that all checks share is one product. The parts of a token's attention are merged by their log-sum-exp.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch

from guardproxy.engine.lanes import Progress

NAME = "guardproxy_packed"
# A segment is not cut this close to its ends: a verdict is read there, and short pieces gain nothing.
_LEAST = 16


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Keys and values of positions [low, high) of a buffer [layers, 2, kv heads, capacity, head size]."""

    buffer: torch.Tensor = field(repr=False)
    low: int
    high: int

    def of(self, layer: int) -> torch.Tensor:
        """Keys and values of one layer: [2, kv heads, tokens, head size]."""
        return self.buffer[layer, :, :, self.low : self.high]


@dataclass(slots=True, eq=False)
class Segment:
    """A run of tokens to compute behind `parent`, or behind `past` where there is none.

    `positions` are absolute. A tree of continuations has `mask` [tokens, earlier + tokens], additive: which of the
    `earlier` tokens of the tree and of its own each sees; None is causal.
    `offset` is its place in the row, once laid out.
    """

    tokens: list[int]
    positions: list[int]
    parent: "Segment | None" = None
    past: tuple[Span, ...] = ()
    mask: torch.Tensor | None = None
    earlier: Span | None = None
    children: "list[Segment]" = field(default_factory=list)
    offset: int = -1
    below: int = -1  # end of its subtree in the row
    joined: bool = False  # goes on where its parent was cut; the parent has no other child

    @property
    def stop(self) -> int:
        return self.offset + len(self.tokens)

    @property
    def size(self) -> int:
        """Tokens of it and of all below."""
        return len(self.tokens) + sum(child.size for child in self.children)

    def chain(self) -> "list[Segment]":
        """The segments from the top to this one."""
        return [*(self.parent.chain() if self.parent else []), self]


@dataclass(frozen=True, slots=True)
class Block:
    """Keys that the queries [first, last) all see in full: of `span`, or the row's own [low, high)."""

    first: int
    last: int
    span: Span | None = None
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class Own:
    """A segment's attention to itself: rows [low, high), causal, or by `mask` over `earlier` and itself."""

    low: int
    high: int
    mask: torch.Tensor | None = None
    earlier: Span | None = None


@dataclass(slots=True)
class Plan:
    """A laid out pass. `scratch` receives the keys and values of the row: [layers, 2, kv heads, row, size].

    Lane k computes the rows [edges[k], edges[k + 1]).
    """

    tokens: list[int]
    positions: list[int]
    blocks: list[Block]
    owns: list[Own]
    edges: list[int]
    scratch: torch.Tensor
    kernel: "Kernel"

    def lanes(self, read: Sequence[int]) -> "list[Lane]":
        """The lanes of one pass over the plan that reads the rows `read` behind the last layer."""
        progress = Progress(len(self.edges) - 1)
        return [Lane(self, at, progress, read) for at in range(len(self.edges) - 1)]


class Lane:
    """What one thread computes of a plan: the rows [low, high), with who of them attends to what.

    Queries of `blocks` and keys count from the row's begin. `read`: its rows that are read behind the last layer.
    """

    def __init__(self, plan: Plan, index: int, progress: Progress, read: Sequence[int]) -> None:
        self.plan = plan
        self.index = index
        self.progress = progress
        self.low, self.high = low, high = plan.edges[index], plan.edges[index + 1]
        self.owns = [own for own in plan.owns if low <= own.low < high]
        cut = [replace(each, first=max(each.first, low), last=min(each.last, high)) for each in plan.blocks]
        # What other lanes compute comes last: it may be there by then.
        self.blocks = sorted((each for each in cut if each.first < each.last), key=lambda each: each.span is None)
        self.read = sorted({row for row in read if low <= row < high})
        self._last: list[Block] | None = None
        if all(own.mask is None for own in self.owns):  # of a tree of continuations nearly every row is read
            self._last = self._of_read()

    def asking(self, layer: int) -> "Asking":
        """Who attends to what at `layer`: at the last one only the rows that are read, where that is worth it."""
        if self._last is not None and layer == self.plan.scratch.shape[0] - 1:
            return Asking(
                torch.tensor(self.read, dtype=torch.long, device=self.plan.scratch.device) - self.low, self._last, [], 0
            )
        return Asking(None, self.blocks, self.owns, self.low)

    def _of_read(self) -> list[Block]:
        """The blocks of `read`, whose queries count as places in it."""
        own = {row: each.low for each in self.owns for row in self.read if each.low <= row < each.high}
        blocks = [Block(at, at + 1, None, own[row], row + 1) for at, row in enumerate(self.read)]
        for each in self.blocks:
            first, last = bisect_left(self.read, each.first), bisect_left(self.read, each.last)
            if first < last:
                blocks.append(replace(each, first=first, last=last))
        return blocks

    @property
    def tokens(self) -> list[int]:
        """The lane's part of the plan's tokens."""
        return self.plan.tokens[self.low : self.high]

    @property
    def positions(self) -> list[int]:
        """The lane's part of the plan's positions."""
        return self.plan.positions[self.low : self.high]

    def give(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put the lane's keys and values [kv heads, rows, size] where all lanes see them."""
        self.plan.scratch[layer, 0, :, self.low : self.high] = key
        self.plan.scratch[layer, 1, :, self.low : self.high] = value
        self.progress.gave(self.index)

    def keys(self, layer: int, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a block, once they are there."""
        if block.span is not None:
            keys, values = block.span.of(layer).unbind(0)
            return keys, values
        edges = self.plan.edges
        earlier = [at for at in range(self.index) if edges[at] < block.high and edges[at + 1] > block.low]
        if earlier:
            self.progress.wait(earlier, layer)
        keys, values = self.plan.scratch[layer, :, :, block.low : block.high].unbind(0)
        return keys, values


@dataclass(frozen=True, slots=True)
class Asking:
    """The rows of a lane that ask for attention (None: all), and what they attend to; queries count from `low`."""

    rows: torch.Tensor | None
    blocks: list[Block]
    owns: list[Own]
    low: int


class Kernel(Protocol):
    """Attention with its log-sum-exp: how a device does it."""

    def __call__(self, lane: Lane, layer: int, query: torch.Tensor, scale: float, cap: float) -> torch.Tensor:
        """[heads, rows, size] in, [rows, heads, size] out. `cap` is the softcap of the logits, 0 for none."""
        ...


def plan_of(
    roots: list[Segment], lanes: int, scratch: Callable[[int], torch.Tensor], kernel: Kernel, *, linear: int
) -> Plan:
    """Lay out the forest for at most so many lanes. Segments that a lane's edge falls in are cut, also in `roots`.

    A segment that is cut keeps its end; its beginning becomes its parent. `linear`: what a token costs beside its
    attention, as a number of keys to attend to.
    """
    order, blocks, owns = lay_out(roots)
    edges = [0, order[-1].stop]
    if lanes > 1:
        edges = _cut(order, roots, lanes, linear)
        order, blocks, owns = lay_out(roots)
    tokens = [token for segment in order for token in segment.tokens]
    positions = [position for segment in order for position in segment.positions]
    return Plan(tokens, positions, blocks, owns, edges, scratch(len(tokens)), kernel)


def _cut(order: Sequence[Segment], roots: list[Segment], lanes: int, linear: int) -> list[int]:
    """Cut the segments that the edges of `lanes` of like cost fall in, and say where the edges came to lie."""
    costs = list(accumulate(linear + position for segment in order for position in segment.positions))
    edges = {0, len(costs)}
    for at in range(lanes - 1, 0, -1):  # from behind: offsets before stay as they are
        wanted = bisect_left(costs, costs[-1] * at // lanes)
        segment = next(each for each in order if each.offset <= wanted < each.stop)
        first = wanted - segment.offset
        if segment.mask is not None or min(first, len(segment.tokens) - first) < _LEAST:
            edges.add(segment.offset if 2 * first < segment.stop - segment.offset else segment.stop)
            continue
        head = Segment(segment.tokens[:first], segment.positions[:first], segment.parent, segment.past)
        head.offset, head.children, head.joined = segment.offset, [segment], segment.joined
        family = segment.parent.children if segment.parent else roots
        family[next(at for at, each in enumerate(family) if each is segment)] = head
        segment.tokens, segment.positions = segment.tokens[first:], segment.positions[first:]
        segment.parent, segment.past, segment.joined, segment.offset = head, (), True, wanted
        order = [*order, head]
        edges.add(wanted)
    return sorted(edges)


def lay_out(roots: Sequence[Segment]) -> tuple[list[Segment], list[Block], list[Own]]:
    """Give every segment its place in the row: the segments in order, and who attends to what."""
    order: list[Segment] = []
    split = _split_pasts(roots)
    blocks: list[Block] = []
    at = 0
    ranked = sorted(roots, key=lambda root: [(id(span.buffer), span.low, span.high) for span in split[id(root)]])
    starts: list[int] = []
    for root in ranked:
        starts.append(at)
        at = _place(root, at, order, blocks)
    starts.append(at)
    _share([split[id(root)] for root in ranked], starts, 0, blocks)
    owns = [Own(segment.offset, segment.stop, segment.mask, segment.earlier) for segment in order]
    return order, blocks, owns


def _place(segment: Segment, at: int, order: list[Segment], blocks: list[Block]) -> int:
    segment.offset = at
    order.append(segment)
    at = segment.stop
    for child in segment.children:
        at = _place(child, at, order, blocks)
    segment.below = at
    if segment.children:
        blocks.append(Block(segment.stop, at, None, segment.offset, segment.stop))
    return at


def _split_pasts(roots: Sequence[Segment]) -> dict[int, list[Span]]:
    """Each root's past, cut where any other root's use of the same buffer begins or ends."""
    cuts: dict[int, set[int]] = {}
    for root in roots:
        for span in root.past:
            cuts.setdefault(id(span.buffer), set()).update((span.low, span.high))
    out: dict[int, list[Span]] = {}
    for root in roots:
        parts: list[Span] = []
        for span in root.past:
            edges = sorted(cut for cut in cuts[id(span.buffer)] if span.low <= cut <= span.high)
            parts += [Span(span.buffer, low, high) for low, high in pairwise(edges)]
        out[id(root)] = parts
    return out


def _share(pasts: Sequence[Sequence[Span]], starts: Sequence[int], depth: int, blocks: list[Block]) -> None:
    """One block for each kept span and the neighbouring roots that see it."""
    index = 0
    while index < len(pasts):
        if depth >= len(pasts[index]):
            index += 1
            continue
        span = pasts[index][depth]
        last = index
        while last < len(pasts) and depth < len(pasts[last]) and _same(pasts[last][depth], span):
            last += 1
        blocks.append(Block(starts[index], starts[last], span))
        _share(pasts[index:last], starts[index : last + 1], depth + 1, blocks)
        index = last


def _same(a: Span, b: Span) -> bool:
    return a.buffer is b.buffer and a.low == b.low and a.high == b.high


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    lane: Lane,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers' modules call: [1, heads, rows, size] in, [1, rows, heads, size] out."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    lane.give(layer, key[0], value[0])
    return lane.plan.kernel(lane, layer, query[0], scaling, softcap or 0.0)[None], None


def blockwise(lane: Lane, layer: int, query: torch.Tensor, scale: float, cap: float) -> torch.Tensor:
    """The kernel for every device: block by block; grouped query heads share their keys without a copy."""
    asking = lane.asking(layer)
    heads, every, size = query.shape
    if asking.rows is not None:
        query = query[:, asking.rows]
    rows = query.shape[1]
    mine = lane.plan.scratch[layer]
    shared = mine.shape[1]
    query = query.view(shared, heads // shared, rows, size)
    out = query.new_zeros(rows, shared, heads // shared, size).permute(1, 2, 0, 3)
    total = query.new_full((shared, heads // shared, rows), -torch.inf)
    for own in asking.owns:
        part = slice(own.low - asking.low, own.high - asking.low)
        keys, values = mine[:, :, own.low : own.high].unbind(0)
        if own.earlier is not None:
            before = own.earlier.of(layer)
            keys, values = torch.cat((before[0], keys), 1), torch.cat((before[1], values), 1)
        got, weight = attend(query[:, :, part], keys, values, scale, cap, causal=own.mask is None, mask=own.mask)
        out[:, :, part], total[:, :, part] = got, weight
    for block in asking.blocks:
        part = slice(block.first - asking.low, block.last - asking.low)
        keys, values = lane.keys(layer, block)
        # All see all: the heads that share keys become rows of one larger product.
        asked = query[:, :, part]
        got, weight = attend(asked.flatten(1, 2)[:, None], keys, values, scale, cap)
        got, weight = got.view(asked.shape), weight.reshape(asked.shape[:-1])
        known = total[:, :, part]
        out[:, :, part].lerp_(got, torch.sigmoid(weight - known)[..., None])
        total[:, :, part] = torch.logaddexp(known, weight)
    out = out.permute(2, 0, 1, 3).flatten(1, 2)
    return out if asking.rows is None else out.new_zeros((every, heads, size)).index_copy_(0, asking.rows, out)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    cap: float,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of [groups, heads, n, size] over [groups, m, size], and its log-sum-exp [groups, heads, n]."""
    key, value = key[:, None].expand(-1, query.shape[1], -1, -1), value[:, None].expand(-1, query.shape[1], -1, -1)
    if not cap and query.device.type == "cpu" and query.dtype == torch.float32:
        # The public function does not return the log-sum-exp that merging needs.
        got, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return got, weight
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if cap:
        scores = torch.tanh(scores / cap) * cap
    if causal:
        size = scores.shape[-1]
        scores = scores.masked_fill(torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(1), -torch.inf)
    if mask is not None:
        scores = scores + mask
    weight = torch.logsumexp(scores, -1)
    return (torch.exp(scores - weight[..., None]).to(value.dtype) @ value), weight
