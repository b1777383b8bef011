"""The hold-back buffer: decides which frames of a streamed reply may be released. A state machine without I/O.

Theory of operation. The frames of a reply wait in one queue, in the order of their arrival. The marks of a frame say
how far it takes each choice, in characters. A check judges a choice up to a position. A frame is released once all its
marks are covered and all earlier frames have been released. So frames never overtake each other, and the released bytes
are the upstream's own.

Rules. 1. A frame with text is released after a verdict that covers its text, or within `exposure` characters of such a
verdict; with `every: auto` only up to `lag` characters before the end of the judged text, and never into the
characters at this end that are `undecided`. 2. A frame marked `final` or
`whole` is released only after the verdict on the whole choice. 3. At most one check runs per choice. 4. A choice that
the proxy has ended holds no frame. 5. A frame behind the end of a choice that is marked `final` again waits for a
verdict of its own.

With `every: auto` a choice is judged at the positions of a grid: the same for every reply, however its frames arrive.
"""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from guardproxy.policy import StreamPolicy
from guardproxy.ports import Chunk, Mark

# The positions, in characters, at which `every: auto` judges: measured in docs/streams.md.
FIRST_CHECK = 80
_STEP, _LONGEST_STEP = 80, 1600  # the least distance between two positions, and the greatest up to 12,800 characters
_GROWTH, _LEAST_GROWTH = 0.6, 0.125  # the distance to the next position, as a share of a position
# The guard calls many harmless beginnings unsafe: checks before this position cannot stop a reply.
_ACTS_FROM = 200


@dataclass(frozen=True, slots=True)
class Ask:
    """A check that is due: judge `choice` up to the position `upto`; `final` if that is the whole choice.

    It may judge more than this, never less. If it is `exact`, it judges no more, and leaves out a word that `upto`
    divides. An `early` one can only release text, and only on a verdict well below the thresholds: otherwise the text
    waits for the next check.
    """

    choice: int
    upto: int
    final: bool
    exact: bool = False
    early: bool = False


@dataclass(slots=True)
class _ChoiceProgress:
    """Positions are characters; `judged` never passes `seen`."""

    seen: int = 0
    judged: int = 0
    undecided: int = 0  # characters before `judged` that the guard cannot decide about without the next ones
    due: int = FIRST_CHECK  # the next position of the grid
    complete: bool = False  # the upstream has closed the choice
    reopened: bool = False  # marked final again since the last check was asked
    settled: bool = False  # has the verdict on the whole choice, or was ended by the proxy: holds no frame
    ended: bool = False  # by the proxy
    asking: bool = False  # a check is running
    deferred: bool = False  # a rewrite is due: only the verdict on the whole choice releases anything


def position_after(position: int) -> int:
    """The position of the grid behind one of its positions."""
    step = min(max(_STEP, int(_GROWTH * position)), _LONGEST_STEP)
    return position + max(step, int(_LEAST_GROWTH * position))


class HoldBack:
    """Holds the frames of one streamed reply. Positions are characters as `Message.size` counts them."""

    def __init__(self, policy: StreamPolicy) -> None:
        self._policy = policy
        self._auto = policy.mode == "window" and policy.every == "auto"
        self._lag = policy.lag if self._auto else 0
        self._queue: deque[tuple[Chunk, int]] = deque()  # with the characters that the frame brings
        self._choices: dict[int, _ChoiceProgress] = {}
        self.held_bytes = 0
        self.held_characters = 0

    def add(self, chunk: Chunk) -> None:
        """Queue a frame."""
        characters = 0
        for mark in chunk.marks:
            choice = self._choices.get(mark.choice)
            if choice is None:
                choice = self._choices[mark.choice] = _ChoiceProgress()
            characters += max(0, mark.upto - choice.seen)
            choice.seen = max(choice.seen, mark.upto)
            # Content behind the end. A running check was asked before it came: its verdict must not settle the choice.
            if mark.final and choice.complete and not choice.ended:
                choice.reopened, choice.settled = True, False
            choice.complete = choice.complete or mark.final
        self._queue.append((chunk, characters))
        self.held_bytes += len(chunk.raw)
        self.held_characters += characters

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
                due.append(Ask(index, choice.due, final=False, exact=True, early=choice.due < _ACTS_FROM))
                choice.due = position_after(choice.due)
            else:
                due.append(Ask(index, choice.seen, choice.complete))
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
        while choice.due <= choice.judged:
            choice.due = position_after(choice.due)
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
        progress = self._choices.setdefault(choice, _ChoiceProgress())
        progress.settled = progress.ended = True

    def release(self, most: int = sys.maxsize) -> list[Chunk]:
        """Return frames that may be released, in order and at most `most`, and remove them from the queue."""
        out: list[Chunk] = []
        while len(out) < most and self.may_release:
            chunk, characters = self._queue.popleft()
            self.held_bytes -= len(chunk.raw)
            self.held_characters -= characters
            out.append(chunk)
        return out

    @property
    def may_release(self) -> bool:
        """Whether a frame may be released."""
        # Only the head of the queue counts: a frame without marks waits for the frames before it, too.
        return bool(self._queue) and self._are_covered(self._queue[0][0].marks)

    def _are_covered(self, marks: Sequence[Mark]) -> bool:
        if self._policy.mode == "monitor":
            return True
        for mark in marks:
            choice = self._choices[mark.choice]
            if choice.settled:
                continue
            # No exposure for these: a tool call, an end and a text that is to be rewritten cannot be taken back.
            if mark.whole or mark.final or choice.deferred or self._policy.mode == "hold_all":
                return False
            if mark.upto > max(0, choice.judged - max(self._lag, choice.undecided)) + self._policy.exposure:
                return False
        return True

    @property
    def open(self) -> tuple[int, ...]:
        """The choices without a verdict on the whole choice, and not ended by the proxy."""
        return tuple(index for index, choice in self._choices.items() if not choice.settled)

    @property
    def held_frames(self) -> int:
        """The number of frames in the queue."""
        return len(self._queue)

    @property
    def empty(self) -> bool:
        """Whether every frame has been released."""
        return not self._queue
