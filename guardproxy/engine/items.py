"""The checks of a batch while they are read: what of each is known, and which segments are to be computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from guardproxy.engine.grammar import Grammar, Search, State
from guardproxy.engine.packed import Plan, Segment, Span
from guardproxy.engine.prompts import Script
from guardproxy.engine.runner import Done
from guardproxy.engine.store import Match, common
from guardproxy.ports import Reading

# Fewer common tokens than this are cheaper to compute twice than to share.
_SHARE = 8


@dataclass(slots=True)
class Tree:
    """The label lists of one check that were computed: the place of each by its tokens, its parent's, and their keys.

    `kv` is [layers, 2, kv heads, places, head size].
    """

    places: dict[tuple[int, ...], int] = field(default_factory=dict)
    above: list[int] = field(default_factory=list)
    kv: torch.Tensor | None = None


@dataclass(slots=True)
class Item:
    """One check in a pass: its script, what is known of it, and the segment that ends with its verdict position."""

    script: Script
    match: Match
    leaf: Segment = field(init=False)
    computed: int = 0
    reused: int = 0
    unsafe: float = 0.0
    outside: float = 0.0
    probabilities: tuple[float, ...] = ()
    search: Search | None = None
    known: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)
    past: tuple[Span, ...] = ()
    begin: int = 0  # the position behind what `past` holds
    lead: tuple[int, ...] = ()  # tokens between there and the first label
    tree: Tree = field(default_factory=Tree)


def grow(items: Sequence[Item], at: int, parent: Segment | None, past: tuple[Span, ...], roots: list[Segment]) -> None:
    """Segments for checks (sorted by ids) that agree up to position `at`, from there on."""
    for group in _partition(items, at):
        ids, head = group[0].script.ids, group[0].script.head
        stop = len(ids) if len(group) == 1 else at + _agree(group, at)
        if at < head < stop:  # the policy text is a block of its own, whoever comes first
            stop = head
        segment = Segment(list(ids[at:stop]), list(range(at, stop)), parent, () if parent else past)
        (parent.children if parent else roots).append(segment)
        group[0].computed += stop - at
        for item in group[1:]:
            item.reused += stop - at
        if len(group) == 1 and stop == len(ids):
            group[0].leaf = segment
        else:
            grow(group, stop, segment, past, roots)


def _partition(items: Sequence[Item], at: int) -> list[Sequence[Item]]:
    """Groups that have at least _SHARE tokens in common from `at`; the others alone."""
    groups: list[Sequence[Item]] = []
    rest = list(items)
    while rest:
        size = 1
        while size < len(rest) and _agree([rest[0], rest[size]], at) >= _SHARE:
            size += 1
        groups.append(rest[:size])
        del rest[:size]
    return groups


def _agree(group: Sequence[Item], at: int) -> int:
    """Tokens from `at` that all share, leaving each at least one of its own. The group is sorted by ids."""
    first, last = group[0].script.ids, group[-1].script.ids
    limit = min(len(item.script.ids) for item in group) - 1
    return common(first[at:limit], last[at:limit])


def runs(leaf: Segment) -> list[list[Segment]]:
    """The segments from the top to `leaf`, the pieces of one that was cut together."""
    out: list[list[Segment]] = []
    for segment in leaf.chain():
        if segment.joined:
            out[-1].append(segment)
        else:
            out.append([segment])
    return out


def extend(item: Item) -> None:
    """Compute the way to the first label behind the prompt, in the same pass."""
    read = item.script.read
    if isinstance(read, Grammar):
        more = [read.unsafe, *read.forced]
        start = item.leaf.positions[-1] + 1
        item.leaf.tokens += more
        item.leaf.positions += range(start, start + len(more))
        item.computed += len(more)


def _verdict_index(item: Item, *, inline: bool) -> int:
    """The last token of the prompt in its leaf."""
    read = item.script.read
    extra = 1 + len(read.forced) if inline and isinstance(read, Grammar) else 0
    return len(item.leaf.tokens) - 1 - extra


def reads(items: Sequence[Item], *, inline: bool) -> list[int]:
    """The rows to read: every verdict position, then the ends of the label lists' beginnings."""
    verdicts = [item.leaf.offset + _verdict_index(item, inline=inline) for item in items]
    lists = [item.leaf.stop - 1 for item in items if inline and isinstance(item.script.read, Grammar)]
    return [*verdicts, *lists]


def anchor(item: Item, plan: Plan, *, inline: bool) -> None:
    """Where the label lists begin: keys and values of all before, and the tokens still to come."""
    kept = tuple(Span(node.kv, 0, upto - node.start) for node, upto in item.match.path)
    item.past = (*kept, *(Span(plan.scratch, segment.offset, segment.stop) for segment in item.leaf.chain()))
    item.begin = item.leaf.positions[-1] + 1
    if isinstance(item.script.read, Grammar) and not inline:
        item.lead = (item.script.read.unsafe, *item.script.read.forced)


def tree(item: Item, states: Sequence[State], like: torch.Tensor) -> tuple[Segment, list[int]]:
    """The tokens of some lists that were not computed yet, as one segment, and where each list ends in it."""
    tree, first = item.tree, len(item.tree.places)
    for state in states:
        path = (*item.lead, *state.tokens)
        for size in range(1, len(path) + 1):
            if path[:size] not in tree.places:
                tree.above.append(tree.places[path[: size - 1]] if size > 1 else -1)
                tree.places[path[:size]] = len(tree.places)
    paths = list(tree.places)[first:]
    sees = torch.full((len(paths), len(tree.places)), -torch.inf, dtype=like.dtype)
    for row in range(len(paths)):
        at = first + row
        while at >= 0:
            sees[row, at] = 0
            at = tree.above[at]
    segment = Segment([path[-1] for path in paths], [item.begin + len(path) - 1 for path in paths], None, item.past)
    segment.mask = sees.to(like.device)
    if tree.kv is not None:
        segment.earlier = Span(tree.kv, 0, first)
    return segment, [tree.places[(*item.lead, *state.tokens)] - first for state in states]


def done(item: Item) -> Done:
    if item.probabilities:
        return Done(Reading(item.probabilities, 0.0, item.outside), item.computed, item.reused)
    if item.search is None:
        read = item.script.read
        assert isinstance(read, Grammar)  # noqa: S101
        return Done(Reading((item.unsafe, *[0.0] * read.labels), item.unsafe, item.outside), item.computed, item.reused)
    leftover = max(0.0, item.search.leftover)
    inside = (min(value, item.unsafe) for value in item.search.result())
    return Done(Reading((item.unsafe, *inside), leftover, item.outside), item.computed, item.reused)
