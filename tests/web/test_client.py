"""Whose key a request carries, and the policy that its routes choose."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.policy import Policy, PolicySet, Route, SideRules
from guardproxy.routing import Asked
from guardproxy.web.client import AmbiguousRequest, choose_policy, client_hashes
from guardproxy.web.headers import CREDENTIALS, KEY_PARAMETERS, Headers, forwardable, without_keys

K1 = "6ab9f1eb8f7d3388"  # printf %s k1 | sha256sum | cut -c1-16
MODELS = (("model", "m"),)
NO_RULES = SideRules({})


def policies(*routes: Route) -> PolicySet:
    """The policies `default` and `strict`, with these routes."""
    return PolicySet({name: Policy(name, "v", NO_RULES, NO_RULES) for name in ("default", "strict")}, routes)


STRICT_CLIENT = policies(Route("kids", "strict", client=K1))
STRICT_TEAM = policies(Route("kids", "strict", header=("X-Team", "kids*")))


def chosen(given_policies: PolicySet, headers: Headers, query: bytes = b"") -> str:
    """The name of the policy for a request, or "refused"."""
    try:
        return choose_policy(given_policies, Asked(("/v1/chat/completions",)), MODELS, headers, query)[1].policy.name
    except AmbiguousRequest:
        return "refused"


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([(b"authorization", b"Bearer k1")], b""),
        ([(b"authorization", b"bearer  k1 ")], b""),
        ([(b"authorization", b" \tBEARER\tk1\t")], b""),
        ([(b"authorization", b"k1")], b""),
        ([(b"authorization", b"Token k1")], b""),
        ([(b"x-api-key", b" k1")], b""),
        ([(b"api-key", b"k1")], b""),
        ([(b"x-goog-api-key", b"k1"), (b"authorization", b"Bearer k1")], b"key=k1"),
        ([], b"alt=sse&key=k1"),
        ([], b"%6bey=k%31"),
        ([], b"KEY=+k1"),
        ([], b"a=1;key=k1"),
        ([], b"access_token=k1"),
        ([(b"authorization", b"Bearer"), (b"api-key", b"")], b"key=k1"),
    ],
)
def test_a_key_has_the_same_hash_everywhere(headers: Headers, query: bytes) -> None:
    """The hash is that of the key alone, wherever it stands and whatever white space is around it."""
    assert client_hashes(headers, query) == [K1]


def test_no_key_has_no_hash() -> None:
    """Without a key there is no hash, and other parameters are no keys."""
    assert client_hashes([(b"x-client", b"k1")], b"monkey=k1") == []
    assert client_hashes([(b"x-api-key", b"k2")], b"") not in ([], [K1])


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([(b"authorization", b"Bearer k2"), (b"authorization", b"Bearer k1")], b""),
        ([(b"authorization", b"Bearer k1"), (b"Authorization", b"Bearer k1")], b""),
        ([(b"authorization", b""), (b"authorization", b"Bearer k1")], b""),
        ([(b"authorization", b"Bearer k2 k1")], b""),
        ([(b"authorization", b"Bearer Bearer k1")], b""),
        ([(b"authorization", b"Token k2, k1")], b""),
        ([(b"authorization", b"Bearer\xa0k1")], b""),
        ([(b"authorization", b"Bearer k1\xa0")], b""),
        ([(b"authorization", b"Bearer k1\x85")], b""),
        ([(b"authorization", b"Bearer k1\x0b")], b""),
        ([(b"x-api-key", b"a k2 k1")], b""),
        ([(b"x-api-key", b"k1 k2")], b""),
        ([], b"key=k1%20k2"),
        ([], b"key=k2&key=k1"),
        ([], b"key=k2&%4bey=k1"),
        ([], b"key=k1%a0"),
        ([], b"$httpHeaders=Authorization:Bearer%20k1"),
        ([], b"%24httpMethod=POST"),
        ([], b"_method=POST"),
    ],
)
def test_what_is_not_one_key_is_refused(headers: Headers, query: bytes) -> None:
    """Repeated places and values that servers read differently are refused, without the value in the message."""
    with pytest.raises(AmbiguousRequest) as refused:
        client_hashes(headers, query)
    assert refused.value.status == 400
    assert "k1" not in str(refused.value)


def test_schemes_with_parameters_are_one_credential() -> None:
    """The parameters of a digest or a signature are one credential of several words."""
    digest = [(b"authorization", b'Digest username="u",  uri="/", response="x"')]
    assert len(client_hashes(digest, b"")) == 1


@given(
    st.permutations([*CREDENTIALS, b"query"]).flatmap(lambda order: st.integers(2, 4).map(lambda count: order[:count])),
    st.data(),
)
def test_a_second_key_never_avoids_a_route(places: list[bytes], data: st.DataObject) -> None:
    """With a key of a strict route and any other key, in any places and order, the request is refused."""
    at = data.draw(st.integers(0, len(places) - 1))
    headers: Headers = []
    query = b""
    for index, place in enumerate(places):
        key = b"k1" if index == at else b"other"
        if place == b"query":
            query = data.draw(st.sampled_from(sorted(KEY_PARAMETERS))).encode() + b"=" + key
        else:
            headers.append((place, data.draw(st.sampled_from([b"", b"Bearer ", b"bearer\t", b" "])) + key))
    assert chosen(STRICT_CLIENT, headers, query) == "refused"
    assert chosen(policies(), headers, query) == "default"


@pytest.mark.parametrize("scheme", [b"AWS4-HMAC-SHA256", b"Digest", b"Hawk", b"OAuth", b"Signature"])
def test_a_key_of_several_parameters(scheme: bytes) -> None:
    """Schemes with parameters have the hash of all parameters, without the scheme."""
    value = b"id=a, nonce=b, mac=c"
    assert client_hashes([(b"authorization", scheme + b" " + value)], b"") == [hashlib.sha256(value).hexdigest()[:16]]


@pytest.mark.parametrize("scheme", [b"Bearer", b"basic", b" Basic "])
def test_a_scheme_alone_is_no_key(scheme: bytes) -> None:
    """A scheme without a key has no hash, and a route for any key does not apply."""
    assert client_hashes([(b"authorization", scheme)], b"") == []
    assert chosen(policies(Route("any", "strict", client="?*")), [(b"authorization", scheme)]) == "default"


@pytest.mark.parametrize("name", ["$httpMethod", "$httpHeaders", "_method", "X-HTTP-Method-Override", "x-http-method"])
def test_parameters_that_change_the_request_are_refused(name: str) -> None:
    """Some servers take the method or headers from these parameters."""
    with pytest.raises(AmbiguousRequest, match="may change the method or the headers; leave it out") as caught:
        client_hashes([], f"a=1&{name}=PUT".encode())
    assert (caught.value.status, caught.value.code) == (400, "ambiguous_request")


def test_every_spelling_of_the_path_counts() -> None:
    """A route holds for any of the paths."""
    by_path = policies(Route("chat", "strict", path="/v1/chat"))
    for paths in (("/v1/chat", "/x"), ("/x", "/v1/chat"), ("/x", "/y", "/v1/chat")):
        assert choose_policy(by_path, Asked(paths), MODELS, [], b"")[1].route == "chat"


def test_other_headers_do_not_matter_to_a_route() -> None:
    """Headers without a route may repeat, before and behind the header of a route."""
    others = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]
    assert chosen(STRICT_TEAM, [*others, (b"x-team", b"kids"), *others]) == "strict"


@given(st.binary(max_size=12), st.binary(max_size=4))
def test_padding_never_avoids_a_route(before: bytes, after: bytes) -> None:
    """Whatever bytes stand around a key: no server's way to cut white space gives the key to a laxer route."""
    value = before + b" k1" + after
    texts = {value.decode("latin-1"), value.decode("utf-8", "replace")}
    cut = {word for text in texts for word in (text.strip().split()[-1:] + text.split(" ")[-1:] + text.split()[1:2])}
    if "k1" in cut:
        assert chosen(STRICT_CLIENT, [(b"authorization", value)]) in {"strict", "refused"}


