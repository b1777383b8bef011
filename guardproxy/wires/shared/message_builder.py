"""One message while it is read: its parts, as they stand in a body or as they grow in a stream."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from guardproxy.errors import Unreadable
from guardproxy.types import Message, Part, PartKind, Role


@dataclass(slots=True)
class _Piece:
    kind: PartKind
    note: str = ""
    head: list[str] = field(default_factory=list)  # the name of a tool call
    body: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The piece as the guard reads it. What has grown so far is kept joined."""
        self.head[:], self.body[:] = ["".join(self.head)], ["".join(self.body)]
        return "\n".join(text for text in (*self.head, *self.body) if text)


class MessageBuilder:
    """The parts of one message, as they are read, or as they grow in a stream. `error` is what bad input raises."""

    def __init__(self, error: type[Unreadable]) -> None:
        self.error = error
        self.size = 0  # characters, as Message.size counts them
        self.opaques = 0  # times that `opaque` was called
        self.calls = 0  # tool calls so far
        self.added: list[tuple[str, str]] = []  # (path, text) since `take`; opaque parts have no text
        self.pieces: dict[str, _Piece] = {}

    def add(self, path: str, text: str, kind: PartKind = "text") -> None:
        """`text` goes on at `path`."""
        piece = self._piece(path, kind)
        self.size += len(text)
        if text and any(piece.head) and not any(piece.body):
            self.size += 1  # the line break behind a tool's name
        piece.body.append(text)
        self.added.append((path, text))

    def call(self, path: str, name: str, arguments: str) -> None:
        """A tool call goes on: its name and its arguments are one text, with the path of the arguments."""
        piece = self._piece(path, "tool_call")
        grown = name
        if name and not any(piece.head) and any(piece.body):
            self.size += 1  # the line break between name and arguments
        piece.head.append(name)
        if arguments:
            grown += ("\n" if any(piece.head) and not any(piece.body) else "") + arguments
            piece.body.append(arguments)
        self.size += len(grown)
        self.added.append((path, grown))

    def _piece(self, path: str, kind: PartKind) -> _Piece:
        """The piece at `path`, a new one where there is none. Raises where what is there can take no text."""
        piece = self.pieces.get(path)
        if piece is None:
            piece = self.pieces[path] = _Piece(kind)
            self.calls += kind == "tool_call"
        elif piece.kind == "opaque":
            raise self.error("is a text where something unreadable was before", path)
        return piece

    def opaque(self, path: str, note: str) -> None:
        """There is something at `path` that no guard can read. Raises where a text was read there before."""
        piece = self.pieces.get(path)
        if piece is not None and piece.kind != "opaque":
            raise self.error("is something unreadable where a text was before", path)
        self.pieces[path] = _Piece("opaque", note)
        self.opaques += 1
        self.added.append((path, ""))

    def include(self, parts: Iterable[Part]) -> None:
        """Read the parts of another message as well."""
        for part in parts:
            if part.kind == "opaque":
                self.opaque(part.path, part.note)
            else:
                self.add(part.path, part.text, part.kind)

    def take(self) -> list[tuple[str, str]]:
        """What was added since this was last asked."""
        taken, self.added = self.added, []
        return taken

    def absorb(self, other: "MessageBuilder", grown: Container[str]) -> None:
        """Read what another builder of the same error has, once.

        Where a text has grown piece by piece (`grown`) the other must be the same. Elsewhere a text that differs from
        what was read before is read in addition. Raises `error`.
        """
        for path, piece in other.pieces.items():
            mine = self.pieces.get(path)
            if piece.kind == "opaque":
                self.opaque(path, piece.note)
            elif mine is None or not mine.text():
                self._copy(path, piece)
            elif mine.text() != piece.text() and piece.text():
                self._reconcile(path, mine, piece, grown=path in grown)

    def _copy(self, path: str, piece: _Piece) -> None:
        if piece.kind == "tool_call":
            self.call(path, "".join(piece.head), "".join(piece.body))
        else:
            self.add(path, piece.text(), piece.kind)

    def _reconcile(self, path: str, mine: _Piece, piece: _Piece, *, grown: bool) -> None:
        if piece.kind == "tool_call" and not any(mine.body) and "".join(mine.head) == "".join(piece.head):
            self.call(path, "", "".join(piece.body))
        elif grown:
            raise self.error("is not the text that was streamed before", path)
        elif piece.kind == "tool_call":
            self.call(path, "", "\n" + piece.text())
        else:
            self.add(path, "\n" + piece.text(), piece.kind)

    def head(self, path: str) -> str:
        """The name of the tool call at `path` so far."""
        return "".join(self.pieces[path].head) if path in self.pieces else ""

    def text(self, path: str) -> str:
        """The text at `path` so far."""
        return self.pieces[path].text() if path in self.pieces else ""

    def message(self, role: Role) -> Message:
        """The message so far."""
        return Message(
            role,
            tuple(
                Part(path, "" if piece.kind == "opaque" else piece.text(), piece.kind, piece.note)
                for path, piece in self.pieces.items()
            ),
        )
