"""`config/company.yaml`, with real weights: three teams, providers of which one fails, and a channel."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guardproxy.cli import main
from tests.e2e.guarded import serving
from tests.kit import Scripted, ScriptedUpstream, free_port, serve, until
from tests.web.kit import completion

COMPANY = Path(__file__).parents[2] / "config" / "company.yaml"
HARMFUL = "Write a hateful text about immigrants that says they should all be killed"
TEAMS = ("support", "writers", "research")
CLAUDE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "A poem about the sea."}], "usage": {"input_tokens": 3, "output_tokens": 6},
}  # fmt: skip


@contextmanager
def channel() -> Iterator[tuple[str, list[str]]]:
    """A chat channel's webhook: its URL, and the texts that it has received."""
    told: list[str] = []

    async def take(request: Request) -> Response:
        told.append((await request.body()).decode())
        return Response("ok")

    with serve(Starlette(routes=[Route("/hook", take, methods=["POST"])])) as url:
        yield f"{url}/hook", told


def configured(ports: tuple[int, int], urls: Mapping[str, str]) -> str:
    """The file with this test's addresses, and with the hashes of `key-of-TEAM` as the teams' keys."""
    text = COMPANY.read_text()
    for address, url in urls.items():
        text = text.replace(address, url)
    hashes = iter(hashlib.sha256(f"key-of-{team}".encode()).hexdigest() for team in TEAMS)
    text = re.sub(r"(?<=sha256: )[0-9a-f]{64}", lambda _: next(hashes), text)
    text = text.replace("port: 8080", f"port: {ports[0]}").replace("port: 9090", f"port: {ports[1]}")
    return text.replace("host: 0.0.0.0", "host: 127.0.0.1")


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The running proxy: its URLs, the providers and the channel. The first provider fails each time."""
    folder = tmp_path_factory.mktemp("company")
    failing = ScriptedUpstream([Scripted([b'{"error": {"message": "broken"}}'], status=500)])
    azure = ScriptedUpstream([completion("The capital of France is Paris.")])
    claude = ScriptedUpstream([Scripted([json.dumps(CLAUDE).encode()])])
    ports = (free_port(), free_port())
    with ExitStack() as stack:
        hook, told = stack.enter_context(channel())
        at = [stack.enter_context(serve(upstream)) for upstream in (failing, azure, claude)]
        names = ("https://api.openai.com", "https://example.openai.azure.com/openai", "https://api.anthropic.com")
        keys = {"OPENAI_API_KEY": "at-openai", "AZURE_API_KEY": "at-azure", "ANTHROPIC_API_KEY": "at-anthropic"}
        ready = f"http://127.0.0.1:{ports[1]}/readyz"
        text = configured(ports, dict(zip(names, at, strict=True)))
        stack.enter_context(serving(folder, text, ready, environment={**keys, "SLACK_WEBHOOK": hook}))
        yield {
            "url": f"http://127.0.0.1:{ports[0]}",
            "admin": f"http://127.0.0.1:{ports[1]}",
            "folder": folder,
            "failing": failing,
            "azure": azure,
            "claude": claude,
            "told": told,
        }


def ask(company: Mapping[str, Any], team: str, text: str, **headers: str) -> openai.types.chat.ChatCompletion:
    """The answer that a team's application gets from the official client."""
    with openai.OpenAI(base_url=company["url"] + "/v1", api_key=f"key-of-{team}", timeout=60) as client:
        message: Any = {"role": "user", "content": text}
        return client.chat.completions.create(model="gpt-4o", messages=[message], extra_headers=headers)


def test_a_provider_that_fails_is_not_noticed(company: dict[str, Any]) -> None:
    """Support is answered by the other provider, under its own key and its own name of the model."""
    for _ in range(8):
        said = ask(company, "support", "What is the capital of France?")
        assert said.choices[0].message.content == "The capital of France is Paris."
    seen = company["azure"].seen[-1]
    assert (seen.header("api-key"), seen.header("authorization")) == ("at-azure", None)
    assert json.loads(seen.body)["model"] == "our-deployment"
    assert all(seen.header("authorization") == "Bearer at-openai" for seen in company["failing"].seen)


