"""The texts in tool calls, and in JSON beside the content of a message."""

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.ports import Wire
from guardproxy.types import Message, Part
from guardproxy.views import apart
from guardproxy.views.joining import MOST_PARTS
from guardproxy.views.strings import LEAST, MOST, quoted
from guardproxy.wires import anthropic_messages, gemini, ollama, openai_chat, openai_responses
from tests.wires.kit import MESSAGES

TEXT = "Explain in detail how to open a tin."
ARGUMENTS = "choices[0].message.tool_calls[0].function.arguments"


def found(name: str, arguments: Any) -> tuple[str, ...]:
    """The texts in a call of a tool; arguments that are a string are no JSON, or a piece of it."""
    body = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return apart(Message("assistant", (Part(ARGUMENTS, f"{name}\n{body}", "tool_call"),)))


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("run", {"task": TEXT}, (TEXT,)),
        ("run", {"steps": [{"do": TEXT}, {"do": TEXT.upper()}]}, (TEXT, TEXT.upper())),
        ("run", {TEXT: 1}, (TEXT,)),
        ("run", {"body": json.dumps({"task": [TEXT]})}, (TEXT,)),
        ("run", [TEXT], (TEXT,)),
        ("run", {"quoted": f'Say "{TEXT}"\nnow'}, (f'Say "{TEXT}"\nnow',)),
        (
            "run",
            {"task": "如何在家里打开一个罐头而不使用任何工具并且不受伤"},
            ("如何在家里打开一个罐头而不使用任何工具并且不受伤",),
        ),
        ("run", {"words": TEXT.split()}, (TEXT,)),
        (TEXT, {"a": 1}, (TEXT,)),
        ("Explain in detail\nhow to open a tin.", {"a": 1}, ("Explain in detail\nhow to open a tin.",)),
        ("explain_in_detail_how_to_open_a_tin", {}, ("explain in detail how to open a tin",)),
        # The usual values of a call cost no check.
        ("get_current_weather", {"city": "Paris, France", "unit": "celsius", "days": 3}, ()),
        ("read", {"path": "/srv/data/reports/2026/quarter.csv", "id": "call_0123456789abcdef"}, ()),
        ("fetch", {"url": "https://example.org/how-to-open-a-tin-at-home"}, ()),
        # A text that is no JSON is the call's own text, which is judged anyway.
        ("python", "print('Explain in detail how to open a tin.')", ()),
        ("run", {"text": "word " * (MOST // 5 + 1)}, ()),
    ],
)
def test_the_texts_in_a_call(name: str, arguments: Any, wanted: tuple[str, ...]) -> None:
    """Sentences in values, keys, lists, JSON in strings, and the name; short values together if they are many words."""
    assert found(name, arguments) == wanted


def test_a_call_that_goes_on_is_read_as_far_as_it_has_come() -> None:
    """A string without its end is a text, and so is one that ends within an escape."""
    whole = json.dumps({"n": 1, "task": 'Explain in detail how to "open" a tin.'})
    assert found("run", whole[: whole.index(" a tin")]) == ('Explain in detail how to "open"',)
    (cut,) = found("run", whole[: whole.index('\\"open') + 1])
    assert cut.startswith("Explain in detail how to")


@pytest.mark.parametrize("rest", ["", '", "to": "me"}'])
def test_half_an_emoji_is_no_text(rest: str) -> None:
    """An emoji in two escapes may be cut between them, or sent in halves; a guard cannot read a lone half."""
    assert found("send", r'{"text": "See you at the beach tomorrow \ud83d' + rest) == (
        "See you at the beach tomorrow \ufffd",
    )
    both = r'{"text": "See you at the beach tomorrow \ud83d\ude00' + rest
    assert found("send", both) == ("See you at the beach tomorrow \U0001f600",)


def test_short_values_are_all_in_the_texts() -> None:
    """A list of many words is cut into pieces of at most MOST characters."""
    words = [f"word{n}" for n in range(1000)] + ["how", "to", "open", "a", "tin"]
    texts = found("run", {"words": words})
    assert " ".join(texts).split() == words
    assert all(len(text) <= MOST for text in texts)


def test_many_strings_are_read_in_groups() -> None:
    """At most MOST_PARTS texts, which have every string."""
    values = [f"sentence number {number:09} of them" for number in range(1000)]
    groups = found("run", {"values": values})
    assert len(groups) <= MOST_PARTS
    assert "\n".join(groups).split("\n") == values


@pytest.mark.parametrize("text", ['"' + '\\"' * 100_000 + "\\", "\n" * 200_000, '{"' * 100_000, '"a":' * 60_000])
def test_no_text_takes_long(text: str) -> None:
    """The time is linear in the text; a quadratic search would take minutes."""
    found("run", "{" + text)


def test_annotations_ids_and_unknown_fields_are_read_beside_a_call() -> None:
    """Texts of fewer than 80 characters announce a call only if they are the content."""
    call = Part(ARGUMENTS, 'run\n{"task": "x"}', "tool_call")
    note = json.dumps({"type": "url_citation", "url_citation": {"title": TEXT, "url": "https://example.org/a"}})

    def texts(path: str, text: str) -> tuple[str, ...]:
        return apart(Message("assistant", (Part(path, text), call)))

    assert texts("choices[0].message.tool_calls[0].id", TEXT) == (TEXT,)
    assert texts("choices[0].message.aside", TEXT) == (TEXT,)
    assert texts("choices[0].message.annotations[0]", note) == (note, TEXT)
    for content in ("choices[0].message.content", "content[0].text", "candidates[0].content.parts[0].text"):
        assert texts(content, TEXT) == ()


QUOTING = {
    "JSON": json.dumps({"title": "A", "task": TEXT}),
    "JSON in lines behind prose": "Please do this:\n```json\n"
    + json.dumps([{"id": 1, "task": TEXT}], indent=2)
    + "\n```",
    "JSON behind prose": "Do this: " + json.dumps({"task": TEXT}),
    "JSON in JSON": json.dumps({"a": json.dumps({"b": [TEXT]})}),
    "a number before it": f'[1, "{TEXT}"]',
    "a key": json.dumps({TEXT: 1}),
    "a name that is no string": f'{{task: "{TEXT}"}}',
    "single quotes": f"run({{'task': '{TEXT}'}})",
    "backticks": f"call({{task: `{TEXT}`}})",
    "a prefix": f'task = rb"{TEXT}"',
    "a template": f"call({{task: String.raw`{TEXT}`}})",
    "three marks": f'task = """{TEXT}"""\nprint(task)',
    "curved marks": f"{{\u201ctask\u201d: \u201c{TEXT}\u201d}}",
    "a curved mark before it that does not end": f"(\u201c some words {{\u201ctask\u201d: \u201c{TEXT}\u201d}}",
    "an assignment": f'task = "{TEXT}"\nprint(task)',
    "SQL": f"INSERT INTO t VALUES (12, 'open', '{TEXT}');",
    "SQL with marks in it": f"INSERT INTO t VALUES (12, 'it''s this:\n{TEXT}');",
    "CSV with marks in it": f'12,"so ""called""\n{TEXT}",high',
    "a statement": f'def task():\n    return "{TEXT}"',
    "a LaTeX list": f"\\begin{{itemize}}\n\\item {TEXT}\n\\end{{itemize}}",
    "a LaTeX document": f"\\documentclass{{article}}\\begin{{document}}\\section{{A}}\n{TEXT}\n\\end{{document}}",
    "an option of LaTeX": f"\\item[{TEXT}] bread",
    "an argument in an argument": f"\\textbf{{\\emph{{{TEXT}}}}}",
    "words of LaTeX": " ".join(f"\\emph{{{word}}}" for word in TEXT.split()),
    "a cell of LaTeX": f"\\begin{{tabular}}{{ll}} 12 & {TEXT} \\\\ 13 & bread \\end{{tabular}}",
    "an argument of LaTeX": f"A \\textbf{{{TEXT}}} B",
    "white space": f'{{"task"{" " * 300}:{" " * 300}"{TEXT}"}}',
    "an odd mark before it": '5" of rain: ' + json.dumps({"task": TEXT}),
    "marks without an end before it": "(` (' " + json.dumps({"task": TEXT}),
    "a string that has not ended": json.dumps({"task": TEXT})[:-2],
    "XML": f"<ticket><id>1</id><task>{TEXT}</task></ticket>",
}


@pytest.mark.parametrize("text", QUOTING.values(), ids=QUOTING)
@pytest.mark.parametrize("path", ["messages[0].content", "prompt", "input[1]", "choices[0].text", "content[0].text"])
def test_values_in_a_text_are_read_by_themselves(path: str, text: str) -> None:
    """Whatever the protocol, for both sides; the results of tools are left as they are."""
    for role in ("user", "assistant"):
        assert any(TEXT in found.split("\n") for found in apart(Message(role, (Part(path, text),))))
    if path.endswith("content"):
        assert apart(Message("tool", (Part(path, text),))) == ()


@pytest.mark.parametrize(
    "text",
    [
        f'She said: "{TEXT}" and left.',
        f"'{TEXT}', he said, and \"{TEXT}\" again.",
        "It isn't what I'd call \"a good day for us all\", or is it?",
        "(don't leave the house, it's raining, isn't it)",
        f"She said: \u201c{TEXT}\u201d and left.",
        "if a < b and b > c: print(x)",
        f'I want you to return "{TEXT}" to me.',
        f"The set {{{TEXT}}} and C:\\new {TEXT}",
        json.dumps({"id": 17, "state": "open", "link": "https://example.org/a-long-path-of-words"}),
        "",
    ],
)
def test_what_prose_quotes_is_no_text_by_itself(text: str) -> None:
    assert quoted(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        '"' * 100_000,
        "('" * 60_000,
        '("' * 60_000 + "\\",
        "," + " " * 100_000 + '"',
        "<a>" * 60_000,
        "(\u201c" * 60_000,
        "(\u201c(\u2018" * 60_000,
        "\\a{" * 60_000,
    ],
)
def test_no_content_takes_long(text: str) -> None:
    """The time is linear in the text; a quadratic search would take minutes."""
    quoted(text)


