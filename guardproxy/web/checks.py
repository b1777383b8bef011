"""`/v1/check`: one check of the guard, in guardproxy's own format (`guardproxy.checkapi`, docs/check-api.md).

Without a policy, the answer is the guard's own verdict on exactly this text: who asks decides, and keeps the record.
With one, the text is judged in every view under the policy, and recorded as a turn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope

from guardproxy.asking import Askers
from guardproxy.checkapi import (
    Account,
    CheckCall,
    account_of,
    call_of,
    decision_fields,
    outcome_fields,
    verdict_fields,
    write_failure,
)
from guardproxy.checkapi.calls import KEYS, LONGEST_NAME
from guardproxy.checkapi.fields import dumps
from guardproxy.errors import GuardproxyError, GuardUnavailable, Unreadable
from guardproxy.offload import computed
from guardproxy.pipeline import GrowingReplies, moderated
from guardproxy.ports import Answer
from guardproxy.settings import Limits
from guardproxy.types import Conversation, Message
from guardproxy.web.apis import ApiParts, CallerLeft, GuardApi
from guardproxy.web.call import Call, WhileConnected
from guardproxy.web.errors import NotReady, told
from guardproxy.web.reading import check_size
from guardproxy.wires.shared.body import has_half

_JSON = "application/json"


class PolicyUnknown(GuardproxyError):
    """The check names a policy that the configuration lacks."""

    status = 404
    code = "policy_unknown"


class CheckApi(GuardApi):
    """Answers checks. `account` returns that of the guard, once it is ready; `growing` are the replies of
    `pipeline.Pipeline`.

    With `plain`, callers are told how the guard failed. That is for a service whose callers are the operator's own: the
    message may name other services.
    """

    name = "check"
    methods = ("GET", "POST", "DELETE")
    halves = True

    def __init__(
        self, parts: ApiParts, growing: GrowingReplies, account: Callable[[], Account], *, plain: bool
    ) -> None:
        super().__init__(parts)
        self._growing = growing
        self._read_account = account
        self._known: Account | None = None
        self._plain = plain
        self._askers = Askers()

    def error(self, error: GuardproxyError, message: str) -> bytes:
        """An object `error` with the code, the message, and where there are any the path and the seconds to wait."""
        return write_failure(error, message)

    def told(self, error: GuardproxyError, request_id: str) -> str:
        """What the caller is told of an error."""
        return str(error) if self._plain else told(error, request_id)

    async def respond(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        """The answer to a check (POST), to the end of a stream (DELETE), or to the question who the guard is (GET)."""
        if call.method == "GET":
            self.parts.access.admit(call.headers, call.query)
            if reason := self.parts.ready():
                raise NotReady(reason)
            return Answer(200, _JSON, dumps(account_of(self._account)))
        if call.method == "DELETE":
            return await self._forget(call)
        body, size = await self.read(call)
        _check_query(call)
        asked = await computed(size, _asked, body, self.parts.limits)
        fields = await (self._decided(call, body, asked, size) if asked.policy else self._judged(call, asked, receive))
        try:
            return Answer(200, _JSON, dumps({**fields, "account": self._account.short}))
        except ValueError:
            raise GuardUnavailable("the guard returned a probability that is no number") from None

    @property
    def _account(self) -> Account:
        if self._known is None:
            self._known = self._read_account()
        return self._known

    async def _forget(self, call: Call) -> Answer:
        call.client = self.parts.access.admit(call.headers, call.query)
        streams = parse_qs(call.query.decode("latin-1")).get("stream", [])
        if len(streams) != 1 or len(streams[0]) > LONGEST_NAME:
            raise Unreadable(f"the query must name one stream, of at most {LONGEST_NAME} characters", "stream")
        stream = _stream_of(call, streams[0])
        self.parts.judging.guard.forget(stream)
        await self._growing.finish(stream)
        return Answer(204, _JSON, b"")

    async def _judged(self, call: Call, asked: CheckCall, receive: Receive) -> Mapping[str, Any]:
        """The guard's own verdict. If the caller leaves, the check is dropped."""
        check, caller = asked.check, asked.caller
        self.parts.access.charge(call.client, check.conversation.messages)
        who = f"{call.client.name if call.client else ''}:{caller.client or call.peer}"
        self._askers.use(who, caller.request, answered=caller.answered)
        if check.stream is not None:
            check = replace(check, stream=_stream_of(call, check.stream))
        policy = self.parts.policies.current.policies["default"]
        shown = await self.parts.judging.images.of_request(check.conversation.messages, policy)
        check = replace(check, conversation=Conversation(tuple(shown)))
        if not check.turn.text.strip() and not check.turn.images:
            return _NOT_JUDGED  # a guard would say that nothing is harmless, which it is not asked
        async with WhileConnected(call, receive):
            verdict = await self.parts.judging.verdict(check, policy)
            return {**verdict_fields(verdict), "coverage": "partial" if check.turn.opaque else "full"}
        raise CallerLeft("the caller has left")

    async def _decided(self, call: Call, body: Mapping[str, Any], asked: CheckCall, size: int) -> Mapping[str, Any]:
        """The verdict, what the policy decides, and what becomes of the text."""
        messages = asked.check.conversation.messages
        turn, side = messages[-1], asked.check.side
        if await computed(size, _has_halves, messages):
            raise Unreadable("contains an unpaired surrogate; send both halves of the pair", "messages")
        _check_paths(turn, f"messages[{len(messages) - 1}].parts")
        try:
            case = self.case(call, body, [turn], policy=asked.policy)
        except KeyError:
            names = ", ".join(self.parts.policies.current.policies)
            raise PolicyUnknown(f"there is no policy {asked.policy!r}; the policies are {names}") from None
        if side != turn.side:
            raise Unreadable(f"is {side}, but a message of the role {turn.role} has the side {turn.side}", "side")
        stream = _stream_of(call, asked.check.stream) if asked.check.stream is not None else None
        context, growing = messages[:-1], self._growing
        (judged,) = await moderated(
            self.parts.judging,
            case,
            [turn],
            context=context,
            stream=stream,
            unfinished=asked.check.unfinished,
            acts=True,
            growing=growing,
        )
        if judged.failure is not None:
            raise judged.failure
        verdict = _NOT_JUDGED
        if judged.verdict is not None:
            verdict = {**verdict_fields(judged.verdict), "coverage": judged.coverage}
        call.judged(judged.decision.action, judged.decision.categories, judged.coverage)
        decided = {"decision": decision_fields(case.policy.name, judged.decision)}
        return {**verdict, **decided, "outcome": outcome_fields(judged.outcome)}


