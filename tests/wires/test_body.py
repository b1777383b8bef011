"""JSON bodies are read strictly and in bounded time; paths name and change their values."""

import base64
import json
import time
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Unreadable
from guardproxy.types import Edit
from guardproxy.wires.shared.body import (
    DEPTH,
    DIGITS,
    child_path,
    data_url_text,
    dumps,
    find,
    guard_text,
    has_more_values,
    parsed_object,
    percent_decoded,
    put,
    read_json,
    remove,
    steps,
)
from tests.wires.kit import BY_NAME, CASES

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_json_is_read_as_json(value: Any) -> None:
    """Unambiguous JSON is read unchanged, and written in ASCII."""
    written = dumps(value)
    assert written.isascii()
    assert read_json(written) == read_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"b": [{"a": 1, "\\u0061": 2}]}', "twice"),
        (b'{"a": NaN}', "no such number"),
        (b'{"a": -Infinity}', "no such number"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        *((b'{"a": [{"b": "x%s"}]}' % half, "surrogate") for half in (rb"\ud800", rb"\udbff", rb"\uDC00", rb"\udfff")),
        (rb'["\ud83c\udf0a", "\udf0a\ud83c"]', "surrogate"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "nested deeper"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
        (b"[" * 1_000_000, "nested deeper"),
    ],
)
def test_what_parsers_read_differently_is_refused(body: bytes, says: str) -> None:
    """Duplicate keys, malformed numbers, broken text and endless nesting are errors."""
    with pytest.raises(Unreadable, match=says):
        read_json(body)


@pytest.mark.parametrize("body", [b'{"a": "the poison \xff"}', b'{"a": "the poison", "a"', b'{"%b": 1, "%b": 1}'])
def test_what_cannot_be_read_is_not_quoted(body: bytes) -> None:
    """Neither the error nor its cause, which appear in logs, quotes the client's body."""
    body = body.replace(b"%b", b"key " * 100 + b"the poison")
    with pytest.raises(Unreadable) as refused:
        read_json(body)
    assert "poison" not in f"{refused.value} {refused.value.__cause__!r}"


def test_nesting_in_strings_and_wide_bodies_are_fine() -> None:
    """Brackets in strings do not count as nesting, nor do many brackets on the same level."""
    assert read_json(dumps("[" * 1000 + '"{')) == "[" * 1000 + '"{'
    assert len(read_json(dumps([[]] * 5000))) == 5000
    assert read_json(b'"\\ud83c\\udf0a \\\\ud83c"') == "🌊 \\ud83c"
    assert read_json(rb'["\ud83c\udf0a", "\ud7ff\ue000"]') == ["🌊", "\ud7ff\ue000"]


@pytest.mark.parametrize("tail", [b'"' + b'\\"' * 500_000, b"[" * 100 + b'"a\\' * 100_000])
def test_broken_strings_take_linear_time(tail: bytes) -> None:
    """A string without an end is refused in linear time."""
    began = time.process_time()
    with pytest.raises(Unreadable):
        read_json(b"[{" * 150 + tail)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_large_bodies(case: Any) -> None:
    """A text of 20 MB and ten thousand messages are read and edited in seconds."""
    large = json.loads(json.dumps(case.body).replace("Hello there.", "x" * 20_000_000))
    began = time.process_time()
    request = case.wire.parse_request(case.path, json.dumps(large).encode())
    assert max(message.size for message in request.conversation.messages) >= len("Hello there.")
    if "messages" in case.body:
        many = {**case.body, "messages": case.body["messages"] * 10_000}
        request = case.wire.parse_request(case.path, json.dumps(many).encode())
        assert len(request.conversation.messages) == 10_000
        edits = [Edit(f"messages[{index}].content", "new") for index in range(0, 10_000, 2)]
        edited = json.loads(case.wire.edit_request(request, edits, list(range(1, 10_000, 2))))
        assert edited["messages"] == [{"role": "user", "content": "new"}] * 5000
    assert time.process_time() - began < 20


