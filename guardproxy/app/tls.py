"""The TLS contexts of the listeners."""

import ssl
from pathlib import Path
from typing import Any

import structlog

from guardproxy.settings import ServerTlsSettings

_log = structlog.get_logger("guardproxy")

_Stamp = tuple[tuple[int, int, int] | None, ...]


def listening_context(tls: ServerTlsSettings, *_: Any) -> ssl.SSLContext:
    """The context with which a listener answers: TLS 1.2 at least, and the certificate that the files now have.

    uvicorn calls this with its configuration and its own factory, which are not needed. Raises OSError or ssl.SSLError.
    """
    return _Certificate(tls).context


class _Certificate:
    """A certificate that is read again, at the next connection, when one of its files has changed."""

    def __init__(self, tls: ServerTlsSettings) -> None:
        self._tls = tls
        self._stamp = self._files()
        self.context = self._current = _context(tls)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        """Use the current certificate for a connection. OpenSSL calls this whether or not the client names a host."""
        stamp = self._files()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._current = _context(self._tls)
            except (OSError, ssl.SSLError) as error:  # half of a pair may be written: its change is tried again
                _log.error("certificate_not_reloaded", cert=self._tls.cert, error=str(error))
            else:
                _log.info("certificate_reloaded", cert=self._tls.cert)
        connection.context = self._current

    def _files(self) -> _Stamp:
        return tuple(_stamp(file) for file in (self._tls.cert, self._tls.key, self._tls.client_ca) if file)


def _stamp(file: str) -> tuple[int, int, int] | None:
    """The modification time, size and inode of a file, or None if it is missing."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _context(tls: ServerTlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The password is for a key that has one: without it, OpenSSL would ask for it on the terminal.
    context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
