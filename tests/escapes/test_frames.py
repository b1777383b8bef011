"""A text does not reach the client beside the data of a stream's frames, where some readers find and show it."""

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from guardproxy.policy import StreamPolicy
from tests.conformance.guarding import Guarding
from tests.conformance.speech import PROTOCOLS, SSE, Protocol
from tests.escapes.attempts import prompts, squeezed
from tests.web.kit import policy

CLEAN = ["Tides ", "come in ", "twice a day."]
EVENTS = [protocol for protocol in PROTOCOLS.values() if protocol.content_type == SSE]
each_events = pytest.mark.parametrize("protocol", EVENTS, ids=lambda protocol: protocol.name)

# The lines that carry the text; httpx's `iter_lines` and httpx-sse 0.4.0 end a line at every one of these characters.
LINES: dict[str, Callable[[str], str]] = {
    "in a comment": lambda text: f": {text}",
    "in an id": lambda text: f"id: {text}",
    "in an id, with hyphens": lambda text: f"id: {'-'.join(text.split())}",
    "in a retry": lambda text: f"retry: {text}",
    "as the name of an event": lambda text: f"event: {text}",
    "as the name of an event, with dots": lambda text: f"event: response.{'.'.join(text.split())}",
    **{
        f"behind U+{ord(char):04X} in {field}": lambda text, char=char, field=field: f"{field}{char}data: {text}"
        for char in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
        for field in (": x", "id: 7", "retry: 10")
    },
}


def past(protocol: Protocol, body: bytes) -> str:
    """Return what reaches the client of a streamed reply."""
    guarding = Guarding(policy(stream=StreamPolicy(every=5)))
    exchange = guarding.exchange(protocol.wire, protocol.request("Hello there.", stream=True))
    return guarding.stream(exchange, [body[:50], body[50:]], protocol.content_type).decode()


def lines_of(stream: str, kind: str) -> Iterator[str]:
    """Yield the lines that httpx reads, without the name of their field."""
    for line in httpx.Response(200, text=stream, headers={"content-type": kind}).iter_lines():
        yield line.removeprefix("data:").strip()


@each_events
@pytest.mark.parametrize("trick", LINES)
def test_no_line_beside_the_data_carries_a_text(protocol: Protocol, trick: str) -> None:
    """The text does not leave before, inside or behind an event. The stream goes on without it or is refused."""
    refused = "name of an event" in trick and protocol.name in ("responses", "messages")  # not the type of the data
    for prompt in prompts()[::12]:
        line = LINES[trick](prompt).encode()
        frames = protocol.streamed(CLEAN)
        for body in (
            line + b"\n\n" + b"".join(frames),
            b"".join(frame.replace(b"data:", line + b"\ndata:", 1) for frame in frames),
            (b"\n" + line + b"\n\n").join([*frames, b""]),
        ):
            left = past(protocol, body)
            words = "".join(char for char in squeezed(left) if char.isalnum())
            assert "".join(char for char in squeezed(prompt) if char.isalnum()) not in words
            assert refused or "twice a day." in left


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
@pytest.mark.parametrize("end", ["\n", "\r"], ids=["LF", "CR"])
def test_no_line_inside_the_data_is_a_reply_of_its_own(protocol: Protocol, end: str) -> None:
    """A frame that is harmless as a whole does not leave with a line that is another frame for readers of lines."""
    if protocol.name == "gemini-array":
        return  # its readers do not read lines
    clean = protocol.streamed(CLEAN)
    harm = next(frame for frame in protocol.streamed(["pinned", "poison", "x"]) if b"poison" in frame)
    inner = next(line for line in lines_of(harm.decode(), protocol.content_type) if "poison" in line)
    place = next(place for place, frame in enumerate(clean) if b"twice a day." in frame)
    join = f"{end}data: " if protocol.content_type == SSE else "\r"
    open_at = clean[place].index(b"{") + 1
    hidden = f'{join}"usage_note":{join}{inner}{join},'.encode()
    body = b"".join([*clean[:place], clean[place][:open_at] + hidden + clean[place][open_at:], *clean[place + 1 :]])
    lenient = list(lines_of(past(protocol, body), protocol.content_type))
    assert inner not in lenient
    assert not any("poison" in line and is_like(line, inner) for line in lenient)


def is_like(line: str, frame: str) -> bool:
    """Return whether a line is a JSON object with the fields of a frame."""
    try:
        return set(json.loads(line)) == set(json.loads(frame))
    except ValueError:
        return False
