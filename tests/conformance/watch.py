"""A relay between a client and a proxy that forwards everything unchanged and records it.

It sees the requests that a client really sends, so a retry counts as a request.
"""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "host"}


@dataclass
class Crossed:
    """A request and its answer; `broken` if the answer broke off."""

    method: str
    target: str
    asked: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytearray = field(default_factory=bytearray)
    broken: bool = False


class Watch:
    """The recorded requests and answers. Clients send to `url`."""

    def __init__(self) -> None:
        self.url = ""
        self.crossed: list[Crossed] = []
        self._changed = threading.Condition()

    def wait_for(self, text: bytes, seconds: float) -> None:
        """Wait until `text` has come in an answer. Raises AssertionError after `seconds`."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: any(text in crossed.answer for crossed in self.crossed), seconds)
        assert arrived, f"{text!r} did not arrive in {seconds} s"

    def began(self, crossed: Crossed) -> None:
        """Record a request."""
        self.crossed.append(crossed)

    def came(self, crossed: Crossed, data: bytes) -> None:
        """Record a piece of an answer before it goes to the client."""
        with self._changed:
            crossed.answer += data
            self._changed.notify_all()


@contextmanager
def watching(upstream: str) -> Iterator[Watch]:
    """A watch before the server at `upstream` (http or https)."""
    watch = Watch()
    server = _Server(("127.0.0.1", 0), _handler(watch, upstream))
    watch.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes is nothing to speak of; what it missed is in `crossed`."""


def _handler(watch: Watch, upstream: str) -> type[BaseHTTPRequestHandler]:
    target = urlsplit(upstream)
    connect = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def relay(self) -> None:
            """Ask the server the same, and answer the same."""
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            crossed = Crossed(self.command, self.path, body)
            watch.began(crossed)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _ONE_CONNECTION}
            connection = connect(target.netloc, timeout=60)
            try:
                connection.request(self.command, target.path.rstrip("/") + self.path, body, headers)
                self._answer(crossed, connection.getresponse())
            finally:
                connection.close()

        def _answer(self, crossed: Crossed, response: http.client.HTTPResponse) -> None:
            crossed.status, crossed.headers = response.status, {k.lower(): v for k, v in response.getheaders()}
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _ONE_CONNECTION:
                    self.send_header(name, value)
            chunked = "content-length" not in crossed.headers
            if chunked:
                self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                while data := response.read1(65536):
                    watch.came(crossed, data)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            except (http.client.HTTPException, OSError):
                crossed.broken = self.close_connection = True
                return
            if chunked:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = relay  # noqa: N815 (names that the base class looks for)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    return Handler
