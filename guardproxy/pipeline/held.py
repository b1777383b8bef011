"""How many bytes streamed replies hold in memory: each by itself, and all of them together."""

from collections.abc import Sequence

from guardproxy.chunks import Chunk, ChunkRun
from guardproxy.errors import UpstreamUnreadable
from guardproxy.types import Message
from guardproxy.wires.shared.bounds import check_choices, check_pieces

# What a frame that waits takes beside its bytes: the objects that describe it.
FRAME_BYTES = 512
# What the text of a frame takes beside its characters until its stream has ended.
_TEXT_BYTES = 256
_ALL = 4  # times the bound of one stream: the bound of all


class HeldBytes:
    """The bounds of all streams of a pipeline: `most` bytes for each stream, four times as many for all together.

    Streams that are only monitored hold no frames, but keep their texts until they end, when these are judged: all of
    them together may keep four times `most` as well. A reply has at most `max_characters`, because each check of it
    takes many times their memory; None: any number.
    """

    def __init__(self, most: int, max_characters: int | None = None) -> None:
        self.most = most
        self._max_characters = max_characters
        self.held = 0
        self.kept = 0

    @property
    def all(self) -> int:
        """The bytes of all streams."""
        return self.held + self.kept

    def stream(self, *, monitored: bool = False) -> "StreamBytes":
        """The count of a new stream, which must be closed. One that is only `monitored` may have any length."""
        return StreamBytes(self, monitored=monitored)

    def check_reply(self, choices: Sequence[Message]) -> None:
        """Raise UpstreamUnreadable for a whole reply of too many choices, pieces of content or characters."""
        check_choices(len(choices))
        check_pieces(sum([len(choice.parts) for choice in choices]))
        self.check_characters(sum([choice.size for choice in choices]))

    def check_characters(self, size: int) -> None:
        """Raise UpstreamUnreadable for a reply of `size` characters if these are too many."""
        if self._max_characters is not None and size > self._max_characters:
            raise UpstreamUnreadable(f"it has more than the {self._max_characters} characters of limits.characters")


class StreamBytes:
    """What one stream holds, and what it keeps if it is only `monitored`."""

    def __init__(self, bounds: HeldBytes, *, monitored: bool) -> None:
        self._bounds = bounds
        self._monitored = monitored
        self._held = 0
        self._kept = 0
        self._read: dict[int, int] = {}  # characters by choice

    def note(self, held: int) -> None:
        """Note how many bytes the stream holds now. Raises UpstreamUnreadable beyond a bound."""
        self._bounds.held += held - self._held
        self._held = held
        most = self._bounds.most
        if held > most:
            raise UpstreamUnreadable(f"more than {most} bytes of a reply are waiting to be judged")
        if self._bounds.held > _ALL * most:
            raise UpstreamUnreadable(f"more than {_ALL * most} bytes of all replies are waiting to be judged")

    def check(self, chunk: Chunk | ChunkRun) -> None:
        """Note the text that `chunk` brings. Raises UpstreamUnreadable beyond the bounds of a reply or of all."""
        for mark in chunk.marks:
            if not self._monitored:
                self._bounds.check_characters(mark.upto)
                continue
            frames = len(chunk.upto) if isinstance(chunk, ChunkRun) else 1
            kept = _TEXT_BYTES * frames + mark.upto - self._read.get(mark.choice, 0)
            self._read[mark.choice] = mark.upto
            self._kept += kept
            self._bounds.kept += kept
            if self._bounds.kept > (most := _ALL * self._bounds.most):
                raise UpstreamUnreadable(f"monitored replies keep more than {most} bytes of text until they end")

    def close(self) -> None:
        """Note that the stream holds and keeps nothing any more."""
        self._bounds.held -= self._held
        self._bounds.kept -= self._kept
        self._held = self._kept = 0
