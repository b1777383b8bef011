"""Who sends a request, and the policy that its routes choose. What servers could read in two ways is refused.

With `clients` in the configuration, the proxy knows a client by its name there. Without, by the hash of its key, which
an operator can compute for a route: `printf %s "$KEY" | sha256sum | cut -c1-16`.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

from guardproxy.access import Client
from guardproxy.errors import GuardproxyError
from guardproxy.observe.masking import short_hash
from guardproxy.policy import Chosen, PolicySet
from guardproxy.routing import Asked
from guardproxy.stricter import stricter
from guardproxy.web.headers import CHOICE, CREDENTIALS, KEY_PARAMETERS, Headers, canonical_name, parameter_name

# Schemes whose credentials are a list of parameters, with spaces between them (RFC 9110, 11.4).
_WITH_PARAMETERS: Final = frozenset({b"aws4-hmac-sha256", b"digest", b"hawk", b"oauth", b"signature"})
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]*")
# Parameters by which Google's servers take a method or headers from the query, and frameworks a method.
_OVERRIDES: Final = frozenset({"$httpmethod", "$httpheaders", "_method", "x-http-method-override", "x-http-method"})

_CHOICE_NAME: Final = CHOICE.decode("ascii")
_CHOICE_SIZE: Final = len(CHOICE)


class AmbiguousRequest(GuardproxyError):
    """Servers may read the request in several ways, which could lead to different policies."""

    status = 400
    code = "ambiguous_request"


class PolicyNotChoosable(GuardproxyError):
    """The caller asks for a policy that the route does not let callers choose."""

    status = 400
    code = "policy_not_choosable"


def choose_policy(
    policies: PolicySet,
    asked: Asked,
    models: Sequence[tuple[str, str]],
    headers: Headers,
    query: bytes,
    *,
    known: Client | None = None,
) -> tuple[str, Chosen]:
    """The client's name in records, and the policy for a request.

    `asked` has what is known of the request but its models, clients and headers: the first of its paths is the one that
    was sent (`web.paths.spellings`). `models` are those that the upstream may use, with their places in the request
    (`Wire.models`). The name is that of the `known` client; without `clients` in the configuration the hash of the
    client's key, empty without a key, and all hashes joined by commas if there are several keys.

    Raises AmbiguousRequest if not all keys and models lead to the same route, if a route depends on the model and the
    request names none, and if a credential or a header that a route depends on occurs twice; PolicyNotChoosable.
    """
    clients = client_hashes(headers, query) if known is None else (known.name,)
    if not policies.routes:
        return ",".join(clients), _with_choice(policies, policies.choose(asked), headers)
    routing = _single_values(headers, policies.routing_headers)
    if not policies.routes_by_model:
        models = (("model", ""),)
    elif not models:
        raise AmbiguousRequest("the request names no model, and a policy depends on it; send `model`")

    def choose(model: str, client: str) -> Chosen:
        return policies.choose(replace(asked, model=model, client=client, headers=routing))

    place, model = models[0]
    chosen = [choose(model, client) for client in clients or ("",)]
    if any(other.route != chosen[0].route for other in chosen):
        raise AmbiguousRequest("the request has several keys, and they belong to different policies; send only one key")
    for other_place, other_model in models[1:]:
        if any(choose(other_model, client).route != chosen[0].route for client in clients or ("",)):
            raise AmbiguousRequest(
                f"{other_place} names a model of another route than {place}; send a request for each of the models"
            )
    return ",".join(clients), _with_choice(policies, chosen[0], headers)


def _with_choice(policies: PolicySet, chosen: Chosen, headers: Headers) -> Chosen:
    """The route's policy, beside which the one that the caller names decides as well. Raises PolicyNotChoosable."""
    names = [value for name, value in headers if len(name) == _CHOICE_SIZE and canonical_name(name) == CHOICE]
    if not names:
        return chosen
    if len(names) > 1:
        raise AmbiguousRequest(f"the header {_CHOICE_NAME} occurs twice; send it once")
    name, offered = names[0].decode("latin-1").strip(), ", ".join(chosen.may_choose)
    if not offered:
        raise PolicyNotChoosable(f"no policy can be chosen for this request; leave {_CHOICE_NAME} out")
    if name not in chosen.may_choose:
        raise PolicyNotChoosable(f"{_CHOICE_NAME} must be one of {offered}, or left out")
    return replace(chosen, policy=stricter(policies, chosen.policy, policies.policies[name]))


def upstream_of_unread(
    policies: PolicySet, asked: Asked, headers: Headers, query: bytes, *, known: Client | None = None
) -> str:
    """The name of the upstream for a request that passes unread: that of its route, without a model; empty for none.

    Raises AmbiguousRequest and PolicyNotChoosable as `choose_policy` does.
    """
    if not policies.routes_to_upstreams:
        return ""
    return choose_policy(policies, asked, (("model", ""),), headers, query, known=known)[1].upstream


def client_hashes(headers: Headers, query: bytes) -> Sequence[str]:
    """The first 16 hex digits of the SHA-256 of each of the client's `keys_of`, sorted."""
    return sorted([short_hash(key) for key in keys_of(headers, query)])


def keys_of(headers: Headers, query: bytes) -> Collection[bytes]:
    """The client's keys, each once: in the CREDENTIALS and in the KEY_PARAMETERS of the query, without their scheme.

    Raises AmbiguousRequest if a place occurs twice, or if a credential is not exactly one key.
    """
    keys = {_key(name, value) for name, value in _header_credentials(headers)}
    if query:
        keys |= {_key(name, value) for name, value in _query_credentials(query)}
    keys.discard(b"")
    return keys


def _header_credentials(headers: Headers) -> list[tuple[str, bytes]]:
    found: dict[str, bytes] = {}
    for raw, value in headers:
        if (lowered := raw.lower()) in CREDENTIALS:
            name = lowered.decode("ascii")
            if name in found:
                raise AmbiguousRequest(f"the header {name} occurs twice; send it once")
            found[name] = value
    return list(found.items())


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
    words = [word for word in value.replace(b"\t", b" ").split(b" ") if word]
    if not _VISIBLE.fullmatch(b"".join(words)):
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
