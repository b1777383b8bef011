"""How many bytes streamed replies hold in memory: each by itself, and all of them together."""

from guardproxy.errors import UpstreamUnreadable

# What a frame that waits takes beside its bytes: the objects that describe it.
FRAME_BYTES = 512


class HeldBytes:
    """The bounds of all streams of a pipeline: `most` bytes for each stream, four times as many for all together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.all = 0

    def stream(self) -> "StreamBytes":
        """The count of a new stream, which must be closed."""
        return StreamBytes(self)


class StreamBytes:
    """What one stream holds."""

    def __init__(self, bounds: HeldBytes) -> None:
        self._bounds = bounds
        self._held = 0

    def note(self, held: int) -> None:
        """Note how many bytes the stream holds now. Raises UpstreamUnreadable beyond a bound."""
        self._bounds.all += held - self._held
        self._held = held
        most = self._bounds.most
        if held > most:
            raise UpstreamUnreadable(f"more than {most} bytes of a reply are waiting to be judged")
        if self._bounds.all > 4 * most:
            raise UpstreamUnreadable(f"more than {4 * most} bytes of all replies are waiting to be judged")

    def close(self) -> None:
        """Note that the stream holds nothing any more."""
        self._bounds.all -= self._held
        self._held = 0


def check_characters(size: int, most: int | None) -> None:
    """Raise UpstreamUnreadable for a reply of more than `most` characters: each check takes many times their memory."""
    if most is not None and size > most:
        raise UpstreamUnreadable(f"it has more than the {most} characters of limits.characters")
