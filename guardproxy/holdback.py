"""The hold-back buffer: decides which frames of a streamed reply may be released. A state machine without I/O.

Theory of operation. The frames of a reply wait in one queue, in the order of their arrival. The marks of a frame say
how far it takes each choice, in characters. A check judges a choice up to a position. A frame is released once all its
marks are covered and all earlier frames have been released. So frames never overtake each other, and the released bytes
are the upstream's own.

Rules. 1. A frame with text is released after a verdict that covers its text, or within `exposure` characters of such a
verdict; with `every: auto` only up to `lag` characters before the end of the judged text, and never into the
characters at this end that are `undecided`. 2. A frame marked `final` or
`whole` is released only after the verdict on the whole choice, and one with opaque parts after a verdict that was asked
when they had come. 3. At most one check runs per choice. 4. A choice that
the proxy has ended holds no frame. 5. A frame behind the end of a choice that is marked `final` again waits for a
verdict of its own.

With `every: auto` a choice is judged at the positions of a grid: the same for every reply, however its frames arrive.
The grid begins anew where an answer begins behind reasoning: its first words should not wait as its 10,000th do.
"""

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from guardproxy.chunks import Chunk, ChunkRun, Mark
from guardproxy.frozen import frozen
from guardproxy.policy import StreamPolicy

# The positions, in characters, at which `every: auto` judges: measured in docs/streams.md.
FIRST_CHECK = 80
_STEP, _LONGEST_STEP = 80, 1600  # the least distance between two positions, and the greatest up to 12,800 characters
_GROWTH, _LEAST_GROWTH = 0.6, 0.125  # the distance to the next position, as a share of a position
_MOST_BEGINNINGS = 8  # of a choice: reasoning and answer may alternate
# The guard calls many harmless beginnings unsafe: checks before this position cannot stop a reply.
_ACTS_FROM = 200


@frozen
class Ask:
    """A check that is due: judge `choice` up to the position `upto`; `final` if that is the whole choice.

    It may judge more than this, never less. If it is `exact`, it judges no more, and leaves out a word that `upto`
    divides. An `early` one can only release text, and only on a verdict well below the thresholds: otherwise the text
    waits for the next check. `opaques`: how many opaque parts it covers.
    """

    choice: int
    upto: int
    final: bool
    exact: bool = False
    early: bool = False
    opaques: int = 0


@dataclass(slots=True)
class _ChoiceProgress:
    """Positions are characters; `judged` never passes `seen`."""

    seen: int = 0
    judged: int = 0
    opaques: int = 0  # opaque parts that have come
    judged_opaques: int = 0  # how many of them a check has covered
    undecided: int = 0  # characters before `judged` that the guard cannot decide about without the next ones
    due: int = FIRST_CHECK  # the next position of the grid
    beginnings: list[int] = field(default_factory=lambda: [0])  # where the grid begins and begins anew
    complete: bool = False  # the upstream has closed the choice
    reopened: bool = False  # marked final again since the last check was asked
    settled: bool = False  # has the verdict on the whole choice, or was ended by the proxy: holds no frame
    ended: bool = False  # by the proxy
    asking: bool = False  # a check is running
    deferred: bool = False  # a rewrite is due: only the verdict on the whole choice releases anything


@dataclass(slots=True)
class _Held:
    """What waits in the queue, the characters that it brings, and when it came."""

    chunk: Chunk | ChunkRun
    characters: int
    came: float


def first_frames(run: ChunkRun, stop: int) -> Chunk:
    """Remove the frames of a run up to the index `stop`, and return them as one chunk."""
    start, run.taken = run.taken, stop
    raw = run.raw[run.ends[start - 1] if start else 0 : run.ends[stop - 1]]
    choice, begins = run.marks[0].choice, 0 if start else run.marks[0].begins
    return Chunk(raw, (Mark(choice, run.upto[stop - 1], begins=begins),), run.data(start, stop))


