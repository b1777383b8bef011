"""The bytes of a read in slices: what the event loop works on before other tasks run."""

from collections.abc import Iterator

_SLICE = 4096
_MOST_LINES = 512  # a line of a few bytes is a frame that takes as long as a long one


def slices(data: bytes) -> Iterator[bytes]:
    """Yield the data in slices of _SLICE bytes, or of _MOST_LINES bytes where they have as many lines."""
    start = 0
    while start < len(data):
        size = _SLICE if data.count(b"\n", start, start + _SLICE) < _MOST_LINES else _MOST_LINES
        yield data[start : start + size]
        start += size
