"""The checks of a batch while they are read: what of each is known, and which segments are to be computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from guardproxy.engine.decoder.grammar import Grammar, Search, State
from guardproxy.engine.decoder.packed import Plan, Segment, Span
from guardproxy.engine.decoder.prefix_cache import Match, common
from guardproxy.engine.decoder.prompts import EncodedPrompt
from guardproxy.engine.runner import WorkResult
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
class PendingCheck:
    """One check in a pass: its prompt, what is known of it, and the segment that ends with its verdict position."""

    prompt: EncodedPrompt
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


def build_segments(
    checks: Sequence[PendingCheck], at: int, parent: Segment | None, past: tuple[Span, ...], roots: list[Segment]
) -> None:
    """Segments for checks (sorted by ids) that agree up to position `at`, from there on."""
    for group in _partition(checks, at):
        ids, head = group[0].prompt.ids, group[0].prompt.head
        stop = len(ids) if len(group) == 1 else at + _agree(group, at)
        if at < head < stop:  # the policy text is a block of its own, whoever comes first
            stop = head
        segment = Segment(list(ids[at:stop]), list(range(at, stop)), parent, () if parent else past)
        (parent.children if parent else roots).append(segment)
        group[0].computed += stop - at
        for check in group[1:]:
            check.reused += stop - at
        if len(group) == 1 and stop == len(ids):
            group[0].leaf = segment
        else:
            build_segments(group, stop, segment, past, roots)


def _partition(checks: Sequence[PendingCheck], at: int) -> list[Sequence[PendingCheck]]:
    """Groups that have at least _SHARE tokens in common from `at`; the others alone."""
    groups: list[Sequence[PendingCheck]] = []
    rest = list(checks)
    while rest:
        size = 1
        while size < len(rest) and _agree([rest[0], rest[size]], at) >= _SHARE:
            size += 1
        groups.append(rest[:size])
        del rest[:size]
    return groups


def _agree(group: Sequence[PendingCheck], at: int) -> int:
    """Tokens from `at` that all share, leaving each at least one of its own. The group is sorted by ids."""
    first, last = group[0].prompt.ids, group[-1].prompt.ids
    limit = min(len(check.prompt.ids) for check in group) - 1
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


def append_forced_tokens(check: PendingCheck) -> None:
    """Compute the way to the first label behind the prompt, in the same pass."""
    read = check.prompt.read
    if isinstance(read, Grammar):
        more = [read.unsafe, *read.forced]
        start = check.leaf.positions[-1] + 1
        check.leaf.tokens += more
        check.leaf.positions += range(start, start + len(more))
        check.computed += len(more)


def _verdict_index(check: PendingCheck, *, inline: bool) -> int:
    """The last token of the prompt in its leaf."""
    read = check.prompt.read
    extra = 1 + len(read.forced) if inline and isinstance(read, Grammar) else 0
    return len(check.leaf.tokens) - 1 - extra


def reads(checks: Sequence[PendingCheck], *, inline: bool) -> list[int]:
    """The rows to read: every verdict position, then the ends of the label lists' beginnings."""
    verdicts = [check.leaf.offset + _verdict_index(check, inline=inline) for check in checks]
    lists = [check.leaf.stop - 1 for check in checks if inline and isinstance(check.prompt.read, Grammar)]
    return [*verdicts, *lists]


def set_continuation_start(check: PendingCheck, plan: Plan, *, inline: bool) -> None:
    """Where the label lists begin: keys and values of all before, and the tokens still to come."""
    kept = tuple(Span(node.kv, 0, upto - node.start) for node, upto in check.match.path)
    check.past = (*kept, *(Span(plan.scratch, segment.offset, segment.stop) for segment in check.leaf.chain()))
    check.begin = check.leaf.positions[-1] + 1
    if isinstance(check.prompt.read, Grammar) and not inline:
        check.lead = (check.prompt.read.unsafe, *check.prompt.read.forced)


def tree(check: PendingCheck, states: Sequence[State], like: torch.Tensor) -> tuple[Segment, list[int]]:
    """The tokens of some lists that were not computed yet, as one segment, and where each list ends in it."""
    tree, first = check.tree, len(check.tree.places)
    for state in states:
        path = (*check.lead, *state.tokens)
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
    segment = Segment([path[-1] for path in paths], [check.begin + len(path) - 1 for path in paths], None, check.past)
    segment.mask = sees.to(like.device)
    if tree.kv is not None:
        segment.earlier = Span(tree.kv, 0, first)
    return segment, [tree.places[(*check.lead, *state.tokens)] - first for state in states]


def done(check: PendingCheck) -> WorkResult:
    if check.probabilities:
        return WorkResult(Reading(check.probabilities, 0.0, check.outside), check.computed, check.reused)
    if check.search is None:
        read = check.prompt.read
        assert isinstance(read, Grammar)  # noqa: S101
        return WorkResult(
            Reading((check.unsafe, *[0.0] * read.labels), check.unsafe, check.outside), check.computed, check.reused
        )
    leftover = max(0.0, check.search.leftover)
    inside = (min(value, check.unsafe) for value in check.search.result())
    return WorkResult(Reading((check.unsafe, *inside), leftover, check.outside), check.computed, check.reused)