def position_after(position: int, beginnings: Sequence[int] = (0,)) -> int:
    """The position of the grid behind one of its positions. It begins anew at each of the `beginnings`, in order."""
    later = bisect_right(beginnings, position)
    length = position - beginnings[later - 1]
    step = min(max(_STEP, int(_GROWTH * length)), _LONGEST_STEP)
    after = position + max(step, int(_LEAST_GROWTH * length))
    return min([after, *(beginning + FIRST_CHECK for beginning in beginnings[later:])])


class HoldBack:
    """Holds the frames of one streamed reply. Positions are characters as `Message.size` counts them."""

    def __init__(self, policy: StreamPolicy) -> None:
        self._policy = policy
        self._auto = policy.mode == "window" and policy.every == "auto"
        self._lag = policy.lag if self._auto else 0
        self._queue: deque[_Held] = deque()
        self._choices: dict[int, _ChoiceProgress] = {}
        self.held_bytes = 0
        self.held_frames = 0
        self.held_characters = 0

    def add(self, chunk: Chunk | ChunkRun, came: float = 0.0) -> None:
        """Queue a frame, or a run of them, that came at the time `came`."""
        characters = 0
        for mark in chunk.marks:
            choice = self._progress(mark.choice)
            characters += max(0, mark.upto - choice.seen)
            choice.seen = max(choice.seen, mark.upto)
            choice.opaques = max(choice.opaques, mark.opaques)
            if mark.begins > choice.beginnings[-1] and len(choice.beginnings) < _MOST_BEGINNINGS:
                choice.beginnings.append(mark.begins)
                choice.due = min(choice.due, mark.begins + FIRST_CHECK)
            # Content behind the end. A running check was asked before it came: its verdict must not settle the choice.
            if mark.final and choice.complete and not choice.ended:
                choice.reopened, choice.settled = True, False
            choice.complete = choice.complete or mark.final
        self.held_frames += len(chunk.upto) if isinstance(chunk, ChunkRun) else 1
        self._queue.append(_Held(chunk, characters, came))
        self.held_bytes += len(chunk.raw)
        self.held_characters += characters

    def _progress(self, choice: int) -> _ChoiceProgress:
        progress = self._choices.get(choice)
        if progress is None:
            progress = self._choices[choice] = _ChoiceProgress()
        return progress

    def complete(self) -> None:
        """Mark every choice as complete: the upstream has ended, perhaps without closing them."""
        for choice in self._choices.values():
            choice.complete = True

    def ask(self) -> list[Ask]:
        """Return the checks that are due. A check counts as running until `passed`, `defer` or `settle` answers it."""
        due: list[Ask] = []
        for index, choice in self._choices.items():
            if choice.settled or choice.asking or not self._due(choice):
                continue
            # This check covers everything that has come so far, content behind the end included.
            choice.asking, choice.reopened = True, False
            if self._reaches_grid(choice):
                early = choice.due < _ACTS_FROM
                due.append(Ask(index, choice.due, final=False, exact=True, early=early, opaques=choice.opaques))
                choice.due = position_after(choice.due, choice.beginnings)
            else:
                due.append(Ask(index, choice.seen, choice.complete, opaques=choice.opaques))
        return due

    def _due(self, choice: _ChoiceProgress) -> bool:
        if choice.complete or self._reaches_grid(choice):
            return True
        if choice.deferred or self._policy.mode != "window" or self._policy.every == "auto":
            return False
        return choice.seen - choice.judged >= self._policy.every

    def _reaches_grid(self, choice: _ChoiceProgress) -> bool:
        """Whether a position of the grid is due: also for a complete choice, so that its speed makes no difference."""
        return self._auto and not choice.deferred and choice.seen >= choice.due

    def passed(self, ask: Ask, judged: int | None = None, undecided: int = 0) -> None:
        """Release the text that this check covers: it found nothing to act on. `judged` if that is not `ask.upto`.

        The last `undecided` characters of it wait for the next check.
        """
        choice = self._choices[ask.choice]
        choice.asking = False
        choice.judged = ask.upto if judged is None else judged
        choice.undecided = undecided
        choice.judged_opaques = ask.opaques
        while choice.due <= choice.judged:
            choice.due = position_after(choice.due, choice.beginnings)
        # Not `or choice.settled`: a choice that was reopened while the check ran waits for the next check.
        choice.settled = ask.final and not choice.reopened

    def skip(self, ask: Ask) -> None:
        """Release nothing for this check: a later one covers its text."""
        self._choices[ask.choice].asking = False

    def defer(self, ask: Ask) -> None:
        """Hold the rest of the choice: the check asks for a rewrite, which needs the whole choice."""
        choice = self._choices[ask.choice]
        choice.asking = False
        choice.deferred = True

    def settle(self, choice: int) -> None:
        """Stop holding frames for a choice that the proxy has ended."""
        # A choice may be ended before any frame of it has come, if the reply is unreadable.
        progress = self._progress(choice)
        progress.settled = progress.ended = True

    def release(self, most: int = sys.maxsize) -> list[Chunk]:
        """Return frames that may be released, in order, and remove them from the queue.

        Frames of a run that may leave together are one chunk. There are at most `most` chunks.
        """
        out: list[Chunk] = []
        while self._queue and len(out) < most and (chunk := self._taken(self._queue[0])) is not None:
            out.append(chunk)
        return out

    def _taken(self, held: _Held) -> Chunk | None:
        """Take what may be released of the head of the queue; None if that is nothing."""
        chunk, frames, left = held.chunk, 1, 0
        if isinstance(chunk, ChunkRun):
            stop = bisect_right(chunk.upto, self._free(chunk.marks[0].choice), chunk.taken)
            frames, left = stop - chunk.taken, chunk.upto[-1] - chunk.upto[stop - 1]
            if not frames:
                return None
            chunk = first_frames(chunk, stop)
        elif not self._are_covered(chunk.marks):
            return None
        if not left:
            self._queue.popleft()
        self.held_bytes -= len(chunk.raw)
        self.held_frames -= frames
        self.held_characters -= held.characters - left
        held.characters = left
        return chunk

    @property
    def may_release(self) -> bool:
        """Whether a frame may be released."""
        # Only the head of the queue counts: a frame without marks waits for the frames before it, too.
        if not self._queue:
            return False
        chunk = self._queue[0].chunk
        if isinstance(chunk, ChunkRun):
            return chunk.upto[chunk.taken] <= self._free(chunk.marks[0].choice)
        return self._are_covered(chunk.marks)

    @property
    def since(self) -> float | None:
        """When the frame came that has waited longest; None if none waits."""
        return self._queue[0].came if self._queue else None

    def _are_covered(self, marks: Sequence[Mark]) -> bool:
        for mark in marks:
            free = self._free(mark.choice)
            if free == sys.maxsize:
                continue
            # No exposure for these: a tool call, an end and content that nobody has read cannot be taken back.
            unread = mark.opaques > self._choices[mark.choice].judged_opaques
            if mark.upto > free or mark.whole or mark.final or unread:
                return False
        return True

    def _free(self, choice: int) -> int:
        """The position up to which the text of a choice may be released; the greatest number for all of it."""
        progress = self._choices[choice]
        if progress.settled or self._policy.mode == "monitor":
            return sys.maxsize
        if progress.deferred or self._policy.mode == "hold_all":  # no exposure for a text that is to be rewritten
            return -1
        return max(0, progress.judged - max(self._lag, progress.undecided)) + self._policy.exposure

    @property
    def open(self) -> tuple[int, ...]:
        """The choices without a verdict on the whole choice, and not ended by the proxy."""
        return tuple(index for index, choice in self._choices.items() if not choice.settled)

    @property
    def empty(self) -> bool:
        """Whether every frame has been released."""
        return not self._queue