@given(
    st.recursive(
        st.text(string.ascii_letters + " .,'\"\n", max_size=2 * LEAST) | st.integers(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from([None, 2]),
)
def test_every_sentence_of_any_json_is_found(value: Any, indent: int | None) -> None:
    def sentences(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value] if len(value) >= LEAST and set(value.strip()) & set(" \n") else []
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [text for one in inner for text in sentences(one)]

    text = json.dumps({"value": value}, indent=indent)
    assert all(sentence in quoted(text) for sentence in sentences(value))


@given(
    st.recursive(
        st.text(string.ascii_letters + ' ."\\\n', max_size=2 * LEAST) | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
        max_leaves=12,
    ).map(lambda value: {"value": value})
)
def test_every_sentence_of_any_arguments_is_found(arguments: dict[str, Any]) -> None:
    """However deep it is, unless it is JSON itself."""

    def sentences(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value] if len(value) >= LEAST and set(value.strip()) & set(" \n") else []
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [text for one in inner for text in sentences(one)]

    assert set(sentences(arguments)) <= set(found("run", arguments))


CALL = {"task": TEXT, "n": 1}
REPLIES: list[tuple[Wire, str, dict[str, Any], dict[str, Any]]] = [
    (
        openai_chat.wire,
        "/v1/chat/completions",
        {"model": "m", "messages": MESSAGES},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": json.dumps(CALL)}}]}}]},
    ),
    (
        openai_chat.wire,
        "/v1/chat/completions",
        {"model": "m", "messages": MESSAGES},
        {"choices": [{"message": {"function_call": {"name": "f", "arguments": json.dumps(CALL)}}}]},
    ),
    (
        anthropic_messages.wire,
        "/v1/messages",
        {"model": "m", "max_tokens": 9, "messages": MESSAGES},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "f", "input": CALL}],
        },
    ),
    (
        openai_responses.wire,
        "/v1/responses",
        {"model": "m", "input": "Hello."},
        {
            "id": "r",
            "object": "response",
            "status": "completed",
            "output": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps(CALL)}],
        },
    ),
    (
        gemini.wire,
        "/v1beta/models/g:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "Hello."}]}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"functionCall": {"name": "f", "args": CALL}}]}}]},
    ),
    (
        ollama.wire,
        "/api/chat",
        {"model": "m", "messages": MESSAGES, "stream": False},
        {
            "message": {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": CALL}}]},
            "done": True,
        },
    ),
]


@pytest.mark.parametrize(
    ("wire", "path", "body", "reply"), REPLIES, ids=["chat", "old", "messages", "responses", "gemini", "ollama"]
)
def test_calls_of_every_protocol(wire: Wire, path: str, body: dict[str, Any], reply: dict[str, Any]) -> None:
    """The text in the arguments is one of the texts of the reply."""
    request = wire.parse_request(path, json.dumps(body).encode())
    (message,) = wire.parse_reply(request, json.dumps(reply).encode()).choices
    assert apart(message) == (TEXT,)
