"""A moderation service in a process of its own, in the form of OpenAI's: `python -m tests.faults.guard PORT`.

It finds "poison" and "kill" unsafe. Some words in a text break it, each in its own way.
"""

import json
import os
import resource
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from guardproxy.families.openai_moderation import OMNI


class Judge(BaseHTTPRequestHandler):
    """Answers one call."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """The scores of each text, unless one breaks the service."""
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        words = " ".join(texts)
        if "SLOWLY" in words:
            time.sleep(2)
        if "HANG" in words:
            time.sleep(30)
        if "RAISE" in words:
            self._answer(500, b"broken")
        elif "GARBAGE" in words:
            self._answer(200, b'{"results": [')
        elif "NONSENSE" in words:
            self._answer(
                200, json.dumps({"results": [{"category_scores": dict.fromkeys(OMNI, 7)}] * len(texts)}).encode()
            )
        elif "ENDLESS" in words:
            self._endless()
        elif "MEMORY" in words:
            bytearray(100_000_000_000)
        elif "KILL" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            scores = [
                {"category_scores": dict.fromkeys(OMNI, 0.9 if "poison" in text or "kill" in text else 0.1)}
                for text in texts
            ]
            self._answer(200, json.dumps({"results": scores}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "5000000000")
        self.end_headers()
        while True:
            self.wfile.write(b" " * 65536)

    def log_message(self, *arguments: Any) -> None:
        """Write nothing."""


class Service(ThreadingHTTPServer):
    """The service."""

    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        """Write nothing: the proxy leaves when it has waited long enough."""


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
    Service(("127.0.0.1", int(sys.argv[1])), Judge).serve_forever()
