"""Content-encodings of upstream bodies, undone so that the text can be judged."""

import zlib
from collections.abc import Iterator
from typing import Final

from guardproxy.errors import UpstreamUnreadable


class Decoder:
    """Undoes gzip or deflate in pieces of at most `PIECE` bytes, however far the input expands."""

    PIECE: Final = 1 << 16

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds. Raises UpstreamUnreadable."""
        while data:
            if self._zlib.eof:  # another gzip member follows
                self._zlib = zlib.decompressobj(self._wbits)
            try:
                piece = self._zlib.decompress(data, self.PIECE)
            except zlib.error as error:
                raise UpstreamUnreadable(f"its content-encoding is broken: {error}") from error
            data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            if piece:
                yield piece

    def finish(self) -> None:
        """The body has ended. Raises UpstreamUnreadable where its encoding has not."""
        if not self._zlib.eof:
            raise UpstreamUnreadable("its compressed body ends too soon")


def decoder_for(encoding: bytes) -> Decoder | None:
    """The decoder of a `Content-Encoding`; None where there is nothing to undo.

    The proxy asks for `identity`, so these are for upstreams that compress regardless. Raises UpstreamUnreadable
    for an encoding it cannot undo.
    """
    match encoding.strip().lower():
        case b"" | b"identity":
            return None
        case b"gzip" | b"x-gzip":
            return Decoder(zlib.MAX_WBITS | 16)
        case b"deflate":
            return Decoder(zlib.MAX_WBITS)
        case other:
            name = other.decode("latin-1")
            raise UpstreamUnreadable(f"its content-encoding {name!r} was not asked for and cannot be undone")
