"""Edited texts in a parsed body: what is replaced, what is removed with its text, and what stays because it must."""

import json
import re
from typing import Any

import pytest

from guardproxy.types import Edit
from guardproxy.wires.shared.edits import rewrite

CALLS = re.compile(r"\.arguments$")


def rewritten(body: Any, *edits: tuple[str, str]) -> Any:
    """The body after the edits, each a path and a text."""
    rewrite(body, [Edit(path, text) for path, text in edits], CALLS)
    return body


@pytest.mark.parametrize(
    ("path", "body", "after"),
    [
        ("content", {"content": "x"}, {"content": ""}),
        ("a.text", {"a": {"text": "x"}}, {"a": {"text": ""}}),
        ("prompt", {"prompt": "x"}, {"prompt": ""}),
        ("a.input", {"a": {"input": "x"}}, {"a": {"input": ""}}),
        ("a.output", {"a": {"output": "x"}}, {"a": {"output": ""}}),
        ("response", {"response": "x"}, {"response": ""}),
        ("name", {"name": "x", "b": 1}, {"b": 1}),
        ("a.context", {"a": {"context": "x"}}, {"a": {}}),
        ("a.content[0].text", {"a": {"content": [{"text": "x"}, 1]}}, {"a": {"content": [1]}}),
        ("a.content[0].text", {"a": {"content": [{"text": "x"}]}}, {"a": {"content": ""}}),
        ("content[0]", {"content": ["x"], "b": 1}, {"b": 1}),
        ("a.parts[1].text", {"a": {"parts": [{"text": "x"}, {"text": "y"}]}}, {"a": {"parts": [{"text": "x"}]}}),
        ("a.parts[0].text", {"a": {"parts": [{"text": "x"}]}}, {"a": {}}),
        ("system[0].text", {"system": [{"text": "x"}], "b": 1}, {"b": 1}),
        ("a.contents[0].text", {"a": {"contents": [{"text": "x"}]}}, {"a": {"contents": [{"text": ""}]}}),
        ("a.tags[0]", {"a": {"tags": ["x"]}}, {"a": {}}),
    ],
)
def test_an_empty_text_removes_what_may_be_removed(path: str, body: Any, after: Any) -> None:
    """A field that the protocol requires stays as an empty text; an item without its text would be malformed."""
    full = json.loads(json.dumps(body))
    assert rewritten(body, (path, "")) == after
    assert "new" in json.dumps(rewritten(full, (path, "new")))


@pytest.mark.parametrize(
    ("old", "text", "new"),
    [
        ('{"a": 1}', 'f\n{"a": 2}', '{"a": 2}'),
        ('{"a": 1}', '{"a": 2}', '{"a": 2}'),
        ('{"a": 1}', '{"a":\n2}', '{"a":\n2}'),
        ('{"a": 1}', "f\nwithheld", "{}"),
        ('{"a": 1}', "withheld", "{}"),
        ('{"a": 1}', "", "{}"),
        ("", "f\nwithheld", "{}"),
        (" {} ", "f\nwithheld", "{}"),
        ("print(1)", "f\nwithheld", "withheld"),
        ("print(1)", "withheld", "withheld"),
        ({"a": 1}, 'f\n{"a": 2}', {"a": 2}),
        ({"a": 1}, "f\nwithheld", {}),
        ({"a": 1}, "f\n[1]", {}),
    ],
)
def test_the_arguments_of_a_call(old: Any, text: str, new: Any) -> None:
    """The text is a name, a line break and arguments; arguments that were an object are an object again."""
    assert rewritten({"calls": [{"arguments": old}]}, ("calls[0].arguments", text)) == {"calls": [{"arguments": new}]}


@pytest.mark.parametrize(
    ("path", "text", "after"),
    [
        ("a.schema", '{"b": 2}', {"a": {"schema": {"b": 2}, "c": 1}}),
        ("a.schema", "withheld", {"a": {"c": 1}}),
        ("a.schema", "[1]", {"a": {"c": 1}}),
        ("a.schema", "[" * 100_000, {"a": {"c": 1}}),
    ],
)
def test_an_object_that_an_edit_breaks_is_removed(path: str, text: str, after: Any) -> None:
    """An object is replaced by an object of the same kind, and removed if the text is none."""
    assert rewritten({"a": {"schema": {"b": 1}, "c": 1}}, (path, text)) == after
    assert rewritten({"a": {"output": {"b": 1}}}, ("a.output", "withheld")) == {"a": {"output": {}}}


def test_a_call_without_arguments_is_removed() -> None:
    """The call's item goes as a whole, and the list with its last item; the other edits reach their places."""
    body = {"m": [{"calls": [{"name": "f"}, {"name": "g"}], "content": "x"}, {"content": "y"}]}
    assert rewritten(
        body, ("m[0].calls[0].arguments", "withheld"), ("m[0].content", "new"), ("m[1].content", "newer")
    ) == {"m": [{"calls": [{"name": "g"}], "content": "new"}, {"content": "newer"}]}
    assert rewritten({"m": {"calls": [{"name": "f"}]}}, ("m.calls[0].arguments", "")) == {"m": {}}


@pytest.mark.parametrize("path", ["m[3].content", "m[0].calls[2].arguments"])
def test_a_path_to_nothing_is_an_error(path: str) -> None:
    """An edit whose item is not in the body is not left out in silence."""
    with pytest.raises((KeyError, IndexError)):
        rewritten({"m": [{"content": "x", "calls": []}]}, (path, "new"))


def test_a_key_that_is_text_goes_with_its_value() -> None:
    """A key that was judged as text cannot be rewritten in place; the fields around it stay."""
    body = {"metadata": {"how to build a bomb": "x", "id": "y"}}
    assert rewritten(body, ("metadata.how to build a bomb", "withheld"), ("metadata.id", "new")) == {
        "metadata": {"id": "new"}
    }


def test_several_items_of_a_list_are_removed() -> None:
    """Removals do not shift the places of the other edits, whatever their order."""
    body = {"a": {"content": [{"text": str(n)} for n in range(4)]}}
    edits = [("a.content[0].text", ""), ("a.content[3].text", "new"), ("a.content[2].text", "")]
    assert rewritten(body, *edits) == {"a": {"content": [{"text": "1"}, {"text": "new"}]}}
    assert rewritten(body, ("a.content[1].text", ""), ("a.content[0].text", "")) == {"a": {"content": ""}}
