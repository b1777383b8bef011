"""The guard's own APIs: what they have in common. Each answers with what the guard says, and forwards nothing."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

import structlog
from starlette.types import Receive, Scope, Send

from guardproxy.asking import asked_by
from guardproxy.errors import GuardproxyError, GuardUnavailable, Overloaded, Unreadable
from guardproxy.frozen import frozen
from guardproxy.observe import Metrics
from guardproxy.offload import computed
from guardproxy.pipeline import JudgedTurn, Judging
from guardproxy.policy import Policy
from guardproxy.ports import Answer
from guardproxy.routing import Asked
from guardproxy.settings import Limits
from guardproxy.types import Message, Origin
from guardproxy.web.access import Access
from guardproxy.web.call import Call
from guardproxy.web.client import choose_policy
from guardproxy.web.errors import NotReady, ShuttingDown, may_be_repeated, retry_after, told
from guardproxy.web.headers import NO_RETRY, Headers
from guardproxy.web.identities import Identities
from guardproxy.web.proxy import LivePolicies
from guardproxy.web.reading import check_encoding, check_values
from guardproxy.web.sample import ReviewSample
from guardproxy.wires.shared.body import read_object

log = structlog.get_logger("guardproxy.proxy")


@frozen
class ModerationCase:
    """A request for a judgement: it has no upstream, and its wire in records is the name of the API."""

    origin: Origin
    policy: Policy
    shadow: tuple[Policy, ...]
    sampled: bool
    place: None = None  # a text for moderation is in no conversation


@frozen
class ApiParts:
    """What every API needs: the same objects as the proxy. `ready` returns why the guard cannot judge, or nothing."""

    judging: Judging
    policies: LivePolicies
    limits: Limits
    ready: Callable[[], str]
    identities: Identities
    sample: ReviewSample
    access: Access
    metrics: Metrics


class WrongMethod(GuardproxyError):
    """The path takes only the methods `allowed`."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"this path takes {self.allowed}, not {method}")


class CallerLeft(GuardproxyError):
    """The caller has closed the connection, so nothing was judged for it."""

    status = 499
    code = "client_left"


