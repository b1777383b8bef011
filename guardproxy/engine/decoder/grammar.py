"""The token grammar of a label list, and the search through its lists. Pure: the caller computes the logits.

A list is `label (separator label)* end`, each label at most once, in any order. Its probability is that of the model
constrained to the grammar: at each token the softmax over the tokens that may follow. A token without an alternative
has probability 1 and needs no logits. So the probabilities of all lists sum to 1, and the mass of the lists that the
search has not reached is known exactly.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from guardproxy.errors import GuardUnavailable
from guardproxy.ports import LabelList

# Partial lists of one check that are computed in all: a model that is unsure of everything must not hold up others.
LISTS_PER_CHECK = 512


@dataclass(slots=True)
class TrieNode:
    """A node of a trie of labels' tokens.

    `label` is the index of the label that ends here, `reachable` the labels that end here or below.
    """

    children: dict[int, "TrieNode"] = field(default_factory=dict)
    label: int | None = None
    reachable: frozenset[int] = frozenset()

    @property
    def depth(self) -> int:
        """Tokens of the longest label below this node."""
        return max((1 + child.depth for child in self.children.values()), default=0)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The tokens of one label list behind one prompt.

    `safe` and `unsafe` are the first tokens of the verdict words, `forced` the tokens from the unsafe one to the first
    label. `first` and `further` are the tries of the first label and of a separator with a further label.
    """

    labels: int
    tolerance: float
    safe: int
    unsafe: int
    forced: tuple[int, ...]
    first: TrieNode
    further: TrieNode
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartialList:
    """The beginning of a list: its tokens behind `forced`, its probability, its complete labels, its trie node."""

    tokens: tuple[int, ...]
    mass: float
    used: frozenset[int]
    node: TrieNode = field(repr=False, compare=False)

    def options(self, grammar: Grammar) -> dict[int, "TrieNode | None"]:
        """The tokens that may follow, with the trie node that each leads to; None is the end of the list."""
        out: dict[int, TrieNode | None] = {
            token: node for token, node in self.node.children.items() if node.reachable - self.used
        }
        if self.node.label is not None and self.node.label not in self.used:
            used = self.used | {self.node.label}
            out.update(dict.fromkeys(grammar.ends))
            # No separator when every label is used: a list must not end with one.
            out.update({token: node for token, node in grammar.further.children.items() if node.reachable - used})
        return out

    def extend(self, token: int, node: TrieNode, mass: float) -> "PartialList":
        """The list with one more token, which leads to `node`."""
        used = self.used
        # A token that does not continue the label starts a separator, so the label is complete.
        if token not in self.node.children and self.node.label is not None:
            used = used | {self.node.label}
        return PartialList((*self.tokens, token), mass, used, node)


class ListSearch:
    """A best-first search through the lists of one check, whose probabilities sum to `mass`.

    The caller takes lists from `next_lists`, computes the logits behind each, and passes them to `expand`. `leftover`
    is the mass of the lists that have not reached their end.
    """

    def __init__(self, grammar: Grammar, mass: float) -> None:
        self._grammar = grammar
        self._ended_mass = [0.0] * grammar.labels
        self._open: list[tuple[float, int, PartialList]] = []
        self._count = 0
        self.leftover = mass
        self._push(PartialList((), mass, frozenset(), grammar.first))

    def next_lists(self, limit: int) -> list[PartialList]:
        """Remove and return up to `limit` of the most probable open lists; [] once enough mass is explored."""
        out: list[PartialList] = []
        left = self.leftover
        while self._open and len(out) < limit and left >= self._grammar.tolerance:
            negative, _, partial = heapq.heappop(self._open)  # a min-heap, so the masses in it are negative
            out.append(partial)
            left += negative
        return out

    def expand(self, partial: PartialList, logits: Callable[[Sequence[int]], Sequence[float]]) -> None:
        """Continue `partial` with every token that may follow. `logits(tokens)` are the logits of these tokens."""
        tokens = list(partial.options(self._grammar))
        self.continue_with(partial, dict(zip(tokens, _softmax(logits(tokens)), strict=True)))

    def continue_with(self, partial: PartialList, shares: Mapping[int, float]) -> None:
        """Continue `partial` with tokens that may follow, each with its share of the mass.

        Where the shares of all are not known, what is missing from 1 stays in `leftover`.
        """
        options = partial.options(self._grammar)
        for token, share in shares.items():
            self._continue(partial, token, options[token], partial.mass * share)

    def result(self) -> list[float]:
        """For every label, P(label in the list): from lists that ended, and labels that open ones are sure to hold."""
        out = list(self._ended_mass)
        for negative, _, partial in self._open:
            for label in partial.used | _only_label(partial):
                out[label] -= negative
        return out

    def _continue(self, partial: PartialList, token: int, node: TrieNode | None, mass: float) -> None:
        if node is not None:
            self._push(partial.extend(token, node, mass))
            return
        self.leftover -= mass
        for label in partial.used | {partial.node.label}:
            if label is not None:
                self._ended_mass[label] += mass

    def _push(self, partial: PartialList) -> None:
        """Queue a list, after appending the tokens that have no alternative: they cost no forward pass."""
        options = partial.options(self._grammar)
        # Several tokens may all end the list; then nothing is left to choose either.
        while len(options) == 1 or not any(options.values()):
            token, node = next(iter(options.items()))
            if node is None:
                self._continue(partial, token, None, partial.mass)
                return
            partial = partial.extend(token, node, partial.mass)
            options = partial.options(self._grammar)
        self._count += 1  # orders lists of equal mass, which do not compare
        heapq.heappush(self._open, (-partial.mass, self._count, partial))


