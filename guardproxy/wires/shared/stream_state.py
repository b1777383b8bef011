"""What the reader of a streamed reply keeps of each choice and of each frame. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from guardproxy.chunks import Mark
from guardproxy.types import Part, PartKind
from guardproxy.wires.shared.logprob_echo import LogprobEcho
from guardproxy.wires.shared.message_builder import MessageBuilder


@dataclass(slots=True)
class ChoiceState:
    """One choice of a streamed reply: its parts so far, the released texts, and who has closed it."""

    builder: MessageBuilder
    final: bool = False  # closed by the upstream
    ended: bool = False  # closed by the proxy
    started: bool = False  # a frame of it has been released
    released: dict[str, list[str]] = field(default_factory=dict)  # path → released pieces of its text
    finish: str = ""  # the upstream's finish reason
    echoes: dict[str, LogprobEcho] = field(default_factory=dict)  # log probabilities, by a key of the wire's own
    extra: dict[str, Any] = field(default_factory=dict)  # whatever else the wire must remember
    latest: PartKind = "text"  # the kind of the latest text

    def echo(self, key: str, path: str) -> LogprobEcho:
        """Return the echo kept under `key`, a new one for log probabilities at `path` if there is none."""
        if key not in self.echoes:
            self.echoes[key] = LogprobEcho(path)
        return self.echoes[key]

    def close_echoes(self) -> None:
        """Make what the log probabilities spell beside the text parts of their own."""
        for echo in self.echoes.values():
            echo.close(self.builder)

    def begins(self, kinds: Iterable[PartKind], size: int) -> int:
        """Return `size`, where these texts begin, if an answer begins among them behind reasoning; otherwise 0."""
        before = self.latest
        for kind in kinds:
            self.latest = kind
        return size if before == "reasoning" and self.latest == "text" else 0

    def has(self, part: Part) -> bool:
        """Return whether an earlier frame has brought the same text at the same place, as a server's name."""
        return self.builder.text(part.path) == part.text

    def released_text(self, path: str) -> str:
        """Return the released text at `path`."""
        return "".join(self.released.get(path, ()))

    @property
    def nothing_released(self) -> bool:
        """Whether no text of the answer has been released; reasoning is not part of the answer."""
        return not any(any(texts) and self.builder.kind(path) != "reasoning" for path, texts in self.released.items())

    def remainder(self, part: Part, new: str) -> str:
        """Return the part of `new`, the edited text of `part`, that is still to be sent.

        Raises ValueError if `new` does not begin with the released text.
        """
        released = self.released_text(part.path)
        if not new.startswith(released):
            raise ValueError(f"{part.path}: the new text does not begin with what was released")
        return new[len(released) :]


@dataclass(slots=True)
class Event:
    """What the reader keeps of a frame until it is released.

    `marks` by choice; `texts` as (choice, path, text); `pieces`: how many pieces of texts it brings, by choice; `body`
    is the parsed data, for frames that the proxy rewrites; `kind` is the wire's own name for the type of the frame,
    empty for a frame without data. Frames in a row that were read together have one event: `frames` is their number.
    """

    marks: dict[int, Mark] = field(default_factory=dict)
    texts: list[tuple[int, str, str]] = field(default_factory=list)
    pieces: dict[int, int] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    complete: bool = True
    frames: int = 1