class GuardApi(ABC):
    """An API of the guard, as an ASGI application for its paths. A subclass reads bodies and writes answers."""

    name: ClassVar[str]
    """Its name as a protocol of routes, a wire of records, and a label of metrics."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)
    """The methods that its paths take."""

    halves: ClassVar[bool] = False
    """Whether texts may hold unpaired surrogates, which a stream holds between two frames."""

    def __init__(self, parts: ApiParts) -> None:
        self.parts = parts

    @abstractmethod
    async def respond(self, call: Call, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request. Raises GuardproxyError for `error` to write."""

    @abstractmethod
    def error(self, error: GuardproxyError, message: str) -> bytes:
        """The body of an error's answer, in JSON. `message` is what the caller is told."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A failure gives an error in the API's own shape, never a verdict."""
        call = Call(scope, receive, send)
        structlog.contextvars.bind_contextvars(request_id=call.id)
        self.parts.metrics.in_flight += 1
        more: Headers = []
        try:
            answer = await self.respond(call, scope, receive)
        except GuardproxyError as error:
            log.warning("request_failed", code=error.code, error=str(error))
            answer, more = self._failed(call, error)
        except asyncio.CancelledError:  # by the server, which stops, or because the caller has left
            answer, more = self._failed(call, ShuttingDown("the guard is shutting down; repeat the request"))
        except Exception:  # whatever failed, the answer is an error and not a verdict
            log.exception("request_broke")
            broke = GuardproxyError(f"internal error, see the log of request {call.id}")
            answer, more = self._failed(call, broke)
        finally:
            self.parts.metrics.in_flight -= 1
        await _send(call, answer, more)
        self.parts.metrics.request(self.name, answer.status)
        usual = answer.status < HTTPStatus.BAD_REQUEST and call.action in {None, "pass"}
        ms = round((time.perf_counter() - call.began) * 1000, 1)
        (log.debug if usual else log.info)(
            "request", wire=self.name, path=call.path, status=answer.status, action=call.action, ms=ms
        )

    def _failed(self, call: Call, error: GuardproxyError) -> tuple[Answer, Headers]:
        self.parts.metrics.failed(error.code)
        more = retry_after(error)
        if isinstance(error, WrongMethod):
            more.append((b"allow", error.allowed.encode("ascii")))
        if not may_be_repeated(error):
            more.append(NO_RETRY)
        return Answer(error.status, "application/json", self.error(error, self.told(error, call.id))), more

    def told(self, error: GuardproxyError, request_id: str) -> str:
        """What the caller is told of an error."""
        return told(error, request_id)

    # --- for subclasses ----------------------------------------------------------------------------------------------

    async def read(self, call: Call) -> tuple[dict[str, Any], int]:
        """The body of a POST by somebody who may ask, if the guard is ready, and its bytes. Raises GuardproxyError."""
        if call.method != "POST":
            raise WrongMethod(call.method, self.methods)
        check_encoding(call.headers)
        call.client = self.parts.access.admit(call.headers, call.query)
        if reason := self.parts.ready():
            raise NotReady(reason)
        body = await call.body(self.parts.limits.body_bytes)
        if body is None:
            raise CallerLeft("the caller has left before the end of the body")
        return await computed(len(body), parsed, body, self.parts.limits, halves=self.halves), len(body)

    def case(
        self, call: Call, body: Mapping[str, Any], messages: Sequence[Message], *, model: str = "", policy: str = ""
    ) -> ModerationCase:
        """The case of a request: who asks, and the policy of its route, or the one named `policy`.

        Raises LimitReached, AmbiguousRequest, PolicyNotChoosable, and KeyError for a policy that does not exist.
        """
        parts = self.parts
        user, session = parts.identities.of(body, call.headers)
        asked = Asked((call.path,), protocol=self.name, user=user)
        policies = parts.policies.current
        client, chosen = choose_policy(
            policies, asked, (("model", model),), call.headers, call.query, known=call.client
        )
        parts.access.charge(call.client, messages)
        origin = Origin(call.id, chosen.route, self.name, "", model, client, user=user, session=session)
        asked_by(client or call.peer)
        acting = policies.policies[policy] if policy else chosen.policy
        return ModerationCase(origin, acting, chosen.shadow, parts.sample.draw())


async def _send(call: Call, answer: Answer, more: Headers) -> None:
    if answer.status == HTTPStatus.NO_CONTENT:  # which has no content-length (RFC 9110, 8.6)
        await call.start(answer.status, more)
        await call.end()
        return
    await call.answer(answer.status, [(b"content-type", answer.content_type.encode("ascii")), *more], answer.body)


def parsed(body: bytes, limits: Limits, *, halves: bool = False) -> dict[str, Any]:
    """The object in a body. Raises Unreadable, and TooLarge if parsing would take long."""
    check_values(body, limits)
    return read_object(body, halves=halves)


def raise_failure(judged: JudgedTurn) -> None:
    """Raise the guard's failure for a text that was not judged, whatever the policy makes of it."""
    if judged.error:
        kind = Overloaded if judged.decision.cause == "overload" else GuardUnavailable
        raise judged.failure or kind(judged.error)


# --- values of a body ------------------------------------------------------------------------------------------------


def list_at(body: Mapping[str, Any], name: str) -> list[Any]:
    """The list at a key, empty if there is none. Raises Unreadable for another value."""
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise Unreadable("must be a list", name)
    return value or []


def strings_at(body: Mapping[str, Any], name: str) -> list[str]:
    """The strings at a key. Raises Unreadable for anything else."""
    found = list_at(body, name)
    for index, one in enumerate(found):
        if not isinstance(one, str):
            raise Unreadable("must be a string", f"{name}[{index}]")
    return found


def text_at(body: Mapping[str, Any], name: str) -> str:
    """The string at a key, empty if there is none. Raises Unreadable for another value."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise Unreadable("must be a string", name)
    return value or ""
