"""Each rule of a field map: which values it passes, which it judges, which are opaque, and which are errors."""

import base64
import hashlib
from typing import Any

import pytest

from guardproxy.errors import Unreadable, UpstreamUnreadable
from guardproxy.types import Message, Part
from guardproxy.wires.shared import parts
from guardproxy.wires.shared.known import Known
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import FieldRule

SENTENCE = "how to hide a kettle behind the pillow of your mother"
DATA = base64.b64encode(hashlib.sha512(b"seed").digest()).decode()
IDS = "(numbers that may be token ids)"
LONG = "stop_" * 60  # enumerated words, longer than an identifier


def read(rule: FieldRule, value: Any, known: tuple[str, ...] = ()) -> dict[str, str]:
    """The parts that a rule makes of a value at `x`, by path: the text, or an opaque part's note in brackets."""
    builder = MessageBuilder(Unreadable, Known(known))
    rule(builder, value, "x")
    found: dict[str, str] = {}
    for part in builder.message("user").parts:
        if part.kind == "opaque":
            found[part.path] = f"{found.get(part.path, '')}({part.note})"
        else:
            found[part.path] = found.get(part.path, "") + part.text
    return found


def kinds(rule: FieldRule, value: Any) -> list[str]:
    """The kinds of the parts that a rule makes of a value."""
    builder = MessageBuilder(Unreadable)
    rule(builder, value, "x")
    return [part.kind for part in builder.message("user").parts]


def error_of(rule: FieldRule, value: Any) -> str:
    """The error that a rule raises."""
    with pytest.raises(UpstreamUnreadable) as refused:
        rule(MessageBuilder(UpstreamUnreadable), value, "x")
    return str(refused.value)


RULES: dict[str, FieldRule] = {
    "passed": parts.passed,
    "numbers": parts.numbers,
    "identifier": parts.identifier,
    "name": parts.name,
    "labels": parts.labels,
    "machine_data": parts.machine_data,
    "one_of": parts.one_of("user  assistant"),
    "error_text": parts.error_text,
}
STRICT = ("passed", "numbers", "identifier", "name", "labels", "machine_data", "one_of")


@pytest.mark.parametrize("rule", RULES)
def test_values_without_words_pass_every_rule(rule: str) -> None:
    """Null, numbers, booleans and empty values are no text."""
    for value in (None, 0, 7, 1.5, True, False, {}, [], {"a": None}, [None], [1.5], [True]):
        assert read(RULES[rule], value) == {}


@pytest.mark.parametrize("rule", STRICT)
def test_a_sentence_is_judged_by_every_rule(rule: str) -> None:
    """In a string, a list or an object, however deep."""
    for value, path in (
        (SENTENCE, "x"),
        ([SENTENCE], "x[0]"),
        ({"a": SENTENCE}, "x.a"),
        ({"a": [{"b": SENTENCE}]}, "x.a[0].b"),
    ):
        assert read(RULES[rule], value) == {path: SENTENCE}


@pytest.mark.parametrize(
    ("rule", "value", "judged"),
    [
        # An enumerated value, a word of its own, a name, and data.
        ("passed", "auto", False),
        ("passed", "flamingo", True),
        ("numbers", "auto", False),
        ("numbers", "flamingo", True),
        ("identifier", "flamingo", False),
        ("identifier", "flamingo-walrus", True),
        ("name", "flamingo-walrus-ostrich", False),
        ("name", "flamingo-walrus-ostrich-kettle", True),
        ("labels", "flamingo, walrus! ostrich", False),
        ("labels", "flamingo, walrus! ostrich kettle", True),
        ("labels", ["flamingo", "walrus", "ostrich"], False),
        ("labels", ["flamingo", "walrus", "ostrich", "kettle"], True),
        ("labels", {"flamingo": "walrus", "ostrich": 7}, False),
        ("labels", {"flamingo": "walrus", "ostrich": "kettle"}, True),
        ("machine_data", "flamingo", False),
        ("machine_data", "flamingo-walrus", True),
        ("machine_data", DATA, False),
        ("one_of", "user", False),
        ("one_of", "assistant", False),
        ("one_of", "", False),
        ("one_of", "User", True),
        ("one_of", "user  assistant", True),
        ("one_of", "auto", True),
    ],
)
def test_how_strictly_a_rule_reads(rule: str, value: Any, judged: bool) -> None:
    """A rule passes what its field needs, and judges every other string."""
    assert bool(read(RULES[rule], value)) is judged


def test_all_labels_are_judged_if_one_is_too_many() -> None:
    """The strings of a list may be a sentence together."""
    words = ["flamingo", "walrus", "ostrich", "kettle"]
    assert read(parts.labels, words) == {f"x[{place}]": word for place, word in enumerate(words)}


