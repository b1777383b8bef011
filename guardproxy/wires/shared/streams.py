"""What the readers of streamed replies share: frames to chunks, and what has been sent of each choice."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guardproxy.errors import UpstreamUnreadable
from guardproxy.ports import Chunk, Mark, Request
from guardproxy.sse import Decoder, Frame
from guardproxy.types import Message, Part, Replace
from guardproxy.wires.shared.body import remove
from guardproxy.wires.shared.message_builder import MessageBuilder
from guardproxy.wires.shared.parts import Fields, walk

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
CHOICES = 1024  # a choice's number beyond this is refused

_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Track:
    """One choice: its text so far, what of it has been released, who closed it."""

    builder: MessageBuilder
    final: bool = False  # closed by the upstream
    ended: bool = False  # closed by the proxy
    started: bool = False  # a frame of it has been released
    sent: dict[str, list[str]] = field(default_factory=dict)  # path → released texts
    finish: str = ""  # the upstream's reason for its end
    extra: dict[str, Any] = field(default_factory=dict)  # what the wire itself remembers

    def said(self, path: str) -> str:
        """What has been released of the text at `path`."""
        return "".join(self.sent.get(path, ()))

    @property
    def silent(self) -> bool:
        """Whether nothing has been released of its answer; reasoning is none."""
        return not any(any(texts) for path, texts in self.sent.items() if self.builder.pieces[path].kind != "reasoning")

    def remainder(self, part: Part, new: str) -> str:
        """What is left to send of `part` when its text is to be `new`. Raises ValueError where too much was sent."""
        said = self.said(part.path)
        if not new.startswith(said):
            raise ValueError(f"{part.path}: the new text does not begin with what was released")
        return new[len(said) :]


@dataclass(slots=True)
class Event:
    """What the wire knows of a frame: its choices, its texts as (choice, path, text), its parsed data."""

    choices: tuple[int, ...] = ()
    texts: list[tuple[int, str, str]] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    complete: bool = True


class BaseStream(ABC):
    """Frames in, chunks out. A wire says what a frame means, and how a choice ends in its protocol."""

    joint = b"\n\n"  # ends a frame that came without its end

    def __init__(self, request: Request, decoder: Decoder) -> None:
        self.request = request
        self._decoder = decoder
        self._tracks: dict[int, Track] = {}
        self._cut = False  # the last frame released lacked its terminator
        self.closed = False  # its terminator has left

    @abstractmethod
    def read(self, frame: Frame) -> Chunk:
        """The chunk of a frame that has data. Raises UpstreamUnreadable."""

    @abstractmethod
    def pack(self, body: Mapping[str, Any]) -> bytes:
        """A frame of this protocol."""

    @property
    def choices(self) -> tuple[int, ...]:
        """The choices seen so far."""
        return tuple(sorted(self._tracks))

    @property
    def id(self) -> str:
        """What a later request may name the reply by; empty in protocols without that."""
        return ""

    def feed(self, data: bytes) -> list[Chunk]:
        """The frames completed by `data`, whatever the split. Raises UpstreamUnreadable."""
        return [self._chunk(frame) for frame in self._decoder.feed(data)]

    def finish(self) -> list[Chunk]:
        """The upstream has ended: what is left, with a final mark for every choice still open."""
        chunks = [self._chunk(frame) for frame in self._decoder.finish()]
        marks = self.final_marks()
        return [*chunks, Chunk(b"", marks, Event())] if marks else chunks

    def message(self, choice: int) -> Message:
        """The choice as far as it has been fed, part paths as in a whole reply."""
        return self.track(choice).builder.message("assistant")

    def released(self, choice: int) -> Message:
        """The choice as far as it has left, with the part paths of `message`."""
        track = self.track(choice)
        return Message(
            "assistant",
            tuple(
                replace(part, text=track.said(part.path))
                for part in track.builder.message("assistant").parts
                if part.path in track.sent
            ),
        )

    def track(self, choice: int) -> Track:
        """The state of a choice; a new one where it has not been seen."""
        if choice not in self._tracks:
            if choice >= CHOICES:
                raise UpstreamUnreadable(f"choice {choice} of a stream is beyond the {CHOICES} that are read")
            self._tracks[choice] = Track(MessageBuilder(UpstreamUnreadable))
        return self._tracks[choice]

    def final_marks(self) -> tuple[Mark, ...]:
        """A final mark for every choice that is still open; they count as closed from here on."""
        marks = []
        for choice in self.choices:
            track = self._tracks[choice]
            if not track.final:
                track.final = True
                self.close_track(choice, track)
                marks.append(Mark(choice, track.builder.size, final=True, whole=True))
        return tuple(marks)

    @abstractmethod
    def close_track(self, choice: int, track: Track) -> None:
        """The choice has no more text: last comparisons."""

    def outside(self, body: Mapping[str, Any], table: Fields, event: Event) -> tuple[Mark, ...]:
        """The mark of a frame that belongs to no choice; one that says something belongs to the first."""
        beside = MessageBuilder(UpstreamUnreadable)
        walk(beside, body, "", table)
        if not beside.pieces:
            return ()
        event.choices = (min(self._tracks, default=0),)
        return (self.include(event.choices[0], beside.message("assistant").parts, event),)

    def include(self, choice: int, parts: Iterable[Part], event: Event) -> Mark:
        """The mark of a choice to which parts are counted that stand beside it; behind its end it ends once more."""
        track = self.track(choice)
        track.builder.include(parts)
        event.texts += [(choice, path, text) for path, text in track.builder.take()]
        return Mark(choice, track.builder.size, final=track.final, whole=True)

    def over(self, event: Event) -> bool:
        """Whether nothing may leave any more: behind the terminator only frames without data do."""
        return self.closed and bool(event.kind or event.body)

    def live(self, event: Event) -> tuple[int, ...]:
        """The event's choices that the proxy has not ended."""
        return tuple(choice for choice in event.choices if not self._tracks[choice].ended)

    def sent(self, event: Event) -> None:
        """Note that the frame goes out."""
        self._cut = not event.complete
        for choice, path, text in event.texts:
            track = self._tracks[choice]
            if not track.ended:
                track.sent.setdefault(path, []).append(text)
        for choice in event.choices:
            self._tracks[choice].started = True

    def frames(self, bodies: Iterable[Mapping[str, Any]]) -> bytes:
        """Frames written by the proxy; a frame that was released without its end is ended first."""
        out = b"".join(self.pack(body) for body in bodies)
        if out and self._cut:
            out, self._cut = self.joint + out, False
        return out

    def _chunk(self, frame: Frame) -> Chunk:
        if frame.data is not None:
            return self.read(frame)
        # A byte order mark makes official clients lose the first frame; it carries nothing.
        raw = b"" if frame.raw == _BOM else frame.raw
        return Chunk(raw, (), Event(complete=frame.complete))


def without_opaque(body: Mapping[str, Any], message: Message) -> dict[str, Any]:
    """What a frame says beside its choices, less what of it is opaque: what the proxy writes repeats none of that."""
    return without(body, message.opaque)


def without(body: Mapping[str, Any], parts: Iterable[Part]) -> dict[str, Any]:
    """The body less these parts of it."""
    paths = [part.path for part in parts]
    kept = copy.deepcopy(dict(body)) if paths else dict(body)
    remove(kept, paths)
    return kept


def new_texts(message: Message, outcome: Replace) -> list[tuple[Part, str]]:
    """Readable parts with their texts after a Replace; with `whole`, only those that an edit names."""
    edits = {edit.path: edit.text for edit in outcome.edits}
    return [
        (part, edits.get(part.path, part.text))
        for part in message.parts
        if part.kind != "opaque" and (part.path in edits or not outcome.whole)
    ]
