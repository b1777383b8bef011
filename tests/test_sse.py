"""Splitting bytes into frames: the frames do not depend on the split of the input, and no byte is lost."""

import time
from collections.abc import Callable

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


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.sampled_from([b"data: a", b"data:b", b": c", b"event: e", b"", b"", b"id: 1", b"data"])),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_mixed_line_ends(lines: list[bytes], ends: list[bytes], cuts: list[int]) -> None:
    """CR, LF and CR LF may follow one another in any order."""
    text = b"".join(line + ends[index % len(ends)] for index, line in enumerate(lines))
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parts = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    frames = _frames(Sse, parts)
    assert frames == _frames(Sse, [text])
    assert b"".join(frame.raw for frame in frames) == text


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


@pytest.mark.parametrize(
    "text", [b'["text"]', b"[1]", b"[{} {}]", b"[,{}]", b"[{},]", b'{"a": 1}', b"[{}] {}", b"[[{}]]"]
)
def test_what_is_no_array_of_objects_is_refused(text: bytes) -> None:
    """Only a comma and white space may stand between objects."""
    with pytest.raises(UpstreamUnreadable):
        _frames(JsonArray, [text])


@pytest.mark.parametrize(
    ("decoder", "text"),
    [(Sse(100), b"data: "), (Ndjson(100), b"{"), (JsonArray(100), b'[{"a":"')],
)
def test_frames_are_bounded(decoder: FrameDecoder, text: bytes) -> None:
    """A frame beyond the limit is refused, not stored."""
    decoder.feed(text + b"x" * 80)
    with pytest.raises(UpstreamUnreadable, match="100 bytes"):
        decoder.feed(b"x" * 20)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Sse, b"data: " + b"x" * 1_000_000 + b"\n\n"),
        (Sse, b"data: x\n\n" * 60_000),
        (Ndjson, b"{}\n" * 200_000),
        (JsonArray, b'[{"a":"' + b'\\"' * 400_000 + b'"}]'),
    ],
)
def test_time_is_linear(make: Callable[[], FrameDecoder], text: bytes) -> None:
    """A megabyte in pieces of a hundred bytes takes a few seconds at most."""
    began = time.perf_counter()
    frames = _frames(make, [text[start : start + 100] for start in range(0, len(text), 100)])
    assert sum(len(frame.raw) for frame in frames) == len(text)
    assert time.perf_counter() - began < 10
