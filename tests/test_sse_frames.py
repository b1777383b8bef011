"""Splitting bytes into frames: events in any form, the ends of inputs, and the bounds of frames."""

import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame, FrameDecoder
from guardproxy.sse import Ndjson, Sse
from guardproxy.wires.gemini.array import JsonArray

BOM = b"\xef\xbb\xbf"


def _frames(make: Callable[[], FrameDecoder], parts: list[bytes]) -> list[Frame]:
    decoder = make()
    return [*(frame for part in parts for frame in decoder.feed(part)), *decoder.finish()]


DATA = {b"data: a": b"a", b"data:b": b"b", b"data:  two": b" two", b"data:": b"", b"data": b""}
BESIDE = [b": c", b":", b"id: 1", b"retry: 10", b"event: e"]


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.lists(st.sampled_from(BESIDE), max_size=2),
            st.sampled_from([None, *DATA]),
            st.lists(st.sampled_from(BESIDE), max_size=2),
        )
    ),
    ends=st.lists(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]), min_size=1),
    head=st.sampled_from([b"", BOM]),
    cut_off=st.sampled_from([False, False, True]),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_events_in_any_form(
    events: list[tuple[list[bytes], bytes | None, list[bytes]]],
    ends: list[bytes],
    head: bytes,
    cut_off: bool,
    cuts: list[int],
) -> None:
    """The data and names are those of the lines, whatever ends them and however the input is cut."""
    text, number = head, 0
    for before, data, after in events:
        for line in (*before, *([data] if data else []), *after) or (b": c",):
            end, number = ends[number % len(ends)], number + 1
            text += line + end
        text += end  # the blank line: LF behind CR would belong to the same line end
    expected = [
        (DATA[data], "e" if b"event: e" in before + after else "", True) for before, data, after in events if data
    ]
    if cut_off:
        text, expected = text + b"event: e\ndata: last", [*expected, (b"last", "e", False)]
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parts = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    frames = _frames(Sse, parts)
    assert [(frame.data, frame.event, frame.complete) for frame in frames if frame.data is not None] == expected
    assert frames == _frames(Sse, [text]) == _frames(Sse, [bytes([byte]) for byte in text])


@pytest.mark.parametrize("behind", [b"id: 1\n\n", b"\n", b"event: e\ndata: b\n\n", b"id: 2\r\n\r\n"])
@pytest.mark.parametrize("line", [b"data: a line that is longer than the next event", b"data:b"])
def test_an_event_in_two_pieces_and_another_behind_it(line: bytes, behind: bytes) -> None:
    """An event that its second piece completes leaves the next event of the same piece whole."""
    decoder = Sse()
    assert decoder.feed(line) == []
    first, second = decoder.feed(b"\n\n" + behind)
    assert first.data == line.partition(b":")[2].removeprefix(b" ")
    assert (second.data, second.complete) == (b"b" if b"data" in behind else None, True)
    assert decoder.finish() == []


def test_a_byte_order_mark_is_one_at_the_beginning_only() -> None:
    """Behind the beginning, a byte order mark is part of a line: no field of an event, and data of a JSON line."""
    decoder = Sse()
    assert [frame.data for frame in decoder.feed(BOM + b"data: a\n\n") if frame.data] == [b"a"]
    with pytest.raises(UpstreamUnreadable):
        decoder.feed(BOM + b"data: b\n\n")
    lines = Ndjson()
    assert [frame.data for frame in lines.feed(b"{}\n")] == [b"{}"]
    assert [frame.data for frame in lines.feed(BOM + b"{}\n")] == [BOM + b"{}"]
    with pytest.raises(UpstreamUnreadable):
        _frames(Sse, [BOM[:2]])


NO_ARRAYS = "[[ | [{}][ | [{}], | , | ] | tru | [tru | [{}tru | [{}] x | [{}, x"


@pytest.mark.parametrize("text", NO_ARRAYS.split(" | "))
def test_what_breaks_an_array_at_its_end_is_refused(text: str) -> None:
    """Only an object may be incomplete at the end of the input."""
    with pytest.raises(UpstreamUnreadable):
        _frames(JsonArray, [text.encode()])


