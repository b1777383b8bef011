"""Splitting bytes into frames: the frames do not depend on the split of the input, and no unjudged text leaves."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame, FrameDecoder
from guardproxy.sse import KEEP_ALIVE, Ndjson, Sse
from guardproxy.wires.gemini.array import JsonArray

BOM = b"\xef\xbb\xbf"
NAMES = ("named", "empty")
SSE_TEXT = (
    BOM + b"data: one\n\n: a comment\r\n\r\nevent: named\rdata: two\rdata:three\r\r\n\n"
    b"id: 7\nretry: 10\n\ndata\ndata: x\n\nevent: empty\n\ndata: last"
)
SSE_RAW = (
    b"data: one\n\n: keep-alive\n\nevent: named\rdata: two three\r\r\n\n"
    b"id: 7\nretry: 10\n\ndata:  x\n\nevent: empty\n\ndata: last"
)
NDJSON_RAW = '{"a": "é\\n"}\r\n\n  \n{"b": [1, 2]}\n{"c": 3}'.encode()
ARRAY_TEXT = b' [{"a": "}]\\"{", "b": [{"c": "\\\\"}]}\r\n, {"d": {}},{}]\n'


def _sse(limit: int = 10_000_000) -> Sse:
    return Sse(limit, NAMES)


def _frames(make: Callable[[], FrameDecoder], parts: list[bytes]) -> list[Frame]:
    decoder = make()
    return [*(frame for part in parts for frame in decoder.feed(part)), *decoder.finish()]


@pytest.mark.parametrize(
    ("make", "text", "raw"),
    [
        (_sse, SSE_TEXT, SSE_RAW),
        (_sse, SSE_RAW, SSE_RAW),
        (Ndjson, BOM + NDJSON_RAW, NDJSON_RAW),
        (JsonArray, ARRAY_TEXT, ARRAY_TEXT),
    ],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_gives_the_same_frames(
    make: Callable[[], FrameDecoder], text: bytes, raw: bytes, data: st.DataObject
) -> None:
    """The frames of cut bytes are those of the whole input, and an ordinary input's raw bytes are the input."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    frames = _frames(make, parts)
    assert frames == _frames(make, [text]) == _frames(make, [bytes([byte]) for byte in text])
    assert b"".join(frame.raw for frame in frames) == raw


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.sampled_from([b"data: a", b"data:b", b": c", b"event: named", b"", b"", b"id: 1", b"data"])),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_mixed_line_ends(lines: list[bytes], ends: list[bytes], cuts: list[int]) -> None:
    """CR, LF and CR LF may follow one another in any order."""
    text = b"".join(line + ends[index % len(ends)] for index, line in enumerate(lines))
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    parts = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    frames = _frames(_sse, parts)
    assert frames == _frames(_sse, [text])
    raw = b"".join(frame.raw for frame in frames)
    assert raw == text or any(line in lines for line in (b": c", b"data: a", b"data:b", b"data"))
    assert [(frame.data, frame.event) for frame in _frames(_sse, [raw]) if frame.data is not None] == [
        (frame.data, frame.event) for frame in frames if frame.data is not None
    ]


def test_events_are_read_as_the_standard_says() -> None:
    """Data lines are joined, a leading space is removed, comments have no data, the last blank line may be missing."""
    frames = _frames(_sse, [SSE_TEXT])
    assert [frame.data for frame in frames] == [
        b"one",
        None,
        b"two three",
        None,
        None,
        b" x",
        None,
        b"last",
    ]
    assert [frame.event for frame in frames if frame.event] == ["named", "empty"]
    assert [frame.complete for frame in frames] == [True] * 7 + [False]


def test_lines_and_arrays() -> None:
    """A line and an object of an array are frames; blank lines, brackets and byte order marks carry no data."""
    lines = _frames(Ndjson, [BOM + NDJSON_RAW])
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
    ("make", "start", "end"),
    [
        (Sse, b"data: ", b"\n\n"),
        (Sse, b"data: ", b"\r\n\r\n"),
        (Sse, b"event: error\ndata: ", b"\n\n"),
        (Sse, b": ", b"\n\n"),
        (Ndjson, b"", b"\n"),
        (JsonArray, b'[{"a": "', b'"}'),
    ],
)
def test_a_frame_that_comes_at_once_is_bounded(make: Callable[[int], FrameDecoder], start: bytes, end: bytes) -> None:
    """A frame of exactly the limit is read, a larger one is refused, also if it comes as a whole."""
    exact = start + b"x" * (100 - len(start) - len(end)) + end
    assert len(make(100).feed(exact)) == 1
    with pytest.raises(UpstreamUnreadable, match="100 bytes"):
        make(100).feed(exact.replace(b"x", b"xx", 1))