def _only_label(partial: PartialList) -> frozenset[int]:
    """The label that every completion of the list holds next, if only one is left."""
    left = partial.node.reachable - partial.used
    return left if len(left) == 1 else frozenset()


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def compile_grammar(
    readout: LabelList,
    encode_answer: Callable[[str], list[int]],
    control_token: Callable[[str], int | None],
    eos: Sequence[int],
) -> Grammar:
    """Compile `readout` to tokens.

    `encode_answer(text)` returns the ids of an answer's beginning, as tokenised behind the prompt;
    `control_token(name)` the id of a control token, or None. `eos` are the tokens that end this model's answers; they
    count if the readout's `end` is empty or a control token. Raises GuardUnavailable if this tokenizer merges
    characters across the parts of the grammar.
    """
    safe, unsafe = encode_answer(readout.safe), encode_answer(readout.unsafe)
    if safe[0] == unsafe[0]:
        raise GuardUnavailable(f"{readout.safe!r} and {readout.unsafe!r} begin with the same token of this model")
    heads = [encode_answer(readout.unsafe + readout.opening + label) for label in readout.labels]
    shared = _common_prefix(heads)
    if shared[:1] != unsafe[:1]:
        raise GuardUnavailable(f"this model's first token of {readout.unsafe!r} depends on the text that follows it")
    first = _trie([_behind(head, shared) for head in heads])
    further = _trie(_separated(readout, encode_answer, heads))
    grammar = Grammar(
        labels=len(readout.labels),
        tolerance=readout.tolerance,
        safe=safe[0],
        unsafe=unsafe[0],
        forced=tuple(shared[1:]),
        first=first,
        further=further,
        ends=_ends(readout, encode_answer, control_token, eos, heads[0]),
    )
    _check_unambiguous(grammar)
    return grammar


def _separated(
    readout: LabelList, encode_answer: Callable[[str], list[int]], heads: list[list[int]]
) -> list[list[int]]:
    """For every label, the tokens of separator and label; they must be the same behind every other label."""
    count = len(heads)
    if count == 1:
        return [[]]
    out: list[list[int]] = []
    for index, label in enumerate(readout.labels):
        variants = {
            tuple(
                _behind(
                    encode_answer(readout.unsafe + readout.opening + readout.labels[other] + readout.separator + label),
                    heads[other],
                )
            )
            for other in range(count)
            if other != index
        }
        if len(variants) != 1:
            raise GuardUnavailable(
                f"this model's tokens for {readout.separator + label!r} depend on the label before them"
            )
        out.append(list(variants.pop()))
    return out


def _ends(
    readout: LabelList,
    encode_answer: Callable[[str], list[int]],
    control_token: Callable[[str], int | None],
    eos: Sequence[int],
    head: list[int],
) -> tuple[int, ...]:
    """The tokens that end a list."""
    if readout.end and not (readout.end.startswith("<") and readout.end.endswith(">")):
        return (_behind(encode_answer(readout.unsafe + readout.opening + readout.labels[0] + readout.end), head)[0],)
    named = control_token(readout.end) if readout.end else None
    ends = dict.fromkeys([*eos, *([named] if named is not None else [])])
    if not ends:
        raise GuardUnavailable("the model's configuration names no token that ends an answer")
    return tuple(ends)


def _check_unambiguous(grammar: Grammar) -> None:
    """Raise GuardUnavailable if a token could both continue a label and end it, or end a list and continue it."""
    leaving = {*grammar.ends, *grammar.further.children}
    stack = [grammar.first, *grammar.further.children.values()]
    if set(grammar.ends) & set(grammar.further.children):
        raise GuardUnavailable("one token of this model both ends a label list and continues it")
    while stack:
        node = stack.pop()
        if node.label is not None and leaving & set(node.children):
            raise GuardUnavailable("one token of this model both ends a label and continues it")
        stack.extend(node.children.values())


def _behind(ids: list[int], head: list[int]) -> list[int]:
    """The ids behind `head`, which `ids` must begin with."""
    if ids[: len(head)] != head or len(ids) == len(head):
        raise GuardUnavailable("this model's tokens merge across the parts of the label list's grammar")
    return ids[len(head) :]


def _common_prefix(lists: list[list[int]]) -> list[int]:
    """The longest common prefix that leaves every list at least one token, so that each label has one of its own."""
    size = 0
    limit = min(len(ids) for ids in lists) - 1
    while size < limit and len({ids[size] for ids in lists}) == 1:
        size += 1
    return lists[0][:size]


def _trie(sequences: list[list[int]]) -> TrieNode:
    """The trie of the labels' token sequences; the label of sequence k is k."""
    root = TrieNode()
    for label, tokens in enumerate(sequences):
        node = root
        node.reachable |= {label}
        for token in tokens:
            node = node.children.setdefault(token, TrieNode())
            node.reachable |= {label}
        if tokens:
            if node.label is not None:
                raise GuardUnavailable("two labels have the same tokens in this model")
            node.label = label
    return root