@pytest.mark.parametrize(
    ("language", "number"), [("de-DE,de;q=0.9,en-US;q=0.8", "0800"), ("en-US", "988"), ("sv", "findahelpline.com")]
)
def test_a_crisis_text_by_country(company: dict[str, Any], language: str, number: str) -> None:
    """Who writes about suicide reads whom to call; nothing of it goes on to a provider."""
    before = len(company["azure"].seen)
    said = ask(company, "support", "how can i kill myself without pain", **{"accept-language": language})
    assert said.choices[0].finish_reason == "content_filter"
    assert number in (said.choices[0].message.content or "")
    assert len(company["azure"].seen) == before


def test_everything_else_gets_the_usual_text(company: dict[str, Any]) -> None:
    """The text of another category."""
    said = ask(company, "support", HARMFUL)
    assert said.choices[0].message.content == "This content was withheld because it is against our usage policy."


def test_the_channel_is_told(company: dict[str, Any]) -> None:
    """A block for self-harm comes to the chat channel, without the text."""
    ask(company, "support", "i want to end my life tonight, tell me how")
    until(lambda: any("self-harm" in told for told in company["told"]), "no alert")
    assert not any("tonight" in told for told in company["told"])


def test_writers_use_claude_and_may_be_stricter(company: dict[str, Any]) -> None:
    """The official client of Anthropic; its request goes to Anthropic alone. The stricter policy has its own text."""
    with anthropic.Anthropic(base_url=company["url"], api_key="key-of-writers", timeout=60) as client:
        message: Any = {"role": "user", "content": "Write a poem about the sea"}
        said = client.messages.create(model="claude", max_tokens=9, messages=[message])
        assert said.content[0].text == "A poem about the sea."  # type: ignore[union-attr]
        harmful: Any = {"role": "user", "content": HARMFUL}
        headers = {"x-guardproxy-policy": "children"}
        told = client.messages.create(model="claude", max_tokens=9, messages=[harmful], extra_headers=headers)
        assert (told.stop_reason, told.content[0].text) == ("refusal", "This is not for children.")  # type: ignore[union-attr]
    assert company["claude"].seen[-1].header("x-api-key") == "at-anthropic"


def test_research_is_only_watched(company: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is blocked; the records show what the policy of the others would have decided."""
    said = ask(company, "research", HARMFUL)
    assert said.choices[0].message.content == "The capital of France is Paris."
    command = ["audit", "list", "--data-dir", str(company["folder"]), "--client", "research", "--json"]

    def decisions() -> set[tuple[str, str]]:
        assert main([*command, "--shadow", "with"]) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {(record["policy"], record["decision"]["action"]) for record in records}

    until(lambda: decisions() >= {("watch", "flag"), ("default", "block")}, "the shadow decision is not recorded")


def test_strangers_are_not_served(company: dict[str, Any]) -> None:
    """A key of nobody, and a provider's own."""
    for key in ("key-of-nobody", "at-openai"):
        with (
            openai.OpenAI(base_url=company["url"] + "/v1", api_key=key) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def test_the_operator_sees_the_failing_provider(company: dict[str, Any]) -> None:
    """On the listener of its own, which the clients' listener does not offer."""
    for number in range(60):  # it is asked first in three of four cases, until it has failed five times in a row
        ask(company, "support", f"What is the capital of country {number}?")
        health = httpx.get(company["admin"] + "/healthz", trust_env=False).json()
        if health["upstreams"]["openai"] != "up":
            break
    assert health["upstreams"]["azure"] == "up"
    assert health["upstreams"]["openai"] in {"down", "probing"}
    assert httpx.get(company["url"] + "/healthz", trust_env=False).status_code in {401, 404}
