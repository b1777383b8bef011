"""The verdicts on turns that were judged before in the same place of the same conversation, under the same policy.

Clients send the whole conversation with every request. A guard with a cache has the verdicts of its earlier turns, but
finding them takes the views of each turn and a digest of its context. Here one hash of the conversation up to a turn
stands for both. Only what a guard has answered from its own cache is kept: it would say the same again. The decision is
kept with it, because the same policy decides the same; exclusions, which change at any time, are no part of it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from guardproxy.frozen import frozen
from guardproxy.pipeline.turns import Turn
from guardproxy.policy import Policy
from guardproxy.types import Decision, Message, Verdict

_MOST = 20_000  # turns; what is kept of one takes about two kilobytes
_HASH_BYTES = 32

Prefix = bytes
"""A hash of a conversation up to and including a message: of roles, and of kinds, paths, texts and notes of parts."""


@frozen
class TurnScores:
    """What is known of a turn before the policy decides, with uncalibrated probabilities.

    `verdict` is the worst of those `by_view`. `complete` is that of the views; `unread` are the languages that the
    guard does not read. `opaque`: whether the turn has opaque parts.
    """

    verdict: Verdict
    by_view: tuple[tuple[str, Verdict], ...]
    complete: bool
    unread: tuple[str, ...]
    opaque: bool


class KnownTurn(NamedTuple):
    """The scores of a turn, and the calibrated verdict and the decision that `policy` makes of them.

    Exclusions are left out: with any in force, decide anew.
    """

    policy: Policy
    scores: TurnScores
    verdict: Verdict
    decision: Decision


class KnownTurns:
    """Keeps turns; the least recently used ones are removed first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], KnownTurn] = OrderedDict()

    def find(self, turn: Turn, prefix: Prefix, policy: Policy) -> KnownTurn | None:
        """Return what is known of a turn; `prefix` is that of its last message."""
        key = _key(turn, prefix, policy)
        kept = self._kept.get(key)
        if kept is None or kept.policy is not policy:
            return None
        self._kept.move_to_end(key)
        return kept

    def keep(self, turn: Turn, prefix: Prefix, known: KnownTurn) -> None:
        """Keep a turn if the guard had its scores in its cache."""
        if not all(verdict.usage.cached for _, verdict in known.scores.by_view):
            return
        self._kept[_key(turn, prefix, known.policy)] = known
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)


def _key(turn: Turn, prefix: Prefix, policy: Policy) -> tuple[object, ...]:
    """What tells apart the turns that end with the same message: the messages that they join, and their threads."""
    parts = turn.message.parts
    return prefix, id(policy), turn.context, len(parts), hash((parts[0].path if parts else "", turn.thread))


def prefixes_of(messages: Sequence[Message], prefix: Prefix = b"") -> list[Prefix]:
    """Return the prefix of every message; `prefix` is that of what precedes them."""
    return list(_prefixes(messages, prefix))


def _prefixes(messages: Sequence[Message], prefix: Prefix) -> Iterator[Prefix]:
    for message in messages:
        written = [
            f"{part.kind} {len(part.path)} {len(part.note)} {len(part.text)} {part.path}{part.note}{part.text}"
            for part in message.parts
        ]
        text = f"{message.role} {len(written)} {''.join(written)}"
        prefix = blake2b(prefix + text.encode(errors="surrogatepass"), digest_size=_HASH_BYTES).digest()
        yield prefix
