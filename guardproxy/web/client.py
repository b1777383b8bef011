"""Who sends a request, and the policy that its routes choose. What servers could read in two ways is refused.

The proxy knows a client by the hash of its key. An operator can compute the hash for a route:
`printf %s "$KEY" | sha256sum | cut -c1-16`.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from guardproxy.errors import GuardproxyError
from guardproxy.observe.masking import short_hash
from guardproxy.policy import Chosen, PolicySet
from guardproxy.web.headers import CREDENTIALS, KEY_PARAMETERS, Headers, canonical_name, parameter_name

# Schemes whose credentials are a list of parameters, with spaces between them (RFC 9110, 11.4).
_WITH_PARAMETERS: Final = frozenset({b"aws4-hmac-sha256", b"digest", b"hawk", b"oauth", b"signature"})
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]*")
# Parameters by which Google's servers take a method or headers from the query, and frameworks a method.
_OVERRIDES: Final = frozenset({"$httpmethod", "$httpheaders", "_method", "x-http-method-override", "x-http-method"})


class AmbiguousRequest(GuardproxyError):
    """Servers may read the request in several ways, which could lead to different policies."""

    status = 400
    code = "ambiguous_request"


def choose_policy(
    policies: PolicySet, paths: Sequence[str], models: Sequence[tuple[str, str]], headers: Headers, query: bytes
) -> tuple[str, Chosen]:
    """The client's name in records, and the policy for a request.

    `paths` are the request's path and its other spellings (`web.paths.spellings`), `models` the models that the
    upstream may use, with their places in the request (`Wire.models`). The name is the hash of the client's key, empty
    without a key. A request with several different keys has all their hashes, joined by commas.

    Raises AmbiguousRequest if not all keys and models lead to the same route, if a route depends on the model and the
    request names none, and if a credential or a header that a route depends on occurs twice.
    """
    clients = client_hashes(headers, query)
    routing = _single_values(headers, policies.routing_headers)
    if not policies.routes_by_model:
        models = (("model", ""),)
    elif not models:
        raise AmbiguousRequest("the request names no model, and a policy depends on it; send `model`")

    def choose(model: str, client: str) -> Chosen:
        return policies.choose(paths[0], model, client, routing, spellings=paths[1:])

    place, model = models[0]
    chosen = [choose(model, client) for client in clients or ("",)]
    if any(other.route != chosen[0].route for other in chosen):
        raise AmbiguousRequest("the request has several keys, and they belong to different policies; send only one key")
    for other_place, other_model in models[1:]:
        if any(choose(other_model, client).route != chosen[0].route for client in clients or ("",)):
            raise AmbiguousRequest(
                f"{other_place} names a model of another route than {place}; send a request for each of the models"
            )
    return ",".join(clients), chosen[0]


def upstream_of_unread(policies: PolicySet, path: str, headers: Headers, query: bytes) -> str:
    """The name of the upstream for a request that passes unread: that of its route, without a model; empty for none.

    Raises AmbiguousRequest as `choose_policy` does.
    """
    if not policies.routes_to_upstreams:
        return ""
    return choose_policy(policies, (path,), (("model", ""),), headers, query)[1].upstream


def client_hashes(headers: Headers, query: bytes) -> Sequence[str]:
    """The first 16 hex digits of the SHA-256 of each of the client's keys, sorted and without repetition.

    The keys are in the CREDENTIALS and in the KEY_PARAMETERS of the query, without their scheme. Raises
    AmbiguousRequest if a place occurs twice, or if a credential is not exactly one key.
    """
    keys = {_key(name, value) for name, value in (*_header_credentials(headers), *_query_credentials(query))}
    return sorted(short_hash(key) for key in keys if key)


def _header_credentials(headers: Headers) -> Iterator[tuple[str, bytes]]:
    seen: set[bytes] = set()
    for raw, value in headers:
        name = raw.lower()
        if name in CREDENTIALS:
            if name in seen:
                raise AmbiguousRequest(f"the header {name.decode('ascii')} occurs twice; send it once")
            seen.add(name)
            yield name.decode("ascii"), value


def _query_credentials(query: bytes) -> Iterator[tuple[str, bytes]]:
    """The keys in the query, percent-decoded. Some servers separate parameters at a semicolon, too."""
    if not query:
        return
    seen: set[str] = set()
    for item in query.replace(b";", b"&").split(b"&"):
        name = parameter_name(item)
        if name in _OVERRIDES:
            raise AmbiguousRequest(f"the query parameter {name} may change the method or the headers; leave it out")
        if name in KEY_PARAMETERS:
            if name in seen:
                raise AmbiguousRequest(f"the query parameter {name} occurs twice; send it once")
            seen.add(name)
            yield name, unquote_to_bytes(item.partition(b"=")[2].replace(b"+", b" "))


def _key(name: str, value: bytes) -> bytes:
    """The key in the value of a credential, without its scheme; empty if there is none. Raises AmbiguousRequest.

    The message never shows the value.
    """
    words = value.split(b" ") if b"\t" not in value else value.replace(b"\t", b" ").split(b" ")
    words = [word for word in words if word]
    if not all(_VISIBLE.fullmatch(word) for word in words):
        raise AmbiguousRequest(f"{name} has a character that no key has; send visible ASCII characters only")
    if len(words) > 2:
        if words[0].lower() in _WITH_PARAMETERS:
            return b" ".join(words[1:])
        raise AmbiguousRequest(f"{name} has several words after its scheme; send the scheme and one key")
    if len(words) == 2 and name != "authorization" and words[0].lower() != b"bearer":
        raise AmbiguousRequest(f"{name} has several words; send one key")
    if not words or (len(words) == 1 and words[0].lower() in {b"bearer", b"basic"}):
        return b""
    return words[-1]


def _single_values(headers: Headers, names: Collection[str]) -> dict[str, str]:
    """The values of the headers `names`. Raises AmbiguousRequest if one of them occurs twice, in either spelling."""
    values: dict[str, str] = {}
    if not names:
        return values
    spelled = {canonical_name(name.encode("latin-1")): name for name in names}
    for raw, value in headers:
        name = spelled.get(canonical_name(raw))
        if name is None:
            continue
        if name in values:
            raise AmbiguousRequest(f"the header {name} occurs twice, and a policy depends on it; send it once")
        values[name] = value.decode("latin-1")
    return values
