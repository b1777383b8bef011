"""`guardproxy serve` masks personal data in every protocol, in replies, streams and records, and for LiteLLM."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from guardproxy.cli import main
from tests.e2e.guarded import serving
from tests.kit import ScriptedUpstream, free_port, serve, until
from tests.web.kit import completion, events

# Not imported here: that takes seconds, and only the proxy needs it.
pytestmark = pytest.mark.skipif(find_spec("presidio_analyzer") is None, reason="the extra pii is not installed")

CONFIG = """
version: 1
server: {port: %d}
upstream: {url: "%s", retries: {attempts: 1}}
apis: [litellm]
guard: {family: pii, options: {countries: [us]}}
policies:
  default:
    user: {"*": {rewrite: {at: 0.4, how: mask}}}
    assistant: {"*": {rewrite: {at: 0.4, how: mask}}}
"""
TEXT = "My SSN is 536-90-4399, write to bob@example.com."
MASKED = "My SSN is [US_SSN], write to [EMAIL_ADDRESS]."
SECRETS = (b"536-90", b"bob@")
TURN = {"role": "user", "content": TEXT}
TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": TEXT},
]
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"model": "m", "messages": [TURN]},
    "/v1/chat/completions?tools": {"model": "m", "messages": TOOLS},
    "/v1/completions": {"model": "m", "prompt": TEXT},
    "/v1/responses": {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]},
    "/v1/messages": {"model": "m", "max_tokens": 9, "messages": [TURN]},
    "/v1beta/models/m:generateContent": {"contents": [{"role": "user", "parts": [{"text": TEXT}]}]},
    "/api/chat": {"model": "m", "messages": [TURN]},
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ScriptedUpstream, Path]]:
    """The running proxy's URL, its upstream, and its folder."""
    folder, port = tmp_path_factory.mktemp("pii"), free_port()
    upstream = ScriptedUpstream([completion("Fine.")])
    with serve(upstream) as url, serving(folder, CONFIG % (port, url), f"http://127.0.0.1:{port}/readyz"):
        yield f"http://127.0.0.1:{port}", upstream, folder


@pytest.mark.parametrize("path", BODIES)
def test_the_model_reads_the_names_of_the_entities(proxy: tuple[str, ScriptedUpstream, Path], path: str) -> None:
    """In the bodies of every protocol, and in results of tools."""
    url, upstream, _ = proxy
    httpx.post(url + path, json=BODIES[path], timeout=60, trust_env=False)
    body = upstream.seen[-1].body
    assert MASKED.encode() in body
    assert not any(secret in body for secret in SECRETS)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_client_reads_the_names_of_the_entities(proxy: tuple[str, ScriptedUpstream, Path], streamed: bool) -> None:
    """The official client, whole and streamed in single characters."""
    url, upstream, _ = proxy
    upstream.script[:] = [events(*TEXT) if streamed else completion(TEXT)]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60) as client:
        asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        if streamed:
            with client.chat.completions.create(**asked, stream=True) as chunks:
                said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            said = client.chat.completions.create(**asked).choices[0].message.content
    assert said == MASKED


def test_litellm_gets_masked_texts(proxy: tuple[str, ScriptedUpstream, Path]) -> None:
    """As GUARDRAIL_INTERVENED, of a request and of a reply; a streamed one is told how much to hold back."""
    url, _, _ = proxy
    path = f"{url}/beta/litellm_basic_guardrail_api"
    more = {"litellm_call_id": "1", "request_data": {}}
    for body in ({"input_type": "request", "structured_messages": [TURN]}, {"input_type": "response"}):
        answer = httpx.post(path, json={**body, **more, "texts": [TEXT]}, timeout=60, trust_env=False).json()
        assert (answer["action"], answer["texts"]) == ("GUARDRAIL_INTERVENED", [MASKED])
    clean = {"input_type": "response", **more, "texts": ["write to bob@exam"]}
    answer = httpx.post(path, json=clean, timeout=60, trust_env=False).json()
    assert answer["action"] == "NONE"
    assert answer["stream_holdback_chars"][0] >= len("bob@exam")


def test_records_hold_no_personal_data(
    proxy: tuple[str, ScriptedUpstream, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """National numbers too, which masking without the guard does not know."""
    url, _, folder = proxy
    text = f"{TEXT} For the record."
    httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "m", "messages": [{**TURN, "content": text}]},
        timeout=60,
        trust_env=False,
    )

    def exported() -> str:
        assert main(["audit", "export", "--data-dir", str(folder)]) == 0
        return capsys.readouterr().out

    lines = until(lambda: [line for line in exported().splitlines() if "For the record" in line], "no record")
    assert json.loads(lines[0])["text"] == f"{MASKED} For the record."
    assert not any(secret in lines[0] for secret in ("536-90", "bob@"))
