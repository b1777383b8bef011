"""YAML text to a tree that remembers where everything stands, and the mistakes that YAML itself would let pass.

PyYAML keeps the last of two equal keys and reads `on`, `1:30` and `0o17` as something else than what is written; in a
policy either can lose a rule. So the tree is built from the parser's events: duplicate keys, anchors, aliases, merge
keys, tags and second documents are mistakes, and plain scalars mean what they mean in YAML 1.2's core schema.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
Scalar = None | bool | int | float | str

MAX_DEPTH = 32
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# 18 digits fit every integer type that reads the document later.
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,2})?")
_PLAIN_KEY = re.compile(r"[\w*-]+")
# What YAML 1.1 counts as the end of a line.
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text; lines and columns count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, where it stands and in which setting. An empty path speaks of the text as a whole."""

    mark: Mark
    path: Path
    message: str

    def render(self, name: str) -> str:
        """`file:line:column: path: message`."""
        place = f"{name}:{self.mark.line}:{self.mark.column}"
        return f"{place}: {dotted(self.path)}: {self.message}" if self.path else f"{place}: {self.message}"


@dataclass(slots=True)
class Node:
    """A value with the mark of its beginning, and that of its key where it has one.

    `broken` values were already reported, so nothing more is said of them.
    """

    value: "Scalar | dict[str, Node] | list[Node]"
    mark: Mark
    key: Mark
    broken: bool = False

    def get(self, *path: str | int) -> "Node | None":
        """The node at `path` below this one; None where there is none."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node else None
        return node

    def child(self, step: str | int) -> "Node | None":
        """The node one step below."""
        if isinstance(self.value, dict):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def entries(self) -> "list[tuple[str, Node]]":
        """The keys and values of a mapping; nothing for anything else."""
        return list(self.value.items()) if isinstance(self.value, dict) else []

    def items(self) -> "list[tuple[int, Node]]":
        """The places and values of a list; nothing for anything else."""
        return list(enumerate(self.value)) if isinstance(self.value, list) else []

    def text(self) -> str | None:
        """The value where it is a text."""
        return self.value if isinstance(self.value, str) else None

    def plain(self) -> Any:
        """The value as JSON has it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def dotted(path: Path) -> str:
    """`("routes", 0, "when")` as `routes[0].when`; a key that is no word is quoted."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += ("." if shown else "") + (step if _PLAIN_KEY.fullmatch(step) else json.dumps(step))
    return shown


def read(text: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a YAML text and every mistake in how it is written; no tree where the text is empty or broken."""
    reader = _Reader()
    text = text.removeprefix("\ufeff")
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        return None, [Problem(mark_at(text, error.position), (), f"character U+{error.character:04X} is not allowed")]
    try:
        while loader.check_event():
            reader.take(loader.get_event())  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        return None, [*reader.problems, Problem(_mark(mark), (), f"not YAML: {error.problem or error.context}")]
    except (ValueError, OverflowError):
        # PyYAML does not check the numbers in escapes ("\Uffffffff") and directives.
        problem = Problem(_mark(loader.get_mark()), (), "not YAML: a number in an escape or directive is too large")
        return None, [*reader.problems, problem]
    except _StopReading:
        return None, reader.problems
    return reader.root, reader.problems


class _StopReading(Exception):
    """The rest of the text cannot be read."""


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet, and the key that waits for its value."""

    node: Node
    mapping: bool
    key: Node | None = None


@dataclass(slots=True)
class _Reader:
    """Builds the tree from parser events, without recursion."""

    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def take(self, event: yaml.Event) -> None:
        """Add one event to the tree. Raises _StopReading behind what makes the rest unreadable."""
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.problems.append(Problem(mark, (), "a second document; one file holds one configuration"))
                raise _StopReading
        elif isinstance(event, yaml.AliasEvent):
            self._report(mark, f"alias *{event.anchor} is not supported; write the value out")
            self._add(Node(None, mark, mark, broken=True))
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event, mark))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self.stack.pop().node)

    def _open(self, event: yaml.CollectionStartEvent, mark: Mark) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._report(mark, f"nested more than {MAX_DEPTH} deep")
            raise _StopReading
        mapping = isinstance(event, yaml.MappingStartEvent)
        node = Node({} if mapping else [], mark, mark)
        self._plain_only(event, mark)
        self.stack.append(_Open(node, mapping))

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Node:
        broken = self._plain_only(event, mark)
        if _SURROGATE.search(event.value):
            self._report(mark, "half of a surrogate pair is no character")
            return Node(None, mark, mark, broken=True)
        as_key = bool(self.stack) and self.stack[-1].mapping and self.stack[-1].key is None
        if as_key and event.style is None and event.value == "<<":
            self._report(mark, "merge key << is not supported; write the keys out")
            return Node(None, mark, mark, broken=True)
        value = _resolve(event.value) if event.style is None and not as_key else event.value
        return Node(value, mark, mark, broken)

    def _plain_only(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, mark: Mark) -> bool:
        """Reports anchors and tags; whether there was a tag, after which the value cannot be trusted."""
        if event.anchor is not None:
            self._report(mark, f"anchor &{event.anchor} is not supported")
        if event.tag is not None:
            self._report(mark, f"tag {event.tag} is not supported")
        return event.tag is not None

    def _add(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif top.key is None:
            if isinstance(node.value, dict | list):
                self._report(node.mark, "a key must be a text")
                node = Node(None, node.mark, node.mark, broken=True)
            top.key = node
        else:
            key, top.key = top.key, None
            self._put(top, key, node)

    def _put(self, top: _Open, key: Node, node: Node) -> None:
        if not isinstance(key.value, str) or not isinstance(top.node.value, dict):
            return
        node.key = key.mark
        first = top.node.value.get(key.value)
        if first is None:
            top.node.value[key.value] = node
            return
        message = f"duplicate key, already given in line {first.key.line}"
        self.problems.append(Problem(key.mark, (*self._path(), key.value), message))
        _merge(first, node)

    def _report(self, mark: Mark, message: str) -> None:
        self.problems.append(Problem(mark, self._path(), message))

    def _path(self) -> Path:
        """Where the event that comes next belongs."""
        path: list[str | int] = []
        for level in self.stack:
            if isinstance(level.node.value, list):
                path.append(len(level.node.value))
            elif level.key is not None and isinstance(level.key.value, str):
                path.append(level.key.value)
        return tuple(path)


def _merge(first: Node, second: Node) -> None:
    """Put what stands under a duplicate key beside what stands under the first, so that all of it is checked."""
    if not isinstance(first.value, dict) or not isinstance(second.value, dict):
        return
    for key, node in second.value.items():
        if key in first.value:
            _merge(first.value[key], node)
        else:
            first.value[key] = node


def _resolve(text: str) -> Scalar:
    """What an unquoted scalar means in YAML 1.2's core schema (10.3.2), less octal, hexadecimal and infinity."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _mark(mark: Any) -> Mark:
    """PyYAML's mark, which counts from 0."""
    return Mark(mark.line + 1, mark.column + 1)


def mark_at(text: str, position: int) -> Mark:
    """The mark of a character, for the errors that have only its position."""
    lines = _LINE_BREAK.split(text[:position])
    return Mark(len(lines), len(lines[-1]) + 1)


def rank(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the text, each once."""
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda one: (one.mark.line, one.mark.column, dotted(one.path), one.message))
