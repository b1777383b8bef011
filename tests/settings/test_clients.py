"""Clients, their keys, and the routes that name them."""

from datetime import datetime
from hashlib import sha256

import pytest

from guardproxy.access import Client, ClientKey
from guardproxy.policy import Route
from guardproxy.routing import Asked
from guardproxy.settings.notes import client_notes
from tests.settings.kit import RULES, mistakes, read

HASH, OTHER = sha256(b"a").hexdigest(), sha256(b"b").hexdigest()
POLICIES = f"policies: {{default: {{{RULES}}}, strict: {{unsafe: {{block: 0.3}}}}}}\n"


def clients(text: str) -> str:
    """A document with this section."""
    return f"{POLICIES}routes: [{{name: s, policy: strict, when: {{model: m}}}}]\nclients: {text}"


def test_clients_by_name() -> None:
    """Keys by their hash, with an end, and limits."""
    text = clients(
        f"{{red: {{keys: [{{sha256: {HASH}, expires: 2030-01-31}}, {{sha256: {OTHER}}}], requests_per_minute: 60}}}}"
    )
    end = datetime(2030, 1, 31).astimezone().timestamp()
    keys = (ClientKey(bytes.fromhex(HASH), end), ClientKey(bytes.fromhex(OTHER)))
    assert read(text).clients == (Client("red", keys, 60, None),)
    assert read(POLICIES + "routes: [{name: s, policy: strict, when: {model: m}}]").clients is None


def test_keys_at_upstreams_are_secrets() -> None:
    """They come from the environment, and name an upstream that there is."""
    section = f"{{red: {{keys: [{{sha256: {HASH}}}], upstream_keys: {{%s}}}}}}"
    settings = read(clients(section % "default: '${env:K}'"), {"K": "sk-red"})
    assert (settings.clients or ())[0].upstream_keys == {"default": "sk-red"}
    assert "sk-red" not in repr(settings)
    assert "unknown upstream 'x'" in mistakes(clients(section % "x: '${env:K}'"), {"K": "k"})[0]
    assert "a secret does not belong in the file" in mistakes(clients(section % "default: sk-red"))[0]
    assert "environment variable K is not set" in mistakes(clients(section % "default: '${env:K}'"))[0]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{}", "3:10: clients: must not be empty"),
        ("", "3:9: clients: must not be empty; write its options, or remove it"),
        ("\n  # red: {keys: []}", "clients: must not be empty; write its options, or remove it"),
        (
            "{red: {keys: [gp-secret]}}",
            "keys[0]: must be a mapping, not a text; write {sha256: HASH}, as",
        ),
        ("{red: {keys: gp-secret}}", "3:23: clients.red.keys: must be a list, not a text"),
        ("{red: gp-secret}", "3:16: clients.red: must be a mapping, not a text"),
        ("gp-secret", "3:10: clients: must be a mapping, not a text"),
        (f"{{red: {{keys: [{{sha256: {HASH}, expire: 2030-01-31}}]}}}}", "unknown key; did you mean expires?"),
        (f"{{red: {{keys: [{{sha256: {HASH}, expires: }}]}}}}", "keys[0].expires: must not be empty; write a value"),
        (f"{{red: {{keys: [{{sha256: {HASH}}}], requests_per_minute: }}}}", "requests_per_minute: must not be empty"),
        (
            f"{{red: {{keys: [{{sha256: {HASH}}}], characters_per_minute: }}}}",
            "_per_minute: must not be empty",
        ),
        (f"{{red: {{keys: [{{sha256: {HASH}}}], upstream_keys: {{default: }}}}}}", "default: must not be empty"),
        ("{red: {}}", "3:11: clients.red.keys: is missing"),
        ("{red: {keys: []}}", "3:23: clients.red.keys: must not be empty"),
        ("{red: {keys: [{sha256: gp-secret}]}}", "clients.red.keys[0].sha256: must be the SHA-256 of the key, 64 hex"),
        (f"{{red: {{keys: [{{sha256: {HASH.upper()}}}]}}}}", "must be the SHA-256 of the key"),
        (f"{{red: {{keys: [{{sha256: {HASH}}}, {{sha256: {HASH}}}]}}}}", "is a key of this client already"),
        (f"{{a: {{keys: [{{sha256: {HASH}}}]}}, b: {{keys: [{{sha256: {HASH}}}]}}}}", "is a key of a already"),
        (f"{{a: {{keys: [{{sha256: {HASH}, expires: soon}}]}}}}", "must be a date or time, such as 2030-12-31"),
        (f"{{a: {{keys: [{{sha256: {HASH}}}], requests_per_minute: 0}}}}", "must be at least 1, not 0"),
        (f"{{a b: {{keys: [{{sha256: {HASH}}}]}}}}", '3:11: clients."a b": is no name for a client'),
        (
            f"{{A: {{keys: [{{sha256: {HASH}}}]}}, a: {{keys: [{{sha256: {OTHER}}}]}}}}",
            "clients.a: differs from A by case",
        ),
        (f"{{../x: {{keys: [{{sha256: {HASH}}}]}}}}", "is no name for a client"),
        (f"{{a: {{keys: [{{sha256: {HASH}}}], request_per_minute: 5}}}}", "did you mean requests_per_minute?"),
    ],
)
def test_mistakes_of_clients(section: str, message: str) -> None:
    """Each with its place; none shows what may be a key."""
    (line,) = mistakes(clients(section))
    assert message in line
    assert "gp-secret" not in line


