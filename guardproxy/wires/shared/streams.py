"""The base of the readers of streamed replies: frames become chunks, and the state of each choice is followed.

A reader has two views of a choice. What was *fed* is judged; what was *released* is what the client has read. Between
the two lie the frames that the hold-back buffer keeps. A subclass reads its frames in `read` (through `advance` for
each choice, through `read_outer` for the rest) and writes the end of a choice in `end`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from guardproxy.chunks import Chunk, ChunkRun, Mark
from guardproxy.errors import UpstreamUnreadable
from guardproxy.framing import Frame, FrameDecoder
from guardproxy.ports import Request
from guardproxy.types import Message, Part, PartKind, Refuse, Replace, ReplyInfo
from guardproxy.wires.shared.arrival import Arrivals
from guardproxy.wires.shared.body import has_more_values, remove
from guardproxy.wires.shared.bounds import check_choices, check_pieces
from guardproxy.wires.shared.known import repeated_in_reply
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import FieldMap, outer_parts
from guardproxy.wires.shared.repeated import Gaps, Pattern, pattern_of, value_at
from guardproxy.wires.shared.stream_state import ChoiceState, Event

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
FRAME_VALUES = 100_000  # values in one frame, which is parsed on the event loop
_PATTERNS = 4  # frames whose repetitions are recognised, the latest
_LEARNED = 8  # frames that are learned before any repetition has come, and more for every _LEARNED repetitions


class _Repeated(NamedTuple):
    """A frame whose repetitions are recognised, and the piece of text that it has brought."""

    pattern: Pattern
    name: str  # of the frame's event
    event: Event
    choice: int
    path: str
    kind: PartKind
    echo: str


class BaseStream(ABC):
    """Reads frames into chunks and releases them. A subclass knows the frames and the endings of its protocol."""

    frame_end = b"\n\n"  # completes a frame that the upstream has cut off
    named = False  # events have names, which `frame` compares with the data; a name of other protocols is not released

    def __init__(self, request: Request, decoder: FrameDecoder) -> None:
        self.request = request
        self.known = repeated_in_reply(request)
        self.closed = False  # the terminator has been released
        self.terminated = False  # the terminator has been read
        self.info = ReplyInfo()
        self._decoder = decoder
        self._states: dict[int, ChoiceState] = {}
        self._pieces = 0
        self._arrivals = Arrivals()
        self._cut = False  # the last released frame was incomplete
        self._broken_off: set[int] = set()  # choices that the upstream has not closed
        self._repeated: list[_Repeated] = []  # the latest first
        self._places: set[tuple[int, str]] = set()  # choices and paths whose texts come in repeated frames
        self._learnable = _LEARNED * _LEARNED  # each frame that is learned takes _LEARNED, each repetition gives 1

    # --- for the subclass to fill in -------------------------------------------------------------------------------

    @abstractmethod
    def read(self, frame: Frame) -> Chunk:
        """Return the chunk of a frame that has data. Raises UpstreamUnreadable."""

    @abstractmethod
    def pack(self, body: Mapping[str, Any]) -> bytes:
        """Return a frame of this protocol."""

    def gaps(self, event: Event, path: str) -> Gaps | None:
        """Return where a frame like this one may differ; None if such frames are to be read in full.

        `path` is the part to which the frame has added its only text.
        """
        return None

    def again(self, event: Event, values: Sequence[Any]) -> dict[str, Any] | None:
        """Return the body of a frame that repeats the one of `event` with these values in its gaps.

        None if the frame must be read in full. What `read` does beside the parts and the marks must be done here.
        """
        return None

    def again_in_run(self, event: Event, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
        """Do what `again` does for frames in a row: return their bodies up to the first that must be read in full."""
        bodies: list[dict[str, Any]] = []
        for values in rows:
            if (body := self.again(event, values)) is None:
                break
            bodies.append(body)
        return bodies

    # --- reading ---------------------------------------------------------------------------------------------------

    @property
    def choices(self) -> tuple[int, ...]:
        """The choices seen so far."""
        return tuple(sorted(self._states))

    @property
    def id(self) -> str:
        """The id by which a later request may name the reply; empty if the protocol has none."""
        return ""

    def feed(self, data: bytes) -> list[Chunk | ChunkRun]:
        """Return the chunks of the frames that `data` completes. Raises UpstreamUnreadable."""
        self._decoder.add(data)
        chunks: list[Chunk | ChunkRun] = []
        while True:
            if run := self._read_run():
                chunks.append(run)
            if (frame := self._decoder.next()) is None:
                return chunks
            chunks.append(self._read_again(frame) or self._chunk(frame))

    def feed_frames(self, data: bytes) -> list[Chunk]:
        """Return the chunks of the frames that `data` completes, one for each. Raises UpstreamUnreadable."""
        return [self._read_again(frame) or self._chunk(frame) for frame in self._decoder.feed(data)]

    def finish(self) -> list[Chunk]:
        """Return the last chunks after the upstream has ended, with a final mark for every choice still open."""
        chunks = [self._read_again(frame) or self._chunk(frame) for frame in self._decoder.finish()]
        # A stream that breaks off has not closed its choices; these marks close them, log probabilities included.
        marks = self.final_marks()
        self._broken_off.update(mark.choice for mark in marks)
        # Their chunk has no bytes: the frame before it is the last that the client gets.
        complete = all(chunk.data.complete for chunk in chunks)
        return [*chunks, Chunk(b"", marks, Event(complete=complete))] if marks else chunks

    def is_complete(self, choice: int) -> bool:
        """Return whether the upstream has closed the choice, as far as it was fed."""
        return self.state_of(choice).final and choice not in self._broken_off

    def message(self, choice: int, without: Collection[int] = ()) -> Message:
        """Return the choice as far as it has been fed; paths are those of a whole reply.

        `arrived` leaves out the unreleased texts of the choices `without`.
        """
        return replace(self.alone(choice), arrived=self._arrivals.fed(without))

    def alone(self, choice: int) -> Message:
        """Return the same without `arrived`."""
        return self.state_of(choice).builder.message("assistant")

    def state_of(self, choice: int) -> ChoiceState:
        """Return the state of a choice, a new one for a new choice. Raises UpstreamUnreadable beyond CHOICES."""
        if choice not in self._states:
            check_choices(choice + 1)  # some wires write a frame for every lower choice
            self._states[choice] = ChoiceState(MessageBuilder(UpstreamUnreadable, self.known))
        return self._states[choice]

    def advance(self, choice: int, event: Event, read: Callable[[ChoiceState], bool]) -> None:
        """Read what a frame brings of a choice, and mark the frame.

        `read` adds the parts to the choice, sets `final` if the frame closes it, and returns whether the frame must
        wait for the verdict on the whole choice. The mark keeps everything behind the end of a choice from leaving on
        the verdict that was given before it came:

        - text behind the end raises UpstreamUnreadable: some clients read on, and no verdict covers it;
        - opaque content behind the end, log probabilities without text included, sets `final` again, so that the
          policy decides about it;
        - a frame that closes a choice or comes behind its end is always `whole`;
        - any frame behind the terminator raises UpstreamUnreadable.
        """
        self.refuse_if_terminated()
        state = self.state_of(choice)
        builder, was_closed = state.builder, state.final
        size, opaques, pieces = builder.size, builder.opaques, len(builder.pieces)
        whole = read(state)
        builder.add_noted()
        self._pieces += len(builder.pieces) - pieces
        check_pieces(self._pieces)
        if was_closed and builder.size > size:
            raise UpstreamUnreadable(f"text behind the end of choice {choice}")
        if state.final:  # on every frame behind the end as well: there is no text left for an echo to wait for
            state.close_echoes()
        unread = builder.opaques if builder.opaques > opaques else 0
        final = state.final and (unread > 0 or not was_closed)
        begins = state.begins([kind for _, kind, text in builder.said if text], size)
        self._mark(event, Mark(choice, builder.size, final, whole or state.final, unread, begins))

    def read_outer(self, body: dict[str, Any], table: FieldMap, event: Event) -> None:
        """Read what a frame has outside its choices, and count it to its first choice (or the stream's first).

        Behind the end of the choice they set `final` again, text included: an error or a filter's comment may follow
        the answer. `event.body` becomes the body without these parts.
        """
        parts = outer_parts(body, table, self.known)
        event.body = without(body, parts)
        if parts:
            choice = next(iter(event.marks), min(self._states, default=0))
            state = self.state_of(choice)
            state.builder.include(part for part in parts if part.kind == "opaque" or not state.has(part))
            unread = state.builder.opaques if any(part.kind == "opaque" for part in parts) else 0
            self._mark(event, Mark(choice, state.builder.size, state.final, state.final, unread))

    def _mark(self, event: Event, mark: Mark) -> None:
        """Note the texts and the mark of a choice. A frame that names a choice twice gets the stricter mark."""
        # `take` after every frame: `ChoiceState.released` relies on texts being noted with the frame that brought them.
        state, choice = self._states[mark.choice], mark.choice
        if not state.ended and state.builder.said:
            count = self._arrivals.add(choice, state.builder.said, state.builder.pieces)
            event.pieces[choice] = event.pieces.get(choice, 0) + count
        event.texts += [(choice, path, text) for path, text in state.builder.take()]
        earlier = event.marks.get(mark.choice)
        if earlier is not None:
            final, whole, unread, begins = (max(pair) for pair in zip(earlier[2:], mark[2:], strict=True))
            mark = Mark(mark.choice, mark.upto, bool(final), bool(whole), unread, begins)
        event.marks[mark.choice] = mark

    def refuse_if_terminated(self) -> None:
        """Raise UpstreamUnreadable if the terminator has been read."""
        if self.terminated:
            raise UpstreamUnreadable("the stream goes on behind its terminator")

    def final_marks(self) -> tuple[Mark, ...]:
        """Close every choice that is still open, and return its final mark."""
        marks = []
        for choice in self.choices:
            state = self._states[choice]
            if not state.final:
                state.final = True
                state.close_echoes()
                marks.append(Mark(choice, state.builder.size, final=True, whole=True))
        return tuple(marks)

    def _chunk(self, frame: Frame) -> Chunk:
        if frame.data is None:
            return Chunk(frame.raw, (), Event(complete=frame.complete))
        if has_more_values(frame.data, FRAME_VALUES):
            raise UpstreamUnreadable(f"a frame of the stream has more than {FRAME_VALUES} values")
        chunk = self.read(frame)
        if any((choice, path) not in self._places for choice, path, _ in chunk.data.texts):
            self._repeated = []  # what a frame has beside its text may now be judged, such as a piece of this text
        if self._learnable > 0 and frame.complete:
            self._learn(frame.event, frame.data, chunk.data)
        return chunk

    def _read_run(self) -> ChunkRun | None:
        """Read the next frames as long as they repeat the latest known one with texts that need no parsing."""
        if not self._repeated:
            return None
        pattern, name, event, choice, path, kind, key = self._repeated[0]
        state = self._states[choice]
        echo = state.echoes[key] if key else None
        if (name and not self.named) or self.terminated or state.final or (echo and echo.ahead):
            return None
        columns, ends = self._decoder.repetitions(pattern.pieces, pattern.numbers, name)
        rows = pattern.rows(columns)
        if not rows or not (bodies := self.again_in_run(event, rows)):  # what `_read_again` does for each of them
            return None
        ends = ends[: len(bodies)]
        raw, texts = self._decoder.take(ends[-1]), [row[0] for row in rows[: len(bodies)]]
        self._learnable += len(texts)
        builder = state.builder
        upto = [*accumulate(map(len, texts), initial=builder.size)][1:]
        builder.grow(path, texts)
        if echo is not None:
            echo.add("".join(texts), b"")
        added = [(path, kind, text) for text in texts]
        is_shown = not state.ended and self._arrivals.add_run(choice, added, builder.pieces) > 0

        def event_of(first: int, stop: int) -> Event:
            mark = Mark(choice, upto[stop - 1])
            pieces = {choice: stop - first} if is_shown else {}
            said = [(choice, path, "".join(texts[first:stop]))]
            return Event({choice: mark}, said, pieces, bodies[stop - 1], event.kind, frames=stop - first)

        begins = state.begins([kind], builder.size - sum(map(len, texts)))
        return ChunkRun(raw, (Mark(choice, upto[-1], begins=begins),), ends, upto, event_of)

    def _read_again(self, frame: Frame) -> Chunk | None:
        """Read a frame that repeats an earlier one but for its text; None for any other frame."""
        raw, data, name, complete = frame
        if data is None or not complete or not self._repeated:
            return None
        try:
            body_text = data.decode()
        except UnicodeDecodeError:
            return None  # `read` says what is wrong
        for known in self._repeated:
            if name == known.name and (values := known.pattern.values(body_text)) is not None:
                break
        else:
            return None
        _, _, event, choice, path, kind, key = known
        state, text = self._states[choice], values[0]
        if self.terminated or state.final or not text or (body := self.again(event, values)) is None:
            return None
        if known is not self._repeated[0]:  # the next frames are more like this one
            self._repeated = [known, *(other for other in self._repeated if other is not known)]
        # What `advance` does for a frame that brings a piece of text and nothing else.
        self._learnable += 1
        builder, echo = state.builder, state.echoes[key] if key else None
        builder.grow(path, [text])
        if echo:
            echo.add(text, b"")
        pieces = {} if state.ended else {choice: self._arrivals.add_run(choice, [(path, kind, text)], builder.pieces)}
        begins = state.begins([kind], builder.size - len(text))
        mark = Mark(choice, builder.size, False, echo is not None and echo.ahead, begins=begins)
        return Chunk(raw, (mark,), Event({choice: mark}, [(choice, path, text)], pieces, body, event.kind))

    def _learn(self, name: str, data: bytes, event: Event) -> None:
        """Recognise the repetitions of a frame from now on if it has brought one text, and nothing that must wait."""
        texts = [said for said in event.texts if said[2]]
        if len(texts) != 1 or any(mark.final or mark.whole or mark.opaques for mark in event.marks.values()):
            return
        choice, path, text = texts[0]
        gaps = self.gaps(event, path)
        if gaps is None or value_at(event.body, gaps.places[0]) != text:
            return
        self._learnable -= _LEARNED
        if (pattern := pattern_of(data, event.body, gaps.places)) is not None:
            known = _Repeated(pattern, name, event, choice, path, self._states[choice].builder.kind(path), gaps.echo)
            self._repeated = [known, *self._repeated[: _PATTERNS - 1]]
            self._places.add((choice, path))

    # --- writing ---------------------------------------------------------------------------------------------------

    def released(self, choice: int) -> Message:
        """Return the choice as far as it has been released, with the part paths of `message`."""
        state = self.state_of(choice)
        parts = (
            replace(part, text=state.released_text(part.path))
            for part in state.builder.message("assistant").parts
            if part.path in state.released
        )
        return Message("assistant", tuple(parts), self._arrivals.released())

    def is_behind_end(self, event: Event) -> bool:
        """Whether the client has the terminator already: then only frames without data may follow."""
        return self.closed and bool(event.kind or event.body)

    def open_choices(self, event: Event) -> tuple[int, ...]:
        """Return the event's choices that the proxy has not ended."""
        return tuple([choice for choice in event.marks if not self._states[choice].ended])

    def note_released(self, event: Event) -> None:
        """Record that the frame has been released, with the texts of the choices that are still open."""
        self._cut = not event.complete
        for choice, path, text in event.texts:
            state = self._states[choice]
            if not state.ended:  # the wire has removed an ended choice from the frame
                state.released.setdefault(path, []).append(text)
        for choice in event.marks:
            self._states[choice].started = True
        for choice, count in event.pieces.items():
            if not self._states[choice].ended:
                self._arrivals.release(count)

    def end_choice(self, choice: int, outcome: Replace | Refuse) -> None:
        """Note that the proxy ends a choice: of its unreleased texts only the rest of the edited ones is left."""
        state = self._states[choice]
        rest: list[Part] = []
        if isinstance(outcome, Replace):
            for part, new in parts_with_new_texts(state.builder.message("assistant"), outcome):
                rest.append(replace(part, text=new.removeprefix(state.released_text(part.path))))
        self._arrivals.end(choice, rest)
        state.ended = True

    def rest_of_cut(self) -> bytes:
        """Return the missing end of the last released frame if the upstream broke off inside it, else nothing."""
        rest, self._cut = self.frame_end if self._cut else b"", False
        return rest

    def pack_all(self, bodies: Iterable[Mapping[str, Any]]) -> bytes:
        """Return frames written by the proxy, behind the missing end of a frame that was cut off."""
        out = b"".join(self.pack(body) for body in bodies)
        # Without the missing end, a client would read the last upstream frame and this frame as a single frame.
        return self.rest_of_cut() + out if out else b""


def without(body: Mapping[str, Any], parts: Iterable[Part]) -> dict[str, Any]:
    """Return the body without these parts of it; a deep copy if anything is removed."""
    paths = [part.path for part in parts]
    kept = copy.deepcopy(dict(body)) if paths else dict(body)
    remove(kept, paths)
    return kept


def parts_with_new_texts(message: Message, outcome: Replace) -> list[tuple[Part, str]]:
    """Return the readable parts with their texts after a Replace; with `whole`, only the parts that an edit names."""
    edits = {edit.path: edit.text for edit in outcome.edits}
    return [
        (part, edits.get(part.path, part.text))
        for part in message.parts
        if part.kind != "opaque" and (part.path in edits or not outcome.whole)
    ]
