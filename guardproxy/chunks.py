"""The frames of a streamed reply as they wait for a verdict, and how far each takes a choice. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Mark(NamedTuple):
    """How far a chunk takes one choice of the reply.

    `choice`: its index. `upto`: the characters of the choice (`Message.size`) up to and including this chunk. `final`:
    the choice is complete; content after the end sets `final` again, and needs a verdict of its own. `whole`: the chunk
    may be sent only after the whole choice is judged, because it holds a call that the client runs or a finish reason.
    `opaques`: if the chunk has opaque parts, how many the choice has up to and including it; 0 if it has none.
    `begins`: the characters before this chunk if an answer begins in it behind reasoning; 0 otherwise.
    """

    choice: int
    upto: int
    final: bool = False
    whole: bool = False
    opaques: int = 0
    begins: int = 0


class Chunk(NamedTuple):
    """One frame of a streamed reply: its bytes (original unless `sse` changes them), and a mark per choice it concerns.

    A chunk without marks concerns no choice. `data` is the frame's content and is for the stream that made it only.
    """

    raw: bytes
    marks: tuple[Mark, ...]
    data: Any = None


@dataclass(slots=True)
class ChunkRun:
    """Frames in a row that each bring a piece of the same text of one choice: `marks` has the mark of the last one.

    `ends`: where each frame ends in `raw`; `upto`: how far it takes the choice, always farther. The first `taken` have
    left. `data` makes the `Chunk.data` of the frames from one index up to another.
    """

    raw: bytes
    marks: tuple[Mark, ...]
    ends: Sequence[int]
    upto: Sequence[int]
    data: Callable[[int, int], Any]
    taken: int = 0