def test_places() -> None:
    """Paths find, change and remove values; removing several values does not shift the other paths."""
    body = {"a": [{"b": "x"}, {"b": "y"}, {"b": "z"}]}
    put(body, "a[1].b", "new")
    assert find(body, "a[1].b") == "new"
    remove(body, ["a[0]", "a[2]", "a[2].b", "none.such"])
    assert body == {"a": [{"b": "new"}]}
    with pytest.raises(Unreadable, match="only a string"):
        put(body, "a", "text")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("data:text/plain;base64," + base64.b64encode("é".encode()).decode(), "é"),
        ("data:text/plain;charset=utf-8,a%20b", "a b"),
        ("DATA:TEXT/HTML,<b>x</b>", "<b>x</b>"),
        ("data:application/json,{}", "{}"),
        ("data:text/plain;charset=utf-16,a", None),
        ('data:text/plain;charset="utf-7",+AGE-', None),
        ("data:text/plain;base64," + base64.b64encode("a b".encode("utf-16-le")).decode(), None),
        ("data:text/plain,a%00b", None),
        ("data:text/plain;base64,***", None),
        ("data:image/png;base64,aGk=", None),
        ("data:TEXT/PLAIN;BASE64,aGk=", "hi"),
        ("data:text/plain;charset=ascii,hi", "hi"),
        ("data:text/plain;charset=US-ASCII,hi", "hi"),
        ("data:text/plain; charset = 'utf8',hi", "hi"),
        ("data:text/plain;charset=,hi", None),
        ("data:application/jsonp,hi", None),
        ("data:text/plain", None),
        ("dat:text/plain,hi", None),
        ("https://example.org/x.txt", None),
    ],
)
def test_data_urls(url: str, expected: str | None) -> None:
    """A data URL with a text is read as that text; any other URL is not a text."""
    assert data_url_text(url) == expected


def test_an_edited_data_url_stays_one() -> None:
    """An edited data URL and edited base64 data keep their form, with the new text."""
    body = {"url": "data:text/plain;base64,aGk=", "source": {"type": "base64", "data": "aGk="}}
    put(body, "url", "new text")
    put(body, "source.data", "new text")
    assert data_url_text(body["url"]) == "new text"
    assert base64.b64decode(body["source"]["data"]) == b"new text"


def test_requests_are_read_strictly_by_every_wire() -> None:
    """Every wire refuses a duplicate key, a key in another spelling, and a stream flag that is not a boolean."""
    for case in CASES:
        body = json.dumps(case.body)
        with pytest.raises(Unreadable, match="twice"):
            case.wire.parse_request(case.path, f'{{"x": 1, "x": 2, {body[1:]}'.encode())
        with pytest.raises(Unreadable, match="another spelling"):
            case.request(MODEL="m")
        if case.wire is not BY_NAME["gemini"].wire:
            with pytest.raises(Unreadable, match=r"stream: must be true or false"):
                case.request(stream="true")


def test_the_depth_of_nesting_is_two_hundred() -> None:
    """A body of exactly 200 levels is read, however wide it is; one more level is refused."""
    wide = b"[],[{}]"
    assert read_json(b"[" * 198 + wide + b"]" * 198)
    assert read_json(b'{"a":' * 200 + b"1" + b"}" * 200)
    for body in (
        b"[" * 199 + wide + b"]" * 199,
        b'{"a":' * 201 + b"1" + b"}" * 201,
        b'[{"a":' * 101 + b"1" + b"}]" * 101,
    ):
        with pytest.raises(Unreadable, match="deeper than 200 levels"):
            read_json(body)


def test_the_key_that_is_there_twice_is_named() -> None:
    """The message names the repeated key, shortened, and no other."""
    with pytest.raises(Unreadable, match="has the key 'second' twice"):
        read_json(b'{"first": 1, "second": 2, "third": 3, "second": 4}')
    with pytest.raises(Unreadable, match=f"has the key '{'k' * 60}' twice"):
        read_json(dumps({"k" * 70: 1})[:-1] + b"," + dumps({"k" * 70: 1})[1:])


def test_values_as_the_guard_reads_them() -> None:
    """A string is itself; any other value is JSON with its characters as they are."""
    assert guard_text("é") == "é"
    assert guard_text({"é": [1, None]}) == '{"é": [1, null]}'


