"""Errors of HTTP requests and answers, and the error body of a path that no wire reads."""

import math

from guardproxy.errors import (
    AuditUnavailable,
    GuardproxyError,
    GuardUnavailable,
    JudgingTooLong,
    Overloaded,
    UpstreamUnavailable,
    UpstreamUnreadable,
)
from guardproxy.ports import Answer, Wire
from guardproxy.registry import load
from guardproxy.web.headers import Headers
from guardproxy.wires import REGISTRY, protocol_of


class Unsupported(GuardproxyError):
    """The request body has a content-encoding or charset that guardproxy does not read."""

    status = 415
    code = "unsupported_encoding"


class Redirected(GuardproxyError):
    """The upstream redirects the client to a place that is not guarded; official clients follow redirects."""

    status = 502
    code = "upstream_redirects"


class NotReady(GuardproxyError):
    """The guard cannot be trusted: it is loading, or it failed the canaries."""

    status = 503
    code = "not_ready"
    retry_s = 5.0


class ShuttingDown(GuardproxyError):
    """The server stops, and the request has not ended within its time of grace."""

    status = 503
    code = "shutting_down"


def retry_after(error: GuardproxyError) -> Headers:
    """The header that says when a request may be repeated, in whole seconds, at least 1; none if that is unknown."""
    return [(b"retry-after", b"%d" % math.ceil(error.retry_s))] if error.retry_s > 0 else []


def told(error: GuardproxyError, request_id: str) -> str:
    """What the client is told of an error.

    Why an upstream's answer cannot be read, how a guard failed, and how the audit did, is only logged: the first may
    quote text that was not judged, the others name the operator's services.
    """
    if isinstance(error, UpstreamUnreadable):
        return f"the upstream's answer cannot be read, so it cannot be judged; see request {request_id} in the log"
    if isinstance(error, GuardUnavailable) and not isinstance(error, Overloaded | JudgingTooLong):
        return f"the guard is unavailable, so nothing was judged; repeat the request later ({request_id})"
    if isinstance(error, AuditUnavailable):
        return f"the audit cannot be written, so nothing is answered; repeat the request later ({request_id})"
    return str(error)


def may_be_repeated(error: GuardproxyError) -> bool:
    """Whether a client may send the request again after this error."""
    if isinstance(error, UpstreamUnreadable | Redirected) or (
        isinstance(error, UpstreamUnavailable) and error.repeated
    ):
        return False
    return error.status in {429, 502, 503, 504}


def error_event(stream_type: str, answer: Answer) -> bytes:
    """An error as an event of a stream of this content type: a server-sent event, or a line of JSON."""
    is_sse = stream_type.lower().startswith("text/event-stream")
    return b"event: error\ndata: %b\n\n" % answer.body if is_sse else answer.body + b"\n"


def error_answer(path: str, status: int, code: str, message: str) -> Answer:
    """The error body of the protocol that `path` belongs to."""
    wire: Wire = load(protocol_of(path), REGISTRY, "wire")
    return wire.error(status, code, message)
