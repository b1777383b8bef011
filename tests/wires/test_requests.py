"""Requests of every protocol: every text that the model reads is a part, and an edit changes only its part."""

import base64
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from guardproxy.errors import Unreadable
from guardproxy.ports import Request, Wire
from guardproxy.registry import load
from guardproxy.types import Conversation, Edit, Message
from guardproxy.wires import (
    REGISTRY,
    anthropic_messages,
    gemini,
    ollama,
    openai_chat,
    openai_completions,
    openai_responses,
)

TEXT_URL = "data:text/plain;base64," + base64.b64encode(b"in the file").decode()


def _read(wire: Wire, path: str, body: dict[str, Any]) -> Request:
    return wire.parse_request(path, json.dumps(body).encode())


def _parts(request: Request) -> list[tuple[str, str, str, str]]:
    return [
        (message.role, part.kind, part.path, part.text or part.note)
        for message in request.conversation.messages
        for part in message.parts
    ]


TOKENS = "numbers that may be token ids"
CHAT = {
    "model": "m",
    "temperature": 0.5,
    "user": "somebody with a long name",
    "metadata": {"note": "any text here"},
    "seed_words": "a field that nobody knows",
    "tools": [{"type": "function", "function": {"name": "tide", "description": "Tides of a port"}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"description": "D"}}},
    "prediction": {"type": "content", "content": "predicted"},
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "text", "text": "Be short."}]},
        {
            "role": "user",
            "name": "Ada",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": TEXT_URL}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"filename": "notes.txt", "file_data": TEXT_URL}},
                {"type": "novel", "novel": "x"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": "Refused once.",
            "reasoning_content": "Thinking.",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "tide", "arguments": '{"p":1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "High water"},
        {"role": "critic", "content": "A role of its own"},
    ],
}


def test_chat_coverage() -> None:
    """Every text of a chat request is a part of its kind; unreadable content is opaque; settings pass."""
    request = _read(openai_chat.wire, "/v1/chat/completions", CHAT)
    tool, schema = _parts(request)[:2]
    assert tool[:3] == ("system", "tool_definition", "tools[0]")
    assert "Tides of a port" in tool[3]
    assert schema[:3] == ("system", "tool_definition", "response_format.json_schema")
    assert _parts(request)[2:] == [
        ("user", "text", "seed_words", "a field that nobody knows"),
        ("user", "text", "prediction.content", "predicted"),
        ("system", "text", "messages[0].content", "Be kind."),
        ("developer", "text", "messages[1].content[0].text", "Be short."),
        ("user", "text", "messages[2].name", "Ada"),
        ("user", "text", "messages[2].content[0].text", "Look:"),
        ("user", "opaque", "messages[2].content[1].image_url.url", "image"),
        ("user", "text", "messages[2].content[2].image_url.url", "in the file"),
        ("user", "opaque", "messages[2].content[3].input_audio", "audio"),
        ("user", "text", "messages[2].content[4].file.filename", "notes.txt"),
        ("user", "text", "messages[2].content[4].file.file_data", "in the file"),
        ("user", "opaque", "messages[2].content[5]", "part of type novel"),
        ("assistant", "refusal", "messages[3].refusal", "Refused once."),
        ("assistant", "reasoning", "messages[3].reasoning_content", "Thinking."),
        ("assistant", "tool_call", "messages[3].tool_calls[0].function.arguments", 'tide\n{"p":1}'),
        ("tool", "tool_result", "messages[4].content", "High water"),
        ("user", "text", "messages[5].role", "critic"),
        ("user", "text", "messages[5].content", "A role of its own"),
    ]
    assert (request.model, request.stream, request.structured) == ("m", False, True)


