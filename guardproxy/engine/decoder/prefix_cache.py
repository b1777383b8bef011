"""The prefix cache: keys and values of policy texts, conversations and streams, found by their tokens.

A tree of token runs. A child starts at an absolute position inside its parent, and a path that matches a prompt's
tokens has the keys and values of that prefix. Its size in bytes is bounded: the least recently used leaf is evicted
first. Evicted state is computed again, so eviction costs time and never changes a reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from guardproxy.engine.decoder.packed import KVSpan

# A reply that grows changes up to this many of its last tokens, because they merge with the text that follows.
_MERGED_TOKENS = 8
# The least capacity, in tokens, to add when a node's buffer is enlarged.
_GROWTH = 64


@dataclass(slots=True, eq=False)
class PrefixNode:
    """Tokens at positions [start, end) behind `parent`. `kv` is [layers, 2, kv heads, capacity, head size].

    A `fixed` node (a policy text) never changes. `used` is the time of the last use, in lookups.
    """

    start: int
    tokens: list[int]
    kv: torch.Tensor = field(repr=False)
    parent: "PrefixNode | None" = field(repr=False)
    fixed: bool = False
    used: int = 0
    children: "list[PrefixNode]" = field(default_factory=list, repr=False)

    @property
    def end(self) -> int:
        """The position behind the last token."""
        return self.start + len(self.tokens)

    @property
    def size(self) -> int:
        """Bytes of the whole buffer, unused capacity included."""
        return self.kv.numel() * self.kv.element_size()


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """The longest cached prefix of a prompt: nodes from the root, each up to an absolute position."""

    path: tuple[tuple[PrefixNode, int], ...] = ()

    @property
    def length(self) -> int:
        """Tokens matched."""
        return self.path[-1][1] if self.path else 0

    @property
    def tail(self) -> PrefixNode | None:
        """The last node of the path."""
        return self.path[-1][0] if self.path else None

    def spans(self) -> tuple[KVSpan, ...]:
        """The keys and values of the prefix."""
        return tuple(KVSpan(node.kv, 0, end - node.start) for node, end in self.path)


class PrefixCache:
    """The cached state of one model, at most `budget` bytes after `evict`. Only the worker's thread uses it."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._roots: dict[str, list[PrefixNode]] = {}
        self._clock = 0
        self._streams: dict[str, PrefixNode] = {}

    def find(self, key: str, ids: Sequence[int], limit: int) -> PrefixMatch:
        """Find the longest cached prefix of `ids` under `key`, up to `limit` tokens, and mark it as just used."""
        self._clock += 1
        path: list[tuple[PrefixNode, int]] = []
        matched, candidates = 0, self._roots.get(key, [])
        while True:
            best, reach = None, matched
            for node in candidates:
                # A child may start inside its parent, before the end of the match: a turn may have two continuations.
                if node.start <= matched:
                    upto = min(limit, node.start + common_length(ids[node.start : limit], node.tokens))
                    if upto > reach:
                        best, reach = node, upto
            if best is None:
                break
            if path:
                path[-1] = (path[-1][0], best.start)  # the parent counts only up to where its child starts
            path.append((best, reach))
            matched, candidates = reach, best.children
        for node, _ in path:
            node.used = self._clock
        return PrefixMatch(tuple(path))

    def insert(self, key: str, match: PrefixMatch, tokens: list[int], kv: torch.Tensor, *, fixed: bool) -> PrefixMatch:
        """Cache `tokens` and their `kv` [layers, 2, kv heads, tokens, head size] behind `match`; return their path.

        The end of a conversation grows in place. A `fixed` node (a policy text) never changes, so that all its checks
        share it as one block.
        """
        tail, start = match.tail, match.length
        if tail is not None and not fixed and not tail.fixed and self._can_grow(tail, start):
            del tail.tokens[start - tail.start :]
            tail.kv = _with_capacity(tail.kv, len(tail.tokens), len(tokens))
            tail.kv[:, :, :, len(tail.tokens) : len(tail.tokens) + len(tokens)] = kv
            tail.tokens.extend(tokens)
            return PrefixMatch((*match.path[:-1], (tail, tail.end)))
        # A copy: `kv` is a view of the pass's scratch buffer, all of which it would keep alive.
        node = PrefixNode(start, list(tokens), kv.clone(), tail, fixed, self._clock)
        (tail.children if tail is not None else self._roots.setdefault(key, [])).append(node)
        return PrefixMatch((*match.path, (node, node.end)))

    def assign_stream(self, stream: str, match: PrefixMatch) -> None:
        """Remember that the last node of `match` belongs to a stream."""
        if match.tail is not None and not match.tail.fixed:
            self._streams[stream] = match.tail

    def forget(self, stream: str) -> None:
        """Make the state of a stream that has ended the first to be evicted; the next turn may use it until then."""
        node = self._streams.pop(stream, None)
        if node is not None:
            node.used = 0

    def evict(self) -> None:
        """Drop the least recently used leaves until the cache is within its budget."""
        nodes = self._nodes()
        total = sum(node.size for node in nodes)
        if total <= self._budget:
            return
        # Leaves only: a node's keys are useless without its parents' keys.
        leaves = sorted((node for node in nodes if not node.children), key=lambda node: -node.used)
        while total > self._budget and leaves:
            node = leaves.pop()
            total -= node.size
            self._drop(node)
            if node.parent is not None and not node.parent.children:
                leaves.append(node.parent)
                leaves.sort(key=lambda leaf: -leaf.used)

    def clear(self) -> None:
        """Drop everything."""
        self._roots.clear()
        self._streams.clear()

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(node.size for node in self._nodes())

    def _can_grow(self, tail: PrefixNode, start: int) -> bool:
        """Whether `tail` may change from position `start` on: little is lost, and no child depends on it."""
        return tail.end - start <= _MERGED_TOKENS and all(child.start <= start for child in tail.children)

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
        for node in out:  # the list grows while the loop walks it, so this visits all descendants
            out.extend(node.children)
        return out


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix, by bisection: comparing slices is faster than a loop over tokens."""
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


def _with_capacity(kv: torch.Tensor, used: int, more: int) -> torch.Tensor:
    """`kv` with capacity for `more` tokens behind `used`, at least doubled: a growing reply is copied seldom."""
    if used + more <= kv.shape[3]:
        return kv
    wide = kv.new_empty((*kv.shape[:3], max(2 * used, used + more + _GROWTH), kv.shape[4]))
    wide[:, :, :, :used] = kv[:, :, :, :used]
    return wide
