"""The first bytes of a body decide whether it is a stream, however they are split and whatever its content type."""

import time

import pytest

from guardproxy.web.sniff import Sniffer

SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"
EVENTS = b'data: {"a": 1}\n\n'
LINE = b'{"a": 1}\n'
PRETTY = b'{\n  "a": 1\n}\n'


def sniffed(declared: str, body: bytes, *, lines: bool, size: int = 1) -> tuple[str, int]:
    """The stream's content type, and how many bytes were read to know it, in pieces of `size`."""
    sniffer = Sniffer(declared.encode(), lines=lines)
    for start in range(0, len(body), size):
        if sniffer.add(body[start : start + size]):
            break
    return sniffer.stream_type, len(sniffer.head)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("start", [b"", b" \r\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    "case",
    [
        (SSE, EVENTS, False, SSE),
        ("text/event-stream; charset=utf-8", EVENTS, False, "text/event-stream; charset=utf-8"),
        (JSON, EVENTS, False, SSE),
        ("", b": hello\n\n" + EVENTS, False, SSE),
        (NDJSON, EVENTS, False, SSE),
        (SSE, LINE, False, ""),
        (SSE, b"[1]\n\n", False, ""),
        (NDJSON, LINE + LINE, False, ""),
        (JSON, LINE + LINE, False, ""),
        (NDJSON, LINE, True, NDJSON),
        (NDJSON, LINE[:-1], True, NDJSON),
        ("application/x-ndjson; charset=utf-8", LINE, True, "application/x-ndjson; charset=utf-8"),
        (JSON, LINE + LINE, True, NDJSON),
        ("text/plain", LINE + b"\n" + LINE, True, NDJSON),
        (SSE, LINE + LINE, True, NDJSON),
        (JSON, LINE, True, ""),
        (JSON, LINE + b" \n", True, ""),
        (NDJSON, PRETTY, True, ""),
        (JSON, PRETTY, True, ""),
        (SSE, b"odd: field", False, SSE),
        (JSON, b"words", False, ""),
        (SSE, b"", False, SSE),
        (JSON, b"", True, ""),
    ],
)
def test_kinds(case: tuple[str, bytes, bool, str], start: bytes, size: int) -> None:
    """Events and lines are streams with any content type, one JSON text is a whole reply, however they are split."""
    declared, body, lines, read_by = case
    assert sniffed(declared, start + body, lines=lines, size=size)[0] == read_by


def test_no_stream_waits_longer_than_it_must() -> None:
    """Events are known by a field name, declared lines by the first line, other lines by the byte after it."""
    assert sniffed(SSE, EVENTS, lines=False)[1] == 6
    assert sniffed(NDJSON, LINE + LINE, lines=True)[1] == len(LINE)
    assert sniffed(JSON, LINE + LINE, lines=True)[1] == len(LINE) + 1


@pytest.mark.parametrize("body", [b" " * (1 << 23), b"{" * (1 << 23), b'"' + b"a" * (1 << 23)])
def test_linear_time(body: bytes) -> None:
    """A body whose kind is unknown for long is scanned once."""
    started = time.process_time()
    sniffed(JSON, body, lines=True, size=1 << 10)
    assert time.process_time() - started < 2