def test_chat_edits() -> None:
    """An edit changes its part, an empty edit removes it, a dropped message is removed; nothing else changes."""
    request = _read(openai_chat.wire, "/v1/chat/completions", CHAT)
    roles = [message.role for message in request.conversation.messages]
    body = openai_chat.wire.edit_request(
        request,
        [
            Edit("messages[2].content[0].text", "See:"),
            Edit("messages[2].content[2].image_url.url", ""),
            Edit("messages[2].content[4].file.file_data", "new"),
            Edit("messages[2].name", ""),
            Edit("messages[3].tool_calls[0].function.arguments", "tide\nno longer JSON"),
            Edit("tools[0]", "not JSON"),
        ],
        [roles.index("tool"), 1],
    )
    edited = json.loads(body)
    user, assistant, last = edited["messages"][2:]
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "input_audio", "file", "novel"]
    assert user["content"][0]["text"] == "See:"
    assert user["content"][3]["file"]["file_data"] == "data:text/plain;charset=utf-8,new"
    assert "name" not in user
    assert assistant["tool_calls"][0]["function"]["arguments"] == "{}"
    assert last["role"] == "critic"
    gone = ("tools", "prediction", "seed_words", "messages")
    assert {key: value for key, value in edited.items() if key not in gone} == {
        key: value for key, value in CHAT.items() if key not in gone
    }
    assert not {"tools", "prediction", "seed_words"} & set(edited)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, r"messages\[0\]"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "content": 7}]}, r"messages\[0\].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
            r"messages\[0\].content\[0\].text",
        ),
        ({"messages": [{"role": "user", "content": "x", "\u212aey": "y", "Name": "z"}]}, "another spelling"),
        ({"messages": [{"role": "user", "content": "x"}], "stream": 1}, "stream"),
        ({"messages": [{"role": "user", "content": "x"}], "model": ["m"]}, "model"),
        ({"messages": [{"role": "assistant", "tool_calls": {"id": 1}}]}, r"messages\[0\].tool_calls"),
    ],
)
def test_bad_chats_name_their_place(body: dict[str, Any], place: str) -> None:
    """An error names the place and what is wrong with it."""
    with pytest.raises(Unreadable, match=place):
        _read(openai_chat.wire, "/v1/chat/completions", body)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("auto", {}),
        ("v1.2/fast", {}),
        (3, {}),
        (True, {}),
        ({"mode": 3}, {}),
        (["image", "text"], {}),
        ({"deep": [{"er": "text"}]}, {}),
        ("two words", {"novel": "two words"}),
        ("a" * 41, {"novel": "a" * 41}),
        ("fast-and-gentle", {"novel": "fast-and-gentle"}),
        (["harbour"], {"novel[0]": "harbour"}),
        (["Open", "the", "harbour"], {"novel[0]": "Open", "novel[1]": "the", "novel[2]": "harbour"}),
        ({"deep": [{"er": "harbour"}]}, {"novel.deep[0].er": "harbour"}),
        ({"a key with spaces": 1}, {"novel.a key with spaces": "a key with spaces\n1"}),
        ([15496, 995], {"novel": TOKENS}),
        ([0.5, 1.5], {}),
        ([15496.0, 995e0], {"novel": TOKENS}),
        (["15496", "995"], {"novel": TOKENS}),
        ([[15496], [995]], {"novel[0]": TOKENS, "novel[1]": TOKENS}),
        ({"deep": [1e3, "x"]}, {"novel.deep": TOKENS}),
        (base64.b64encode(bytes(range(100, 200))).decode(), {"novel": "unreadable data"}),
    ],
)
def test_unknown_fields(value: Any, parts: dict[str, str]) -> None:
    """Text in an unknown field is the user's, in parts by path; data and token ids are opaque; the rest passes."""
    request = _read(openai_chat.wire, "/v1/chat/completions", {"messages": CHAT["messages"][:1], "novel": value})
    *found, _ = _parts(request)
    assert {path: text for _, _, path, text in found} == parts
    assert {role for role, *_ in found} <= {"user"}


def test_the_names_of_template_arguments_are_judged() -> None:
    """A template may write the names of its arguments into the prompt. Identifiers pass."""
    arguments = {"enable_thinking": True, "a key with spaces": 1, "style": "two words"}
    body = {"messages": CHAT["messages"][:1], "chat_template_kwargs": arguments}
    *found, _ = _parts(_read(openai_chat.wire, "/v1/chat/completions", body))
    assert [(path, text) for _, _, path, text in found] == [
        ("chat_template_kwargs.a key with spaces", "a key with spaces\n1"),
        ("chat_template_kwargs.style", "two words"),
    ]


def test_ids_and_roles_hide_no_text() -> None:
    """Templates write roles and ids into the prompt, so they are judged unless they are plain identifiers."""
    messages = [{"role": "user\nand more", "content": "x"}, {"role": "tool", "tool_call_id": "a b c", "content": "y"}]
    request = _read(openai_chat.wire, "/v1/chat/completions", {"messages": messages})
    assert ("user", "text", "messages[0].role", "user\nand more") in _parts(request)
    assert ("tool", "tool_result", "messages[1].tool_call_id", "a b c") in _parts(request)


