"""Alerts sent to a syslog server: RFC 5424 in frames of RFC 5425, over TLS."""

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

from guardproxy.alerting import Alert, AlertMessage
from guardproxy.observe.alerts.formats import cef_line, ocsf_line
from guardproxy.observe.alerts.receivers import NotTaken
from guardproxy.types import ActionName

SyslogFormat = Literal["cef", "ocsf"]

_Done = TypeVar("_Done")
_LINES: Final = {"cef": cef_line, "ocsf": ocsf_line}
_FACILITY: Final = 10  # security and authorization messages
# informational, notice, warning
_SEVERITY: Final[dict[ActionName, int]] = {"pass": 6, "flag": 5, "rewrite": 5, "block": 4}
_READ: Final = 65_536
_QUIET_S: Final = 0.05


def syslog_frame(alert: Alert, sent_at: float, host: str, form: SyslogFormat, *, text: bool) -> bytes:
    """An alert as a syslog message in a frame: its length in bytes, a space, the message. `sent_at` is in seconds."""
    priority = _FACILITY * 8 + _SEVERITY[alert.record.decision.action]
    stamp = datetime.fromtimestamp(sent_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = _LINES[form](alert, sent_at, text=text)
    message = f"<{priority}>1 {stamp} {host} guardproxy {os.getpid()} alert - {line}".encode()
    return b"%d %b" % (len(message), message)


class SyslogReceiver:
    """A syslog server at `host` and `port`. Each message takes a connection of its own.

    Syslog has no acknowledgements. So a message counts as taken when the server ends the connection after it was asked
    to: it has read everything then. One that was killed ends it before, resets it, or leaves it open.
    """

    def __init__(
        self, host: str, port: int, *, form: SyslogFormat, text: bool, timeout_s: float, tls: ssl.SSLContext
    ) -> None:
        self.place = f"{host}:{port}"
        self._host, self._port = host, port
        self._form: SyslogFormat = form
        self._text = text
        self._timeout_s = timeout_s
        self._tls = tls
        self._own_host = re.sub(r"[^\x21-\x7e]", "", socket.gethostname())[:255] or "-"

    async def send(self, message: AlertMessage) -> str:
        """Send every alert of a message as a syslog message of its own. Raises NotTaken."""
        frames = b"".join(
            syslog_frame(alert, message.time, self._own_host, self._form, text=self._text) for alert in message.alerts
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(frames)
        except TimeoutError:
            raise NotTaken(f"{self.place}: no end of the connection within {self._timeout_s:g} s") from None
        except (OSError, UnicodeError) as error:  # ssl.SSLError is one; UnicodeError: a host that can be no name
            raise NotTaken(f"{self.place}: {type(error).__name__}: {error}") from None
        return f"{len(message.alerts)} written over TLS, and read to the end"

    async def _exchange(self, frames: bytes) -> None:
        # Not a TLS transport of asyncio: that one does not tell an end of the connection from a reset.
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            tls = _TlsExchange(reader, writer, self._tls, self._host)
            await tls.run(tls.object.do_handshake)
            await tls.run(lambda: tls.object.write(frames))
            # As long as the connection took, which is two round trips: time for a dead server's kernel to say so.
            await tls.stays_open(max(_QUIET_S, time.monotonic() - began))
            await tls.end()
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        """Do nothing: no connection stays open."""


class _TlsExchange:
    """TLS over a connection, in steps that read and write as they need to."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, host: str
    ) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ended = False
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def run(self, step: Callable[[], _Done]) -> _Done:
        """Do a step of TLS; return its result. Raises OSError, also at the connection's end."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._read()
            else:
                await self._flush()
                return done

    async def stays_open(self, seconds: float) -> None:
        """Wait for some seconds. Raises OSError if the server ends the connection meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._ended:
                    await self._read()
        if self._ended:
            raise ConnectionError("the server ended the connection before it was asked to")

    async def end(self) -> None:
        """End the connection, and wait for the server to end it as well. Raises OSError if it breaks.

        Not every server ends TLS before the connection; one with unread bytes would reset it.
        """
        try:
            await self.run(self.object.unwrap)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return

    async def _flush(self) -> None:
        self._writer.write(self._outgoing.read())
        await self._writer.drain()

    async def _read(self) -> None:
        data = await self._reader.read(_READ)
        if data:
            self._incoming.write(data)
        else:
            self._ended = True
            self._incoming.write_eof()
