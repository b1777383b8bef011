"""Splitting bytes into frames: the frames do not depend on the split of the input, and no byte is lost."""

import re
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.sse import Frame, FrameDecoder, JsonArray, Ndjson, Sse

BOM = b"\xef\xbb\xbf"
SSE_TEXT = (
    BOM + b"data: one\n\n: a comment\r\n\r\nevent: named\rdata: two\rdata:three\r\r\n\n"
    b"id: 7\nretry: 10\n\ndata\ndata: x\n\nevent: empty\n\ndata: last"
)
NDJSON_TEXT = BOM + '{"a": "é\\n"}\r\n\n  \n{"b": [1, 2]}\n{"c": 3}'.encode()
ARRAY_TEXT = b' [{"a": "}]\\"{", "b": [{"c": "\\\\"}]}\r\n, {"d": {}},{}]\n'


def _frames(make: Callable[[], FrameDecoder], parts: list[bytes]) -> list[Frame]:
    decoder = make()
    return [*(frame for part in parts for frame in decoder.feed(part)), *decoder.finish()]


@pytest.mark.parametrize(("make", "text"), [(Sse, SSE_TEXT), (Ndjson, NDJSON_TEXT), (JsonArray, ARRAY_TEXT)])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_gives_the_same_frames(make: Callable[[], FrameDecoder], text: bytes, data: st.DataObject) -> None:
    """The frames of cut bytes are those of the whole input, and their raw bytes are the input."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    frames = _frames(make, parts)
    assert frames == _frames(make, [text]) == _frames(make, [bytes([byte]) for byte in text])
    assert b"".join(frame.raw for frame in frames) == text


def _reference(text: bytes) -> list[Frame]:
    """The events of a whole input, by the standard's words: lines, a field in each, a frame at every blank line."""
    frames: list[Frame] = []
    raw, event, payload = b"", "", []
    if text.startswith(BOM):
        frames.append(Frame(BOM, None))
        text = text.removeprefix(BOM)
    for line, end in re.findall(rb"([^\r\n]*)(\r\n|\r|\n|\Z)", text):
        raw += line + end
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        payload += [value] if name == b"data" else []
        event = value.decode() if name == b"event" else event
        if raw and not (line and end):
            frames.append(Frame(raw, b"\n".join(payload) if payload else None, event, complete=bool(end)))
            raw, event, payload = b"", "", []
    return frames


LINES = [b"data: a", b"data:b", b"data:  two", b"data:", b": c", b":", b"event: e", b"", b"", b"", b"id: 1", b"data"]


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES)),
    ends=st.lists(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]), min_size=1),
    head=st.sampled_from([b"", BOM]),
    last=st.sampled_from([b"", b"data: last"]),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_mixed_line_ends(lines: list[bytes], ends: list[bytes], head: bytes, last: bytes, cuts: list[int]) -> None:
    """CR, LF and CR LF may follow one another in any order, and the events are those of the standard."""
    text = head + b"".join(line + ends[index % len(ends)] for index, line in enumerate(lines)) + last
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parts = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert _frames(Sse, parts) == _frames(Sse, [text]) == _reference(text)


@pytest.mark.parametrize("kept", [b"id: 1\n\n", b"\n", b"event: e\ndata: b\n\n", b": c\r\n\r\n"])
@pytest.mark.parametrize("line", [b"data: a line that is longer than the next event", b"data:b"])
def test_an_event_in_two_pieces_and_another_behind_it(line: bytes, kept: bytes) -> None:
    """An event that its second piece completes leaves the next event of the same piece whole."""
    decoder = Sse()
    assert decoder.feed(line) == []
    assert decoder.feed(b"\n\n" + kept) == _reference(line + b"\n\n" + kept)
    assert decoder.finish() == []


def test_a_byte_order_mark_is_one_at_the_beginning_only() -> None:
    """Behind the beginning, a byte order mark is part of a line: no field of an event, and data of a JSON line."""
    decoder = Sse()
    assert [frame.data for frame in decoder.feed(BOM + b"data: a\n\n")] == [None, b"a"]
    with pytest.raises(UpstreamUnreadable):
        decoder.feed(BOM + b"data: b\n\n")
    lines = Ndjson()
    assert [frame.data for frame in lines.feed(b"{}\n")] == [b"{}"]
    assert [frame.data for frame in lines.feed(BOM + b"{}\n")] == [BOM + b"{}"]
    with pytest.raises(UpstreamUnreadable):
        _frames(Sse, [BOM[:2]])


def test_events_are_read_as_the_standard_says() -> None:
    """Data lines are joined, a leading space is removed, comments have no data, the last blank line may be missing."""
    frames = _frames(Sse, [SSE_TEXT])
    assert [frame.data for frame in frames] == [
        None,
        b"one",
        None,
        b"two\nthree",
        None,
        None,
        b"\nx",
        None,
        b"last",
    ]
    assert [frame.event for frame in frames if frame.event] == ["named", "empty"]
    assert [frame.complete for frame in frames] == [True] * 8 + [False]


def test_lines_and_arrays() -> None:
    """A line and an object of an array are frames; blank lines, brackets and byte order marks carry no data."""
    lines = _frames(Ndjson, [NDJSON_TEXT])
    assert [frame.data for frame in lines if frame.data] == ['{"a": "é\\n"}'.encode(), b'{"b": [1, 2]}', b'{"c": 3}']
    objects = _frames(JsonArray, [ARRAY_TEXT])
    assert [frame.data for frame in objects if frame.data] == [
        b'{"a": "}]\\"{", "b": [{"c": "\\\\"}]}',
        b'{"d": {}}',
        b"{}",
    ]


@pytest.mark.parametrize(
    "text", [b'{"error": "plain JSON"}\n\n', b"data: x\nsecret text\n\n", b"event: \xff\ndata: x\n\n"]
)
def test_what_is_no_event_stream_is_refused(text: bytes) -> None:
    """A line that is not a field of the format is refused: a skipped line would be unjudged."""
    with pytest.raises(UpstreamUnreadable):
        _frames(Sse, [text])


NO_ARRAYS = """
["text"] | [1] | [{} {}] | [,{}] | [{},] | {"a": 1} | [{}] {} | [[{}]]
[[ | [{}][ | [{}], | , | ] | tru | [tru | [{}tru | [{}] x | [{}, x
"""


@pytest.mark.parametrize("text", NO_ARRAYS.strip().replace("\n", " | ").split(" | "))
def test_what_is_no_array_of_objects_is_refused(text: str) -> None:
    """Only a comma and white space may stand between objects."""
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
        (Sse, b"event: a\ndata: ", b"\n\n"),
        (Ndjson, b'{"a":"', b'"}\n'),
        (JsonArray, b'[{"a":"', b'"}'),
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


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Sse, b"data: " + b"x" * 1_000_000 + b"\n\n"),
        (Sse, b"data: x\n\n" * 60_000),
        (Ndjson, b"{}\n" * 200_000),
        (JsonArray, b'[{"a":"' + b'\\"' * 400_000 + b'"}]'),
        (JsonArray, b'[{"a":"' + b"x" * 1_000_000 + b'"}]'),
    ],
)
def test_time_is_linear(make: Callable[[], FrameDecoder], text: bytes) -> None:
    """A megabyte in pieces of a hundred bytes takes a few seconds at most."""
    began = time.perf_counter()
    frames = _frames(make, [text[start : start + 100] for start in range(0, len(text), 100)])
    assert sum(len(frame.raw) for frame in frames) == len(text)
    assert time.perf_counter() - began < 10
