"""An upstream over raw sockets that breaks HTTP, or the connection, in the way that a request names as its model.

What stands before a colon in the model's name chooses the policy, as the routes of `stand.CONFIG` say.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from tests.kit import free_port

TEXT = "The harbour opens at nine. "
Play = Callable[[socket.socket], None]

_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PAUSE_S = 0.2  # between two bytes of an upstream that is slow
_GIVE_UP_S = 60.0  # an upstream that waits for the proxy to leave waits no longer than this


def completion(text: str) -> bytes:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(body).encode()


def frame(text: str, finish: str | None = None) -> bytes:
    """A frame of a streamed chat completion."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(head).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(body: bytes, version: bytes = b"1.1", length: int | None = None) -> bytes:
    """A whole answer, its head included."""
    size = len(body) if length is None else length
    return b"HTTP/%b 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (version, size, body)


def _send(*parts: bytes) -> Play:
    """Send the parts, then close."""
    return lambda connection: connection.sendall(b"".join(parts))


def _then_waits(*parts: bytes) -> Play:
    """Send the parts, then nothing until the proxy closes the connection."""

    def play(connection: socket.socket) -> None:
        connection.sendall(b"".join(parts))
        while connection.recv(65536):
            pass

    return play


def _then_resets(*parts: bytes) -> Play:
    """Send the parts, then reset the connection."""

    def play(connection: socket.socket) -> None:
        connection.sendall(b"".join(parts))
        time.sleep(0.1)  # a reset takes what the other end has not read yet
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return play


def _in_parts(*parts: bytes) -> Play:
    """Send the parts one after the other, with a pause."""

    def play(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.3)

    return play


def _slowly(before: bytes, *pieces: bytes) -> Play:
    """Send `before`, then one of the pieces at a time, over and over again."""

    def play(connection: socket.socket) -> None:
        connection.sendall(before)
        end = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < end:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(_PAUSE_S)

    return play


def _endless(before: bytes, piece: bytes) -> Play:
    """Send `before`, then `piece` over and over again, as fast as the proxy reads."""

    def play(connection: socket.socket) -> None:
        connection.sendall(before)
        end = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < end:
            connection.sendall(piece)

    return play


_END = chunk(frame("", "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _steadily(connection: socket.socket) -> None:
    """A stream of a frame every tenth of a second, which ends after two seconds."""
    connection.sendall(_SSE)
    for _ in range(20):
        connection.sendall(chunk(frame(TEXT)))
        time.sleep(0.1)
    connection.sendall(_END)


_FINE = _SSE + chunk(frame(TEXT)) + chunk(frame(TEXT)) + _END
_BEGUN = _SSE + chunk(frame(TEXT))
_BYTES = [bytes([byte]) for byte in b"x-slow: 1\r\n"]
_COMMENTS = b": %b\n\n" % (b"c" * 160) * 100
_WORDS = chunk(frame("word " * 3000))

PLAYS: dict[str, Play] = {
    "fine": _send(whole(completion(TEXT))),
    "streams": _send(_FINE),
    "silent": _then_waits(),
    "slow-head": _slowly(b"HTTP/1.1 200 OK\r\n", *_BYTES),
    "closes": _send(),
    "resets": _then_resets(),
    "no-http": _send(b"\x16\x03\x01\x02\x00" * 40 + b"\r\n\r\n"),
    "endless-head": _endless(b"HTTP/1.1 200 OK\r\n", b"x-long: " + b"a" * 4000 + b"\r\n"),
    "stalled-body": _then_waits(whole(completion(TEXT)[:40], length=4000)),
    "short-body": _send(whole(completion(TEXT)[:40], length=4000)),
    "no-json": _send(whole(b'{"choices": [{' + b"\xff" * 40)),
    "endless-body": _endless(whole(b"", length=5_000_000_000), b" " * 65536),
    "slow-body": _slowly(whole(b"", length=5_000_000), b" "),
    "stalled-stream": _then_waits(_SSE),
    "stalls": _then_waits(_BEGUN),
    "dies": _send(_BEGUN),
    "resets-late": _then_resets(_BEGUN),
    "bad-chunk": _then_waits(_BEGUN, b"zz\r\n"),
    "bad-chunk-late": _in_parts(_BEGUN, b"zz\r\n"),
    "bad-frame": _send(_BEGUN, chunk(b'data: {"choices": [{\n\n'), b"0\r\n\r\n"),
    "slow-stream": _slowly(_BEGUN, chunk(b": comment\n\n")),
    "comments": _endless(_SSE, chunk(_COMMENTS)),
    "endless-stream": _endless(_SSE, _WORDS),
    "one-frame": _endless(_SSE + chunk(b"data: "), chunk(b"a" * 30_000)),
    "old-whole": _send(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n", completion(TEXT)),
    "old-short": _send(whole(completion(TEXT)[:40], b"1.0", length=4000)),
    "old-stream": _send(
        b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        frame(TEXT) + frame(TEXT) + frame("", "stop") + b"data: [DONE]\n\n",
    ),
    "old-dies": _send(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", frame(TEXT)),
    "steady": _steadily,
    "raise-late": _in_parts(_SSE + chunk(frame(TEXT * 12)), chunk(frame("RAISE " * 60)), _END),
}
_STAY_OPEN = frozenset({"fine", "streams"})  # for further requests


class RawUpstream:
    """Listens on a port of the loopback interface. `asked` has the bodies of the requests that it has read."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.port = free_port()
        self._listening: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.listen()

    @property
    def url(self) -> str:
        """The address for the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Listen, on the same port as before."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self._listening], daemon=True).start()

    def refuse(self) -> None:
        """Stop to listen: the next connections are refused. Those that wait for another request are closed."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with connection, suppress(OSError):
            while (request := _request_of(connection)) is not None:
                self.asked.append(request[1])
                if not self.play(connection, *request):
                    break
        self._open.discard(connection)

    def play(self, connection: socket.socket, target: str, body: Mapping[str, Any]) -> bool:
        """Answer a request; return whether the connection stays open."""
        name = body["model"].rpartition(":")[2]
        PLAYS[name](connection)
        return name in _STAY_OPEN


def _request_of(connection: socket.socket) -> tuple[str, dict[str, Any]] | None:
    """The target and the body of a request; None if the connection closes before."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (got := connection.recv(65536)):
            return None
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line.lower() for line in head.split(b"\r\n")]
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return head.split()[1].decode(), json.loads(body)


@contextmanager
def raw_upstream(kind: type[RawUpstream] = RawUpstream) -> Iterator[RawUpstream]:
    """A listening upstream, which closes its connections at the end."""
    upstream = kind()
    try:
        yield upstream
    finally:
        upstream.refuse()
