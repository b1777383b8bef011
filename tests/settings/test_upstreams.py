"""Upstreams and their groups in a configuration file: what is valid, and every mistake with its mend."""

import pytest
from prometheus_client import CollectorRegistry

from guardproxy.app.upstreams import upstreams_of
from guardproxy.cli import parser
from guardproxy.cli.serve import overridden
from guardproxy.errors import ConfigError
from guardproxy.observe import Metrics
from tests.settings.kit import RULES, mistakes, read

POLICY = f"policies: {{default: {{{RULES}}}}}\n"
TWO = """
upstreams:
  a: {url: "https://a.example", key: "${env:A}"}
  b: {url: "https://b.example", client_key: false, weight: 0, models: {"gpt-*": small}}
upstream_groups: {default: {members: [a, b]}}
"""


def test_two_upstreams_and_a_group() -> None:
    """The settings have each by its name, with its own key."""
    settings = read(POLICY + TWO, {"A": "secret"})
    assert [(name, one.key) for name, one in settings.by_name.items()] == [("a", "secret"), ("b", None)]
    assert settings.upstream_groups["default"].members == ("a", "b")


def test_a_single_upstream_is_called_default() -> None:
    """The plain section stays for one."""
    settings = read(f'{POLICY}upstream: {{url: "https://a.example"}}\n')
    assert [(name, one.url) for name, one in settings.by_name.items()] == [("default", "https://a.example")]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/responses/", "https://api.openai.com/v1"),
        ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1"),
        ("http://localhost:11434/api/chat", "http://localhost:11434"),
        ("https://g.example/v1beta/models/gemini:generateContent", "https://g.example/v1beta"),
        ("https://llm.example/v1/embeddings", "https://llm.example/v1"),
        ("https://llm.example/v1/models/", "https://llm.example/v1"),
        ("http://localhost:11434/api/embed", "http://localhost:11434"),
    ],
)
def test_the_address_of_an_endpoint(url: str, base: str) -> None:
    """A base address is meant; the message has it."""
    for text, place in (
        (f'upstream: {{url: "{url}"}}', "upstream.url"),
        (f'upstreams: {{default: {{url: "{url}", client_key: true}}}}', "upstreams.default.url"),
    ):
        [message] = mistakes(f"{POLICY}{text}\n")
        assert f"{place}: ends in /" in message
        assert message.endswith(f"which clients append themselves; write {base}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upstreams: {a: {url: 'http://a', client_key: true}}", "upstreams.default: is missing, as an upstream or"),
        ("upstreams: {default: {url: 'http://a'}}", "upstreams.default.key: is missing; write key: ${env:NAME}"),
        ("upstreams: {default: {client_key: true}}", "upstreams.default.url: is missing; write the address"),
        ("upstreams: {default: {url: 'http://a', key: '${env:A}', client_key: true}}", "client_key: has no effect,"),
        ("upstreams: {default: {url: 'http://a', key: sk-1}}", "upstreams.default.key: a secret does not belong"),
        ("upstreams: {default: {url: 'http://u:p@a', client_key: true}}", "in logs; use upstreams.default.key"),
        ("upstreams: {default: {url: 'http://a', client_key: true, protocols: [openai]}}", "unknown protocol 'openai'"),
        ("upstreams: {default: {url: 'http://a', client_key: true, strip_path: v1}}", "must be the beginning of a pa"),
        ("upstreams: {default: {url: 'http://a', client_key: true, tls: {key: /k}}}", "needs upstreams.default.tls.ce"),
        ("upstreams: {'a b': {url: 'http://a', client_key: true}}", 'upstreams."a b": is no name'),
        ("upstream: {url: 'http://b'}\n" + TWO.strip(), "upstream: stands beside upstreams; move it there"),
        ("upstream: {weight: 2}", "upstream.weight: has no effect, because there is no other upstream"),
        ("upstream_groups: {default: {members: [a]}}", "upstream_groups: needs upstreams"),
        (TWO + "routes: [{name: r, policy: default, upstream: c}]", "routes[0].upstream: unknown upstream 'c'; known:"),
        ("routes: [{name: r, policy: default, upstream: a}]", "routes[0].upstream: names an upstream, but there are"),
        (
            TWO.replace("[a, b]", "[a, bb]"),
            "upstream_groups.default.members[1]: unknown upstream 'bb'; did you mean b?",
        ),
        (TWO.replace("[a, b]", "[a, b, a]"), "upstream_groups.default.members[2]: is already listed"),
        (TWO.replace("[a, b]", "[a]"), "upstreams.b: is unreachable; name it in a route or a group, or remove it"),
        (TWO.replace("{default:", "{more: {members: [a]}, default:"), "upstream_groups.more: is unreachable"),
        (TWO.replace("{default:", "{a: {members: [b]}, default:"), "upstream_groups.a: is the name of an upstream"),
        (TWO.replace("weight: 0", "retries: {attempts: 2}"), "upstreams.b.retries: has no effect, because only groups"),
        (TWO.replace("weight: 0", "eject: {first_s: 9, longest_s: 3}"), "longest_s: is less than first_s"),
        (
            "upstream: {retries: {unsafe_methods: true}}",
            "unsafe_methods: this key is gone; write repeat_after: unknown",
        ),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    """Each is found, with its place and what to do."""
    found = mistakes(f"{POLICY}{text}\n", {"A": "k"})
    assert any(message in line for line in found), found


def test_a_route_names_an_upstream_or_a_group() -> None:
    """Both are known, and the route of the policies has it."""
    text = TWO + "routes: [{name: r, policy: default, when: {model: x}, upstream: b}]\n"
    assert read(POLICY + text, {"A": "k"}).policies.routes[0].upstream == "b"


def test_the_command_line_names_no_upstream_beside_several() -> None:
    """`serve --upstream` would have no effect, or replace which one?"""
    args = parser().parse_args(["serve", "--upstream", "http://c.example"])
    with pytest.raises(ConfigError, match=r"f\.yaml names its upstreams, so --upstream has no effect"):
        overridden(read(POLICY + TWO, {"A": "k"}), args)
    args = parser().parse_args(["serve", "--upstream", "http://c.example/v1/chat/completions"])
    with pytest.raises(ConfigError, match=r"--upstream: ends in /chat/completions"):
        overridden(read(POLICY), args)


def test_what_is_built() -> None:
    """Names, addresses and groups of the settings; the demo's address takes the place of its word."""
    text = TWO.replace("https://b.example", "demo").replace("weight: 0", "weight: 0, protocols: [openai_chat]")
    settings = read(POLICY + text, {"A": "k"}).with_demo("http://127.0.0.1:9")
    upstreams = upstreams_of(settings, Metrics(CollectorRegistry()).upstreams, lambda one: one)
    plan = upstreams.plan("", "openai_chat")
    assert {one.url for one in plan.upstreams} == {"https://a.example", "http://127.0.0.1:9"}
    assert [one.name for one in upstreams.plan("", "gemini").upstreams] == ["a"]
    assert upstreams.states() == {"a": "up", "b": "up"}