def test_edits_reach_calls_that_are_numbered_otherwise() -> None:
    """The `index` of a call counts in streams only: an edit changes the call that has the text."""
    calls = [
        {"id": str(index), "index": index, "type": "function", "function": {"name": name, "arguments": '{"p":"old"}'}}
        for index, name in ((7, "tide"), (0, "wind"), (0, "rain"))
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    user = {"role": "user", "content": "Hi"}
    request = _read(openai_chat.wire, "/v1/chat/completions", {"messages": [user, message, user]})
    parts = request.conversation.messages[1].parts
    assert [part.text for part in parts] == [f'{name}\n{{"p":"old"}}' for name in ("tide", "wind", "rain")]
    edits = [Edit(part.path, part.text.replace("old", "new")) for part in parts]
    edited = json.loads(openai_chat.wire.edit_request(request, edits, []))["messages"][1]["tool_calls"]
    assert [call["function"]["arguments"] for call in edited] == ['{"p":"new"}'] * 3


def test_arguments_that_are_no_object_can_be_edited() -> None:
    """Arguments that are nested too deep for JSON, or contain too long a number, can be edited all the same."""
    for arguments in ("[" * 200_000, '{"a":' * 200_000, "9" * 5000):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x", "tool_calls": [call]}]
        request = _read(openai_chat.wire, "/v1/chat/completions", {"messages": messages})
        path = "messages[1].tool_calls[0].function.arguments"
        edited = json.loads(openai_chat.wire.edit_request(request, [Edit(path, "")], []))
        assert edited["messages"][1]["tool_calls"][0]["function"]["arguments"] in ("", "{}")


def test_an_edit_of_nothing_is_an_error() -> None:
    """An edit of a text that does not exist is an error."""
    request = _read(openai_chat.wire, "/v1/chat/completions", CHAT)
    with pytest.raises((KeyError, IndexError)):
        openai_chat.wire.edit_request(request, [Edit("messages[3].tool_calls[9].function.arguments", "{}")], [])


@pytest.mark.parametrize("wire", [openai_chat.wire, ollama.wire], ids=["openai_chat", "ollama"])
def test_many_calls_take_linear_time(wire: Wire) -> None:
    """A message with a hundred thousand calls is read in seconds."""
    call = {"function": {"name": "f", "arguments": {}}}
    path = "/api/chat" if wire is ollama.wire else "/v1/chat/completions"
    body = {"messages": [{"role": "assistant", "tool_calls": [call] * 100_000}, {"role": "user", "content": "Hi"}]}
    began = time.process_time()
    request = _read(wire, path, body)
    assert time.process_time() - began < 20
    assert len(request.conversation.messages[0].parts) == 100_000


# UTF-16 of ASCII letters is also UTF-8, with NUL between them; UTF-7 is ASCII.
DISGUISED = [
    ("text/plain", "poison".encode("utf-16-le")),
    ("text/plain; charset=utf-16", "poison".encode("utf-16")),
    ("text/plain;charset=UTF-7", b"+AHAAbwBpAHMAbwBu-"),
    ('text/plain; charset="utf-7"', b"+AHAAbwBpAHMAbwBu-"),
    ("application/json; charset=ibm037", "poison".encode("cp037")),
]


@pytest.mark.parametrize(("kind", "data"), DISGUISED, ids=[kind for kind, _ in DISGUISED])
def test_files_in_other_encodings_are_opaque(kind: str, data: bytes) -> None:
    """A file whose bytes another reader could decode into another text is opaque."""
    payload = base64.b64encode(data).decode()
    url = f"data:{kind};base64,{payload}"
    source = {"type": "base64", "media_type": kind, "data": payload}
    part = {"inlineData": {"mimeType": kind, "data": payload}}
    requests = [
        (openai_chat.wire, "/v1/chat/completions", [{"type": "image_url", "image_url": {"url": url}}]),
        (anthropic_messages.wire, "/v1/messages", [{"type": "document", "source": source}]),
    ]
    for wire, path, content in requests:
        request = _read(wire, path, {"messages": [{"role": "user", "content": content}]})
        assert "opaque" in [kind for _, kind, _, _ in _parts(request)]
    request = _read(gemini.wire, "/v1beta/models/m:generateContent", {"contents": [{"parts": [part]}]})
    assert "opaque" in [kind for _, kind, _, _ in _parts(request)]


def test_completions_coverage() -> None:
    """Every prompt is a turn, the suffix is text, token ids are opaque."""
    body = {"model": "m", "prompt": ["one", "two"], "suffix": "end", "n": 2, "stream": False}
    request = _read(openai_completions.wire, "/v1/completions", body)
    assert _parts(request) == [
        ("user", "text", "suffix", "end"),
        ("user", "text", "prompt[0]", "one"),
        ("user", "text", "prompt[1]", "two"),
    ]
    edited = json.loads(openai_completions.wire.edit_request(request, [Edit("prompt[1]", "2")], []))
    assert edited["prompt"] == ["one", "2"]
    ids = _read(openai_completions.wire, "/v1/completions", {"prompt": [[1, 2], "x"]})
    assert _parts(ids)[0] == ("user", "opaque", "prompt[0]", "token ids")
    for prompt in (None, "", [], [["x"]], {"a": 1}):
        with pytest.raises(Unreadable, match="prompt"):
            _read(openai_completions.wire, "/v1/completions", {"prompt": prompt})


def test_responses_coverage() -> None:
    """Items of a response's input are turns of their sender; content that is stored upstream is opaque."""
    body = {
        "model": "m",
        "instructions": "Be kind.",
        "previous_response_id": "resp_1",
        "conversation": "conv_1",
        "prompt": {"id": "pmpt_1", "variables": {"name": "Ada"}},
        "tools": [{"type": "function", "name": "f", "description": "F"}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_file", "file_data": TEXT_URL}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Yo", "annotations": []}],
            },
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "abc"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Done"}]},
            {"type": "item_reference", "id": "msg_9"},
            {"type": "novel_item", "text": "?"},
        ],
    }
    request = _read(openai_responses.wire, "/v1/responses", body)
    assert [(role, kind, path, text[:8]) for role, kind, path, text in _parts(request)] == [
        ("system", "text", "instructions", "Be kind."),
        ("system", "tool_definition", "tools[0]", '{"type":'),
        ("system", "tool_definition", "text.format", '{"type":'),
        ("user", "opaque", "previous_response_id", "an earli"),
        ("user", "opaque", "conversation", "a conver"),
        ("user", "opaque", "prompt.id", "a prompt"),
        ("user", "text", "prompt.variables", '{"name":'),
        ("user", "text", "input[0].content[0].text", "Hi"),
        ("user", "text", "input[0].content[1].file_data", "in the f"),
        ("assistant", "text", "input[1].content[0].text", "Yo"),
        ("assistant", "reasoning", "input[2].summary[0].text", "Hm"),
        ("assistant", "opaque", "input[2].encrypted_content", "encrypte"),
        ("assistant", "tool_call", "input[3].arguments", "f\n{}"),
        ("tool", "tool_result", "input[4].output[0].text", "Done"),
        ("user", "opaque", "input[5].id", "an item "),
        ("assistant", "text", "input[6].text", "?"),
        ("assistant", "opaque", "input[6]", "item of "),
    ]
    edited = json.loads(
        openai_responses.wire.edit_request(request, [Edit("input[0].content[0].text", "Ho")], [3, 4, 5, 6, 7])
    )
    assert [item.get("type") for item in edited["input"]] == [None, "novel_item"]
    assert edited["input"][0]["content"][0]["text"] == "Ho"
    text = _read(openai_responses.wire, "/v1/responses", {"input": "Hello"})
    assert _parts(text) == [("user", "text", "input", "Hello")]


