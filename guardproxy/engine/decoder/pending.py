"""The checks of a batch between its passes: their readings so far, and the segments to compute next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from guardproxy.engine.decoder.grammar import Grammar, ListSearch, PartialList
from guardproxy.engine.decoder.packed import KVSpan, PassPlan, Segment
from guardproxy.engine.decoder.prefix_cache import PrefixMatch, common_length
from guardproxy.engine.decoder.prompts import EncodedPrompt
from guardproxy.engine.runner import WorkResult
from guardproxy.ports import Reading

# Prompts share a segment from this many common tokens on; fewer are cheaper to compute twice.
_MIN_SHARED = 8


@dataclass(slots=True)
class ContinuationTree:
    """The beginnings of one check's label lists that were computed, as a tree of tokens.

    `nodes` maps the tokens from the root to a node's index, `parents` has the index of each node's parent (-1 for a
    root), and `kv` their keys and values: [layers, 2, kv heads, nodes, head size].
    """

    nodes: dict[tuple[int, ...], int] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    kv: torch.Tensor | None = None


@dataclass(slots=True)
class PendingCheck:
    """One check of a batch: its prompt, its cached prefix, and its readings so far.

    `last_segment` ends with the verdict position, or with the forced tokens behind it. `hidden_states` holds the hidden
    states behind label lists, by the lists' tokens, that a pass has computed before the search asked for them.
    """

    prompt: EncodedPrompt
    match: PrefixMatch
    last_segment: Segment = field(init=False)
    computed: int = 0
    reused: int = 0
    unsafe: float = 0.0
    outside: float = 0.0
    probabilities: tuple[float, ...] = ()
    search: ListSearch | None = None
    hidden_states: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)
    continuation_past: tuple[KVSpan, ...] = ()
    continuation_start: int = 0  # the position behind the keys of `continuation_past`
    forced_left: tuple[int, ...] = ()  # forced tokens up to the first label that no pass has computed
    tree: ContinuationTree = field(default_factory=ContinuationTree)

    def result(self) -> WorkResult:
        """The reading of a check whose search, if any, has ended, with its counts of tokens."""
        if self.probabilities:
            return WorkResult(Reading(self.probabilities, 0.0, self.outside), self.computed, self.reused)
        if self.search is None:
            grammar = self.prompt.answer
            assert isinstance(grammar, Grammar)  # noqa: S101
            reading = Reading((self.unsafe, *[0.0] * grammar.labels), self.unsafe, self.outside)
            return WorkResult(reading, self.computed, self.reused)
        leftover = max(0.0, self.search.leftover)
        # A label's mass is a sum of rounded products, which can exceed the P(unsafe) that they are parts of.
        labels = (min(mass, self.unsafe) for mass in self.search.result())
        return WorkResult(Reading((self.unsafe, *labels), leftover, self.outside), self.computed, self.reused)


@dataclass(slots=True)
class PendingBatch:
    """The checks that one pass reads together.

    With `inline` the pass also computes the forced tokens between the verdict and the first label. That saves a pass
    for each label list, and is only worth it when every list will be read.
    """

    checks: list[PendingCheck]
    inline: bool

    def segments(self) -> list[Segment]:
        """The roots of the forest to compute, with the tokens that checks have in common in shared segments."""
        groups: dict[tuple[int, int, str], list[PendingCheck]] = {}
        for check in self.checks:
            groups.setdefault((id(check.match.tail), check.match.length, check.prompt.key), []).append(check)
        roots: list[Segment] = []
        for group in groups.values():
            match = group[0].match
            past = match.spans()
            for check in group:
                check.reused = match.length
            build_segments(sorted(group, key=lambda check: check.prompt.ids), match.length, None, past, roots)
        if self.inline:
            for check in self.checks:
                append_forced_tokens(check)
        return roots

    def selected_rows(self) -> list[int]:
        """The rows to read: the verdict position of every check, then the ends of the forced tokens computed inline."""
        verdicts = [check.last_segment.offset + self._verdict_index(check) for check in self.checks]
        lists = [check.last_segment.stop - 1 for check in self.checks if self.inlined(check)]
        return [*verdicts, *lists]

    def inlined(self, check: PendingCheck) -> bool:
        """Whether the pass also computes the check's forced tokens."""
        return self.inline and isinstance(check.prompt.answer, Grammar)

    def set_continuation_start(self, check: PendingCheck, plan: PassPlan) -> None:
        """After the pass: state where the check's label lists begin, and the keys and values before them."""
        computed = (KVSpan(plan.scratch, segment.offset, segment.stop) for segment in check.last_segment.chain())
        check.continuation_past = (*check.match.spans(), *computed)
        check.continuation_start = check.last_segment.positions[-1] + 1
        answer = check.prompt.answer
        if isinstance(answer, Grammar) and not self.inline:
            check.forced_left = (answer.unsafe, *answer.forced)

    def _verdict_index(self, check: PendingCheck) -> int:
        """The index of the prompt's last token in its last segment.

        Counted from the end, because a lane's edge may have cut off the segment's beginning since it was built.
        """
        answer = check.prompt.answer
        inlined = 1 + len(answer.forced) if self.inline and isinstance(answer, Grammar) else 0
        return len(check.last_segment.tokens) - 1 - inlined


