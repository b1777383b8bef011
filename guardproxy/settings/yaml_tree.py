"""Parse YAML text into a tree of nodes with source positions, and report the mistakes that YAML itself accepts.

PyYAML keeps the last of two equal keys and resolves `on`, `1:30` and `0o17` to values other than the text; in a policy
either can lose a rule. So the tree is built from the parser's events: duplicate keys, anchors, aliases, merge keys,
tags and second documents are mistakes, and plain scalars are resolved by YAML 1.2's core schema.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

SettingPath = tuple[str | int, ...]
Scalar = None | bool | int | float | str

MAX_DEPTH = 32
_KEYWORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# 18 digits fit every integer type that reads the document later.
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,2})?")
_PLAIN_KEY = re.compile(r"[\w*-]+")
# The line breaks of YAML 1.1, by which PyYAML counts lines.
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_FLOW_REFERENCE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)\}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """A line and a column of the text; both count from 1."""

    line: int
    column: int


START = SourcePosition(1, 1)


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake, with its position in the text and the setting that it concerns.

    An empty path stands for the text as a whole.
    """

    position: SourcePosition
    path: SettingPath
    message: str

    def render(self, name: str) -> str:
        """The mistake as `file:line:column: path: message`; `name` is the file's."""
        place = f"{name}:{self.position.line}:{self.position.column}"
        return f"{place}: {dotted(self.path)}: {self.message}" if self.path else f"{place}: {self.message}"


@dataclass(slots=True)
class Node:
    """A value with its position, and the position of its key (its own if it has no key).

    `reported`: a mistake in the value is reported already, so later checks skip it.
    """

    value: "Scalar | dict[str, Node] | list[Node]"
    position: SourcePosition
    key_position: SourcePosition
    reported: bool = False

    def get(self, *path: str | int) -> "Node | None":
        """The node at `path` below this one, or None."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node else None
        return node

    def child(self, step: str | int) -> "Node | None":
        """The node one step below, or None."""
        if isinstance(self.value, dict):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def entries(self) -> "list[tuple[str, Node]]":
        """The keys and values of a mapping; empty for any other value."""
        return list(self.value.items()) if isinstance(self.value, dict) else []

    def elements(self) -> "list[tuple[int, Node]]":
        """The indices and values of a list; empty for any other value."""
        return list(enumerate(self.value)) if isinstance(self.value, list) else []

    def text(self) -> str | None:
        """The value if it is a string, or None."""
        return self.value if isinstance(self.value, str) else None

    def number(self) -> float | None:
        """The value if it is a number, or None."""
        return float(self.value) if isinstance(self.value, int | float) and not isinstance(self.value, bool) else None

    def plain_value(self) -> Any:
        """The value without positions, in the types of Python's json module."""
        if isinstance(self.value, dict):
            return {key: node.plain_value() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain_value() for node in self.value]
        return self.value


def dotted(path: SettingPath) -> str:
    """`("routes", 0, "when")` as `routes[0].when`; keys with characters such as spaces or dots are quoted."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            shown += ("." if shown else "") + (step if _PLAIN_KEY.fullmatch(step) else json.dumps(step))
    return shown


def read(text: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a YAML text and every mistake in its syntax.

    The tree is None if the text cannot be parsed to its end, and an empty mapping if the text holds no value.
    """
    builder = _TreeBuilder()
    text = text.removeprefix("\ufeff")
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        message = f"character U+{error.character:04X} is not allowed in YAML; remove it"
        return None, [Problem(position_at(text, error.position), (), message)]
    try:
        while loader.check_event():
            builder.add_event(loader.get_event())  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        position = _position(error.problem_mark or error.context_mark or loader.get_mark())
        mend = _mend(text, error.problem_mark)
        return None, [*builder.problems, Problem(position, (), f"not YAML: {error.problem or error.context}{mend}")]
    except (ValueError, OverflowError):
        # PyYAML does not check the numbers in escapes ("\Uffffffff") and directives.
        message = "not YAML: a number in an escape or directive is too large"
        return None, [*builder.problems, Problem(_position(loader.get_mark()), (), message)]
    except _StopReading:
        return None, builder.problems
    root = builder.root
    return root if root is not None and root.value is not None else Node({}, START, START), builder.problems


def _mend(text: str, mark: Any) -> str:
    """What to write in place of a tab, and of a reference whose braces have a meaning in a flow mapping; else empty."""
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return "; indent with spaces"
    found = _FLOW_REFERENCE.match(text, mark.index - 1) if mark is not None and mark.index else None
    return f'; between braces, quote it: "${{env:{found[1]}}}"' if found else ""