def test_messages_coverage() -> None:
    """Blocks of every type are read; a message of tool results has the role `tool`."""
    body = {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Read:"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {
                        "type": "document",
                        "title": "T",
                        "source": {"type": "text", "media_type": "text/plain", "data": "A page"},
                    },
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "text/plain", "data": "aGk="},
                    },
                    {
                        "type": "search_result",
                        "source": "s",
                        "title": "R",
                        "content": [{"type": "text", "text": "found"}],
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "ok"}]}],
            },
        ],
    }
    request = _read(anthropic_messages.wire, "/v1/messages?beta=true", body)
    assert [(role, kind, path, text) for role, kind, path, text in _parts(request) if path != "tools[0]"] == [
        ("system", "text", "system[0].text", "Be kind."),
        ("user", "text", "messages[0].content[0].text", "Read:"),
        ("user", "opaque", "messages[0].content[1].source.data", "image"),
        ("user", "text", "messages[0].content[2].title", "T"),
        ("user", "text", "messages[0].content[2].source.data", "A page"),
        ("user", "text", "messages[0].content[3].source.data", "hi"),
        ("user", "text", "messages[0].content[4].source", "s"),
        ("user", "text", "messages[0].content[4].title", "R"),
        ("user", "text", "messages[0].content[4].content[0].text", "found"),
        ("assistant", "reasoning", "messages[1].content[0].thinking", "Hm"),
        ("assistant", "opaque", "messages[1].content[1].data", "encrypted reasoning"),
        ("assistant", "tool_call", "messages[1].content[2].input", 'f\n{"a": "b"}'),
        ("tool", "tool_result", "messages[2].content[0].content[0].text", "ok"),
    ]
    edits = [Edit("messages[1].content[2].input", 'f\n{"a": 1}'), Edit("messages[0].content[3].source.data", "new")]
    edited = json.loads(anthropic_messages.wire.edit_request(request, edits, []))
    assert edited["messages"][1]["content"][2]["input"] == {"a": 1}
    assert base64.b64decode(edited["messages"][0]["content"][3]["source"]["data"]) == b"new"


