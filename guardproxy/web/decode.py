"""Decodes the content-encodings of upstream bodies, so that the text can be judged."""

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

# The largest window that a zstd body may ask for (RFC 9659). It bounds the memory of a decoder.
_ZSTD_WINDOW: Final = {int(zstd.DecompressionParameter.window_log_max): 23}


class ContentDecoder:
    """Decodes a body in pieces of at most PIECE bytes, so that a decompression bomb does not fill the memory.

    `new_member` opens the decoder of one member of the body; gzip and zstd bodies may have several.
    """

    PIECE: Final = 1 << 16

    def __init__(self, new_member: "Callable[[], _Member]") -> None:
        self._new_member = new_member
        self._member = new_member()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded pieces that `data` adds. Raises UpstreamUnreadable if the encoding is broken."""
        while True:
            if self._member.ended and data:
                self._member = self._new_member()
            try:
                piece, data = self._member.decode(data, self.PIECE)
            except (zlib.error, zstd.ZstdError, brotli.error) as error:
                raise UpstreamUnreadable(f"its content-encoding is broken: {error}") from error
            if piece:
                yield piece
            elif not data:
                return

    def finish(self) -> None:
        """The body has ended. Raises UpstreamUnreadable if its encoding has not."""
        if not self._member.ended:
            raise UpstreamUnreadable("its compressed body is incomplete")


class _Member(Protocol):
    """The decoder of one complete compressed sequence."""

    @property
    def ended(self) -> bool:
        """Whether the sequence is complete."""
        ...

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        """Decode up to `limit` bytes; return the output and the unconsumed input, which the next call takes first."""
        ...


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    @property
    def ended(self) -> bool:
        return self._zlib.eof

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        piece = self._zlib.decompress(data, limit)
        return piece, self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail


class _Zstd:
    def __init__(self) -> None:
        self._zstd = zstd.ZstdDecompressor(options=_ZSTD_WINDOW)

    @property
    def ended(self) -> bool:
        return self._zstd.eof

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        if self._zstd.eof:
            return b"", b""
        piece = self._zstd.decompress(data, limit)  # it keeps the input that it has not consumed yet
        return piece, self._zstd.unused_data


class _Brotli:
    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()

    @property
    def ended(self) -> bool:
        return bool(self._brotli.is_finished())

    def decode(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        # It fills whole buffers, the first of 32 KiB, the second of twice as much. The first reaches a quarter of the
        # limit, so the output stays below the limit.
        if self._brotli.can_accept_more_data():
            return self._brotli.process(data, output_buffer_limit=limit // 4), b""
        return self._brotli.process(b"", output_buffer_limit=limit // 4), data


def decoder_for(encoding: bytes) -> ContentDecoder | None:
    """The decoder for a `Content-Encoding`; None if the body is not encoded.

    The proxy asks for `identity`; the decoders are for upstreams that compress anyway. Raises UpstreamUnreadable for an
    unknown encoding.
    """
    match encoding.strip().lower():
        case b"" | b"identity":
            return None
        case b"gzip" | b"x-gzip":
            return ContentDecoder(lambda: _Zlib(zlib.MAX_WBITS | 16))
        case b"deflate":
            return ContentDecoder(lambda: _Zlib(zlib.MAX_WBITS))
        case b"br":
            return ContentDecoder(_Brotli)
        case b"zstd":
            return ContentDecoder(_Zstd)
        case _:
            raise UpstreamUnreadable("its content-encoding was not asked for and cannot be decoded")
