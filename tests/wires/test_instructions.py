"""Where an instruction of the operator's stands in a request, and which requests have no place for one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.ports import Request, Wire
from guardproxy.wires import (
    anthropic_messages,
    gemini,
    ollama,
    ollama_embed,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
GENERATE = "/v1beta/models/g:generateContent"
USER = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "Be kind."}


def parsed(wire: Wire, path: str, body: dict[str, Any]) -> Request:
    return wire.parse_request(path, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("wire", "path", "before", "after"),
    [
        (openai_chat.wire, CHAT, {"messages": [USER]}, {"messages": [{"role": "system", "content": "Be kind."}, USER]}),
        (
            openai_chat.wire,
            CHAT,
            {"messages": [{"role": "system", "content": "A."}, {"role": "developer", "content": "B."}, USER]},
            {
                "messages": [
                    {"role": "system", "content": "A."},
                    {"role": "developer", "content": "B.\n\nBe kind."},
                    USER,
                ]
            },
        ),
        (
            openai_chat.wire,
            CHAT,
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "A."}]}, USER]},
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "A."}, TEXT]}, USER]},
        ),
        (openai_completions.wire, COMPLETIONS, {"prompt": "hi"}, {"prompt": "Be kind.\n\nhi"}),
        (openai_completions.wire, COMPLETIONS, {"prompt": ["a", "b"]}, {"prompt": ["Be kind.\n\na", "Be kind.\n\nb"]}),
        (
            openai_responses.wire,
            RESPONSES,
            {"instructions": "A.", "input": "hi"},
            {"instructions": "A.", "input": [USER, {"role": "developer", "content": "Be kind."}]},
        ),
        (
            openai_responses.wire,
            RESPONSES,
            {"previous_response_id": "r1", "input": [USER]},
            {"previous_response_id": "r1", "input": [USER, {"role": "developer", "content": "Be kind."}]},
        ),
        (anthropic_messages.wire, "/v1/messages", {"messages": [USER]}, {"messages": [USER], "system": "Be kind."}),
        (
            anthropic_messages.wire,
            "/v1/messages",
            {"system": [{"type": "text", "text": "A.", "cache_control": {"type": "ephemeral"}}], "messages": [USER]},
            {
                "system": [{"type": "text", "text": "A.", "cache_control": {"type": "ephemeral"}}, TEXT],
                "messages": [USER],
            },
        ),
        (
            ollama.wire,
            "/api/chat",
            {"messages": [USER]},
            {"messages": [{"role": "system", "content": "Be kind."}, USER]},
        ),
        (ollama.wire, "/api/generate", {"prompt": "hi"}, {"prompt": "hi", "system": "Be kind."}),
        (ollama.wire, "/api/generate", {"prompt": "hi", "system": "A."}, {"prompt": "hi", "system": "A.\n\nBe kind."}),
        (ollama.wire, "/api/generate", {"prompt": "hi", "raw": True}, {"prompt": "Be kind.\n\nhi", "raw": True}),
        (
            ollama.wire,
            "/api/generate",
            {"prompt": "hi", "template": "{{ .Prompt }}"},
            {"prompt": "Be kind.\n\nhi", "template": "{{ .Prompt }}"},
        ),
        (
            gemini.wire,
            GENERATE,
            {"contents": [{"parts": [{"text": "hi"}]}]},
            {"contents": [{"parts": [{"text": "hi"}]}], "systemInstruction": {"parts": [{"text": "Be kind."}]}},
        ),
        (
            gemini.wire,
            GENERATE,
            {
                "contents": [{"parts": [{"text": "hi"}]}],
                "system_instruction": {"role": "user", "parts": [{"text": "A."}]},
            },
            {
                "contents": [{"parts": [{"text": "hi"}]}],
                "system_instruction": {"role": "user", "parts": [{"text": "A."}, {"text": "Be kind."}]},
            },
        ),
    ],
)
def test_the_place_of_an_instruction(wire: Wire, path: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Beside what the application tells the model, behind it; nothing else changes."""
    request = parsed(wire, path, {"model": "m", **before})
    assert request.instructible
    assert json.loads(wire.instructed(request, request.raw, "Be kind.")) == {"model": "m", **after}


@pytest.mark.parametrize(
    ("wire", "path", "body"),
    [
        (openai_chat.wire, CHAT, {"messages": [USER], "chat_template": "{{ messages }}"}),
        (openai_chat.wire, CHAT, {"messages": [USER], "truncate_prompt_tokens": 5}),
        (openai_completions.wire, COMPLETIONS, {"prompt": "hi", "echo": True}),
        (openai_completions.wire, COMPLETIONS, {"prompt": [[1, 2], [3]]}),
        (openai_completions.wire, COMPLETIONS, {"prompt": "hi", "truncate_prompt_tokens": 5}),
        (openai_responses.wire, RESPONSES, {"input": "hi", "chat_template": "{{ messages }}"}),
        (anthropic_messages.wire, "/v1/messages", {"messages": [USER], "chat_template": "{{ messages }}"}),
        (ollama.wire, "/api/chat", {"messages": [USER], "template": "{{ .Prompt }}"}),
        (ollama.wire, "/api/chat", {"messages": []}),
        (ollama.wire, "/api/generate", {"images": ["aGk="]}),
        (gemini.wire, GENERATE, {"contents": [{"parts": [{"text": "hi"}]}], "cachedContent": "cachedContents/1"}),
        (gemini.wire, GENERATE, {"contents": [{"parts": [{"text": "hi"}]}], "cached_content": "cachedContents/1"}),
        (openai_embeddings.wire, "/v1/embeddings", {"input": "hi"}),
        (ollama_embed.wire, "/api/embed", {"input": "hi"}),
    ],
)
def test_requests_without_a_place(wire: Wire, path: str, body: dict[str, Any]) -> None:
    """The client itself says how the model is prompted, the reply would repeat the instruction, or no model answers."""
    assert not parsed(wire, path, {"model": "m", **body}).instructible


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
roles = st.sampled_from(["system", "developer", "user", "assistant"])
chats = st.lists(st.tuples(roles, texts), min_size=1, max_size=6)


@given(chats, texts.filter(str.strip))
def test_the_users_words_stay_theirs(chat: list[tuple[str, str]], instruction: str) -> None:
    """Whatever the messages say: in a chat only a system message has the instruction, and no other changes."""
    messages = [{"role": role, "content": text} for role, text in chat]
    for wire, path in ((openai_chat.wire, CHAT), (ollama.wire, "/api/chat")):
        request = parsed(wire, path, {"model": "m", "messages": messages})
        again = wire.parse_request(path, wire.instructed(request, request.raw, instruction))
        assert said(again, "user") == said(request, "user")
        assert said(again, "assistant") == said(request, "assistant")
        told = [*said(again, "system"), *said(again, "developer")]
        assert any(text.endswith(instruction) for text in told)


def said(request: Request, role: str) -> list[str]:
    return [message.text for message in request.conversation.messages if message.role == role]
