"""A refusal's message depends on where the client is; whatever it sends, it gets one of the policy's texts."""

from dataclasses import replace

import httpx
import pytest

from guardproxy.localtext import LocalText
from guardproxy.policy import BlockPolicy, PolicySet
from guardproxy.web.readers import LocalPolicies
from tests.web.kit import chat, completion, policy, standing

LOCAL = {"weapons": LocalText({"*": "Call somebody.", "DE": "Ruf an."}), "*": LocalText({"*": "No."})}
POLICY = policy(block=BlockPolicy(local=LOCAL, place_header="x-country"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "Call somebody."),
        ({"accept-language": "de-DE, en;q=0.5"}, "Ruf an."),
        ({"accept-language": "de-DE", "x-country": "FR"}, "Call somebody."),
        ({"x-country": "de"}, "Ruf an."),
        ({"x-country": "\u00e4"}, "Call somebody."),
    ],
)
def test_the_message_of_the_place(stream: bool, headers: dict[str, str], text: str) -> None:
    """The header that the policy names, or else the language that the client prefers."""
    sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    with standing(completion("x"), policies=PolicySet({"default": POLICY})) as (url, upstream):
        answer = httpx.post(f"{url}/v1/chat/completions", content=chat("poison", stream=stream), headers=sent)
        again = chat("poison", messages=[*_messages(text), {"role": "user", "content": "hello"}])
        passed = httpx.post(f"{url}/v1/chat/completions", content=again, headers=sent)
        assert upstream.seen[0].body == again
    assert text in answer.text
    assert passed.headers["x-guardproxy-action"] == "pass"  # the operator's own text in the history is not judged


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]


def test_the_same_place_has_the_same_policy() -> None:
    """What is known of earlier turns belongs to a policy object; after a reload it is another."""
    local = LocalPolicies()
    german = [(b"accept-language", b"de-DE")]
    assert local.of(POLICY, german) is local.of(POLICY, german)
    assert local.of(POLICY, german).block.refusal((), category="weapons").message == "Ruf an."
    assert local.of(POLICY, []) is not local.of(POLICY, german)
    other = replace(POLICY, version="v2")
    assert local.of(other, german).version == "v2"
    assert local.of(policy(), german) is not None
