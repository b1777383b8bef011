"""The token grammar of a label list, and the search through its lists. Pure: it asks for logits and is told.

A list is `label (separator label)* end`, each label at most once, in any order. Probabilities are those of the model
constrained to the grammar: at each token the softmax over the tokens that may follow. A token without an alternative
costs nothing. So the lists' probabilities sum to one, and what has not been explored is known exactly.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from guardproxy.errors import GuardUnavailable
from guardproxy.ports import LabelList


@dataclass(slots=True)
class _Node:
    """A node of a trie of token sequences; `label` is the index of the label that is complete here."""

    children: dict[int, "_Node"] = field(default_factory=dict)
    label: int | None = None
    below: frozenset[int] = frozenset()  # labels that can still be completed from here, this one included

    @property
    def longest(self) -> int:
        """Tokens of the longest label below."""
        return max((1 + child.longest for child in self.children.values()), default=0)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The token forms of one label list behind one prompt.

    `safe` and `unsafe` are the first tokens of the verdict words; `forced` leads from the unsafe one to where the
    first label begins; `first` and `further` are the tries of labels at the beginning and behind a separator.
    """

    labels: int
    tolerance: float
    safe: int
    unsafe: int
    forced: tuple[int, ...]
    first: _Node
    further: _Node
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A list begun: its tokens behind `forced`, its probability, and the labels in it."""

    tokens: tuple[int, ...]
    mass: float
    used: frozenset[int]
    node: _Node = field(repr=False, compare=False)

    def options(self, grammar: Grammar) -> dict[int, "_Node | None"]:
        """The tokens that may follow and where they lead; None is the end of the list."""
        out: dict[int, _Node | None] = {
            token: node for token, node in self.node.children.items() if node.below - self.used
        }
        if self.node.label is not None and self.node.label not in self.used:
            done = self.used | {self.node.label}
            out.update(dict.fromkeys(grammar.ends))
            out.update({token: node for token, node in grammar.further.children.items() if node.below - done})
        return out

    def follow(self, grammar: Grammar, token: int, node: _Node, mass: float) -> "State":
        """The state behind `token`."""
        used = self.used
        if token not in self.node.children and self.node.label is not None:
            used = used | {self.node.label}
        return State((*self.tokens, token), mass, used, node)


class Search:
    """The lists of one check, best first. `take` says what must be computed, `tell` what came out.

    `inside[i]` becomes the probability that label i is in the list; `leftover` is the mass of the lists that are not
    known to have ended.
    """

    def __init__(self, grammar: Grammar, mass: float) -> None:
        self.inside = [0.0] * grammar.labels
        self._grammar = grammar
        self._open: list[tuple[float, int, State]] = []
        self._count = 0
        self.leftover = mass
        self._push(State((), mass, frozenset(), grammar.first))

    def take(self, most: int) -> list[State]:
        """Up to `most` states whose next token must be read; [] once the leftover is below the tolerance."""
        out: list[State] = []
        left = self.leftover
        while self._open and len(out) < most and left >= self._grammar.tolerance:
            mass, _, state = heapq.heappop(self._open)
            out.append(state)
            left += mass  # the heap holds negative masses
        return out

    def tell(self, state: State, logits: Callable[[Sequence[int]], Sequence[float]]) -> None:
        """`logits(tokens)` are the model's logits of `tokens` behind `state`."""
        options = state.options(self._grammar)
        tokens = list(options)
        for token, share in zip(tokens, _softmax(logits(tokens)), strict=True):
            self._go(state, token, options[token], state.mass * share)

    def _go(self, state: State, token: int, node: _Node | None, mass: float) -> None:
        if node is not None:
            self._push(state.follow(self._grammar, token, node, mass))
            return
        self.leftover -= mass
        for label in state.used | {state.node.label}:
            if label is not None:
                self.inside[label] += mass

    def _push(self, state: State) -> None:
        """Queue a state, after the tokens that have no alternative."""
        options = state.options(self._grammar)
        while len(options) == 1 or not any(options.values()):
            token, node = next(iter(options.items()))
            if node is None:
                self._go(state, token, None, state.mass)
                return
            state = state.follow(self._grammar, token, node, state.mass)
            options = state.options(self._grammar)
        self._count += 1
        heapq.heappush(self._open, (-state.mass, self._count, state))

    @property
    def pending(self) -> list[tuple[frozenset[int], float]]:
        """The open states: the labels that any completion of them holds, and their mass."""
        return [(state.used | _sure(state), -mass) for mass, _, state in self._open]

    def result(self) -> list[float]:
        """P(label in the list) of every label: ended lists, and what open ones already hold."""
        inside = list(self.inside)
        for labels, mass in self.pending:
            for label in labels:
                inside[label] += mass
        return inside


