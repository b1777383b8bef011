"""Which headers cross the proxy, and how paths join. Headers are lists of pairs of bytes, as ASGI has them."""

import hashlib
from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1, and what older proxies still send: these speak of one connection.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Where the protocols put a client's key.
CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
# They speak of the bytes of a body, so they do not outlive a change of them.
OF_THE_BODY: Final = frozenset(
    {b"content-encoding", b"etag", b"digest", b"content-md5", b"content-digest", b"repr-digest", b"last-modified"}
)
# The proxy's own word; nobody upstream speaks in its place.
OWN_PREFIX: Final = b"x-guardproxy-"


def end_to_end(headers: Iterable[tuple[bytes, bytes]], drop: frozenset[bytes]) -> Headers:
    """`headers` with names in lower case, without those in `drop` and those that `Connection` names."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in lowered if name == b"connection" for token in value.split(b",")}
    return [pair for pair in lowered if pair[0] not in drop and pair[0] not in named]


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header; empty where it is absent. All names in lower case."""
    return next((value for key, value in headers if key == name), b"")


def client_of(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> str:
    """Sixteen hex digits that stand for the client's key; empty where there is none.

    They are the first of SHA-256 over the key itself, whichever header (or Gemini's `key=`) carries it, so that an
    operator can compute them for a route: `printf %s "$KEY" | sha256sum | cut -c1-16`.
    """
    for name, value in headers:
        if name in CREDENTIALS and value:
            key = value[7:] if value[:7].lower() == b"bearer " else value
            return hashlib.sha256(key.strip()).hexdigest()[:16]
    for item in query.split(b"&") if b"key=" in query else ():
        if item.startswith(b"key="):
            return hashlib.sha256(item[4:]).hexdigest()[:16]
    return ""


def join(prefix: str, path: str) -> str:
    """The path of a request under the path of a base URL.

    Segments that end the prefix and begin the path count once, so a request to `/v1/models` goes to `/v1/models` under
    `http://host` as well as under `http://host/v1`, and to `/openai/v1/models` under `http://host/openai`.
    """
    prefix = prefix.rstrip("/")
    segments = prefix.split("/")[1:]
    for start in range(len(segments)):
        overlap = "/" + "/".join(segments[start:])
        if path == overlap or path.startswith(overlap + "/"):
            return prefix[: len(prefix) - len(overlap)] + path
    return prefix + path
