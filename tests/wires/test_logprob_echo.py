"""Log probabilities may spell the judged text and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Unreadable
from guardproxy.wires.shared.logprob_echo import LogprobEcho, token_list
from guardproxy.wires.shared.message_builder import MessageBuilder

PATH = "choices[0].logprobs.content"


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