def test_what_is_no_number_is_not_written() -> None:
    """NaN is not JSON: writing it is a mistake of the caller."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"a": float("nan")})


@pytest.mark.parametrize(
    ("arguments", "value"),
    [('{"a": [1]}', {"a": [1]}), ("[1]", {}), ('"a"', {}), ("{", {}), ("", {}), ("[" * 10**5, {})],
)
def test_arguments_of_a_call(arguments: str, value: dict[str, Any]) -> None:
    """Arguments that are not an object are an empty one."""
    assert parsed_object(arguments) == value


@pytest.mark.parametrize("mark", [{"type": "base64"}, {"mimeType": "text/plain"}, {"mime_type": "text/plain"}])
def test_new_texts_of_base64_data(mark: dict[str, str]) -> None:
    """Data that is marked as base64 stays so; its other fields, and data without a mark, are plain text."""
    body = {"x": {**mark, "data": "aGk=", "title": "hi"}, "y": {"type": "text", "data": "aGk="}}
    put(body, "x.data", "new")
    put(body, "x.title", "new")
    put(body, "y.data", "new")
    assert (body["x"]["data"], body["x"]["title"], body["y"]["data"]) == ("bmV3", "new", "new")


def test_removals_at_any_depth() -> None:
    """Values are removed where they are, the later items of a list first."""
    body = {"a": {"b": {"c": [0, {"d": 1, "e": 2}, 2, 3]}}, "f": 1}
    remove(body, ["a.b.c[0]", "a.b.c[1].d", "a.b.c[3]", "f", "f.g", "a.b.c[9]", "a.b.x.y"])
    assert body == {"a": {"b": {"c": [{"e": 2}, 2]}}}
    remove(body, ["a[0]", "a.b.c[1]", "a[0].b"])
    assert body == {"a": {"b": {"c": [{"e": 2}]}}}


def test_plain_keys_are_not_quoted() -> None:
    """A path reads as people write it; only keys with a dot, a bracket or a quote are quoted."""
    assert [child_path("", "a"), child_path("a[0]", "b c"), child_path("a", "b.c")] == ["a", "a[0].b c", 'a["b.c"]']


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.integers(0, 99))
def test_paths_name_any_key(keys: list[str], index: int) -> None:
    """A path leads to its value whatever the keys are, dots, brackets and quotes included."""
    path = ""
    for key in keys:
        path = child_path(path, key)
    path += f"[{index}]"
    assert steps(path) == [*keys, index]


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"[1,2,3]", 3),
        (b'{"a":1,"b":[2]}', 3),
        (b'["a,[{","\\",[{,"]', 2),
        (b'["\\\\",[],"\\\\"]', 4),
        (b"[[],[[]]]", 5),
    ],
)
def test_values_are_counted_outside_of_strings(body: bytes, values: int) -> None:
    assert not has_more_values(body, values)
    assert has_more_values(body, values - 1)


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_the_count_is_that_of_the_commas_and_brackets_outside_of_strings(value: Any) -> None:
    def marks(value: Any) -> int:
        if isinstance(value, dict | list):
            children = list(value.values() if isinstance(value, dict) else value)
            return 1 + max(0, len(children) - 1) + sum(map(marks, children))
        return 0

    body = json.dumps(value).encode()
    assert not has_more_values(body, marks(value))
    assert marks(value) == 0 or len(body) <= marks(value) - 1 or has_more_values(body, marks(value) - 1)


def test_whole_numbers_that_are_infinite_for_other_parsers_are_refused() -> None:
    assert read_json(b"9" * DIGITS) == 10**DIGITS - 1
    with pytest.raises(Unreadable, match="out of range"):
        read_json(b"-" + b"9" * DIGITS)


@given(
    st.lists(
        st.one_of(
            st.text(max_size=4),
            st.sampled_from(["%", "%4", "%41", "%zz", "%0a", "%\n", "=", "==", "=3D", "=\n", "%%41", "_"]),
        )
    ).map("".join),
    st.integers(0, 70_000),
)
def test_percent_escapes_are_decoded_as_the_standard_library_does(text: str, before: int) -> None:
    """Wherever a piece is cut, and whatever of it begins no escape."""
    whole = "a" * before + text + "%e2%82%ac" * 9_000 if before > 60_000 else text
    assert percent_decoded(whole) == unquote_to_bytes(whole)
