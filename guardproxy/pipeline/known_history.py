"""Histories whose turns are all known and passed: with them, a request costs what its new messages cost.

Nothing of such a history is judged, decided or recorded again: the same policy decides the same about the same scores,
and each turn has been recorded when it was the current one (decision 0017). So a request is judged from the first
message behind the history on, where a turn of the user begins. With any exclusion in force, or if system messages are
judged, which count as current in every request, no history is known.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice

from guardproxy.frozen import frozen
from guardproxy.pipeline.by_messages import ByMessages
from guardproxy.pipeline.exchange import JudgedTurn
from guardproxy.pipeline.known_turns import Prefix
from guardproxy.pipeline.turns import SYSTEM_ROLES, later_starts, says_anything
from guardproxy.policy import Policy
from guardproxy.types import Coverage, Message

_TRIED = 3  # beginnings of turns, the last one first


@frozen
class KnownHistory:
    """What is known of the first `size` messages of a conversation.

    `prefix` is that of their last message (`known_turns`), `earlier` are the texts for the threads of later turns
    (`thread.threads`), `own` the paths of texts that the proxy has written, `coverage` is that of all parts.
    """

    size: int
    prefix: Prefix
    earlier: tuple[tuple[str, ...], ...]
    own: frozenset[str] = frozenset()
    coverage: tuple[Coverage, ...] = ()


class KnownHistories:
    """Keeps histories by their messages, for the policy that decided about them and the policies in force then."""

    def __init__(self) -> None:
        self._kept = ByMessages[tuple[Policy, tuple[Policy, ...], KnownHistory]]()

    def find(self, messages: Sequence[Message], policy: Policy, policies: tuple[Policy, ...]) -> KnownHistory | None:
        """Return the longest known history of a conversation."""
        if _judges_system(policy):
            return None
        for size in islice(later_starts(messages), _TRIED):
            kept = self._kept.find(id(policy), messages[:size]) if _may_end(messages, size) else None
            if kept is not None and kept[0] is policy and kept[1] == policies:
                return kept[2]
        return None

    def keep(
        self, messages: Sequence[Message], policy: Policy, policies: tuple[Policy, ...], history: KnownHistory
    ) -> None:
        """Keep what is known of the first messages of a conversation."""
        if not _judges_system(policy) and _may_end(messages, history.size):
            self._kept.keep(id(policy), messages[: history.size], (policy, policies, history))


def is_settled(judged: Collection[JudgedTurn]) -> bool:
    """Whether there is nothing to say of these turns of a history but that they passed."""
    return all(one.passed and not one.stands_out and not one.unread and not one.turn.current for one in judged)


def of_parts(
    history: KnownHistory, messages: Sequence[Message], own: Collection[str], coverage: Sequence[Coverage]
) -> KnownHistory:
    """Return the history with the coverage of its parts, and those of its texts that are the proxy's `own`."""
    parts = [part.path for message in messages[: history.size] for part in message.parts]
    return replace(history, own=frozenset(own).intersection(parts), coverage=tuple(coverage[: len(parts)]))


def _may_end(messages: Sequence[Message], size: int) -> bool:
    """Whether a history may end here: if no user follows who says something, the assistant's texts may be joined."""
    return messages[size].role == "user" and says_anything(messages[size])


def _judges_system(policy: Policy) -> bool:
    return any(role in policy.judge.roles for role in SYSTEM_ROLES)