def build_segments(
    checks: Sequence[PendingCheck], start: int, parent: Segment | None, past: tuple[KVSpan, ...], roots: list[Segment]
) -> None:
    """Build the segments from position `start` on for checks that agree before it. `checks` are sorted by token ids."""
    for group in _partition(checks, start):
        ids, policy = group[0].prompt.ids, group[0].prompt.policy_size
        stop = len(ids) if len(group) == 1 else start + _shared_length(group, start)
        if start < policy < stop:
            # End the segment with the policy text, even if only this check needs it now: it becomes a cache node of
            # its own, and later checks find the whole policy in one node whatever follows it.
            stop = policy
        segment = Segment(list(ids[start:stop]), list(range(start, stop)), parent, () if parent else past)
        (parent.children if parent else roots).append(segment)
        # A shared token counts as computed for the first check only, so that the sum over checks is the real work.
        group[0].computed += stop - start
        for check in group[1:]:
            check.reused += stop - start
        if len(group) == 1 and stop == len(ids):
            group[0].last_segment = segment
        else:
            build_segments(group, stop, segment, past, roots)


def _partition(checks: Sequence[PendingCheck], start: int) -> list[Sequence[PendingCheck]]:
    """Group the checks that have at least _MIN_SHARED tokens in common from `start`; the others are alone.

    The checks are sorted by token ids, so a group is a run of neighbours.
    """
    groups: list[Sequence[PendingCheck]] = []
    rest = list(checks)
    while rest:
        size = 1
        while size < len(rest) and _shared_length([rest[0], rest[size]], start) >= _MIN_SHARED:
            size += 1
        groups.append(rest[:size])
        del rest[:size]
    return groups


def _shared_length(group: Sequence[PendingCheck], start: int) -> int:
    """The number of tokens from `start` that all checks share, leaving each at least one token of its own.

    The group is sorted by token ids, so its first and last member share only tokens that all share. A check without a
    token of its own would have no row to read.
    """
    first, last = group[0].prompt.ids, group[-1].prompt.ids
    limit = min(len(check.prompt.ids) for check in group) - 1
    return common_length(first[start:limit], last[start:limit])


def uncut_runs(last_segment: Segment) -> list[list[Segment]]:
    """The segments from the root to `last_segment`; the pieces of a segment that was cut are one run."""
    out: list[list[Segment]] = []
    for segment in last_segment.chain():
        if segment.cut:
            out[-1].append(segment)
        else:
            out.append([segment])
    return out


def append_forced_tokens(check: PendingCheck) -> None:
    """Add the tokens from the verdict to the first label to the check's last segment, if it reads a label list."""
    answer = check.prompt.answer
    if isinstance(answer, Grammar):
        forced = [answer.unsafe, *answer.forced]
        start = check.last_segment.positions[-1] + 1
        check.last_segment.tokens += forced
        check.last_segment.positions += range(start, start + len(forced))
        check.computed += len(forced)


def continuation_segment(
    check: PendingCheck, lists: Sequence[PartialList], like: torch.Tensor
) -> tuple[Segment, list[int]]:
    """The tokens of `lists` that are not computed yet, as one masked segment, and the index in it where each list ends.

    The mask has the type and device of `like`.
    """
    tree, first = check.tree, len(check.tree.nodes)
    for partial in lists:
        path = (*check.forced_left, *partial.tokens)
        for size in range(1, len(path) + 1):
            if path[:size] not in tree.nodes:
                tree.parents.append(tree.nodes[path[: size - 1]] if size > 1 else -1)
                tree.nodes[path[:size]] = len(tree.nodes)
    paths = list(tree.nodes)[first:]  # dicts keep insertion order, so index and order agree
    visible = torch.full((len(paths), len(tree.nodes)), -torch.inf, dtype=like.dtype)
    for row in range(len(paths)):
        node = first + row
        while node >= 0:
            visible[row, node] = 0
            node = tree.parents[node]
    # Siblings have the same position: each is the next token of its own list.
    positions = [check.continuation_start + len(path) - 1 for path in paths]
    segment = Segment([path[-1] for path in paths], positions, None, check.continuation_past)
    segment.mask = visible.to(like.device)
    if tree.kv is not None:
        segment.earlier = KVSpan(tree.kv, 0, first)
    return segment, [tree.nodes[(*check.forced_left, *partial.tokens)] - first for partial in lists]
