"""Which headers the proxy forwards, the hash of a client's key, and the joining of paths.

Headers are lists of (name, value) in bytes, as in ASGI.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]

# Headers that concern a single connection: RFC 9110, 7.6.1, and others that older proxies still send.
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
# The headers in which the protocols send the client's key.
CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
# Headers that describe the bytes of a body, so they are wrong once the body changes.
OF_THE_BODY: Final = frozenset(
    {b"content-encoding", b"etag", b"digest", b"content-md5", b"content-digest", b"repr-digest", b"last-modified"}
)
# The proxy's own headers; those of an upstream are removed.
OWN_PREFIX: Final = b"x-guardproxy-"


def end_to_end(headers: Iterable[tuple[bytes, bytes]], drop: frozenset[bytes]) -> Headers:
    """`headers` with lower-case names, without those in `drop` and those that `Connection` names."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in lowered if name == b"connection" for token in value.split(b",")}
    return [pair for pair in lowered if pair[0] not in drop and pair[0] not in named]


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header, empty if it is absent. All names are in lower case."""
    return next((value for key, value in headers if key == name), b"")


def client_hash(headers: Iterable[tuple[bytes, bytes]], query: bytes) -> str:
    """The first 16 hex digits of the SHA-256 of the client's key; empty if the request has none.

    The key is in one of the CREDENTIALS or in Gemini's query parameter `key`. An operator can compute the hash of a key
    for a route: `printf %s "$KEY" | sha256sum | cut -c1-16`.
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
    """The path of a request, joined to the path of a base URL.

    Segments that end the prefix and start the path appear once. So a request to `/v1/models` goes to `/v1/models` for
    the base URLs `http://host` and `http://host/v1`, and to `/openai/v1/models` for `http://host/openai`.
    """
    prefix = prefix.rstrip("/")
    segments = prefix.split("/")[1:]
    for start in range(len(segments)):
        overlap = "/" + "/".join(segments[start:])
        if path == overlap or path.startswith(overlap + "/"):
            return prefix[: len(prefix) - len(overlap)] + path
    return prefix + path
