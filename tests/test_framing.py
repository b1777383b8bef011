"""Frames in a row that repeat one shape: what is found of them is what a JSON parser reads, in every framing."""

import json
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import LIMIT, NO_REPETITIONS, FrameDecoder
from guardproxy.sse import Ndjson, Sse
from guardproxy.wires.gemini.array import JsonArray

# A decoder, its first frames, and what stands around the JSON text of the next ones.
FORMATS = {
    "events": (Sse, b"data: {}\n\n", b"data: ", b"\n\n"),
    "events, CR LF": (Sse, b"data: {}\r\n\r\n", b"data: ", b"\r\n\r\n"),
    "lines": (Ndjson, b"{}\n", b"", b"\n"),
    "array": (JsonArray, b"[{},\r\n{}", b",\r\n", b""),
}
PIECES = [b'{"n":', b',"t":"', b'"}']
every_format = pytest.mark.parametrize("name", FORMATS)


def opened(name: str, limit: int = LIMIT) -> FrameDecoder:
    """Return a decoder that has read the first frames."""
    make, start, _, _ = FORMATS[name]
    decoder = make(limit)
    decoder.feed(start)
    return decoder


def framed(name: str, values: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return frames with a number and a text in the gaps of PIECES."""
    _, _, before, behind = FORMATS[name]
    first, middle, last = PIECES
    return [before + first + number + middle + text + last + behind for number, text in values]


@every_format
@pytest.mark.parametrize(
    "odd",
    [
        *(("3", ""), ("03", "a"), ("", "a"), ("-1", "a"), ("3.5", "a"), ("3", 'a"'), ("3", "a\u2028"), ("3", "a\x85")),
        *(
            ("3", "\\"),
            ("3", "\\x"),
            ("3", "\\u00e"),
            ("3", "\\ud83d"),
            ("3", "\\ude00a"),
            ("3", "a\t"),
            ("3", '\\\\"'),
        ),
        ("3", "\\u00eg"),
        ("3", "\\u\u0661234"),
    ],
)
def test_repetitions_end_at_a_value_that_does_not_fit(name: str, odd: tuple[str, str]) -> None:
    """Frames are found as long as each value is what its gap holds, and stay in the input until they are taken."""
    values = [("1", "a"), ("20", "é \\u00e9\\ud83d\\ude00\\n"), odd, ("4", "c")]
    frames = framed(name, [(number.encode(), text.encode()) for number, text in values])
    decoder = opened(name)
    decoder.add(b"".join(frames))
    both = len(frames[0]) + len(frames[1])
    assert decoder.repetitions(PIECES, [0]) == ([["1", "20"], ["a", "é é😀\n"]], [len(frames[0]), both])
    assert decoder.take(len(frames[0])) == frames[0]
    assert decoder.repetitions(PIECES, [0]) == ([["20"], ["é é😀\n"]], [len(frames[1])])


@every_format
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.tuples(st.text(min_size=1), st.booleans()), min_size=1))
def test_every_text_that_may_leave_is_found(name: str, texts: list[tuple[str, bool]]) -> None:
    """With escapes or without: in a row, however a text may be written."""
    written = [json.dumps(text, ensure_ascii=in_ascii)[1:-1] for text, in_ascii in texts]
    for char in "\x85\u2028\u2029":
        written = [text.replace(char, f"\\u{ord(char):04x}") for text in written]
    decoder = opened(name)
    decoder.add(b"".join(framed(name, [(b"%d" % number, text.encode()) for number, text in enumerate(written)])))
    columns, ends = decoder.repetitions(PIECES, [0])
    assert columns == [[str(number) for number in range(len(texts))], [text for text, _ in texts]]
    assert len(ends) == len(texts)


TOKENS = st.sampled_from(
    [
        *(
            b'"',
            b"\\",
            b"\\\\",
            b'\\"',
            b"\\n",
            b"\\u",
            b"\\u00e9",
            b"\\ud83d",
            b"\\ude00",
            b"\\u0000",
            b"00e9",
            b"\\u00eg",
            b"a",
        ),
        *(b"\n", b"\n\n", b"\r\n\r\n", b"\r", b"\x00", b"\t", b" ", b"\xc3\xa9", b"\xc3", b"\xe2\x80\xa8", b"\xc2\x85"),
        *(b",", b",\r\n", b"data: ", b"}", b"{", b"[", b"]", *PIECES, b'","', b'"},\r\n{"n":', b"1", b"\\u00eg"),
    ]
)
VALUES = st.lists(TOKENS, max_size=4).map(b"".join)


@every_format
@settings(max_examples=300, deadline=None)
@given(values=st.lists(st.tuples(st.just(b"1") | VALUES, VALUES), min_size=1, max_size=6))
def test_what_is_found_is_what_a_parser_reads(name: str, values: list[tuple[bytes, bytes]]) -> None:
    """Whatever stands in the gaps, the frames that are found leave as they came, and mean what was found."""
    decoder = opened(name)
    decoder.add(b"".join(framed(name, values)))
    columns, ends = decoder.repetitions(PIECES, [0])
    if not ends:
        return
    raw = decoder.take(ends[-1])
    frames = opened(name).feed(raw)
    assert [frame.raw for frame in frames] == [raw[start:end] for start, end in pairwise([0, *ends])]
    numbers, texts = columns
    expected = [{"n": int(number), "t": text} for number, text in zip(numbers, texts, strict=True)]
    assert [json.loads(frame.data or b"") for frame in frames] == expected
    assert "".join(texts).encode()
    assert all(texts)


@every_format
def test_a_frame_in_a_row_is_bounded_as_any_other(name: str) -> None:
    """A frame that is too large is no repetition: who reads it in full refuses it."""
    decoder = opened(name, 50)
    frames = framed(name, [(b"1", b"a"), (b"2", b"b" * 50)])
    decoder.add(b"".join(frames))
    assert decoder.repetitions(PIECES, [0]) == ([["1"], ["a"]], [len(frames[0])])
    assert decoder.take(len(frames[0])) == frames[0]
    assert decoder.repetitions(PIECES, [0]) == NO_REPETITIONS
    with pytest.raises(UpstreamUnreadable, match="larger than 50 bytes"):
        decoder.next()


def test_an_item_that_has_come_in_part_may_begin_a_row() -> None:
    """What was found out about its start is forgotten: the items behind the row are read as any others."""
    decoder, frames = opened("array"), framed("array", [(b"1", b"a"), (b"2", b"b")])
    decoder.add(frames[0][:-4])
    assert decoder.next() is None
    decoder.add(frames[0][-4:] + frames[1])
    ends = decoder.repetitions(PIECES, [0]).ends
    assert decoder.take(ends[-1]) == b"".join(frames)
    assert [frame.raw for frame in decoder.feed(b',\n{"x":[1]}]')] == [b',\n{"x":[1]}', b"]"]


def test_behind_the_end_of_an_array_is_no_row() -> None:
    """An item there is refused as any other."""
    decoder = opened("array")
    assert len(decoder.feed(b"]")) == 1
    decoder.add(b"".join(framed("array", [(b"1", b"a"), (b"2", b"b")])))
    assert decoder.repetitions(PIECES, [0]) == NO_REPETITIONS
    with pytest.raises(UpstreamUnreadable):
        decoder.next()


@pytest.mark.parametrize("name", ["events", "events, CR LF"])
def test_an_event_that_is_read_by_lines_begins_no_row(name: str) -> None:
    """Its first line has been read when the rest of it comes."""
    decoder, frames = opened(name), framed(name, [(b"1", b"a"), (b"2", b"b")])
    size = len(frames[0]) - len(FORMATS[name][3]) // 2
    decoder.add(frames[0][:size])
    assert decoder.next() is None
    decoder.add(frames[0][size:] + frames[1])
    assert decoder.repetitions(PIECES, [0]) == NO_REPETITIONS
    first = decoder.next()
    assert first is not None
    assert first.raw == frames[0]
    assert decoder.repetitions(PIECES, [0]).ends == [len(frames[1])]


def test_events_that_end_with_carriage_returns_are_no_row() -> None:
    """A line feed that comes behind the last of them would belong to the event."""
    decoder, event = Sse(), b'data: {"n":1,"t":"a"}\r\r'
    decoder.add(b"data: {}\r\r" + 2 * event)
    assert decoder.next() is not None
    assert decoder.repetitions(PIECES, [0]) == NO_REPETITIONS


@every_format
def test_the_start_of_a_long_repetition_takes_linear_time(name: str) -> None:
    """What may repeat a known frame is searched for its end as far as a repetition is looked for."""
    decoder, (start, end) = opened(name), framed(name, [(b"1", b"|")])[0].split(b"|")
    decoder.add(start)
    began = time.process_time()
    for _ in range(50_000):
        decoder.add(b"x" * 200)
        assert decoder.repetitions(PIECES, [0]) == NO_REPETITIONS
        assert decoder.next() is None
    decoder.add(end)
    assert decoder.next() is not None
    assert time.process_time() - began < 5