def test_several_keys_of_the_same_route_pass() -> None:
    """Several keys are no mistake if they lead to the same route; the record names all of them."""
    headers = [(b"authorization", b"Basic dTpw"), (b"x-api-key", b"k1")]
    hashes = sorted([K1, hashlib.sha256(b"dTpw").hexdigest()[:16]])
    assert choose_policy(policies(), Asked(("/",)), MODELS, headers, b"")[0] == ",".join(hashes)


@pytest.mark.parametrize(
    "values",
    [
        [(b"x-team", b"adults"), (b"x-team", b"kids")],
        [(b"x-team", b"kids"), (b"X-Team", b"kids")],
        [(b"x_team", b"adults"), (b"x-team", b"kids")],
    ],
)
def test_a_routing_header_occurs_once(values: Headers) -> None:
    """A header that a route depends on may not occur twice, not even in the spelling that CGI servers fold."""
    assert chosen(STRICT_TEAM, values) == "refused"
    assert chosen(policies(), values) == "default"


def test_a_routing_header_is_found_in_both_spellings() -> None:
    """The header with `_` is the same header to servers that follow CGI."""
    assert chosen(STRICT_TEAM, [(b"x_team", b" kids-2 ")]) == "strict"


STRICT_MODEL = policies(Route("kids", "strict", model="kids*"), Route("teens", "strict", model="teens"))