def routes(*entries: str, more: str = "") -> str:
    """A document with these routes; the policies are in its first line."""
    listed = "".join(f"- {{name: r{number}, policy: {entry}}}\n" for number, entry in enumerate(entries))
    return f"{POLICIES}routes:\n{listed}{more}"


def test_conditions_of_a_route() -> None:
    """All of them end in the route."""
    when = "{protocol: openai_*, method: POST, user: kid-*, client: red}"
    text = routes(
        f"default, may_choose: [strict], overlap: true, when: {when}",
        more=f"audit: {{user_plain: true}}\n{clients_of('red')}",
    )
    (route,) = read(text).policies.routes
    assert route == Route(
        *("r0", "default"),
        protocol="openai_*",
        method="POST",
        user="kid-*",
        client="red",
        may_choose=("strict",),
        overlap=True,
    )
    asked = Asked(("/x",), client="red", protocol="openai_chat", user="kid-7")
    assert route.matches(asked)


def clients_of(*names: str) -> str:
    """A section with these clients."""
    keys = ((name, sha256(name.encode()).hexdigest()) for name in names)
    return "clients:\n" + "".join(f"  {name}: {{keys: [{{sha256: {digest}}}]}}\n" for name, digest in keys)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "default, may_choose: [strictt]",
            "3:44: routes[0].may_choose[0]: unknown policy 'strictt'; did you mean strict?",
        ),
        ("strict, may_choose: [strict]", "routes[0].may_choose[0]: is the route's policy itself"),
        ("default, may_choose: [strict, strict]", "routes[0].may_choose[1]: is already listed; remove it"),
        (
            "strict, when: {protocol: openai_chatt}",
            "routes[0].when.protocol: no protocol matches 'openai_chatt'; did you",
        ),
        ("strict, when: {method: post}", "routes[0].when.method: must be one of GET"),
        ("strict, when: {client: gren}", "routes[0].when.client: no client matches 'gren'; did you mean green?"),
        ("strict, when: {client: x-*}", "routes[0].when.client: no client matches 'x-*'"),
        ("strict, when: {user: kid-*}", "routes[0].when.user: no end user matches, because they are hashes; write the"),
        ("strict, when: {method: GET, model: m}", "routes[0].when.model: no GET request has one, because only POST"),
        ("strict, when: {method: PUT, protocol: openai_*}", "when.protocol: no PUT request has one"),
        ("strict, overlap: yes", "routes[0].overlap: must be true or false"),
    ],
)
def test_mistakes_of_routes(entry: str, message: str) -> None:
    """Each with its line and its mend."""
    both = routes(entry, "strict, when: {model: m}", more=clients_of("green"))
    assert any(message in line for line in mistakes(both)), mistakes(both)


