"""Keys and values kept between passes: policy texts, conversations and streams, by their tokens.

A tree of token runs. A child hangs at an absolute position inside its parent, and a path that matches a prompt's
tokens gives the keys and values of that prefix. Bounded in bytes; the least recently used leaf goes first. What was
evicted is computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

# A reply that grows changes its last few tokens, because they merge with what comes: up to this many are cut off.
_SEAM = 8
_GROWTH = 64


@dataclass(slots=True, eq=False)
class PrefixNode:
    """Tokens at positions [start, end) behind `parent`. `kv` is [layers, 2, kv heads, capacity, head size]."""

    start: int
    tokens: list[int]
    kv: torch.Tensor = field(repr=False)
    parent: "PrefixNode | None" = field(repr=False)
    fixed: bool = False
    used: int = 0
    children: "list[PrefixNode]" = field(default_factory=list, repr=False)

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def size(self) -> int:
        return self.kv.numel() * self.kv.element_size()


@dataclass(frozen=True, slots=True)
class Match:
    """The longest known prefix: nodes from the root, each up to an absolute position."""

    path: tuple[tuple[PrefixNode, int], ...] = ()

    @property
    def length(self) -> int:
        """Tokens matched."""
        return self.path[-1][1] if self.path else 0

    @property
    def tail(self) -> PrefixNode | None:
        """The last node of the path."""
        return self.path[-1][0] if self.path else None


class PrefixCache:
    """The kept state of one model. Used by the worker's thread alone."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._roots: dict[str, list[PrefixNode]] = {}
        self._clock = 0
        self._streams: dict[str, PrefixNode] = {}

    def find(self, key: str, ids: Sequence[int], most: int) -> Match:
        """The longest kept prefix of `ids` under `key`, of at most `most` tokens; it becomes recently used."""
        self._clock += 1
        path: list[tuple[PrefixNode, int]] = []
        matched, near = 0, self._roots.get(key, [])
        while True:
            best, reach = None, matched
            for node in near:
                if node.start <= matched:
                    upto = min(most, node.start + common(ids[node.start : most], node.tokens))
                    if upto > reach:
                        best, reach = node, upto
            if best is None:
                break
            if path:
                path[-1] = (path[-1][0], best.start)
            path.append((best, reach))
            matched, near = reach, best.children
        for node, _ in path:
            node.used = self._clock
        return Match(tuple(path))

    def keep(self, key: str, match: Match, tokens: list[int], kv: torch.Tensor, *, fixed: bool) -> Match:
        """Keep `tokens` and their `kv` [layers, 2, kv heads, tokens, head size] behind `match`: the path to them.

        The end of a conversation grows in place. A `fixed` node (a policy text) never changes, so that all its
        checks share it as one block.
        """
        tail, at = match.tail, match.length
        if tail is not None and not fixed and not tail.fixed and self._grows(tail, at):
            del tail.tokens[at - tail.start :]
            tail.kv = _room(tail.kv, len(tail.tokens), len(tokens))
            tail.kv[:, :, :, len(tail.tokens) : len(tail.tokens) + len(tokens)] = kv
            tail.tokens.extend(tokens)
            return Match((*match.path[:-1], (tail, tail.end)))
        node = PrefixNode(at, list(tokens), kv.clone(), tail, fixed, self._clock)
        (tail.children if tail is not None else self._roots.setdefault(key, [])).append(node)
        return Match((*match.path, (node, node.end)))

    def tag(self, stream: str, match: Match) -> None:
        """Remember which state belongs to a stream."""
        if match.tail is not None and not match.tail.fixed:
            self._streams[stream] = match.tail

    def forget(self, stream: str) -> None:
        """A stream has ended: its state is the first to go. Until then the conversation's next turn may use it."""
        node = self._streams.pop(stream, None)
        if node is not None:
            node.used = 0

    def shrink(self) -> None:
        """Drop what was used least recently until the budget holds."""
        nodes = self._nodes()
        total = sum(node.size for node in nodes)
        if total <= self._budget:
            return
        leaves = sorted((node for node in nodes if not node.children), key=lambda node: -node.used)
        while total > self._budget and leaves:
            node = leaves.pop()
            total -= node.size
            self._drop(node)
            if node.parent is not None and not node.parent.children:
                leaves.append(node.parent)
                leaves.sort(key=lambda each: -each.used)

    def clear(self) -> None:
        """Drop everything."""
        self._roots.clear()
        self._streams.clear()

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(node.size for node in self._nodes())

    def _grows(self, tail: PrefixNode, at: int) -> bool:
        return tail.end - at <= _SEAM and all(child.start <= at for child in tail.children)

    def _drop(self, node: PrefixNode) -> None:
        if node.parent is not None:
            node.parent.children.remove(node)
        for roots in self._roots.values():
            if node in roots:
                roots.remove(node)
        for stream in [name for name, held in self._streams.items() if held is node]:
            del self._streams[stream]

    def _nodes(self) -> list[PrefixNode]:
        out = [node for roots in self._roots.values() for node in roots]
        for node in out:  # grows while it is walked
            out.extend(node.children)
        return out


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] == b[:low], a[:high] != b[:high]
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _room(kv: torch.Tensor, used: int, more: int) -> torch.Tensor:
    """`kv` with capacity for `more` tokens behind `used`, doubled so that a growing reply is copied seldom."""
    if used + more <= kv.shape[3]:
        return kv
    wide = kv.new_empty((*kv.shape[:3], max(2 * used, used + more + _GROWTH), kv.shape[4]))
    wide[:, :, :, :used] = kv[:, :, :, :used]
    return wide
