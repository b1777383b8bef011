"""One forward pass over many prompts without padding: which tokens are computed, and what each may attend to.

The tokens to compute are segments in one row, depth first: a segment attends to itself, to the segments above it, and
to kept keys and values at the top. So every block of keys is seen by one contiguous range of queries, and a policy
text that all checks share is one product. The parts of a token's attention are merged by their log-sum-exp.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch

NAME = "guardproxy_packed"


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

    @property
    def stop(self) -> int:
        return self.offset + len(self.tokens)

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


class Kernel(Protocol):
    """Attention with its log-sum-exp: how a device does it."""

    def __call__(
        self, plan: "Plan", layer: int, qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor], scale: float, cap: float
    ) -> torch.Tensor:
        """[heads, row, size] of each in, [row, heads, size] out. `cap` is the softcap of the logits, 0 for none."""
        ...


@dataclass(slots=True)
class Plan:
    """A laid out pass. `scratch` receives the keys and values of the row: [layers, 2, kv heads, row, size]."""

    tokens: list[int]
    positions: list[int]
    blocks: list[Block]
    owns: list[Own]
    scratch: torch.Tensor
    kernel: Kernel


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


class ReadRows(torch.nn.Module):
    """A feed-forward part of the last layer, computed for the rows that are read; the others stay zero."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._thread = threading.local()

    def read(self, rows: torch.Tensor) -> None:
        """The rows that the next pass of this thread reads."""
        self._thread.rows = rows

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, row, size] in and out."""
        rows: torch.Tensor = self._thread.rows
        some: torch.Tensor = self.inner(hidden[:, rows])
        return hidden.new_zeros((1, hidden.shape[1], some.shape[-1])).index_copy_(1, rows, some)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    plan: Plan,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers' modules call: [1, heads, row, size] in, [1, row, heads, size] out."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    plan.scratch[layer, 0].copy_(key[0])
    plan.scratch[layer, 1].copy_(value[0])
    return plan.kernel(plan, layer, (query[0], key[0], value[0]), scaling, softcap or 0.0)[None], None


def cpu_kernel(
    plan: Plan, layer: int, qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor], scale: float, cap: float
) -> torch.Tensor:
    """Blockwise attention on the CPU; grouped query heads share their keys without a copy."""
    query, key, value = qkv
    heads, row, size = query.shape
    shared = key.shape[0]
    query = query.view(shared, heads // shared, row, size)
    out = query.new_empty(row, shared, heads // shared, size).permute(1, 2, 0, 3)
    total = query.new_empty(shared, heads // shared, row)
    for own in plan.owns:
        part = slice(own.low, own.high)
        causal = own.mask is None
        keys, values = key[:, part], value[:, part]
        if own.earlier is not None:
            before = own.earlier.of(layer)
            keys, values = torch.cat((before[0], keys), 1), torch.cat((before[1], values), 1)
        got, weight = attend(query[:, :, part], keys, values, scale, cap, causal=causal, mask=own.mask)
        out[:, :, part], total[:, :, part] = got, weight
    for block in plan.blocks:
        rows = slice(block.first, block.last)
        if block.span is None:
            keys, values = key[:, block.low : block.high], value[:, block.low : block.high]
        else:
            keys, values = block.span.of(layer).unbind(0)
        # All see all: the heads that share keys become rows of one larger product.
        asked = query[:, :, rows]
        got, weight = attend(asked.flatten(1, 2)[:, None], keys, values, scale, cap)
        got, weight = got.view(asked.shape), weight.reshape(asked.shape[:-1])
        known = total[:, :, rows]
        out[:, :, rows].lerp_(got, torch.sigmoid(weight - known)[..., None])
        total[:, :, rows] = torch.logaddexp(known, weight)
    return out.permute(2, 0, 1, 3).flatten(1, 2)


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
