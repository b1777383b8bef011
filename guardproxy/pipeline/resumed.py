"""Conversations that an upstream keeps: which of its replies, named by a later request, were judged here."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from guardproxy.pipeline.exchange import Exchange
from guardproxy.types import Conversation

# How many ids are kept. The least recently named id is removed first; its reply is opaque from then on.
_MAX_IDS = 100_000


class JudgedReplies:
    """Remembers which replies were judged and passed unchanged, so that a request may continue from them."""

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, str, str, str], None] = OrderedDict()

    def remember(self, exchange: Exchange, reply_id: str) -> None:
        """Remember a reply that was judged and passed, as its request was.

        Unreadable content taints every continuation: if the request has any, an unknown earlier reply included, the
        reply is not remembered.
        """
        messages = self.without_known(exchange).request.conversation.messages
        if reply_id and not any(message.opaque for message in messages):
            self._ids[_key(exchange, reply_id)] = None
            if len(self._ids) > _MAX_IDS:
                self._ids.popitem(last=False)

    def giver(self, exchange: Exchange, upstreams: Iterable[str]) -> str:
        """The one of the `upstreams` that gave the remembered reply which the request resumes; empty if unknown."""
        resumed, origin = exchange.request.resumes, exchange.origin
        if resumed is None:
            return ""
        there = (replace(exchange, origin=replace(origin, upstream=upstream)) for upstream in upstreams)
        return next((one.origin.upstream for one in there if _key(one, resumed.text) in self._ids), "")

    def without_known(self, exchange: Exchange) -> Exchange:
        """The exchange; if its request resumes a remembered reply, without the opaque part that stands for it."""
        resumed = exchange.request.resumes
        if resumed is None or _key(exchange, resumed.text) not in self._ids:
            return exchange
        self._ids.move_to_end(_key(exchange, resumed.text))
        messages = tuple(
            replace(message, parts=tuple(part for part in message.parts if part.path != resumed.path))
            for message in exchange.request.conversation.messages
        )
        return replace(exchange, request=replace(exchange.request, conversation=Conversation(messages)))


def _key(exchange: Exchange, reply_id: str) -> tuple[str, str, str, str]:
    """The key of a remembered reply.

    An id is valid at its own upstream only. A reply counts as judged only for the policy that judged it, and only for
    the client that received it.
    """
    return exchange.origin.upstream, exchange.policy.name, exchange.origin.client, reply_id
