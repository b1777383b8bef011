"""Failures, as an HTTP status with a body, and back: a text that was not judged never looks as if it was."""

import json
import math
from typing import Any, Final

from guardproxy.checkapi.fields import dumps
from guardproxy.errors import GuardproxyError, GuardUnavailable, JudgingTooLong, Overloaded, Unintelligible, Unreadable

_TOO_LARGE: Final = 413
_TOO_MANY: Final = 429
_QUOTED = 500  # characters of an unknown answer in a message


def write_failure(error: GuardproxyError, message: str | None = None) -> bytes:
    """The body of an error's answer, whose status is `error.status`. `message` replaces the error's own."""
    fields: dict[str, Any] = {"code": error.code, "message": str(error) if message is None else message}
    if isinstance(error, Unreadable) and error.path:
        fields["path"] = error.path
    if error.retry_s > 0:
        fields["retry_s"] = error.retry_s
    return dumps({"error": fields})


def failure_of(status: int, body: bytes) -> GuardUnavailable:
    """What an answer other than 200 means to who asked: the check was not judged.

    A guard that is over a limit is Overloaded; a check that is too large or takes too long is JudgingTooLong, so that
    no policy lets it pass.
    """
    code, message, retry_s = _fields(body)
    message = message or f"the guard answered {status}: {body[:_QUOTED].decode('utf-8', 'replace')}"
    if status == _TOO_LARGE:
        return JudgingTooLong(message)
    if code == Overloaded.code or status == _TOO_MANY:
        return Overloaded(message, Overloaded("").retry_s if retry_s is None else retry_s)
    return Unintelligible(message) if code == Unintelligible.code else GuardUnavailable(message)


def code_of(body: bytes) -> str:
    """The code of an error's body, such as `not_ready`; empty if it has none."""
    return _fields(body)[0]


def _fields(body: bytes) -> tuple[str, str, float | None]:
    try:
        error = json.loads(body)["error"]
        code, message, retry_s = error.get("code"), error.get("message"), error.get("retry_s")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", "", None
    known = isinstance(retry_s, float | int) and not isinstance(retry_s, bool) and math.isfinite(retry_s)
    return (
        code if isinstance(code, str) else "",
        message if isinstance(message, str) else "",
        retry_s if known and retry_s >= 0 else None,
    )
