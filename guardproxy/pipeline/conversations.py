"""Which requests continue each other. Clients of chat protocols send the whole conversation with every request.

A conversation is known by its beginning: a request continues an earlier one if its messages begin with all of those of
the earlier one, from the same client. Nothing of this is known after a restart, or in another worker.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from guardproxy.asking import current_asker
from guardproxy.observe.masking import INFERRED, short_hash
from guardproxy.offload import computed
from guardproxy.pipeline.by_messages import ByMessages
from guardproxy.pipeline.exchange import Case, ConversationPlace, Exchange
from guardproxy.policy import JudgeScope
from guardproxy.types import Message, Origin

_SYSTEM_ROLES = ("system", "developer")
_MOST = 50_000  # beginnings that are kept; the least recently used one is removed first
_HASH_BYTES = 16
_TRIED = 5  # beginnings of a conversation that are looked for, the longest first
# Hashing a text takes a fraction of the time that parsing it takes, so it goes to a thread from 64 KB on.
CHEAPER = 8


class Conversations:
    """Remembers how conversations begin, so that a request that continues one gets its session.

    With `infer`, a request that names no session gets one of its own making: that of the request that it continues, or
    a new one. If two conversations begin alike, requests that continue both of these begin a new one.
    """

    def __init__(self, *, infer: bool = False) -> None:
        self._infer = infer
        self._sessions: OrderedDict[bytes, str] = OrderedDict()  # by beginning; empty if several have it
        self._known = ByMessages[tuple[bytes, ...]]()  # prefixes

    async def placed(self, exchange: Exchange) -> Exchange:
        """The exchange with its place, and with the session that it continues or begins if it names none."""
        origin, request = exchange.origin, exchange.request
        start = repr((origin.client, current_asker().client, origin.user, origin.session)).encode(errors="replace")
        messages, scope = request.conversation.messages, exchange.policy.judge
        prefixes = await computed(len(request.raw) // CHEAPER, self._prefixes_of, messages, scope, start)
        if self._infer and prefixes and not origin.session:
            resumed = request.resumes and self._sessions.get(_reply_key(exchange, request.resumes.text))
            session = resumed or self._continued(prefixes)
            session = session or INFERRED + short_hash(origin.request_id.encode())
            self._begin(prefixes[-1], session)
            origin = _in_session(origin, session)
        if not prefixes:
            return exchange
        return exchange.placed(origin, ConversationPlace(prefixes, _first_new(messages), _has_tools(messages)))

    def _prefixes_of(self, messages: Sequence[Message], scope: JudgeScope, start: bytes) -> tuple[bytes, ...]:
        """The prefixes of the messages, of which those of a beginning may be known."""
        known: tuple[bytes, ...] = ()
        for size in range(len(messages), max(len(messages) - _TRIED, 0), -1):
            if found := self._known.find((start, scope), messages[:size]):
                known = found
                break
        if len(known) == len(messages):
            return known
        before = known[-1] if known else _hashed(start, b"")
        prefixes = (*known, *prefixes_of(messages[len(known) :], scope, before))
        self._known.keep((start, scope), messages, prefixes)
        return prefixes

    def answered(self, case: Case, prefix: bytes, reply_id: str) -> None:
        """Note a reply, which later requests repeat or name by its id; `prefix` is that of the conversation with it."""
        session = case.origin.session
        if not self._infer or not session or not prefix:
            return
        if reply_id:
            self._begin(_reply_key(case, reply_id), session)
        if session.startswith(INFERRED):
            self._begin(prefix, session)

    def _continued(self, prefixes: Sequence[bytes]) -> str:
        """The session of the longest known beginning; empty without one, or if several sessions have it.

        The whole request is none of its own beginnings: whoever sends the same again begins again.
        """
        whole = prefixes[-1]
        for prefix in reversed(prefixes):
            if prefix != whole and (session := self._sessions.get(prefix)) is not None:
                self._sessions.move_to_end(prefix)
                return session
        return ""

    def _begin(self, prefix: bytes, session: str) -> None:
        self._sessions[prefix] = session if self._sessions.get(prefix, session) == session else ""
        self._sessions.move_to_end(prefix)
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)


def _in_session(origin: Origin, session: str) -> Origin:
    """The origin with a session. Every request gets one, and `replace` takes four times as long."""
    return Origin(
        origin.request_id,
        origin.route,
        origin.wire,
        origin.upstream,
        origin.model,
        origin.client,
        origin.stream,
        origin.user,
        session,
    )


def _first_new(messages: Sequence[Message]) -> int:
    """The index of the first message behind everything that the assistant has said or called.

    What stands at the end and is not the user's or a tool's, such as a prefill of the answer, is new with them.
    """
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role in ("user", "tool")), 0)
    return next((i + 1 for i in range(last, -1, -1) if messages[i].role == "assistant"), 0)


def _has_tools(messages: Sequence[Message]) -> bool:
    system = (message for message in messages if message.role in _SYSTEM_ROLES)
    return any(part.kind == "tool_definition" for message in system for part in message.parts)


def prefixes_of(messages: Sequence[Message], scope: JudgeScope, start: bytes) -> tuple[bytes, ...]:
    """For each message, a hash of the roles and texts of the conversation up to and including it, behind `start`.

    What the policy does not judge is left out: system prompts often contain the time. Of content that cannot be read,
    only the kind counts.
    """
    return tuple(_prefixes(messages, scope, start))


def _prefixes(messages: Sequence[Message], scope: JudgeScope, start: bytes) -> Iterator[bytes]:
    prefix = start
    for message in messages:
        prefix = following(prefix, message, scope)
        yield prefix


def following(prefix: bytes, message: Message, scope: JudgeScope) -> bytes:
    """The prefix of the conversation that this message continues."""
    only_opaque = message.role in _SYSTEM_ROLES and message.role not in scope.roles
    parts = [p for p in message.parts if p.kind == "opaque" or not (only_opaque or p.kind in scope.skip)]
    if not parts:
        return prefix
    written = [f"{part.kind} {len(part.note)} {len(part.text)} {part.note}{part.text}" for part in parts]
    return _hashed(prefix, f"{message.role} {''.join(written)}".encode(errors="surrogatepass"))


def _hashed(prefix: bytes, text: bytes) -> bytes:
    return blake2b(prefix + text, digest_size=_HASH_BYTES).digest()


def _reply_key(case: Case, reply_id: str) -> bytes:
    """The key of a reply's id, which is valid at its own upstream, for the client that received it."""
    return _hashed(repr((case.origin.upstream, case.origin.client, reply_id)).encode(errors="replace"), b"")
