"""Content-encodings of upstream bodies, undone so that the text can be judged."""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import brotli

from guardproxy.errors import UpstreamUnreadable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# The largest window that a zstd body may ask for (RFC 9659): what is kept in memory to go on from.
_ZSTD_WINDOW: Final = {int(zstd.DecompressionParameter.window_log_max): 23}


class Decoder:
    """Undoes an encoding in pieces of at most `PIECE` bytes, however far the input expands.

    `new` gives what undoes one member of the body; another may follow it (gzip and zstd have several).
    """

    PIECE: Final = 1 << 16

    def __init__(self, new: "Callable[[], _Member]") -> None:
        self._new = new
        self._member = new()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds. Raises UpstreamUnreadable."""
        while True:
            if self._member.ended and data:
                self._member = self._new()
            try:
                piece, data = self._member.undo(data, self.PIECE)
            except (zlib.error, zstd.ZstdError, brotli.error) as error:
                raise UpstreamUnreadable(f"its content-encoding is broken: {error}") from error
            if piece:
                yield piece
            elif not data:
                return

    def finish(self) -> None:
        """The body has ended. Raises UpstreamUnreadable where its encoding has not."""
        if not self._member.ended:
            raise UpstreamUnreadable("its compressed body ends too soon")


class _Member(Protocol):
    """One compressed whole."""

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        ...

    def undo(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        """At most `limit` bytes of what `data`, behind all before, says; and what of `data` is still to be given."""
        ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    @property
    def ended(self) -> bool:
        return self._zlib.eof

    def undo(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        piece = self._zlib.decompress(data, limit)
        return piece, self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail


class _Zstd:
    def __init__(self) -> None:
        self._zstd = zstd.ZstdDecompressor(options=_ZSTD_WINDOW)

    @property
    def ended(self) -> bool:
        return self._zstd.eof

    def undo(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        if self._zstd.eof:
            return b"", b""
        piece = self._zstd.decompress(data, limit)  # what it has no room for it keeps
        return piece, self._zstd.unused_data


class _Brotli:
    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()

    @property
    def ended(self) -> bool:
        return bool(self._brotli.is_finished())

    def undo(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        # It fills whole buffers, the first of 32 KiB, the second of twice as much: the first is to be enough.
        if self._brotli.can_accept_more_data():
            return self._brotli.process(data, output_buffer_limit=limit // 4), b""
        return self._brotli.process(b"", output_buffer_limit=limit // 4), data


def decoder_for(encoding: bytes) -> Decoder | None:
    """The decoder of a `Content-Encoding`; None where there is nothing to undo.

    The proxy asks for `identity`, so these are for upstreams that compress regardless. Raises UpstreamUnreadable
    for an encoding it cannot undo.
    """
    match encoding.strip().lower():
        case b"" | b"identity":
            return None
        case b"gzip" | b"x-gzip":
            return Decoder(lambda: _Zlib(zlib.MAX_WBITS | 16))
        case b"deflate":
            return Decoder(lambda: _Zlib(zlib.MAX_WBITS))
        case b"br":
            return Decoder(_Brotli)
        case b"zstd":
            return Decoder(_Zstd)
        case other:
            name = other.decode("latin-1")
            raise UpstreamUnreadable(f"its content-encoding {name!r} was not asked for and cannot be undone")