def test_the_end_of_an_array() -> None:
    """An array that breaks off gives an incomplete frame, white space behind the array a complete one without data."""
    assert _frames(JsonArray, [b'[{"a": 1']) == [Frame(b'[{"a": 1', b'{"a": 1', complete=False)]
    assert _frames(JsonArray, [b'[{},\n{"b":'])[1:] == [Frame(b',\n{"b":', b'{"b":', complete=False)]
    assert _frames(JsonArray, [b"[{}, "])[1:] == [Frame(b", ", None, complete=False)]
    assert _frames(JsonArray, [b"[ "]) == [Frame(b"[ ", None, complete=False)]
    assert _frames(JsonArray, [b"[]\n"]) == [Frame(b"[]", None), Frame(b"\n", None)]
    assert _frames(JsonArray, [b"[{}]"]) == [Frame(b"[{}", b"{}"), Frame(b"]", None)]


def test_the_end_of_lines() -> None:
    """A last line without its end is an incomplete frame; white space around a line is not data."""
    assert _frames(Ndjson, [b' {"a": 1} ']) == [Frame(b' {"a": 1} ', b'{"a": 1}', complete=False)]
    assert _frames(Ndjson, [b"{}\n \t"]) == [Frame(b"{}\n", b"{}"), Frame(b" \t", None, complete=False)]


@pytest.mark.parametrize(("decoder", "text"), [(Sse(), b"data: a"), (Ndjson(), b"{"), (JsonArray(), b"[{")])
def test_the_rest_is_returned_once(decoder: FrameDecoder, text: bytes) -> None:
    """After the end nothing is left."""
    decoder.feed(text)
    assert len(decoder.finish()) == 1
    assert decoder.finish() == []


@pytest.mark.parametrize(
    ("make", "text"),
    [(Sse, b"data: "), (Ndjson, b"{"), (JsonArray, b'[{"a":"')],
)
def test_frames_are_bounded(make: Callable[[int], FrameDecoder], text: bytes) -> None:
    """A frame beyond the limit is refused before its end has come, not stored."""
    decoder = make(100)
    assert decoder.feed(text + b"x" * 80) == []
    assert decoder.feed(b"x" * (20 - len(text))) == []
    with pytest.raises(UpstreamUnreadable, match="100 bytes"):
        decoder.feed(b"x")


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("make", "head", "tail"),
    [
        (Sse, b"data: ", b"\n\n"),
        (Sse, b"data: ", b"\r\n\r\n"),
        (Sse, b"id: 1\ndata: ", b"\n\n"),
        (Ndjson, b'{"a":"', b'"}\n'),
    ],
)
def test_the_bound_does_not_depend_on_the_split(
    make: Callable[[int], FrameDecoder], head: bytes, tail: bytes, size: int
) -> None:
    """A frame of exactly the limit passes, a larger one is refused, in one piece or in many."""
    for length, refused in ((100, False), (101, True)):
        text = head + b"x" * (length - len(head) - len(tail)) + tail
        decoder = make(100)
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        with pytest.raises(UpstreamUnreadable, match="100 bytes") if refused else nullcontext():
            assert [len(frame.raw) for piece in pieces for frame in decoder.feed(piece)] == [length]


@pytest.mark.parametrize("make", [Sse, Ndjson, JsonArray])
def test_a_frame_may_have_32_mebibytes(make: Callable[[], FrameDecoder]) -> None:
    """The limit that stands for every upstream."""
    head = b'[{"a":"' if make is JsonArray else b"data: "
    text = head + b"x" * (32 * 1024 * 1024 - len(head))
    decoder = make()
    assert decoder.feed(text) == []
    with pytest.raises(UpstreamUnreadable, match="33554432 bytes"):
        decoder.feed(b"x")


def test_a_long_string_takes_linear_time() -> None:
    """A string without a quote is searched once, however many pieces it comes in."""
    text = b'[{"a":"' + b"x" * 1_000_000 + b'"}]'
    began = time.process_time()
    assert len(_frames(JsonArray, [text[start : start + 100] for start in range(0, len(text), 100)])) == 2
    assert time.process_time() - began < 10
