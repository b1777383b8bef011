"""Conversations that an upstream keeps: which of its replies, named by a later request, were judged here."""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace

from guardproxy.pipeline.exchange import Exchange
from guardproxy.policy import UNSAFE, Policy, Rule, SideRules
from guardproxy.types import Conversation

# How many ids are kept. The least recently named id is removed first; its reply is opaque from then on.
_MAX_IDS = 100_000


class JudgedReplies:
    """Remembers which replies were judged and passed unchanged, so that a request may continue from them.

    A reply counts as judged only for the policy that judged it. Of every reply it remembers who gave it.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, ...], str] = OrderedDict()  # with the policy that judged the reply
        self._givers: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()  # address and name

    def gave(self, exchange: Exchange, reply_id: str) -> None:
        """Remember which upstream gave a reply, also if it was withheld or goes on in the background.

        The upstream has it in any case, and no other one has.
        """
        if reply_id and exchange.wire.resumable:
            key = exchange.origin.client, reply_id
            self._givers[key] = exchange.origin.upstream, exchange.account
            self._givers.move_to_end(key)
            if len(self._givers) > _MAX_IDS:
                self._givers.popitem(last=False)

    def remember(self, exchange: Exchange, reply_id: str) -> None:
        """Remember a reply that was judged and passed, as its request was.

        Unreadable content taints every continuation: if the request has any, an unknown earlier reply included, the
        reply is not remembered.
        """
        messages = self.without_known(exchange).request.conversation.messages
        if reply_id and not any(message.opaque for message in messages):
            self._ids[_key(exchange, reply_id)] = exchange.policy.name
            if len(self._ids) > _MAX_IDS:
                self._ids.popitem(last=False)

    def giver(self, exchange: Exchange, upstreams: Collection[tuple[str, str]]) -> str:
        """The name of the upstream that gave the reply which the request resumes or is about; empty if unknown.

        `upstreams` are the address and the name of each that is possible.
        """
        resumed = exchange.request.resumes
        known = None if resumed is None else self._givers.get((exchange.origin.client, resumed.text))
        return known[1] if known is not None and known in upstreams else ""

    def without_known(self, exchange: Exchange) -> Exchange:
        """The exchange; if its request resumes a remembered reply, without the opaque part that stands for it."""
        resumed = exchange.request.resumes
        if resumed is None or self._ids.get(_key(exchange, resumed.text)) != exchange.policy.name:
            return exchange
        self._ids.move_to_end(_key(exchange, resumed.text))
        messages = tuple(
            replace(message, parts=tuple(part for part in message.parts if part.path != resumed.path))
            for message in exchange.request.conversation.messages
        )
        return replace(exchange, request=replace(exchange.request, conversation=Conversation(messages)))


class WithheldReplies:
    """Remembers which replies were withheld, in whole or from a place on, and the reply before each.

    The upstream keeps a withheld reply. A request that goes on from one goes on from the reply before it, so that the
    model does not read what nobody was to read: as in a history, from which the exchange of a refused turn is dropped.

    The upstream is not part of the key: it is chosen by the reply that the request goes on from in the end. Neither is
    the policy: a request that another route or the caller's choice puts under another one must not go on from it.
    One process remembers. A store that several share has the same two methods, keys and values.
    """

    def __init__(self) -> None:
        # The reply before, and whether the reply was withheld when its conversation was known.
        self._before: OrderedDict[tuple[str, str], tuple[str, bool]] = OrderedDict()

    def note(self, exchange: Exchange, reply_id: str) -> None:
        """Remember a withheld reply, if its protocol lets a request go on from it.

        A request without messages retrieves the reply: the one before it is then as it was known, or none.
        """
        if reply_id and exchange.wire.resumable:
            resumed, key = exchange.request.resumes, (exchange.origin.client, reply_id)
            before = resumed.text if resumed else ""
            is_retrieval = not exchange.request.conversation.messages
            self._before[key] = self._before.get(key, ("", False)) if is_retrieval else (before, True)
            if len(self._before) > _MAX_IDS:
                self._before.popitem(last=False)

    def left_out(self, exchange: Exchange) -> Exchange:
        """The exchange; a request from a withheld reply goes on from the one before it, unless the policy allows it.

        The reply itself stays withheld when it is retrieved: without its conversation it may look harmless. Raises
        Unreadable if the request says nothing then.
        """
        resumed = exchange.request.resumes
        if resumed is None or exchange.policy.history == "allow":
            return exchange
        key = exchange.origin.client, resumed.text
        if key not in self._before:
            return exchange
        self._before.move_to_end(key)
        before, in_conversation = self._before[key]
        if exchange.request.conversation.messages:
            return replace(exchange, request=exchange.wire.continued(exchange.request, before))
        of_reply = in_conversation and not exchange.request.path.partition("?")[0].endswith("/input_items")
        return replace(exchange, policy=_withholding(exchange.policy)) if of_reply else exchange


def _withholding(policy: Policy) -> Policy:
    """The policy that blocks whatever a reply says."""
    return replace(
        policy,
        assistant=SideRules({UNSAFE: (Rule("block", 0.0),)}),
        stream=replace(policy.stream, mode="hold_all"),
        on_guard_error="block",
        on_overload="block",
    )


def _key(exchange: Exchange, reply_id: str) -> tuple[str, ...]:
    """The key of a remembered reply: an id is valid at its own upstream, and for the client that received it."""
    return exchange.origin.upstream, exchange.account, exchange.origin.client, reply_id
