"""Which headers the proxy forwards, where the client's key stands, and the joining of paths.

Headers are lists of (name, value) in bytes, as in ASGI.
"""

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus, unquote_to_bytes

from guardproxy.settings import CREDENTIAL_HEADERS

Header = tuple[bytes, bytes]
Headers = list[Header]

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
# The headers and query parameters in which the protocols and their gateways send the client's key.
CREDENTIALS: Final = frozenset(name.encode("ascii") for name in CREDENTIAL_HEADERS)
KEY_PARAMETERS: Final = frozenset(
    {"key", "api-key", "api_key", "apikey", "subscription-key", "access_token", "oauth_token", "auth_token"}
)
# Headers by which some servers take another path, method or host than those of the request line. A request that was
# checked as a GET of a path must stay one.
_OVERRIDE: Final = re.compile(
    rb"x-(?:(?:envoy-)?original|rewrit(?:e|ten)|forwarded|override|real|proxy|request|requested|waws-unencoded)"
    rb"-(?:url|uri|path|prefix|method|target)"
    rb"|x-(?:http-)?(?:method|path|url|uri)(?:-override)?|x-override|(?:request|base|original|rewrite)-(?:url|uri|path)"
    rb"|x-original-host|x-host|x-http-host-override|x-http-destinationurl|destination"
)
# Headers that describe the bytes of a body, so they are wrong once the body changes.
OF_THE_BODY: Final = frozenset(
    {b"content-encoding", b"etag", b"digest", b"content-md5", b"content-digest", b"repr-digest", b"last-modified"}
)
_ITEMS: Final = re.compile(rb"[^&;]+[&;]*|[&;]+")
# Official SDKs do not repeat a request whose answer has it.
NO_RETRY: Final = (b"x-should-retry", b"false")
# The proxy's own headers; those of an upstream are removed.
OWN_PREFIX: Final = b"x-guardproxy-"
# By this one a caller chooses a policy, which decides beside the route's own.
CHOICE: Final = b"x-guardproxy-policy"


def end_to_end(headers: Iterable[tuple[bytes, bytes]], drop: frozenset[bytes]) -> Headers:
    """`headers` with lower-case names, without those in `drop` and those that `Connection` names."""
    lowered = [(name.lower(), value) for name, value in headers]
    if named := [value for name, value in lowered if name == b"connection"]:
        drop = drop.union(token.strip().lower() for value in named for token in value.split(b","))
    return [pair for pair in lowered if pair[0] not in drop]


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header, empty if it is absent. All names are in lower case."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def canonical_name(name: bytes) -> bytes:
    """The name of a header as servers compare it: in lower case; those that follow CGI read `_` as `-`."""
    return name.lower().replace(b"_", b"-")


def forwardable(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The client's headers without those that name another path, method or host, or that only concern the proxy.

    A header whose name spells that of a credential with `_` is left out as well: only some servers would read it.
    """
    return [(name, value) for name, value in headers if _known_forwardable(name)]


def _is_forwardable(name: bytes) -> bool:
    canonical = canonical_name(name)
    return (
        not _OVERRIDE.fullmatch(canonical) and canonical != CHOICE and not (canonical in CREDENTIALS and b"_" in name)
    )


_cached_forwardable = lru_cache(maxsize=1024)(_is_forwardable)


def _known_forwardable(name: bytes) -> bool:
    """The same few names occur in most requests; clients choose others, so long names do not go through the cache."""
    return _cached_forwardable(name) if len(name) <= 64 else _is_forwardable(name)


def parameter_name(item: bytes) -> str:
    """The decoded name, in lower case, of an item `name=value` of a query."""
    return unquote_plus(item.partition(b"=")[0].decode("latin-1")).strip().lower()


def without_keys(query: bytes) -> bytes:
    """A query without the client's keys, byte for byte otherwise. Some servers separate parameters at a semicolon."""
    if not query:
        return query
    items = _ITEMS.findall(query)  # each with the separator behind it
    kept = [item for item in items if parameter_name(item.rstrip(b"&;")) not in KEY_PARAMETERS]
    return query if len(kept) == len(items) else b"".join(kept).rstrip(b"&;")


def holds_key(value: bytes, keys: Collection[bytes]) -> bool:
    """Whether one of the keys stands in a text, as a word of its own."""
    found = [key for key in keys if key in value]
    return any(re.search(rb"(?<![\w-])%b(?![\w-])" % re.escape(key), value) for key in found)


def without_items(query: bytes, keys: Collection[bytes]) -> bytes:
    """A query without the items in which one of the keys stands, byte for byte otherwise."""
    items = _ITEMS.findall(query)
    kept = [item for item in items if not holds_key(unquote_to_bytes(item.replace(b"+", b" ")), keys)]
    return query if len(kept) == len(items) else b"".join(kept).rstrip(b"&;")


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