def test_ollama_coverage() -> None:
    """Chat and generate: texts, images, templates and earlier contexts; a stream unless `stream` is false."""
    chat = {
        "model": "m",
        "format": {"type": "object"},
        "options": {"stop": ["a long stop text"]},
        "messages": [
            {"role": "user", "content": "Hi", "images": ["AAAA"]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "ok", "tool_name": "f"},
        ],
    }
    request = _read(ollama.wire, "/api/chat", chat)
    assert (request.stream, request.structured) == (True, True)
    assert _parts(request)[1:] == [
        ("user", "text", "messages[0].content", "Hi"),
        ("user", "opaque", "messages[0].images[0]", "image"),
        ("assistant", "text", "messages[1].content", ""),
        ("assistant", "tool_call", "messages[1].tool_calls[0].function.arguments", 'f\n{"a": 1}'),
        ("tool", "tool_result", "messages[2].content", "ok"),
    ]
    generate = {
        "prompt": "P",
        "system": "S",
        "suffix": "E",
        "template": "{{ .Prompt }}",
        "context": [1],
        "stream": False,
    }
    request = _read(ollama.wire, "/api/generate", generate)
    assert not request.stream
    assert [(role, kind, path) for role, kind, path, _ in _parts(request)] == [
        ("system", "text", "system"),
        ("user", "text", "suffix"),
        ("user", "opaque", "template"),
        ("user", "text", "template"),
        ("user", "opaque", "context"),
        ("user", "text", "prompt"),
    ]
    assert _read(ollama.wire, "/api/generate", {"model": "m"}).conversation.messages == ()


def test_fields_of_ollamas_other_request_are_not_overlooked() -> None:
    """A prompt in a chat and messages beside a prompt are judged: a server could read them."""
    messages = [{"role": "user", "content": "Hi"}]
    chat = _read(ollama.wire, "/api/chat", {"prompt": "poison", "messages": messages})
    assert _parts(chat)[0] == ("user", "text", "prompt", "poison")
    generate = _read(ollama.wire, "/api/generate", {"prompt": "Hi", "messages": messages})
    assert [(kind, path) for _, kind, path, _ in _parts(generate)] == [("opaque", "messages"), ("text", "prompt")]
    call = {"function": {"name": "f", "arguments": {}, "description": "poison"}}
    called = _read(ollama.wire, "/api/chat", {"messages": [{"role": "assistant", "tool_calls": [call, call]}]})
    assert [text for _, _, _, text in _parts(called)].count("poison") == 2


