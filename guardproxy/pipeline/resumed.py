"""Conversations that an upstream keeps: which of its replies, named by a later request, were judged here."""

from collections import OrderedDict
from dataclasses import replace

from guardproxy.pipeline.judging import Exchange
from guardproxy.types import Conversation

# Ids kept; the least recently named one goes first, and is opaque from then on.
_MOST = 100_000


class JudgedReplies:
    """Remembers replies that left as they were said, so that what a later request continues from is not unknown."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def remember(self, exchange: Exchange, reply_id: str) -> None:
        """A reply was judged and passed, and so was the request that it answers.

        Where that had something unreadable in it, an unknown earlier reply too, all that goes on from it has.
        """
        messages = self.without_known(exchange).request.conversation.messages
        if reply_id and not any(message.opaque for message in messages):
            self._known[_key(exchange, reply_id)] = None
            if len(self._known) > _MOST:
                self._known.popitem(last=False)

    def without_known(self, exchange: Exchange) -> Exchange:
        """The exchange without the opaque part that stands for an earlier reply, where that was judged here."""
        resumed = exchange.request.resumes
        if resumed is None or _key(exchange, resumed.text) not in self._known:
            return exchange
        self._known.move_to_end(_key(exchange, resumed.text))
        messages = tuple(
            replace(message, parts=tuple(part for part in message.parts if part.path != resumed.path))
            for message in exchange.request.conversation.messages
        )
        return replace(exchange, request=replace(exchange.request, conversation=Conversation(messages)))


def _key(exchange: Exchange, reply_id: str) -> tuple[str, str, str]:
    """An id means something to its upstream only, and what was judged by one policy is unknown to another."""
    return exchange.origin.upstream, exchange.policy.name, reply_id
