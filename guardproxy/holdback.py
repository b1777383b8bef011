"""What of a streamed reply may leave: a state machine without I/O.

Theory of operation. The frames of a reply stand in one queue, in the order they came. Each frame is marked with how
far it takes each choice, in characters. A check covers a choice up to some position; a frame may leave once every one
of its marks is covered and all frames before it have left. So nothing overtakes, and the bytes that leave are the
bytes that came.

Rules. 1. A frame that carries text leaves after a verdict that covers its text, or within `exposure` characters of
one. 2. A frame marked `final` or `whole` leaves only after the verdict on the whole choice. 3. Of each choice one
check runs at a time. 4. A choice that was ended by the proxy holds nobody. 5. What comes behind the end of a choice and
is marked `final` as well ends it once more: it waits for a verdict of its own.
"""

from collections import deque
from dataclasses import dataclass

from guardproxy.policy import StreamPolicy
from guardproxy.ports import Chunk, Mark


@dataclass(frozen=True, slots=True)
class Ask:
    """A check that is due: judge `choice` as far as it has been seen; `final` where it is complete."""

    choice: int
    upto: int
    final: bool


@dataclass(slots=True)
class _Choice:
    seen: int = 0
    judged: int = 0
    complete: bool = False
    again: bool = False  # it was marked final once more since the last check
    settled: bool = False  # the whole choice has its verdict, or was ended by the proxy
    ended: bool = False  # by the proxy
    asking: bool = False
    deferred: bool = False  # only the verdict on the whole choice will do from here on


class HoldBack:
    """Holds the frames of one streamed reply. Positions are characters of `Message.size`."""

    def __init__(self, policy: StreamPolicy) -> None:
        self._policy = policy
        self._queue: deque[Chunk] = deque()
        self._choices: dict[int, _Choice] = {}
        self.held_bytes = 0

    def add(self, chunk: Chunk) -> None:
        """Queue a frame."""
        self._queue.append(chunk)
        self.held_bytes += len(chunk.raw)
        for mark in chunk.marks:
            choice = self._choices.setdefault(mark.choice, _Choice())
            choice.seen = max(choice.seen, mark.upto)
            if mark.final and choice.complete and not choice.ended:
                choice.again, choice.settled = True, False
            choice.complete = choice.complete or mark.final

    def complete(self) -> None:
        """The upstream has ended: every choice is as complete as it will be."""
        for choice in self._choices.values():
            choice.complete = True

    def ask(self) -> list[Ask]:
        """The checks that are due now. Each counts as running until `passed` or `settle` answers it."""
        due: list[Ask] = []
        for index, choice in self._choices.items():
            if choice.settled or choice.asking or not self._due(choice):
                continue
            choice.asking, choice.again = True, False
            due.append(Ask(index, choice.seen, choice.complete))
        return due

    def _due(self, choice: _Choice) -> bool:
        if choice.complete:
            return True
        if choice.deferred or self._policy.mode != "window":
            return False
        return choice.seen - choice.judged >= self._policy.every

    def passed(self, ask: Ask) -> None:
        """The check found nothing to act on: its text may leave."""
        choice = self._choices[ask.choice]
        choice.asking = False
        choice.judged = ask.upto
        choice.settled = ask.final and not choice.again

    def defer(self, ask: Ask) -> None:
        """The check found something that only the whole choice can be rewritten for: hold the rest of it."""
        choice = self._choices[ask.choice]
        choice.asking = False
        choice.deferred = True

    def settle(self, choice: int) -> None:
        """The proxy has ended the choice itself: nothing of it holds a frame any more."""
        known = self._choices.setdefault(choice, _Choice())
        known.settled = known.ended = True

    def release(self) -> list[Chunk]:
        """The frames that may leave, in order."""
        out: list[Chunk] = []
        while self._queue and all(self._covered(mark) for mark in self._queue[0].marks):
            chunk = self._queue.popleft()
            self.held_bytes -= len(chunk.raw)
            out.append(chunk)
        return out

    def _covered(self, mark: Mark) -> bool:
        choice = self._choices[mark.choice]
        if choice.settled or self._policy.mode == "monitor":
            return True
        if mark.whole or mark.final or choice.deferred or self._policy.mode == "hold_all":
            return False
        return mark.upto <= choice.judged + self._policy.exposure

    @property
    def open(self) -> tuple[int, ...]:
        """The choices that have no last word yet."""
        return tuple(index for index, choice in self._choices.items() if not choice.settled)

    @property
    def empty(self) -> bool:
        """Whether every frame has left."""
        return not self._queue