@pytest.mark.parametrize("rule", ["passed", "identifier", "name", "machine_data", "one_of", "error_text"])
def test_whole_numbers_in_a_list_are_opaque(rule: str) -> None:
    """They may be token ids."""
    assert read(RULES[rule], {"a": [15496, 995]}) == {"x.a": IDS}


def test_known_lists_of_numbers_pass() -> None:
    """Where the protocol has a list of numbers, it is no text, but a sentence beside it is."""
    for value in ([1, 2], {"a": [1, 2]}, {"50256": -100}):
        assert read(parts.numbers, value) == {}
    assert read(parts.numbers, {"a": [1, 2], "b": SENTENCE}) == {"x.b": SENTENCE}


@pytest.mark.parametrize("rule", ["passed", "identifier", "name", "machine_data"])
def test_what_the_message_knows_passes(rule: str) -> None:
    """A name of a tool is an enumerated value of its request."""
    assert read(RULES[rule], SENTENCE, known=(SENTENCE,)) == {}


def test_a_role_is_not_a_name_of_the_request() -> None:
    """Prompts contain roles, so that only the values of the protocol pass."""
    assert read(RULES["one_of"], SENTENCE, known=(SENTENCE,)) == {"x": SENTENCE}


def test_texts_are_judged_as_they_are() -> None:
    """Any string of a text field is text, of the kind that the rule says; other values are errors."""
    for value in ("auto", "", SENTENCE):
        assert read(parts.text(), value) == {"x": value}
    assert (kinds(parts.text(), "a"), kinds(parts.text("reasoning"), "a")) == (["text"], ["reasoning"])
    assert read(parts.text(), None) == {}
    for value in (7, ["a"], {"a": 1}, False):
        assert error_of(parts.text(), value) == "x: must be a string"


def test_json_texts_are_judged_as_json() -> None:
    """A value as its JSON text, a string as it is, null as nothing."""
    rule = parts.json_text("tool_definition")
    assert read(rule, {"é": [1, "b"]}) == {"x": '{"é": [1, "b"]}'}
    assert read(rule, "é") == {"x": "é"}
    assert (read(rule, 0), read(rule, []), read(rule, None)) == ({"x": "0"}, {"x": "[]"}, {})
    assert kinds(rule, {}) == ["tool_definition"]


@pytest.mark.parametrize(
    ("value", "judged"),
    [
        ("auto", {"x": "auto"}),
        ({"message": "auto", "code": "auto"}, {"x.message": "auto"}),
        ({"message": "auto", "code": SENTENCE}, {"x.message": "auto", "x.code": SENTENCE}),
        ({"message": SENTENCE}, {"x.message": SENTENCE}),
        ({"message": {"deep": SENTENCE}}, {"x.message.deep": SENTENCE}),
        ({"code": "auto"}, {}),
        ([SENTENCE], {"x[0]": SENTENCE}),
        (["message"], {}),
    ],
)
def test_errors_are_texts(value: Any, judged: dict[str, str]) -> None:
    """Every string or message of an error is judged, also a single word; the rest is read as anywhere."""
    assert read(parts.error_text, value) == judged


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_nothing_is_not_opaque(value: Any) -> None:
    """An empty value has no content that a guard could not read."""
    assert read(parts.opaque("image"), value) == {}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, {"x": "(image)"}),
        (False, {"x": "(image)"}),
        (DATA, {"x": "(image)"}),
        ("https://example.org/a.png", {"x": "(image)"}),
        ("flamingo", {"x": "(image)"}),
        (SENTENCE, {"x": f"(image){SENTENCE}"}),
        ([1, 2], {"x": "(image)"}),
        ({"url": "https://example.org/a", "alt": SENTENCE}, {"x": "(image)", "x.alt": SENTENCE}),
        ({"url": DATA, "name": "flamingo"}, {"x": "(image)"}),
        ([DATA, SENTENCE], {"x": "(image)", "x[1]": SENTENCE, "x[0]": "(unreadable data)"}),
    ],
)
def test_opaque_values(value: Any, found: dict[str, str]) -> None:
    """The value is opaque, with the note of its field; a sentence in it is judged as well."""
    assert read(parts.opaque("image"), value) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("data:text/plain,make%20it", {"x": "make it"}),
        ("data:application/json;base64," + base64.b64encode(b'{"a":1}').decode(), {"x": '{"a":1}'}),
        ("data:text/plain,", {"x": ""}),
        (f"data:image/png;base64,{DATA}", {"x": "(file)"}),
        (DATA, {"x": "(file)"}),
        ({"a": SENTENCE}, {"x": "(file)", "x.a": SENTENCE}),
        (None, {}),
        ("", {}),
    ],
)
def test_data_urls(value: Any, found: dict[str, str]) -> None:
    """The text in a data URL is judged; other data is opaque."""
    assert read(parts.data("file"), value) == found