@pytest.mark.parametrize("frame", [b"data: 1\n\n", b"data: 1\r\n\r\n", b"{}\n"])
def test_many_small_frames_pass_together(frame: bytes) -> None:
    """The limit is that of a frame, not of what comes at once."""
    decoder: FrameDecoder = Ndjson(20) if frame.startswith(b"{") else Sse(20)
    assert len(decoder.feed(frame * 50)) == 50


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
    began = time.process_time()
    frames = _frames(make, [text[start : start + 100] for start in range(0, len(text), 100)])
    assert sum(len(frame.raw) for frame in frames) == len(text)
    assert time.process_time() - began < 10


# --- nothing of a frame leaves that is not data or of a closed set ---------------------------------------------------

SEPARATORS = ("\u2028", "\u2029", "\x85")
CONTROLS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x00", "\x1b")
HIDDEN = "HIDDEN words"
# Fields of lines in which no text may leave. Some readers take what stands behind a separator for a line of its own.
NO_TEXT = [
    f": {HIDDEN}",
    f":{HIDDEN}",
    f": x\u2028data: {HIDDEN}",
    f": x\x0bdata: {HIDDEN}",
    f"id: {HIDDEN}",
    "id: HIDDEN",
    f"id: 7\x85data: {HIDDEN}",
    f"retry: 10 {HIDDEN}",
    f"event: {HIDDEN}",
    "event: HIDDEN",
    f"event: named\x1cdata: {HIDDEN}",
    f"event: named {HIDDEN}",
]
ORDINARY = [
    "id: 7",
    "id: 0197f3a0-6c1e-7d2b-9f5e-1a2b3c4d5e6f",
    "id: 1690212292:0",
    "retry: 3000",
    "event: named",
    "id",
]


def read_as_str(raw: bytes) -> list[str]:
    """Return the lines that httpx reads from a body."""
    return list(httpx.Response(200, content=raw, headers={"content-type": "text/event-stream"}).iter_lines())


def shown(raw: bytes, by_line: bool) -> list[str]:
    """Return the data that a reader of lines, or a reader of events as httpx-sse 0.4.0, takes from a stream."""
    events, data = [], []
    for line in [*read_as_str(raw), ""]:
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        if not line or by_line:
            events += ["\n".join(data)] if data else []
            data = []
    return events


strings_with_breaks = st.lists(st.sampled_from(["a", "é", "data: x", " ", ":", *SEPARATORS]), max_size=6).map("".join)
json_texts = st.dictionaries(
    strings_with_breaks, st.one_of(strings_with_breaks, st.lists(strings_with_breaks, max_size=2)), max_size=3
)


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.lists(st.sampled_from([*NO_TEXT, *ORDINARY]), max_size=3),
            json_texts,
            st.sampled_from([None, 1, 2]),
            st.lists(st.sampled_from([*NO_TEXT, *ORDINARY]), max_size=2),
        ),
        max_size=4,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 2000), max_size=4),
    whole=st.booleans(),
)
def test_readers_of_lines_and_of_events_see_the_judged_data_only(
    events: list[tuple[list[str], dict[str, Any], int | None, list[str]]], end: str, cuts: list[int], whole: bool
) -> None:
    """What leaves of a stream is read alike by all readers, is what was judged, and has no other text."""
    lines: list[str] = []
    for before, value, indent, after in events:
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        lines += [*before, *(f"data: {line}" for line in text.split("\n")), *after, ""]
    body = (end.join(lines) + (end if whole else "")).encode()
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    frames = _frames(_sse, [body[start:stop] for start, stop in pairwise(places)])
    raw = b"".join(frame.raw for frame in frames)
    judged = [frame.data.decode() for frame in frames if frame.data is not None]
    assert [json.loads(data) for data in judged] == [value for _, value, _, _ in events]
    assert shown(raw, by_line=True) == shown(raw, by_line=False) == judged
    assert b"HIDDEN" not in raw
    assert [(frame.raw, frame.data) for frame in _frames(_sse, [raw])] == [
        (frame.raw, frame.data) for frame in frames if frame.raw
    ]


