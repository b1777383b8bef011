"""CORS: what lets pages of listed origins read the answers of the proxy in a browser."""

from collections.abc import Sequence
from fnmatch import translate

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PREFIX = b"access-control-"


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application with CORS for pages of these origins, which may have * for any text; as it is without any.

    Preflight requests are answered here. Clients may send every header and read every header; credentials of browsers,
    such as cookies, are not allowed. The upstream's own headers of this kind do not pass.
    """
    if not origins:
        return app
    patterns = "|".join(translate(origin.casefold().rstrip("/")) for origin in origins)
    return CORSMiddleware(
        _without_own(app), allow_origin_regex=patterns, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"]
    )


def _without_own(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if not pair[0].lower().startswith(_PREFIX)]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, sent)

    return call
