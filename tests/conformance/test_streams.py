"""Streams as upstreams send them, well-formed or not: nothing unjudged is released, and clients can read the rest."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from guardproxy.policy import StreamPolicy
from tests.conformance.clients import CLIENTS, STOPS, Client
from tests.conformance.guarding import Guarding
from tests.conformance.speech import PROTOCOLS, SSE, Protocol
from tests.conformance.stand import CLOSING, REFUSAL, Stand, standing
from tests.kit import Scripted
from tests.web.kit import ENCODINGS, policy
from tests.wires.kit import BY_NAME

CLEAN = ["Tides ", "come in ", "twice ", "a day."]
HARM = ["Tides ", "come in, ", "take poison ", "and stir."]

PASS_THROUGH = [PROTOCOLS[name] for name in PROTOCOLS if name != "gemini-array"]
EVENTS = [protocol for protocol in PROTOCOLS.values() if protocol.content_type == SSE]
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
each_events = pytest.mark.parametrize("protocol", EVENTS, ids=lambda protocol: protocol.name)
# A client of each protocol that reads a stream.
READERS = list({client.protocol: client for client in CLIENTS if client.streamed}.values())
each_reader = pytest.mark.parametrize("client", READERS, ids=lambda client: client.protocol)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A proxy for all tests of this module."""
    with standing() as found:
        yield found


@pytest.fixture
def http(stand: Stand) -> Iterator[httpx.Client]:
    """A plain client of the proxy."""
    with httpx.Client(base_url=stand.watch.url, timeout=60, trust_env=False) as client:
        yield client


def reviewed(protocol: Protocol, body: bytes, *, every: int = 5, size: int = 7) -> bytes:
    """Return the bytes that reach the client of a streamed reply sent in pieces of `size` bytes."""
    guarding = Guarding(policy(stream=StreamPolicy(every=every)))
    exchange = guarding.exchange(protocol.wire, protocol.request("Hello there.", stream=True))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return guarding.stream(exchange, pieces, protocol.content_type)


def read_again(protocol: Protocol, body: bytes) -> str:
    """Return the text of a stream."""
    stream = protocol.wire.open_stream(protocol.request("Hello there.", stream=True), protocol.content_type)
    _ = [*stream.feed(body), *stream.finish()]
    return "".join(part.text for choice in stream.choices for part in stream.message(choice).parts)


# --- forms of events -------------------------------------------------------------------------------------------------


def _several_lines(frame: bytes) -> bytes:
    """Split the data of every event over two lines, which a reader joins with a line break."""
    return frame.replace(b"{", b"{\ndata: ", 1)


FORMS: dict[str, Callable[[list[bytes]], bytes]] = {
    "line feeds": lambda frames: b"".join(frames).replace(b"\r\n", b"\n"),
    "carriage returns": lambda frames: b"".join(frames).replace(b"\r\n", b"\n").replace(b"\n", b"\r"),
    "both": lambda frames: b"".join(frames).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "comments": lambda frames: b": hello\n\n" + b": keep-alive\n\n".join(frames) + b":\n\n",
    "comments inside": lambda frames: b"".join(frame.replace(b"data:", b": one\ndata:", 1) for frame in frames),
    "blank lines": b"\n\n\n".join,
    "no space": lambda frames: b"".join(frames).replace(b"data: ", b"data:"),
    "several lines": lambda frames: b"".join(_several_lines(frame) for frame in frames),
    "ids and retries": lambda frames: b"retry: 3000\n" + b"".join(b"id: 1\n" + frame for frame in frames),
}

# The forms that do not leave as they came: comments of the upstream do not leave, and several lines become one.
LEAVES: dict[str, Callable[[list[bytes]], bytes]] = {
    "comments": lambda frames: b": keep-alive\n\n" + b": keep-alive\n\n".join([*frames, b""]),
    "comments inside": b"".join,
    "several lines": lambda frames: b"".join(frame.replace(b"{", b"{ ", 1) for frame in frames),
}


@each_events
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_events_is_read(protocol: Protocol, form: str) -> None:
    """In every form that the format allows, a harmless stream passes in this form and a harmful stream is found."""
    clean = FORMS[form](protocol.streamed(CLEAN))
    assert reviewed(protocol, clean) == LEAVES.get(form, FORMS[form])(protocol.streamed(CLEAN))
    told = reviewed(protocol, FORMS[form](protocol.streamed(HARM)))
    assert b"poison" not in told
    assert b"stir" not in told
    assert read_again(protocol, told).startswith("Tides come in, ")


