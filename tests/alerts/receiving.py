"""Receivers of alerts as processes that can be killed: a webhook that checks signatures, a syslog server over TLS.

`python -m tests.alerts.receiving webhook PORT FILE SECRET` and `... syslog PORT FILE CERT KEY` append what they take to
a file, one JSON line each. Standard library alone, and none of guardproxy's code: they read what the standards say.
"""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether the headers of Standard Webhooks sign a body with this secret, not longer than five minutes ago."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    wanted = base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
    versions = [one.partition(",") for one in headers["webhook-signature"].split(" ")]
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    return fresh and any(version == "v1" and hmac.compare_digest(given, wanted) for version, _, given in versions)


def frames(data: bytes) -> Iterator[str]:
    """The messages in frames of RFC 5425: a length in bytes, a space, the message."""
    while data:
        length, _, rest = data.partition(b" ")
        size = int(length)
        if len(rest) < size:
            raise ValueError("the last frame is cut")
        yield rest[:size].decode()
        data = rest[size:]


def _append(path: Path, *lines: Any) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _webhook(port: int, path: Path, secret: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            valid = signed(secret, headers, body)
            if valid:
                _append(path, {"id": headers["webhook-id"], "body": json.loads(body)})
            self.send_response(204 if valid else 401)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def _syslog(port: int, path: Path, cert: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listening = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listening.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                data = b""
                while part := tls.recv(65_536):
                    data += part
                _append(path, *frames(data))
                tls.unwrap()
        except (OSError, ValueError):
            continue


@contextmanager
def running(*arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A receiver as a process, as soon as it listens; it is killed at the end."""
    process = subprocess.Popen([sys.executable, "-m", "tests.alerts.receiving", *map(str, arguments)])
    try:
        deadline = time.monotonic() + 30
        while process.poll() is None:
            assert time.monotonic() < deadline
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(str(arguments[1])))) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait(30)


def taken(path: Path) -> list[Any]:
    """What a receiver has taken so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    {"webhook": _webhook, "syslog": _syslog}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
