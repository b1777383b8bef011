"""Streams of bytes: wherever they are cut, the frames are the same, and what leaves is read the same again.

An input is `{"format": ..., "text": ..., "cuts": [...]}`, with the bytes of the stream as Latin-1.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame, FrameDecoder
from guardproxy.sse import KEEP_ALIVE, Ndjson, Sse
from guardproxy.wires.gemini.array import JsonArray
from tests.fuzz.choices import Choices
from tests.wires.kit import pieces

LIMIT = 200
BOM = b"\xef\xbb\xbf"
FORMATS: dict[str, Callable[[int], FrameDecoder]] = {
    "sse": lambda limit: Sse(limit, ("message_start", "e")),
    "ndjson": Ndjson,
    "array": JsonArray,
}
TOKENS: dict[str, list[bytes]] = {
    "sse": [
        *(
            b"data:",
            b"data: ",
            b"data",
            b": c",
            b"event: e",
            b"event: ",
            b"event: no",
            b"id: 1",
            b"id: a b",
            b"retry: 1",
        ),
        *(b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b'{"a": 1}', b"[DONE]", b"x", b" ", b":", b"date: x"),
        *(b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"\xe2", b"\x80", b"\x00", b"\xff", b"y" * 90),
    ],
    "ndjson": [
        *(b"{}", b'{"a": "b"}', b"\n", b"\r\n", b"\r", b" ", b"\t", b"x", b'"', b"\xef\xbb\xbf", b"\xef", b"\x00"),
        *(b"\xe2\x80\xa9", b"\xe2\x80", b"\xff", b"z" * 90),
    ],
    "array": [
        *(b"[", b"]", b",", b"{", b"}", b"{}", b'{"a": "b"}', b'"', b"\\", b'\\"', b" ", b"\n", b"x", b"\xef\xbb\xbf"),
        *(b"\x00", b"\xe2\x80\xa8", b"\xe2", b"\xff", b'{"a": "]}"}', b'{"b": [{}, []]}', b"w" * 90),
    ],
}


def draw(choices: Choices) -> dict[str, Any]:
    """A stream of tokens, and places at which it is cut."""
    name = choices.one_of([*FORMATS])
    tokens = [choices.one_of(TOKENS[name]) for _ in range(choices.number(24))]
    if name == "array" and not choices.is_one_in(4):
        tokens = [b"[", *tokens]
    text = b"".join(tokens)
    cuts = [choices.number(len(text) + 1) for _ in range(choices.number(6))]
    return {"format": name, "text": text.decode("latin-1"), "cuts": cuts}


def check(value: dict[str, Any]) -> None:
    """Assert that frames do not depend on the cuts, and that nothing changes when they are read again."""
    make = FORMATS[value["format"]]
    raw = value["text"].encode("latin-1")
    whole = _frames(make, [raw])
    for parts in (pieces(raw, value["cuts"]), [raw[place : place + 1] for place in range(len(raw))]):
        assert _frames(make, parts) == whole
    if whole is None:
        return
    complete = [frame for frame in whole if frame.complete]
    out = b"".join(frame.raw for frame in complete)
    if out.startswith(BOM):
        return  # a second byte order mark of JSON lines: it is data, which the reader of frames refuses as no JSON
    again = _frames(make, [out], 3 * LIMIT)  # escapes of separators are longer
    assert again is not None
    assert b"".join(frame.raw for frame in again) == out
    assert _data(again) == _data(complete)
    if value["format"] == "sse":
        assert _lenient(out) == _data(complete)


def _data(frames: list[Frame]) -> list[bytes]:
    return [frame.data for frame in frames if frame.data]


def _lenient(out: bytes) -> list[bytes]:
    """The data that a reader finds who splits lines as `str.splitlines` does, and takes each data line for itself."""
    assert not set(chain.from_iterable(out.split(KEEP_ALIVE))) & {0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x00}
    lines = out.decode("utf-8", "surrogateescape").splitlines()
    found = [line.removeprefix("data:").removeprefix(" ") for line in lines if line.startswith("data:")]
    return [line.encode("utf-8", "surrogateescape") for line in found if line]


def _frames(make: Callable[[int], FrameDecoder], parts: list[bytes], limit: int = LIMIT) -> list[Frame] | None:
    """The frames, None if the stream is refused."""
    decoder = make(limit)
    try:
        return [*chain.from_iterable(decoder.feed(part) for part in parts), *decoder.finish()]
    except UpstreamUnreadable:
        return None