@pytest.mark.parametrize("protocol", PASS_THROUGH, ids=lambda protocol: protocol.name)
def test_a_byte_order_mark(protocol: Protocol) -> None:
    """A byte order mark, which costs clients the first event, is removed; the events behind it are judged."""
    clean = b"".join(protocol.streamed(CLEAN))
    assert reviewed(protocol, b"\xef\xbb\xbf" + clean) == clean
    assert b"poison" not in reviewed(protocol, b"\xef\xbb\xbf" + b"".join(protocol.streamed(HARM)))


# Gemini's client reads plain events only.
UNDERSTOOD = [
    (client, form)
    for client in READERS
    for form in ("both", "several lines", "comments", "ids and retries")
    if PROTOCOLS[client.protocol].content_type == SSE and (client.protocol != "gemini" or form == "both")
]


@pytest.mark.parametrize(("client", "form"), UNDERSTOOD, ids=lambda one: getattr(one, "protocol", one))
def test_clients_read_what_passes(stand: Stand, client: Client, form: str) -> None:
    """Every form that a client understands also reaches it through the proxy."""
    protocol = PROTOCOLS[client.protocol]
    body = FORMS[form](protocol.streamed(CLEAN))
    stand.play(Scripted([body], headers={"content-type": SSE}))
    assert stand.ask(client, "Hello there.").text == "".join(CLEAN)
    assert stand.received == LEAVES.get(form, FORMS[form])(protocol.streamed(CLEAN))


def test_blank_lines_of_ollama(stand: Stand) -> None:
    """A blank line, which Ollama's client cannot parse, does not reach it."""
    protocol = PROTOCOLS["ollama-chat"]
    client = next(client for client in READERS if client.protocol == "ollama-chat")
    body = b"\n\r\n".join(protocol.streamed(CLEAN))
    stand.play(Scripted([body], headers={"content-type": protocol.content_type}))
    read = stand.ask(client, "Hello there.")
    assert (read.text, read.stop) == ("".join(CLEAN), "stop")


def test_own_texts_keep_line_readers_whole(stand: Stand) -> None:
    """A separator that Ollama's client takes for a line end is escaped in lines that the proxy writes."""
    protocol = PROTOCOLS["ollama-chat"]
    client = next(client for client in READERS if client.protocol == "ollama-chat")
    pieces = ["One\\u2028two. ", "A secret. ", "Three."]
    body = b"".join(protocol.streamed(pieces)).replace(b"\\\\u2028", b"\\u2028")
    stand.play(Scripted([body], headers={"content-type": protocol.content_type}))
    read = stand.ask(client, "Hello there.", "redact")
    assert read.text == "One\u2028two. [removed] Three."
    assert "\u2028".encode() not in stand.received


# --- labels and encodings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PASS_THROUGH, ids=lambda protocol: protocol.name)
@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "application/octet-stream", SSE, "application/x-ndjson"]
)
def test_a_stream_under_a_wrong_label(stand: Stand, http: httpx.Client, protocol: Protocol, kind: str) -> None:
    """A stream with a wrong content type is judged by its content."""
    for pieces in (CLEAN, HARM):
        body = b"".join(protocol.streamed(pieces))
        stand.play(Scripted([body], headers={"content-type": kind}))
        answer = http.post(protocol.target(stream=True), json=protocol.ask("Hello there.", True))
        assert (answer.status_code, b"poison" in answer.content) == (200, False)
        assert pieces is HARM or answer.content == body


@pytest.mark.parametrize("protocol", PASS_THROUGH, ids=lambda protocol: protocol.name)
def test_a_whole_reply_under_the_label_of_a_stream(stand: Stand, http: httpx.Client, protocol: Protocol) -> None:
    """A whole reply to a request for a stream is judged, whatever its content type says."""
    for kind in (SSE, "application/x-ndjson", "text/plain", "application/json"):
        for pieces, indent in ((CLEAN, None), (HARM, None), (CLEAN, 1), (HARM, 1)):
            body = json.dumps(protocol.whole("".join(pieces)), indent=indent).encode()
            stand.play(Scripted([body], headers={"content-type": kind}))
            answer = http.post(protocol.target(stream=True), json=protocol.ask("Hello there.", True))
            assert b"poison" not in answer.content
            assert (answer.status_code, pieces is HARM or answer.content == body) == (200, True)