@pytest.mark.parametrize("line", NO_TEXT)
@pytest.mark.parametrize("place", ["alone", "before", "behind", "last"])
def test_no_text_leaves_beside_the_data(line: str, place: str) -> None:
    """A line with text that is not data is dropped; an event without anything else becomes our own comment."""
    form = {"alone": "{}\n\ndata: 1\n\n", "before": "{}\ndata: 1\n\n", "behind": "data: 1\n{}\n\n"}
    body = form.get(place, "data: 1\n\n{}").format(line).encode()
    raw = b"".join(frame.raw for frame in _frames(_sse, [body]))
    assert raw == (KEEP_ALIVE if place == "alone" else b"") + b"data: 1\n\n"


@pytest.mark.parametrize("line", ORDINARY)
def test_values_of_closed_sets_leave_as_they_came(line: str) -> None:
    """Digits, hexadecimal ids and the protocol's own names of events pass."""
    body = f"{line}\ndata: 1\n\n{line}\n\n".encode()
    assert b"".join(frame.raw for frame in _frames(_sse, [body])) == body


@pytest.mark.parametrize("char", CONTROLS)
@pytest.mark.parametrize(
    ("make", "text"), [(_sse, 'data: {{"a": "{}"}}\n\n'), (Ndjson, '{{"a": "{}"}}\n'), (JsonArray, '[{{"a": "{}"}}]')]
)
def test_control_characters_in_data_are_refused(make: Callable[[], FrameDecoder], text: str, char: str) -> None:
    """JSON has no raw control characters, and readers end a line at some of them."""
    with pytest.raises(UpstreamUnreadable, match="control character"):
        _frames(make, [text.format(char).encode()])


@pytest.mark.parametrize("char", SEPARATORS)
@pytest.mark.parametrize(
    ("make", "text"),
    [(_sse, 'data: {{"a": "é{}"}}\n\n'), (Ndjson, '{{"a": "é{}"}}\n'), (JsonArray, '[{{"a": "é{}"}}]')],
)
def test_separators_leave_escaped(make: Callable[[], FrameDecoder], text: str, char: str) -> None:
    """A character that ends a line for some readers is escaped; the value is the same and all else is unchanged."""
    (frame, *_) = frames = _frames(make, [text.format(char).encode()])
    raw = b"".join(frame.raw for frame in frames)
    assert raw == text.format(f"\\u{ord(char):04x}").encode()
    assert json.loads(frame.data or b"") == {"a": f"é{char}"}
    assert len(raw.decode().splitlines()) == len(raw.splitlines())


def test_a_line_of_json_is_one_line_for_every_reader() -> None:
    """A carriage return between two values of a line, where some readers would begin another line, becomes a space."""
    inner = b'{"done": false}'
    frames = _frames(Ndjson, [b'{"a":\r' + inner + b"\r}\r\n\r" + inner + b"\n" + inner + b"\r"])
    assert [frame.raw for frame in frames] == [b'{"a": ' + inner + b" }\r\n", b" " + inner + b"\n", inner + b"\r"]
    for frame in frames:
        assert [line.strip().encode() for line in read_as_str(frame.raw)] == [frame.data]


def test_a_byte_order_mark_does_not_leave() -> None:
    """A byte order mark at the start is dropped, and refused anywhere else."""
    for make, text in ((_sse, b"data: 1\n\n"), (Ndjson, b"{}\n")):
        assert b"".join(frame.raw for frame in _frames(make, [BOM + text])) == text
    with pytest.raises(UpstreamUnreadable):
        _frames(_sse, [b"data: 1\n\n" + BOM + b"data: 1\n\n"])


@pytest.mark.parametrize(
    "event", [b"id: 7\r: dropped\n\n", b"data: 1\nevent: named\rdata: 2\n\n", b"data: 1\r: dropped\n\n"]
)
def test_an_event_that_is_rewritten_still_ends(event: bytes) -> None:
    """A blank line stays one when the line before it is dropped or moved: CR and LF do not become a single line end."""
    raw = b"".join(frame.raw for frame in _frames(_sse, [event + b"data: next\n\n"]))
    assert [frame.data for frame in _frames(_sse, [raw])][1:] == [b"next"]