def _sure(state: State) -> frozenset[int]:
    """The label that every completion of the state holds, where only one is left."""
    left = state.node.below - state.used
    return left if len(left) == 1 else frozenset()


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def compile_grammar(
    readout: LabelList, behind: Callable[[str], list[int]], control: Callable[[str], int | None], eos: Sequence[int]
) -> Grammar:
    """The token grammar of `readout`.

    `behind(text)` gives the ids of text that stands behind the prompt; `control(name)` the id of a control token;
    `eos` what ends an answer of this model, used where the readout's `end` is empty or a control token. Raises
    GuardUnavailable where this tokenizer merges over the grammar's seams.
    """
    safe, unsafe = behind(readout.safe), behind(readout.unsafe)
    if safe[0] == unsafe[0]:
        raise GuardUnavailable(f"{readout.safe!r} and {readout.unsafe!r} begin with the same token of this model")
    heads = [behind(readout.unsafe + readout.opening + label) for label in readout.labels]
    shared = _common(heads)
    if shared[:1] != unsafe[:1]:
        raise GuardUnavailable(f"this model's first token of {readout.unsafe!r} depends on what follows it")
    first = _trie([_tail(head, shared) for head in heads])
    further = _trie(_separated(readout, behind, heads))
    grammar = Grammar(
        labels=len(readout.labels),
        tolerance=readout.tolerance,
        safe=safe[0],
        unsafe=unsafe[0],
        forced=tuple(shared[1:]),
        first=first,
        further=further,
        ends=_ends(readout, behind, control, eos, heads[0]),
    )
    _unambiguous(grammar)
    return grammar


def _separated(readout: LabelList, behind: Callable[[str], list[int]], heads: list[list[int]]) -> list[list[int]]:
    """The tokens of separator and label for every label, the same behind whatever other label."""
    count = len(heads)
    if count == 1:
        return [[]]
    tails: list[list[int]] = []
    for index, label in enumerate(readout.labels):
        found = {
            tuple(
                _tail(
                    behind(readout.unsafe + readout.opening + readout.labels[other] + readout.separator + label),
                    heads[other],
                )
            )
            for other in range(count)
            if other != index
        }
        if len(found) != 1:
            raise GuardUnavailable(
                f"this model's tokens for {readout.separator + label!r} depend on what stands before"
            )
        tails.append(list(found.pop()))
    return tails


def _ends(
    readout: LabelList,
    behind: Callable[[str], list[int]],
    control: Callable[[str], int | None],
    eos: Sequence[int],
    head: list[int],
) -> tuple[int, ...]:
    """The tokens that end a list."""
    if readout.end and not (readout.end.startswith("<") and readout.end.endswith(">")):
        return (_tail(behind(readout.unsafe + readout.opening + readout.labels[0] + readout.end), head)[0],)
    named = control(readout.end) if readout.end else None
    ends = dict.fromkeys([*eos, *([named] if named is not None else [])])
    if not ends:
        raise GuardUnavailable("the model names no token that ends an answer")
    return tuple(ends)


def _unambiguous(grammar: Grammar) -> None:
    """Raise GuardUnavailable where one token could go on a label and also end it."""
    leaving = {*grammar.ends, *grammar.further.children}
    stack = [grammar.first, *grammar.further.children.values()]
    if set(grammar.ends) & set(grammar.further.children):
        raise GuardUnavailable("one token of this model both ends a label list and goes on with it")
    while stack:
        node = stack.pop()
        if node.label is not None and leaving & set(node.children):
            raise GuardUnavailable("one token of this model both ends a label and goes on with it")
        stack.extend(node.children.values())


def _tail(ids: list[int], head: list[int]) -> list[int]:
    if ids[: len(head)] != head or len(ids) == len(head):
        raise GuardUnavailable("this model's tokens run over the seams of the label list's grammar")
    return ids[len(head) :]


def _common(lists: list[list[int]]) -> list[int]:
    """The longest common beginning that leaves every list something, so that each label has a token of its own."""
    size = 0
    limit = min(len(ids) for ids in lists) - 1
    while size < limit and len({ids[size] for ids in lists}) == 1:
        size += 1
    return lists[0][:size]


def _trie(sequences: list[list[int]]) -> _Node:
    root = _Node()
    for label, tokens in enumerate(sequences):
        node = root
        node.below |= {label}
        for token in tokens:
            node = node.children.setdefault(token, _Node())
            node.below |= {label}
        if tokens:
            if node.label is not None:
                raise GuardUnavailable("two labels have the same tokens in this model")
            node.label = label
    return root
