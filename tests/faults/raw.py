"""A client over a raw socket, which sends pieces, pauses and leaves."""

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from tests.faults.stand import CHAT, Got, Proxy
from tests.kit import until


def request(body: dict[str, Any], length: int | None = None) -> bytes:
    """The bytes of a chat request; `length` is a wrong content-length."""
    sent = json.dumps(body).encode()
    size = len(sent) if length is None else length
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    return head.encode() + sent


def leave_after(proxy: Proxy, sent: bytes, seconds: float, when: Callable[[], Any] = lambda: True) -> None:
    """Send a request, wait for `when` and then for some seconds, and close the connection."""
    with socket.create_connection(("127.0.0.1", proxy.port), 60) as client:
        client.sendall(sent)
        until(when)
        time.sleep(seconds)


def until_closed(proxy: Proxy, *pieces: bytes, pause_s: float = 0.0) -> Got:
    """What the proxy sends until it closes the connection."""
    data = b""
    with socket.create_connection(("127.0.0.1", proxy.port), 60) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
                if select.select([client], [], [], pause_s)[0]:
                    break  # what is sent behind an answer makes the system drop it
            while got := client.recv(65536):
                data += got
        except ConnectionError:
            pass
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return Got(int(head.split()[1]) if head else 0, fields, body)
