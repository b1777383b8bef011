"""A chat that official clients send again with every request: what the store, the commands and the page then say."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from guardproxy.cli import main
from guardproxy.observe.masking import INFERRED, short_hash
from guardproxy.settings import AuditSettings
from guardproxy.sinks.database import AuditStore, Facets, ReviewStore, StoredRecord, default_store_url
from guardproxy.types import Record
from guardproxy.web.identities import Identities
from tests.conformance.speech import PROTOCOLS, plain
from tests.kit import Scripted
from tests.web.kit import policy, standing

PROMPTS = ("hello", "a rude word", "so what", "the poison", "never mind", "bye")
REFUSAL = policy().block.message
Ask = Callable[[str, list[dict[str, Any]], bool], str]


def by_chat(url: str, messages: list[dict[str, Any]], stream: bool) -> str:
    """Chat completions."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60, max_retries=0) as sdk:
        ask: Any = sdk.chat.completions.create
        answer = ask(model="m", messages=messages, stream=stream, user="ann")
        if stream:
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        return answer.choices[0].message.content or ""


def by_responses(url: str, messages: list[dict[str, Any]], stream: bool) -> str:
    """Responses."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", timeout=60, max_retries=0) as sdk:
        ask: Any = sdk.responses.create
        answer = ask(model="m", input=messages, stream=stream, user="ann")
        if stream:
            return "".join(event.delta for event in answer if event.type == "response.output_text.delta")
        return answer.output_text


def by_messages(url: str, messages: list[dict[str, Any]], stream: bool) -> str:
    """Anthropic's messages."""
    with anthropic.Anthropic(base_url=url, api_key="k", timeout=60, max_retries=0) as sdk:
        options: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": messages, "metadata": {"user_id": "ann"}}
        if stream:
            with sdk.messages.stream(**options) as answer:
                return "".join(answer.text_stream)
        return "".join(block.text for block in sdk.messages.create(**options).content)


ASKS: dict[str, Ask] = {"chat": by_chat, "responses": by_responses, "messages": by_messages}


def held(folder: Path, name: str, stream: bool, **changes: Any) -> list[str]:
    """The answers of a chat of six requests, whose records are in the folder's store."""
    protocol = PROTOCOLS[name]
    body = protocol.streamed(["fi", "ne"]) if stream else [plain(protocol.whole("fine"))]
    kind = protocol.content_type if stream else "application/json"
    store = AuditStore(default_store_url(str(folder)))
    messages: list[dict[str, Any]] = []
    changes = {"infer_sessions": True, "identities": Identities(AuditSettings()), "sinks": {"store": store}, **changes}
    with standing(Scripted(body, headers={"content-type": kind}), **changes) as (url, _):
        for prompt in PROMPTS:
            messages.append({"role": "user", "content": prompt})
            messages.append({"role": "assistant", "content": ASKS[name](url, messages, stream)})
    return [message["content"] for message in messages if message["role"] == "assistant"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ASKS)
def test_each_turn_of_a_resent_chat_has_one_record(
    name: str, stream: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turn 2 is flagged and turn 4 blocked: one record each, one of each reply, and one session."""
    assert held(tmp_path, name, stream) == ["fine"] * 3 + [REFUSAL] + ["fine"] * 2

    async def look() -> tuple[list[Record], list[StoredRecord], Facets]:
        store = AuditStore(default_store_url(str(tmp_path)), create=False)
        records = [stored.record async for stored in store.scan()]
        conversation = await store.conversation(records[-1].id)
        await store.close()
        page = ReviewStore(default_store_url(str(tmp_path)))
        facets = await page.facets()
        await page.close()
        return records, conversation, facets

    records, conversation, facets = asyncio.run(look())
    assert [(r.side, r.decision.action, r.outcome) for r in records if r.decision.action != "pass"] == [
        ("user", "flag", "pass"),
        ("user", "block", "refuse"),
    ]
    assert sorted((r.side, r.turn) for r in records) == sorted(
        [*(("user", 2 * n) for n in range(6)), *(("assistant", 2 * n + 1) for n in range(6) if n != 3)]
    )
    assert (facets.counted, facets.by["action"]["block"]) == (11, {"block": 1})
    assert len(conversation) == len(records) == 11
    (session,) = {r.origin.session for r in records}
    assert session.startswith(INFERRED)

    def told(*command: str) -> list[Any]:
        capsys.readouterr()
        assert main(["audit", *command, "--data-dir", str(tmp_path), "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert told("stats", "--by", "user") == [{short_hash(b"ann"): {"pass": 9, "flag": 1, "block": 1}}]
    assert len(told("list", "--session", session)) == 11
