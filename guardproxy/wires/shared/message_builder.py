"""Builds one message from the parts of a body, or from the pieces of a stream."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from guardproxy.errors import Unreadable
from guardproxy.images import InlineImage
from guardproxy.types import Message, Part, PartKind, Role
from guardproxy.wires.shared.identifiers import is_identifier, is_value, looseness
from guardproxy.wires.shared.known import Known

ODD_KEYS = 3

_OPAQUE = "\0"


@dataclass(slots=True)
class _GrowingPart:
    path: str
    kind: PartKind
    note: str = ""
    head: list[str] = field(default_factory=list)  # the name of a tool call
    body: list[str] = field(default_factory=list)
    image: InlineImage | None = None

    def text(self) -> str:
        """Return the text of the piece, and keep it joined: a stream asks for it again and again."""
        self.head[:], self.body[:] = ["".join(self.head)], ["".join(self.body)]
        return "\n".join(text for text in (*self.head, *self.body) if text)


class MessageBuilder:
    """Collects the parts of one message. Text added at a path is appended to the text that is already there.

    `error` is the type of error that malformed input raises: Unreadable for requests, UpstreamUnreadable for replies.
    `known` are strings that are enumerated values in this message, such as the names of the request's tools; it is
    shared by all builders of a body, and counts the words of their identifiers.
    """

    def __init__(self, error: type[Unreadable], known: Known | None = None) -> None:
        self.error = error
        self.known = Known() if known is None else known
        self._odd_keys: tuple[str, ...] = ()
        self.size = 0  # characters, as Message.size counts them
        self.opaques = 0  # calls of `opaque`
        self.calls = 0  # tool calls so far
        self.added: list[tuple[str, str]] = []  # (path, text) since the last `take`; the text of opaque parts is empty
        self.said: list[tuple[str, PartKind, str]] = []  # (path, kind, text) as clients join it since then
        self.pieces: dict[str, _GrowingPart] = {}  # by path; opaque parts by _OPAQUE and the path

    def add(self, path: str, text: str, kind: PartKind = "text", form: str = "") -> None:
        """Append `text` to the part at `path`. `form` names the form of the piece, if clients tell it from others."""
        piece = self._piece(path, kind)
        self.size += len(text)
        if text and any(piece.head) and not any(piece.body):
            self.size += 1  # the line break behind a tool's name
        piece.body.append(text)
        self.added.append((path, text))
        self.said.append((path + form, kind, text))

    def grow(self, path: str, texts: Sequence[str]) -> None:
        """Append texts to a part that has a text and no name, as `add` does; the caller knows what it has added."""
        self.pieces[path].body.extend(texts)
        self.size += sum(map(len, texts))

    def call(self, path: str, name: str, arguments: str) -> None:
        """Append to a tool call: name, line break and arguments are one text, at the path of the arguments."""
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
        self.said.append((path, "tool_call", arguments))  # clients append the arguments without the name

    def _piece(self, path: str, kind: PartKind) -> _GrowingPart:
        """Return the piece at `path`, a new one if there is none."""
        piece = self.pieces.get(path)
        if piece is None:
            piece = self.pieces[path] = _GrowingPart(path, kind)
            self.calls += kind == "tool_call"
        return piece

    def name(self, path: str, text: str) -> None:
        """Add a string that frames may repeat, such as a model's name: an equal text is added only once.

        Another text is appended: clients join the strings that a field has in several deltas.
        """
        if self.text(path) != text:
            self.add(path, text)

    def may_name(self, key: str, path: str) -> bool:
        """Return whether an unknown key passes: keys of a message may have ODD_KEYS words of their own together.

        `path` is that of the key's value.
        """
        if is_value(key) or key in self._odd_keys:
            if looseness(key):
                self.known.note(path, key)
            return True
        odd = is_identifier(key) and len(self._odd_keys) < ODD_KEYS
        if odd:
            self._odd_keys += (key,)
            self.known.note(path, key)
        return odd

    def add_noted(self) -> None:
        """Add the identifiers of the body as texts if they have too many words."""
        for path, text in self.known.take_texts():
            self.name(path, text)

    def opaque(self, path: str, note: str, image: InlineImage | None = None) -> None:
        """Add an opaque part, with the image that it is. The same place may have a text too: both are parts."""
        self.pieces[_OPAQUE + path] = _GrowingPart(path, "opaque", note, image=image)
        self.opaques += 1
        self.added.append((path, ""))

    def picture(self, path: str, image: InlineImage) -> None:
        """Say that the opaque part at `path` is this image."""
        self.pieces[_OPAQUE + path].image = image

    def include(self, parts: Iterable[Part]) -> None:
        """Add the parts of another message."""
        for part in parts:
            if part.kind == "opaque":
                self.opaque(part.path, part.note, part.image)
            else:
                self.add(part.path, part.text, part.kind)

    @property
    def has_new_call(self) -> bool:
        """Whether anything was added to a tool call since the last `take`."""
        return any(path in self.pieces and self.pieces[path].kind == "tool_call" for path, _ in self.added)

    def take(self) -> list[tuple[str, str]]:
        """Return what was added since the last call, as (path, text)."""
        taken, self.added, self.said = self.added, [], []
        return taken

    def absorb(self, other: "MessageBuilder", grown: Container[str]) -> None:
        """Add the parts of a builder that has read a repetition of this message, without adding a text twice.

        At a path in `grown`, whose text was streamed, a different text raises the error. At any other path, a
        different text is appended behind a line break.
        """
        for piece in other.pieces.values():
            path = piece.path
            mine = self.pieces.get(path)
            if piece.kind == "opaque":
                self.opaque(path, piece.note, piece.image)
            elif mine is None or not mine.text():
                self._copy(path, piece)
            elif mine.text() != piece.text() and piece.text():
                self._reconcile(path, mine, piece, grown=path in grown)

    def _copy(self, path: str, piece: _GrowingPart) -> None:
        if piece.kind == "tool_call":
            self.call(path, "".join(piece.head), "".join(piece.body))
        else:
            self.add(path, piece.text(), piece.kind)

    def _reconcile(self, path: str, mine: _GrowingPart, piece: _GrowingPart, *, grown: bool) -> None:
        if piece.kind == "tool_call" and not any(mine.body) and "".join(mine.head) == "".join(piece.head):
            self.call(path, "", "".join(piece.body))
        elif grown:
            raise self.error("is not the text that was streamed before", path)
        elif piece.kind == "tool_call":
            self.call(path, "", "\n" + piece.text())
        else:
            self.add(path, "\n" + piece.text(), piece.kind)

    def head(self, path: str) -> str:
        """Return the name of the tool call at `path` so far."""
        return "".join(self.pieces[path].head) if path in self.pieces else ""

    def text(self, path: str) -> str:
        """Return the text at `path` so far."""
        return self.pieces[path].text() if path in self.pieces else ""

    def kind(self, path: str) -> PartKind:
        """Return the kind of the text at `path`."""
        return self.pieces[path].kind

    def message(self, role: Role) -> Message:
        """Return the message so far."""
        return Message(
            role,
            tuple(
                Part(piece.path, piece.text(), piece.kind, piece.note, piece.image) for piece in self.pieces.values()
            ),
        )