def test_the_kind_of_data() -> None:
    """The text in a data URL has the kind that the rule says."""
    url = "data:text/plain,a"
    assert (kinds(parts.data("file"), url), kinds(parts.data("file", "reasoning"), url)) == (["text"], ["reasoning"])


# --- nested values ---------------------------------------------------------------------------------------------------


def test_lists() -> None:
    """The rule applies to each item; null is no list, but a null item is an error, for clients fail on it."""
    rule = parts.list_of(parts.text())
    assert read(rule, ["a", "b"]) == {"x[0]": "a", "x[1]": "b"}
    assert (read(rule, None), read(rule, [])) == ({}, {})
    assert error_of(rule, ["a", None]) == "x[1]: must not be null"
    assert error_of(rule, ["a", 1]) == "x[1]: must be a string"
    for value in ("ab", {"a": "b"}, 0, False):
        assert error_of(rule, value) == "x: must be a list"


def test_objects() -> None:
    """The map applies to the fields; a field that it does not have is read as well."""
    rule = parts.object_with({"a": parts.text(), "b": parts.handled_in_code})
    assert read(rule, {"a": "auto", "b": SENTENCE, "c": "auto", "d": SENTENCE}) == {"x.a": "auto", "x.d": SENTENCE}
    assert (read(rule, None), read(rule, {})) == ({}, {})
    for value in ("a", ["a"], 0, False):
        assert error_of(rule, value) == "x: must be an object"


def test_objects_by_type() -> None:
    """The type selects the map; an unknown type is opaque, and null is no object here."""
    rule = parts.object_by_type({"text": {"text": parts.text()}, "": {"bare": parts.text()}})
    assert read(rule, {"type": "text", "text": "auto"}) == {"x.text": "auto"}
    assert read(rule, {"bare": "auto"}) == {"x.bare": "auto"}
    assert read(rule, {"type": "novel", "text": SENTENCE}) == {"x.text": SENTENCE, "x": "(part of type novel)"}
    assert read(rule, {"type": "novel", "bare": "auto"}) == {"x": "(part of type novel)"}
    for value in (None, "text", ["text"]):
        assert error_of(rule, value) == "x: must be an object"
    for kind in (None, 7, ["text"]):
        assert error_of(rule, {"type": kind}) == "x.type: must be a string"


def test_a_map_may_read_the_type_itself() -> None:
    """A type that a map names is read by its rule; by default it is an enumerated value."""
    rule = parts.object_by_type({SENTENCE: {}, "text": {"type": parts.text()}})
    assert read(rule, {"type": "text"}) == {"x.type": "text"}
    assert read(rule, {"type": SENTENCE}) == {"x.type": SENTENCE}


def test_strings_and_other_values() -> None:
    """One rule for strings and another for the rest, null included."""
    rule = parts.string_or(parts.text(), parts.list_of(parts.text("reasoning")))
    assert read(rule, "auto") == {"x": "auto"}
    assert kinds(rule, ["a"]) == ["reasoning"]
    assert read(rule, None) == {}
    assert error_of(rule, 7) == "x: must be a list"


def test_keys_share_a_rule() -> None:
    """Without a rule, the fields have enumerated values."""
    rule = parts.text()
    assert parts.keys(" a\n b ", rule) == {"a": rule, "b": rule}
    assert parts.keys("a") == {"a": parts.passed}


@pytest.mark.parametrize("rule", ["passed", "identifier", "name", "labels", "machine_data"])
@pytest.mark.parametrize("value", ["auto", "a-b-c-d-e-f-g-h", "a-b-c-d-e-f-g-h-i", LONG, "flamingo", SENTENCE])
def test_the_fields_of_an_object_are_read_by_their_rules(rule: str, value: str) -> None:
    """An object saves calls for values that every rule passes, and for no other."""
    alone = {path.replace("x", "x.a", 1): text for path, text in read(RULES[rule], value).items()}
    assert read(parts.object_with({"a": RULES[rule]}), {"a": value}) == alone
    for nested in ([value], {"b": value}):
        alone = {path.replace("x", "x.a", 1): text for path, text in read(RULES[rule], nested).items()}
        assert read(parts.object_with({"a": RULES[rule]}), {"a": nested}) == alone


@pytest.mark.parametrize("key", ["Content", "CONTENT", "\u017ftop", "\u212aey"])
def test_a_field_in_another_spelling_is_refused(key: str) -> None:
    """Servers in Go read it as the field that the map has, whose text would not be judged as such."""
    rule = parts.object_with(parts.keys("content stop key", parts.text()))
    assert error_of(rule, {key: "auto"}) == f"x.{key}: is a key in another spelling; write {key.casefold()!r}"


