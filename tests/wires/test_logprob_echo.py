"""Log probabilities may spell the judged text and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Unreadable
from guardproxy.wires.shared.logprob_echo import LogprobEcho, judge_token, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder

PATH = "choices[0].logprobs.content"


# Words that no protocol uses.
OTHER = ("flamingo", "walrus", "ostrich")


def judged(builder: MessageBuilder) -> list[tuple[str, str]]:
    """The judged texts of a message, with their paths."""
    return [(part.path, part.text) for part in builder.message("assistant").parts if part.kind != "opaque"]


def notes(builder: MessageBuilder) -> list[tuple[str, str]]:
    """The opaque parts of a message: their paths and notes."""
    return [(part.path, part.note) for part in builder.message("assistant").opaque]


@given(st.lists(st.tuples(st.text("aé", max_size=3), st.text("aé", max_size=3)), max_size=6))
def test_tokens_are_ahead_unless_they_begin_the_text(frames: list[tuple[str, str]]) -> None:
    """However text and tokens are split over frames, tokens that do not begin the text so far are ahead of it."""
    echo, text, tokens, differed = LogprobEcho(PATH), b"", b"", False
    for more_text, more_tokens in frames:
        echo.add(more_text, more_tokens.encode())
        text, tokens = text + more_text.encode(), tokens + more_tokens.encode()
        assert echo.ahead == (not text.startswith(tokens))
        # A difference stays one: a text that comes later cannot take it back.
        differed = differed or not (text.startswith(tokens) or tokens.startswith(text))
        assert echo.ahead or not differed


@pytest.mark.parametrize(("text", "tokens"), [("Hi", b"Ho"), ("Hi", b"Hi there"), ("", b"a")])
def test_what_the_text_does_not_say_is_reported_once(text: str, tokens: bytes) -> None:
    """A close reports the tokens that are ahead; another close reports only those that came since."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    echo.close(builder)
    assert notes(builder) == []
    echo.add(text, tokens)
    for _ in range(2):
        echo.close(builder)
        assert notes(builder) == [(PATH, "log probabilities of another text")]
        assert (builder.opaques, echo.ahead) == (1, False)
    echo.add("", b"more")
    echo.close(builder)
    assert builder.opaques == 2


@pytest.mark.parametrize(
    "frames",
    [
        [("The sea is", "The flamingo walrus")],
        [("The sea", "The sea"), (" is", "The flamingo walrus")],
        [("", "The flamingo walrus"), ("The sea is", "")],
        [("", "The "), ("", "flamingo walrus"), ("The sea ", ""), ("is calm and blue today", "")],
        [("The sea is", ""), ("", "The flamingo walrus")],
        [("The sea is", "The flam"), ("", "ingo walrus")],
    ],
)
def test_tokens_of_another_text_are_judged(frames: list[tuple[str, str]]) -> None:
    """Tokens are judged from the frame on that spells another text, whichever of the two comes first."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    for text, tokens in frames:
        echo.add(text, tokens.encode())
    for _ in range(2):
        echo.close(builder)
        assert judged(builder) == [(PATH, "The flamingo walrus")]
    echo.add("", b" and an ostrich")
    echo.close(builder)
    assert judged(builder) == [(PATH, "The flamingo walrus and an ostrich")]


def test_tokens_behind_the_text_are_judged_alone() -> None:
    """The text is judged in any case: only what the tokens spell behind it is new."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    echo.add("The sea", b"The sea flamingo walrus")
    echo.close(builder)
    assert judged(builder) == [(PATH, " flamingo walrus")]


def test_words_behind_the_end_are_judged_together() -> None:
    """A text that comes a word at a time is judged when there are two words, and goes on being judged."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    told = []
    for token in OTHER:
        echo.add("", f"{token} ".encode())
        echo.close(builder)
        assert not echo.ahead
        told.append([text for _, text in judged(builder)])
        echo.close(builder)
    assert told == [[], ["flamingo walrus "], ["flamingo walrus ostrich "]]
    assert builder.opaques == len(OTHER)


@pytest.mark.parametrize("tokens", ["flamingo", "flamingo walrus"])
def test_a_later_text_does_not_take_tokens_back(tokens: str) -> None:
    """Tokens that were reported are no repetition of a text that comes later, and each later token is ahead of it."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    echo.add("", tokens.encode())
    echo.close(builder)
    echo.add(tokens, b"")
    assert not echo.ahead
    echo.add("", b"a")
    assert echo.ahead
    echo.close(builder)
    assert builder.opaques == 2


