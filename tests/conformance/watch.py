"""A relay between a client and a proxy that passes everything on as it comes and notes what crosses.

It knows nothing of any client, so it counts what a client really asked for: a retry is a request.
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
    """One request and what came back for it; `broken` where the answer broke off."""

    method: str
    target: str
    asked: bytes
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytearray = field(default_factory=bytearray)
    broken: bool = False


class Watch:
    """What has crossed. `url` is where clients are to be pointed at."""

    def __init__(self) -> None:
        self.url = ""
        self.crossed: list[Crossed] = []
        self._changed = threading.Condition()

    def wait_for(self, text: bytes, seconds: float) -> None:
        """Wait until an answer has brought `text`. Raises AssertionError where none did in time."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: any(text in one.answer for one in self.crossed), seconds)
        assert arrived, f"{text!r} did not arrive in {seconds} s"

    def began(self, one: Crossed) -> None:
        """A request has come."""
        self.crossed.append(one)

    def came(self, one: Crossed, data: bytes) -> None:
        """A piece of its answer has come, and goes on to the client."""
        with self._changed:
            one.answer += data
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
            one = Crossed(self.command, self.path, body)
            watch.began(one)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _ONE_CONNECTION}
            connection = connect(target.netloc, timeout=60)
            try:
                connection.request(self.command, target.path.rstrip("/") + self.path, body, headers)
                self._answer(one, connection.getresponse())
            finally:
                connection.close()

        def _answer(self, one: Crossed, response: http.client.HTTPResponse) -> None:
            one.status, one.headers = response.status, {k.lower(): v for k, v in response.getheaders()}
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _ONE_CONNECTION:
                    self.send_header(name, value)
            chunked = "content-length" not in one.headers
            if chunked:
                self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                while data := response.read1(65536):
                    watch.came(one, data)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            except (http.client.HTTPException, OSError):
                one.broken = self.close_connection = True
                return
            if chunked:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = relay  # noqa: N815 (names that the base class looks for)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    return Handler
