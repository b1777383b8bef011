"""Conversations that an upstream keeps: which of its replies, named by a later request, were judged here."""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Generic, TypeVar

from guardproxy.pipeline.exchange import Exchange
from guardproxy.policy import UNSAFE, Policy, Rule, SideRules
from guardproxy.ports import SharedState, StateKind
from guardproxy.types import Conversation

V = TypeVar("V")

# How many ids are kept. The least recently named id is removed first; its reply is opaque from then on.
_MAX_IDS = 100_000


class _Memory(Generic[V]):
    """What this process remembers of replies by their keys, in front of what several processes `shared`, if they do."""

    def __init__(self, kind: StateKind, read: Callable[[Any], V], shared: SharedState | None) -> None:
        self._kind: StateKind = kind
        self._read = read
        self._shared = shared
        self._known: OrderedDict[tuple[str, ...], V] = OrderedDict()

    async def find(self, key: tuple[str, ...]) -> V | None:
        """The value, None if it is not known."""
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        elif self._shared is not None:
            known = await self._shared.get(self._kind, _written(key), self._read)
            if known is not None:
                self._note(key, known)
        return known

    async def keep(self, key: tuple[str, ...], value: V) -> None:
        """Remember a value. When this returns, the processes that share it know it, if they can."""
        is_new = self._known.get(key) != value
        self._note(key, value)
        if is_new and self._shared is not None:
            await self._shared.put(self._kind, _written(key), value)

    def _note(self, key: tuple[str, ...], value: V) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > _MAX_IDS:
            self._known.popitem(last=False)


class JudgedReplies:
    """Remembers which replies were judged and passed unchanged, so that a request may continue from them.

    A reply counts as judged only for the policy that judged it. Of every reply it remembers who gave it.
    """

    def __init__(self, shared: SharedState | None = None) -> None:
        self._passed = _Memory[str]("passed", _name, shared)  # the policy that judged the reply
        self._givers = _Memory[tuple[str, str]]("giver", _two_names, shared)  # address and name

    async def gave(self, exchange: Exchange, reply_id: str) -> None:
        """Remember which upstream gave a reply, also if it was withheld or goes on in the background.

        The upstream has it in any case, and no other one has.
        """
        if reply_id and exchange.wire.resumable:
            await self._givers.keep((exchange.origin.client, reply_id), (exchange.origin.upstream, exchange.account))

    async def remember(self, exchange: Exchange, reply_id: str) -> None:
        """Remember a reply that was judged and passed, as its request was.

        Unreadable content taints every continuation: if the request has any, an unknown earlier reply included, the
        reply is not remembered.
        """
        if not reply_id:
            return
        messages = (await self.without_known(exchange)).request.conversation.messages
        if not any(message.opaque for message in messages):
            await self._passed.keep(_key(exchange, reply_id), exchange.policy.name)

    async def giver(self, exchange: Exchange, upstreams: Collection[tuple[str, str]]) -> str:
        """The name of the upstream that gave the reply which the request resumes or is about; empty if unknown.

        `upstreams` are the address and the name of each that is possible.
        """
        resumed = exchange.request.resumes
        known = None if resumed is None else await self._givers.find((exchange.origin.client, resumed.text))
        return known[1] if known is not None and known in upstreams else ""

    async def without_known(self, exchange: Exchange) -> Exchange:
        """The exchange; if its request resumes a remembered reply, without the opaque part that stands for it."""
        resumed = exchange.request.resumes
        if resumed is None or await self._passed.find(_key(exchange, resumed.text)) != exchange.policy.name:
            return exchange
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
    """

    def __init__(self, shared: SharedState | None = None) -> None:
        # The reply before, and whether the reply was withheld when its conversation was known.
        self._before = _Memory[tuple[str, bool]]("withheld", _name_and_whether, shared)

    async def note(self, exchange: Exchange, reply_id: str) -> None:
        """Remember a withheld reply, if its protocol lets a request go on from it.

        A request without messages retrieves the reply: the one before it is then as it was known, or none.
        """
        if not reply_id or not exchange.wire.resumable:
            return
        resumed, key = exchange.request.resumes, (exchange.origin.client, reply_id)
        if exchange.request.conversation.messages:
            await self._before.keep(key, (resumed.text if resumed else "", True))
        else:
            await self._before.keep(key, await self._before.find(key) or ("", False))

    async def left_out(self, exchange: Exchange) -> Exchange:
        """The exchange; a request from a withheld reply goes on from the one before it, unless the policy allows it.

        The reply itself stays withheld when it is retrieved: without its conversation it may look harmless. Raises
        Unreadable if the request says nothing then.
        """
        resumed = exchange.request.resumes
        if resumed is None or exchange.policy.history == "allow":
            return exchange
        known = await self._before.find((exchange.origin.client, resumed.text))
        if known is None:
            return exchange
        before, in_conversation = known
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


def _written(key: tuple[str, ...]) -> bytes:
    return repr(key).encode(errors="surrogatepass")


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is no string")
    return value


def _two_names(value: Any) -> tuple[str, str]:
    first, second = value
    return _name(first), _name(second)


def _name_and_whether(value: Any) -> tuple[str, bool]:
    name, whether = value
    if not isinstance(whether, bool):
        raise TypeError("a value is neither true nor false")
    return _name(name), whether