@pytest.mark.parametrize(
    ("models", "policy"),
    [
        ([("model", "m")], "default"),
        ([("model", "m"), ("models[0]", "n"), ("models[1]", "m")], "default"),
        ([("model", "kids-1"), ("fallbacks[0]", "kids-2")], "strict"),
    ],
)
def test_models_of_the_same_route_pass(models: list[tuple[str, str]], policy: str) -> None:
    """A request may name several models if all of them lead to the same route."""
    assert choose_policy(STRICT_MODEL, Asked(("/",)), models, [], b"")[1].policy.name == policy


@pytest.mark.parametrize(
    "models",
    [
        [("model", "m"), ("models[0]", "m"), ("models[1]", "kids-1")],
        [("model", "kids-1"), ("fallbacks[0].model", "m")],
        [("model", "kids-1"), ("?model", "teens")],
    ],
)
def test_models_of_different_routes_are_refused(models: list[tuple[str, str]]) -> None:
    """The error names the place of the other model, and no text of the request."""
    with pytest.raises(AmbiguousRequest) as caught:
        choose_policy(STRICT_MODEL, Asked(("/",)), models, [], b"")
    assert str(caught.value) == (
        f"{models[-1][0]} names a model of another route than model; send a request for each of the models"
    )


def test_the_models_of_every_key_count() -> None:
    """Two keys with the same route for the first model, but not for the second, are refused."""
    of_both = policies(Route("kids", "strict", client=K1, model="kids"))
    headers = [(b"authorization", b"Basic dTpw"), (b"x-api-key", b"k1")]
    assert choose_policy(of_both, Asked(("/",)), [("model", "m")], headers, b"")[1].route == "default"
    with pytest.raises(AmbiguousRequest):
        choose_policy(of_both, Asked(("/",)), [("model", "m"), ("models[0]", "kids")], headers, b"")


def test_a_model_must_be_named_if_a_route_depends_on_it() -> None:
    """The upstream would choose the model; without such a route no model is needed."""
    with pytest.raises(AmbiguousRequest, match="names no model, and a policy depends on it; send `model`"):
        choose_policy(STRICT_MODEL, Asked(("/",)), [], [], b"")
    assert choose_policy(STRICT_TEAM, Asked(("/",)), [], [], b"")[1].route == "default"


OVERRIDES = (
    *("X-Original-URL", "X-Rewrite-URL", "X-Original-URI", "X-Rewrite-URI", "X-Forwarded-URI", "X-Forwarded-Path"),
    *("X-Forwarded-Prefix", "X-Forwarded-Method", "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"),
    *("X-Override-URL", "X-Envoy-Original-Path", "X-Original-Method", "X-Original-Host", "X-Host", "Request-URI"),
    *("X_Original_URL", "x_http_method_override", "X-Path-Override", "X-Real-URL", "X-Url", "X-Path", "Destination"),
)


@pytest.mark.parametrize("name", OVERRIDES)
def test_headers_that_name_another_request_stop_here(name: str) -> None:
    """Headers by which a server takes another path, method or host are not forwarded."""
    assert forwardable([(name.encode(), b"x"), (name.lower().encode(), b"x")]) == []


def test_other_headers_go_on() -> None:
    """Ordinary headers are forwarded in their order."""
    names = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id", b"x-stainless-lang"]
    names += [b"openai-organization", b"anthropic-version", b"user-agent", b"x-trace_id", b"authorization", b"referer"]
    headers = [(name, b"v") for name in names]
    assert forwardable(headers) == headers
    assert forwardable([(b"x_api_key", b"k1"), (b"API_Key", b"k1")]) == []


def test_a_query_loses_its_keys_only() -> None:
    """Every spelling of a key's name is found; the rest stays byte for byte."""
    assert without_keys(b"alt=sse&key=k1&%4b%45y=k1&a=%20+&access_token=t&b") == b"alt=sse&a=%20+&b"
    assert without_keys(b"") == b""