class _StopReading(Exception):
    """The rest of the text cannot be read."""


@dataclass(slots=True)
class _OpenCollection:
    """A mapping or list before its end event, and the key whose value has not come yet."""

    node: Node
    is_mapping: bool
    key: Node | None = None


@dataclass(slots=True)
class _TreeBuilder:
    """Builds the tree from parser events, without recursion."""

    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    stack: list[_OpenCollection] = field(default_factory=list)
    documents: int = 0

    def add_event(self, event: yaml.Event) -> None:
        """Add an event to the tree. Raises _StopReading after an event that makes the rest unreadable."""
        position = _position(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                message = "a second document begins here; put each configuration into a file of its own"
                self.problems.append(Problem(position, (), message))
                raise _StopReading
        elif isinstance(event, yaml.AliasEvent):
            self._report(position, f"alias *{event.anchor} is not supported; write the value out")
            self._add(Node(None, position, position, reported=True))
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event, position))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, position)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self.stack.pop().node)

    def _open(self, event: yaml.CollectionStartEvent, position: SourcePosition) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._report(position, f"is nested more than {MAX_DEPTH} deep")
            raise _StopReading
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        node = Node({} if is_mapping else [], position, position)
        self._report_properties(event, position)
        self.stack.append(_OpenCollection(node, is_mapping))

    def _scalar(self, event: yaml.ScalarEvent, position: SourcePosition) -> Node:
        has_tag = self._report_properties(event, position)
        if _SURROGATE.search(event.value):
            self._report(position, "contains an unpaired surrogate; write the whole character")
            return Node(None, position, position, reported=True)
        is_key = bool(self.stack) and self.stack[-1].is_mapping and self.stack[-1].key is None
        if is_key and event.style is None and event.value == "<<":
            self._report(position, "merge key << is not supported; write the keys out")
            return Node(None, position, position, reported=True)
        value = _resolve(event.value) if event.style is None and not is_key else event.value
        return Node(value, position, position, reported=has_tag)

    def _report_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, position: SourcePosition) -> bool:
        """Report an anchor or a tag; whether there is a tag, with which the value may mean something else."""
        if event.anchor is not None:
            self._report(position, f"anchor &{event.anchor} is not supported; remove it")
        if event.tag is not None:
            self._report(position, f"tag {event.tag} is not supported; remove it")
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
                self._report(node.position, "a key must be a string")
                node = Node(None, node.position, node.position, reported=True)
            top.key = node
        else:
            key, top.key = top.key, None
            self._add_entry(top, key, node)

    def _add_entry(self, mapping: _OpenCollection, key: Node, node: Node) -> None:
        if not isinstance(key.value, str) or not isinstance(mapping.node.value, dict):
            return
        node.key_position = key.position
        first = mapping.node.value.get(key.value)
        if first is None:
            mapping.node.value[key.value] = node
            return
        message = f"duplicate key, already set in line {first.key_position.line}; keep only one"
        self.problems.append(Problem(key.position, (*self._path(), key.value), message))
        _merge(first, node)

    def _report(self, position: SourcePosition, message: str) -> None:
        self.problems.append(Problem(position, self._path(), message))

    def _path(self) -> SettingPath:
        """The path at which the next event belongs."""
        path: list[str | int] = []
        for level in self.stack:
            if isinstance(level.node.value, list):
                path.append(len(level.node.value))
            elif level.key is not None and isinstance(level.key.value, str):
                path.append(level.key.value)
        return tuple(path)


def _merge(first: Node, second: Node) -> None:
    """Add the entries under a duplicate key to those under the first, so that all of them are checked."""
    if not isinstance(first.value, dict) or not isinstance(second.value, dict):
        return
    for key, node in second.value.items():
        if key in first.value:
            _merge(first.value[key], node)
        else:
            first.value[key] = node


def _resolve(text: str) -> Scalar:
    """The value of a plain scalar by YAML 1.2's core schema (10.3.2), less octal, hexadecimal and infinity."""
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _position(mark: Any) -> SourcePosition:
    """The position of a PyYAML mark, which counts from 0."""
    return SourcePosition(mark.line + 1, mark.column + 1)


def position_at(text: str, offset: int) -> SourcePosition:
    """The position of the character at `offset`."""
    lines = _LINE_BREAK.split(text[:offset])
    return SourcePosition(len(lines), len(lines[-1]) + 1)


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """The problems without duplicates, by position."""
    return sorted(
        dict.fromkeys(problems),
        key=lambda problem: (problem.position.line, problem.position.column, dotted(problem.path), problem.message),
    )