@pytest.mark.parametrize("tokens", ["flamingo", "<|end|>", "\n\n"])
def test_a_single_word_is_no_text(tokens: str) -> None:
    """A marker or a piece of a word is opaque only: servers report the token that ends the text."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    echo.add("", tokens.encode())
    echo.close(builder)
    assert (judged(builder), len(notes(builder))) == ([], 1)


def test_broken_characters_of_tokens_are_judged_as_readers_show_them() -> None:
    """Tokens may end within a character: its bytes are shown as a replacement character."""
    builder, echo = MessageBuilder(Unreadable), LogprobEcho(PATH)
    echo.add("", b"flamingo walrus \xc3")
    echo.close(builder)
    assert judged(builder) == [(PATH, "flamingo walrus \ufffd")]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_an_alternative_of_several_words_is_judged(count: int) -> None:
    """No token has three words of its own; an alternative that has them is a text."""
    builder = MessageBuilder(Unreadable)
    token = " ".join(OTHER[:count])
    judge_token(builder, {"token": token, "logprob": -1}, "a.b")
    expected = [("a.b", f'{{"token": "{token}", "logprob": -1}}')] if count > 2 else []
    assert judged(builder) == expected


def test_an_alternative_is_judged_at_its_place() -> None:
    """The text of an alternative, and a text beside it, are judged with the path of the alternative."""
    builder = MessageBuilder(Unreadable)
    text = " ".join(OTHER)
    alternatives = [{"token": "a"}, {"token": text}, text, {"token": "a", "aside": text}]
    token_list(builder, [{"token": "b"}, {"token": "a", "top_logprobs": alternatives}], PATH)
    place = f"{PATH}[1].top_logprobs"
    assert judged(builder) == [
        (f"{place}[1]", f'{{"token": "{text}"}}'),
        (f"{place}[2]", text),
        (f"{place}[3].aside", text),
    ]


def test_the_bytes_of_an_alternative_count() -> None:
    """An alternative with the token's characters and other bytes is an error, as it is of a token."""
    entry = {"token": "a", "top_logprobs": [{"token": "a", "bytes": [98]}]}
    with pytest.raises(Unreadable, match=r"\[0\]\.top_logprobs: the token and its bytes are different texts"):
        token_list(MessageBuilder(Unreadable), [entry], PATH)


@pytest.mark.parametrize("key", ["aside", "logprob", "token_id"])
def test_a_text_beside_a_token_is_judged(key: str) -> None:
    """An entry has a token, its bytes and numbers: every other text in it is judged."""
    builder, text = MessageBuilder(Unreadable), " ".join(OTHER)
    assert token_list(builder, [{"token": "a", key: text}], PATH) == b"a"
    assert judged(builder) == [(f"{PATH}[0].{key}", text)]


@pytest.mark.parametrize("key", ["Token", "BYTES", "logProb", "Top_Logprobs", "Token_ID"])
def test_a_field_in_another_spelling_is_refused(key: str) -> None:
    """Clients in Go read a field in any spelling: its value would count there, and not here."""
    with pytest.raises(Unreadable, match=f"{key}: is a key in another spelling"):
        token_list(MessageBuilder(Unreadable), [{"token": "a", key: None}], PATH)


def test_fields_of_a_token_pass() -> None:
    """Numbers beside a token, and its own fields, are no texts."""
    builder = MessageBuilder(Unreadable)
    entry = {"token": " ".join(OTHER), "bytes": None, "logprob": -0.5, "token_id": 17, "top_logprobs": []}
    token_list(builder, [entry], PATH)
    assert builder.pieces == {}


def test_tokens_are_read_by_their_bytes() -> None:
    """The bytes count if a token has them; the token may spell them escaped or with a replacement character."""
    entries: list[dict[str, Any]] = [
        {"token": "a", "logprob": -1},
        {"token": "é", "bytes": list("é".encode())},
        {"token": "\\xc3", "bytes": [0xC3]},
        {"token": "bytes:\\xa9", "bytes": [0xA9]},
        {"token": "\ufffd", "bytes": [0xC3]},
        {"token": "b", "bytes": None},
        {"token": "", "bytes": []},
    ]
    builder = MessageBuilder(Unreadable)
    assert token_list(builder, entries, PATH) == "aéé".encode() + b"\xc3b"
    assert token_list(builder, None, PATH) == token_list(builder, [], PATH) == b""
    assert notes(builder) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, f"{PATH}: must be a list"),
        (["a"], f"{PATH}[0]: must be an object"),
        ([{"token": "a"}, {"logprob": -1}], f"{PATH}[1].token: must be a string"),
        ([{"token": "a", "bytes": [256]}], f"{PATH}[0].bytes: must be a list of bytes"),
        ([{"token": "a", "bytes": ["a"]}], f"{PATH}[0].bytes: must be a list of bytes"),
        ([{"token": "a", "bytes": [98]}], f"{PATH}[0]: the token and its bytes are different texts"),
        ([{"token": "a", "top_logprobs": {"a": 1}}], f"{PATH}[0].top_logprobs: must be a list"),
    ],
)
def test_malformed_tokens_are_errors(value: Any, says: str) -> None:
    """An entry that clients could read in two ways is refused at its place."""
    with pytest.raises(Unreadable) as refused:
        token_list(MessageBuilder(Unreadable), value, PATH)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("alternatives", "opaque"),
    [
        (None, False),
        ([{"token": "a", "logprob": -1}], False),
        ([{"token": "a"}, {"token": "b"}], True),
        ([{"token": "b"}, {"token": "a"}], True),
        (["b"], True),
        ([{"token": 1}], True),
        ([{"logprob": -1}], True),
    ],
)
def test_alternatives_must_be_the_token_itself(alternatives: Any, opaque: bool) -> None:
    """An alternative that spells another text, or is no token, is opaque: no judged text contains it."""
    builder = MessageBuilder(Unreadable)
    assert token_list(builder, [{"token": "a", "top_logprobs": alternatives}], PATH) == b"a"
    assert notes(builder) == ([(f"{PATH}.top_logprobs", "token alternatives")] if opaque else [])