@each_protocol
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("encoding", [*ENCODINGS, "compress"])
def test_compressed_answers(stand: Stand, http: httpx.Client, protocol: Protocol, stream: bool, encoding: str) -> None:
    """A compressed answer is judged, or refused with the protocol's own error if it cannot be decompressed."""
    for pieces in (CLEAN, HARM):
        plain = b"".join(protocol.streamed(pieces)) if stream else json.dumps(protocol.whole("".join(pieces))).encode()
        packed = ENCODINGS[encoding](plain) if encoding in ENCODINGS else b"\x28\xb5\x2f\xfd" + plain
        kind = protocol.content_type if stream else "application/json"
        stand.play(Scripted([packed], headers={"content-type": kind, "content-encoding": encoding}))
        answer = http.post(protocol.target(stream=stream), json=protocol.ask("Hello there.", stream))
        assert b"poison" not in answer.content
        assert "content-encoding" not in answer.headers
        if encoding not in ENCODINGS:
            assert answer.status_code == 502
            assert answer.headers["x-should-retry"] == "false"
            assert answer.json()["error"]
        elif pieces is CLEAN:
            assert answer.content == plain


# --- endings ---------------------------------------------------------------------------------------------------------


@each_protocol
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_stream_without_its_end(protocol: Protocol, missing: int) -> None:
    """A stream without its end is judged as far as it came, and passes unchanged."""
    body = b"".join(protocol.streamed([*CLEAN, "More."])[:-missing])
    assert reviewed(protocol, body).startswith(body)
    told = reviewed(protocol, b"".join(protocol.streamed([*HARM, "More."])[:-missing]))
    assert b"poison" not in told


@each_protocol
def test_a_stream_that_ends_in_a_frame(protocol: Protocol) -> None:
    """An incomplete last frame is judged, too."""
    body = b"".join(protocol.streamed(HARM))
    for cut in range(body.index(b"poison"), body.index(b"poison") + 30):
        assert b"poison" not in reviewed(protocol, body[:cut], size=64)


ERRORS = {
    "chat": b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n',
    "completions": b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n',
    "responses": b'event: error\ndata: {"type":"error","code":"server_error","message":"overloaded","param":null,'
    b'"sequence_number":99}\n\n',
    "messages": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"overloaded"}}\n\n',
    "ollama-chat": b'{"error":"overloaded"}\n',
    "ollama-generate": b'{"error":"overloaded"}\n',
    "gemini": b'data: {"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}\r\n\r\n',
}


@pytest.mark.parametrize("protocol", PASS_THROUGH, ids=lambda protocol: protocol.name)
def test_an_error_in_the_stream(protocol: Protocol) -> None:
    """A harmless error in mid-stream passes behind the judged text before it."""
    error = ERRORS[protocol.name]
    places = [n for n, frame in enumerate(protocol.streamed(CLEAN)) if b"twice" in frame]
    body = b"".join(protocol.streamed(CLEAN)[: places[0] + 1])
    assert reviewed(protocol, body + error).startswith(body + error)
    places = [n for n, frame in enumerate(protocol.streamed(HARM)) if b"poison" in frame]
    told = reviewed(protocol, b"".join(protocol.streamed(HARM)[: places[0] + 1]) + error)
    assert b"poison" not in told


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "invalid JSON": lambda frame: frame.replace(b"{", b"{{", 1),
    "invalid UTF-8": lambda frame: frame.replace(b"MARK", b"\xff\xfe"),
    "half a pair": lambda frame: frame.replace(b"MARK", b"\\ud83d"),
    "a key twice": lambda frame: frame.replace(b"{", b'{"model":"m","model":"n",', 1),
    "another type": lambda frame: frame.replace(b'"MARK"', b'["MARK"]'),
    "deep": lambda frame: frame.replace(b'"MARK"', b"[" * 5000 + b"]" * 5000),
}