def test_gemini_coverage() -> None:
    """Parts in either spelling; both spellings at once are refused."""
    body = {
        "system_instruction": {"parts": [{"text": "Be kind."}]},
        "tools": [{"functionDeclarations": [{"name": "f", "description": "F"}]}],
        "generationConfig": {"responseMimeType": "application/json", "responseSchema": {"type": "STRING"}},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "Hi"},
                    {"inline_data": {"mime_type": "image/png", "data": "AA=="}},
                    {"inlineData": {"mimeType": "text/plain", "data": "aGk="}},
                    {"fileData": {"fileUri": "gs://x"}},
                ],
            },
            {
                "role": "model",
                "parts": [{"text": "Hm", "thought": True}, {"functionCall": {"name": "f", "args": {"a": 1}}}],
            },
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": "ok"}}}]},
        ],
    }
    request = _read(gemini.wire, "/v1/models/g:generateContent", body)
    assert [part for part in _parts(request) if part[1] != "tool_definition"] == [
        ("system", "text", "system_instruction.parts[0].text", "Be kind."),
        ("user", "text", "contents[0].parts[0].text", "Hi"),
        ("user", "opaque", "contents[0].parts[1].inline_data.data", "inline data"),
        ("user", "text", "contents[0].parts[2].inlineData.data", "hi"),
        ("user", "opaque", "contents[0].parts[3].fileData", "file"),
        ("assistant", "reasoning", "contents[1].parts[0].text", "Hm"),
        ("assistant", "tool_call", "contents[1].parts[1].functionCall.args", 'f\n{"a": 1}'),
        ("tool", "tool_result", "contents[2].parts[0].functionResponse.response", '{"r": "ok"}'),
    ]
    assert (request.model, request.stream, request.structured) == ("g", False, True)
    edits = [
        Edit("contents[0].parts[2].inlineData.data", "new"),
        Edit("contents[2].parts[0].functionResponse.response", ""),
    ]
    edited = json.loads(gemini.wire.edit_request(request, edits, []))
    assert base64.b64decode(edited["contents"][0]["parts"][2]["inlineData"]["data"]) == b"new"
    assert edited["contents"][2]["parts"][0]["functionResponse"]["response"] == {}
    with pytest.raises(Unreadable, match="send one of them"):
        _read(gemini.wire, "/v1/models/g:generateContent", {**body, "systemInstruction": {"parts": []}})


CLAIMS = [
    ("openai_chat", "/v1/chat/completions"),
    ("openai_chat", "/openai/deployments/gpt-x/chat/completions"),
    ("openai_completions", "/v1/completions"),
    ("openai_responses", "/v1/responses"),
    ("openai_embeddings", "/v1/embeddings"),
    ("openai_embeddings", "/openai/deployments/e/embeddings"),
    ("ollama_embed", "/api/embed"),
    ("ollama_embed", "/api/embeddings"),
    ("anthropic_messages", "/v1/messages"),
    ("ollama", "/api/chat"),
    ("ollama", "/api/generate"),
    ("gemini", "/v1beta/models/gemini-2.5-flash:generateContent"),
    ("gemini", "/v1/models/gemini-2.5-flash:streamGenerateContent"),
]


@pytest.mark.parametrize(("name", "path"), CLAIMS)
def test_paths(name: str, path: str) -> None:
    """A path belongs to a single wire, for POST only; no wire claims a similar path."""
    wires: dict[str, Wire] = {key: load(key, REGISTRY, "wire") for key in REGISTRY}
    assert [key for key, wire in wires.items() if wire.claims("POST", path)] == [name]
    for other in (f"{path}/", f"{path}/x", f"/x{path}", path.upper(), path.replace("/", "//", 1), f"{path}%2F"):
        assert not any(wire.claims("POST", other) for wire in wires.values())
    assert not any(wire.claims("GET", path) for wire in wires.values())


def test_azure_names_the_model_in_the_path() -> None:
    """The deployment is the model even if the body names another: policies are chosen by the model that answers."""
    path = "/openai/deployments/gpt-x/chat/completions"
    assert _read(openai_chat.wire, path, {"messages": CHAT["messages"][:1]}).model == "gpt-x"
    assert _read(openai_chat.wire, path, CHAT).model == "gpt-x"


def test_a_dropped_message_goes_with_every_field_that_holds_it() -> None:
    """A request keeps the places of its messages, also of parts that its conversation no longer has."""
    body = {"previous_response_id": "resp_1", "suffix": "long words here", "input": [{"role": "user", "content": "Hi"}]}
    request = _read(openai_responses.wire, "/v1/responses", body)
    assert request.places == (("previous_response_id", "suffix"), ("input[0]",))
    shorter = Conversation((Message("user", ()), *request.conversation.messages[1:]))
    edited = openai_responses.wire.edit_request(replace(request, conversation=shorter), [], [0])
    assert json.loads(edited) == {"input": body["input"]}
