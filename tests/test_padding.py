"""The characters that hide the length of an event: the upstream's never leave, and nobody judges them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.padding import unpadded
from guardproxy.sse import Sse
from tests.wires.kit import pieces

PADDINGS = st.text("aZ0", max_size=40)


@given(
    st.dictionaries(st.text(), st.text() | st.integers(), min_size=1),
    PADDINGS,
    st.booleans(),
    st.text(" \r\n", max_size=2),
)
def test_the_last_member_is_replaced(body: dict[str, str | int], padding: str, compact: bool, end: str) -> None:
    """The event keeps its length, and is the same JSON but for other characters; the data has no padding."""
    body.pop("obfuscation", None)
    separators = (",", ":") if compact else (", ", ": ")
    data = json.dumps({**body, "obfuscation": padding}, separators=separators).encode()
    raw = b"data: " + data + end.encode()
    own, without, before, behind = unpadded(raw, data)
    assert json.loads(without) == body
    assert data.endswith(before + padding.encode() + behind)
    assert before
    assert len(own) == len(raw)
    assert own.endswith(end.encode())
    read = json.loads(own.removeprefix(b"data: "))
    assert {**read, "obfuscation": padding} == {**body, "obfuscation": padding}
    assert len(padding) < 8 or padding not in read["obfuscation"]


@pytest.mark.parametrize(
    "padding", ["", "abc", "abcdefghijklmnopqrstuvwxyz0123456789abcd", "abcdefghijklmnopqrstuvwxyzABCD"]
)
def test_the_start_of_an_alphabet_is_padding(padding: str) -> None:
    """Mistral's `p`, of any length."""
    data = f'{{"n":1,"p":"{padding}"}}'.encode()
    own, without, before, behind = unpadded(data, data)
    assert (len(own), without, before, behind) == (len(data), b'{"n":1}', b',"p":"', b'"}')


@pytest.mark.parametrize(
    "behind", [',"system_fingerprint":"fp_b705f0c291"', ',"system_fingerprint":null,"usage":null', ', "n": 7']
)
def test_members_without_texts_may_stand_behind(behind: str) -> None:
    """As in Azure's events, whose members are sorted."""
    data = f'{{"id":"a","obfuscation":"x7Kq2"{behind}}}'.encode()
    own, without, *_ = unpadded(data, data)
    assert (len(own), without) == (len(data), f'{{"id":"a"{behind}}}'.encode())
    assert b"x7Kq2" not in own


@pytest.mark.parametrize(
    "data",
    [
        b'{"obfuscation":"abc"}',
        b'{ ,"obfuscation":"abc"}',
        b'{"a":1,"obfuscation":"how to"}',
        b'{"a":1,"obfuscation":"a\\u0062"}',
        '{"a":1,"obfuscation":"é"}'.encode(),
        b'{"a":1,"obfuscation":"abc","b":{}}',
        b'{"a":1,"obfuscation":"abc","b":"how to"}',
        b'{"a":1,"obfuscation":"abc","b":1}}',
        b'{"a":1,"obfuscation":"abc","p":"bomb"}',
        b'{"a":{"b":1,"obfuscation":"abc"},"c":1}',
        b'{"a":1,"obfuscation":["abc"]}',
        b'{"a":1,"obfuscation" : "abc"}',
        b'{"a":",\\"obfuscation\\":\\"abc"}',
        b'{"a":1,"Obfuscation":"abc"}',
        b'{"a":1,"p":"bomb"}',
        b'{"a":1,"p":"abd"}',
        b'{"a":{"b":1,"p":"abc"}}',
        b"{}",
        b"[DONE]",
        b"",
    ],
)
def test_anything_else_stays(data: bytes) -> None:
    """It is judged as any other value."""
    assert unpadded(data, data) == (data, data, b"", b"")


@given(st.lists(PADDINGS, max_size=5), st.lists(st.integers(0), max_size=3), st.sampled_from(["\n", "\r\n"]))
def test_events_do_not_depend_on_how_they_come(paddings: list[str], cuts: list[int], end: str) -> None:
    """Padding does not change where events begin and end."""
    events = [f'data: {{"n":{n},"obfuscation":"{text}"}}{end}{end}'.encode() for n, text in enumerate(paddings)]
    at_once = Sse(padded=True).feed(b"".join(events))
    assert [frame.data for frame in at_once] == [f'{{"n":{n}}}'.encode() for n in range(len(paddings))]
    assert [len(frame.raw) for frame in at_once] == [*map(len, events)]
    decoder = Sse(padded=True)
    assert [frame for part in pieces(b"".join(events), cuts) for frame in decoder.feed(part)] == at_once
    assert [frame.data for frame in Sse().feed(b"".join(events))] == [
        event.strip().removeprefix(b"data: ") for event in events
    ]