def test_without_clients_a_route_may_name_any_hash() -> None:
    """Only with `clients` the names are known."""
    assert mistakes(routes("strict, when: {client: c11e47}")) == []
    for pattern in ("'0123456789abcdef'", "'*'", "'0123*'", "'*abc?'", "'[0-9]*,*'"):
        assert mistakes(routes(f"strict, when: {{client: {pattern}, user: {pattern}}}")) == []
    (message,) = mistakes(routes("strict, when: {client: search}"))
    assert "no client matches, because without clients they are hashes of keys" in message
    assert mistakes(routes("strict, when: {protocol: moderations}")) == []
    assert mistakes(routes("strict, when: {protocol: x}", more="wires: [openai_chat]\n")) != []


@pytest.mark.parametrize(
    ("earlier", "later", "hidden"),
    [
        ("{model: gpt-*}", "{model: gpt-4o}", True),
        ("{model: gpt-*}", "{model: GPT-4*}", True),
        ("{model: gpt-*, client: red}", "{model: gpt-4o, client: red, method: POST}", True),
        ("{client: '*'}", "{client: red}", True),
        ("{user: kid*}", "{user: Kid7}", False),
        ("{user: kid*}", "{user: kid7}", True),
        ("{model: gpt-4o}", "{model: gpt-*}", False),
        ("{model: '*-mini'}", "{model: gpt-*}", False),
        ("{model: gpt-*}", "{model: '*'}", False),
        ("{model: gpt-*, client: red}", "{model: gpt-4o}", False),
        ("{header: {x-a: '*'}}", "{header: {x-a: b}}", False),
    ],
)
def test_a_route_that_an_earlier_one_hides(earlier: str, later: str, hidden: bool) -> None:
    """Also by a wider pattern; the line is that of the hidden route."""
    found = mistakes(routes(f"strict, when: {earlier}", f"strict, when: {later}", more=clients_of("red")))
    unreachable = [line for line in found if "is unreachable, because routes[0] matches all its requests" in line]
    assert bool(unreachable) is hidden, found
    if hidden:
        assert unreachable[0].startswith("4:3: routes[1]:")


@pytest.mark.parametrize("option", ["judge: {roles: [user, system]}", "views: [nfkc, base64]"])
def test_a_policy_that_reads_more_cannot_be_chosen(option: str) -> None:
    """Its verdicts would be others, so it could let more pass."""
    policies = f"policies: {{default: {{{RULES}, views: [nfkc]}}, wide: {{{RULES}, views: [nfkc], {option}}}}}\n"
    if option.startswith("views"):
        policies = f"policies: {{default: {{{RULES}, views: [nfkc]}}, wide: {{{RULES}, {option}}}}}\n"
    text = policies + "routes: [{name: r, policy: default, may_choose: [wide], when: {model: m}}]"
    what = option.partition(":")[0]
    message = "wide reads other texts than default does, so it could find less: give both the same"
    assert mistakes(text) == [f"2:50: routes[0].may_choose[0]: {message} {what}"]


def test_a_header_of_a_condition_has_a_name_that_headers_can_have() -> None:
    """Else every request would end in an error."""
    assert mistakes(routes("strict, when: {header: {国: x}}")) == [
        "3:46: routes[0].when.header.国: is not a valid header name"
    ]


def test_keys_that_have_ended_are_noted() -> None:
    """The note names the client and the beginning of each hash, and says if no key is left."""
    keys = [ClientKey(bytes.fromhex(HASH), 0.0), ClientKey(bytes.fromhex(OTHER), 100.0)]
    clients = [Client("red", tuple(keys)), Client("blue", (ClientKey(bytes.fromhex(OTHER)),))]
    (one,) = client_notes(clients, 50.0)
    assert one == f"client red: keys that have ended: {HASH[:8]}… (1970-01-01T00:00Z); requests with them get HTTP 401"
    (all_,) = client_notes(clients, 100.0)
    assert "no key of it is left" in all_
    assert [*client_notes(clients, -1.0)] == []