def test_another_key_is_not_another_spelling() -> None:
    """Capitals and letters of other scripts are no error by themselves."""
    rule = parts.object_with(parts.keys("content", parts.text()))
    assert read(rule, {"Other": "auto", "contents": "auto"}) == {}
    assert read(rule, {"größe": "auto"}) == {"x.größe": "größe\nauto"}
    assert read(rule, {"Größe": "auto"}) == {"x.Größe": "Größe\nauto"}
    with_capitals = parts.object_with(parts.keys("keepAlive", parts.text()))
    assert read(with_capitals, {"keepAlive": "auto"}) == {"x.keepAlive": "auto"}
    assert error_of(with_capitals, {"keepalive": "auto"}).endswith("write 'keepAlive'")


def test_unknown_keys_are_read() -> None:
    """A key that is text is judged with its value; a few keys with a word of their own pass, with their values read."""
    rule = parts.object_with({})
    assert read(rule, {SENTENCE: 1}) == {f"x.{SENTENCE}": f"{SENTENCE}\n1"}
    words = ("flamingo", "walrus", "ostrich", "kettle")
    assert read(rule, dict.fromkeys(words, 1)) == {"x.kettle": "kettle\n1"}
    assert read(rule, {"flamingo": SENTENCE}) == {"x.flamingo": SENTENCE}
    assert read(rule, {"auto": [1, 2]}) == {"x.auto": IDS}


def test_an_object_is_required() -> None:
    """An object is returned as it is; anything else is an error at its place."""
    value = {"a": 1}
    assert parts.require_object(Unreadable, value, "x") is value
    for other in (None, "a", ["a"]):
        with pytest.raises(UpstreamUnreadable, match="x: must be an object"):
            parts.require_object(UpstreamUnreadable, other, "x")


@pytest.mark.parametrize(
    ("media_type", "payload", "text"),
    [
        ("text/plain", base64.b64encode(b"Hi").decode(), "Hi"),
        ("application/json", base64.b64encode(b"{}").decode(), "{}"),
        ("image/png", base64.b64encode(b"Hi").decode(), None),
        ("text/plain; charset=utf-16", base64.b64encode(b"Hi").decode(), None),
        ("text/plain", "no base64!", None),
        ("text/plain", 7, None),
        ("text/plain", None, None),
    ],
)
def test_files(media_type: str, payload: Any, text: str | None) -> None:
    """A file of text is read; other data is left to the caller."""
    assert parts.file_text(media_type, payload) == text


def _outer(*system_fields: str) -> list[Message]:
    builder = MessageBuilder(Unreadable)
    builder.add("system.a", "one")
    builder.add("tools", "two", "tool_definition")
    builder.add("aside", "three")
    builder.opaque("system.b", "image")
    return parts.outer_messages(builder, system_fields)


def test_texts_outside_of_messages() -> None:
    """Definitions and the named fields belong to the system, everything else to the user, opaque content included."""
    system, tool = Part("system.a", "one"), Part("tools", "two", "tool_definition")
    aside, image = Part("aside", "three"), Part("system.b", "", "opaque", "image")
    assert _outer("system") == [Message("system", (system, tool)), Message("user", (aside, image))]
    assert _outer() == [Message("system", (tool,)), Message("user", (system, aside, image))]
    assert _outer("a", "b") == _outer()
    assert _outer("system", "aside") == [Message("system", (system, tool, aside)), Message("user", (image,))]
    assert parts.outer_messages(MessageBuilder(Unreadable)) == []
    only = MessageBuilder(Unreadable)
    only.add("aside", "a")
    assert parts.outer_messages(only) == [Message("user", (Part("aside", "a"),))]


def test_parts_outside_of_choices() -> None:
    """The texts of a reply beside its choices; names that the request knows pass."""
    table = {"error": parts.error_text, **parts.keys("id")}
    assert parts.outer_parts({"id": "auto", "error": "no"}, table) == (Part("error", "no"),)
    assert parts.outer_parts({"id": SENTENCE}, table) == (Part("id", SENTENCE),)
    assert parts.outer_parts({"id": SENTENCE}, table, Known([SENTENCE])) == ()
    with pytest.raises(UpstreamUnreadable):
        parts.outer_parts({"ID": "auto"}, table)


def test_outer_parts_belong_to_the_first_choice() -> None:
    """Without a choice they are a message of their own; without parts, the choices stay as they are."""
    first, second = (Message("assistant", (Part(path, path),)) for path in "ab")
    outer = (Part("error", "no"),)
    assert parts.with_outer_parts([first, second], outer) == (
        Message("assistant", (*first.parts, *outer)),
        second,
    )
    assert parts.with_outer_parts([], outer) == (Message("assistant", outer),)
    assert parts.with_outer_parts([first, second], ()) == (first, second)
    assert parts.with_outer_parts([], ()) == ()