@each_reader
@pytest.mark.parametrize("kind", BROKEN)
def test_an_unreadable_frame(stand: Stand, client: Client, kind: str) -> None:
    """An unreadable frame ends the reply: the client gets the judged text and the protocol's stop reason."""
    protocol = PROTOCOLS[client.protocol]
    frames = protocol.streamed(["Tides come in. ", "MARK", "unread"])
    place = next(n for n, frame in enumerate(frames) if b"MARK" in frame)
    wait = partial(stand.watch.wait_for, b"Tides", 60)
    broken = BROKEN[kind](frames[place])
    body: list[Any] = [*frames[:place], wait, broken, *frames[place + 1 :]]
    stand.play(Scripted(body, headers={"content-type": protocol.content_type}))
    read = stand.ask(client, "Hello there.")
    assert (read.text, read.stop) == (f"Tides come in. {CLOSING}", STOPS[client.protocol][0])
    assert b"unread" not in stand.received


@each_reader
def test_an_unreadable_start(stand: Stand, client: Client) -> None:
    """If no text was released before the unreadable frame, the client reads the refusal."""
    protocol = PROTOCOLS[client.protocol]
    frames = [frame.replace(b"Tides", b"\xff") for frame in protocol.streamed(["Tides come in."])]
    stand.play(Scripted(frames, headers={"content-type": protocol.content_type}))
    read = stand.ask(client, "Hello there.")
    assert (read.text, read.stop) == (REFUSAL, STOPS[client.protocol][0])


# --- several answers at once -----------------------------------------------------------------------------------------


def _choices(name: str, pieces: list[tuple[int, str, bool]]) -> bytes:
    """Return a stream with pieces of several choices: index, text, and whether it is the last piece."""
    protocol = PROTOCOLS[name]
    frames = []
    for index, text, last in pieces:
        event = protocol.events(["x", text])[-1 if name == "gemini" and last else -2]
        if name != "gemini" and last:
            event = protocol.events([text])[-1]
        if name == "gemini" and not last:
            event = protocol.events([text, "x"])[0]
        body = json.loads(json.dumps(event.body))
        body["candidates" if name == "gemini" else "choices"][0]["index"] = index
        frames.append(protocol.frame(replace(event, body=body), lambda value: json.dumps(value).encode()))
    return b"".join([*frames, protocol.end])


@pytest.mark.parametrize("name", ["chat", "completions", "gemini"])
@pytest.mark.parametrize("bad", [0, 1])
def test_answers_side_by_side(name: str, bad: int) -> None:
    """Several choices are judged separately: the harmful choice is ended, the other goes on to its end."""
    protocol, good = PROTOCOLS[name], 1 - bad
    body = _choices(
        name,
        [
            (0, "One. ", False),
            (1, "One. ", False),
            (bad, "take poison ", False),
            (good, "Two. ", False),
            (bad, "and stir", False),
            (good, "Three.", False),
            (bad, "", True),
            (good, "", True),
        ],
    )
    told = reviewed(protocol, body)
    assert b"poison" not in told
    assert b"stir" not in told
    stream = protocol.wire.open_stream(protocol.request("Hello there.", stream=True), SSE)
    _ = [*stream.feed(told), *stream.finish()]
    assert stream.message(good).text == "One. Two. Three."
    assert stream.message(bad).text in (f"One. {CLOSING}", REFUSAL)


@pytest.mark.parametrize("name", ["chat-tools", "ollama-tools", "messages", "responses"])
def test_calls_of_tools(name: str) -> None:
    """Tool calls are released as a whole and judged, or not at all."""
    case = BY_NAME[name]
    guarding = Guarding(policy(stream=StreamPolicy(every=5)))
    exchange = guarding.exchange(case.wire, case.request())
    pieces = [case.raw[start : start + 11] for start in range(0, len(case.raw), 11)]
    assert guarding.stream(exchange, pieces, case.content_type) == case.raw
    called = {"chat-tools": b"Brest", "ollama-tools": b"Brest", "messages": b"Brest", "responses": b'"f"'}[name]
    new = b'"poison"' if called == b'"f"' else b"poison"
    harmful = case.raw.replace(called, new)
    assert harmful != case.raw
    told = guarding.stream(exchange, [harmful], case.content_type)
    assert b"poison" not in told
    again = case.open()
    _ = [*again.feed(told), *again.finish()]
    parts = again.message(0).parts
    assert not any(part.kind == "tool_call" and "poison" in part.text for part in parts)