def _asked(body: Mapping[str, Any], limits: Limits) -> CheckCall:
    """The check in a body. Raises Unreadable, and TooLarge beyond the limits."""
    asked = call_of(body)
    check_size(asked.check.conversation.messages, limits)
    return asked


def _check_query(call: Call) -> None:
    """Raises Unreadable if the query names a field of the body, which would not count: a policy would not decide."""
    for key in parse_qs(call.query.decode("latin-1"), keep_blank_values=True):
        if key in KEYS:
            raise Unreadable("stands in the query; send it in the body", key)


def _check_paths(turn: Message, place: str) -> None:
    """Raises Unreadable if two parts have one path: an edit could not say which of them it changes."""
    seen: set[str] = set()
    for index, part in enumerate(turn.parts):
        if part.path in seen:
            raise Unreadable("is the path of an earlier part too; give each part its own", f"{place}[{index}].path")
        seen.add(part.path)


def _has_halves(messages: Sequence[Message]) -> bool:
    return any(has_half(part.text) for message in messages for part in message.parts)


# Of a text that is empty or opaque, or that the guard has failed to judge: no verdict, which nobody takes for "safe".
_NOT_JUDGED: Final[Mapping[str, Any]] = {"unsafe": None, "findings": [], "coverage": "none"}


def _stream_of(call: Call, stream: str) -> str:
    """A stream by the name that its caller gave it: another caller's of the same name is another one."""
    return f"{call.client.name if call.client else ''}:{stream}"
