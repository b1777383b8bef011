"""How many bytes streamed replies hold in memory: each by itself, and all of them together."""

from guardproxy.errors import UpstreamUnreadable
from guardproxy.ports import Chunk, Run

# What a frame that waits takes beside its bytes: the objects that describe it.
FRAME_BYTES = 512


class HeldBytes:
    """The bounds of all streams of a pipeline: `most` bytes for each stream, four times as many for all together.

    A reply has at most `max_characters`, because each check of it takes many times their memory; None: any number.
    """

    def __init__(self, most: int, max_characters: int | None = None) -> None:
        self.most = most
        self._max_characters = max_characters
        self.all = 0

    def stream(self, *, monitored: bool = False) -> "StreamBytes":
        """The count of a new stream, which must be closed. One that is only `monitored` may have any length."""
        return StreamBytes(self, monitored=monitored)

    def check_characters(self, size: int) -> None:
        """Raise UpstreamUnreadable for a reply of `size` characters if these are too many."""
        if self._max_characters is not None and size > self._max_characters:
            raise UpstreamUnreadable(f"it has more than the {self._max_characters} characters of limits.characters")


class StreamBytes:
    """What one stream holds."""

    def __init__(self, bounds: HeldBytes, *, monitored: bool) -> None:
        self._bounds = bounds
        self._monitored = monitored
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

    def check(self, chunk: Chunk | Run) -> None:
        """Raise UpstreamUnreadable if `chunk` takes a choice beyond the characters of a reply."""
        if not self._monitored:
            for mark in chunk.marks:
                self._bounds.check_characters(mark.upto)

    def close(self) -> None:
        """Note that the stream holds nothing any more."""
        self._bounds.all -= self._held
        self._held = 0
