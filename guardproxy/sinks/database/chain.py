"""The hash chain that makes the rows of the store tamper-evident.

    content_hash = SHA-256(salt, content)          hash = SHA-256(number, previous row's hash, content_hash)

With a key, hash is the HMAC-SHA-256 of the same. An entry says from which row on; its own hash is the first such one.

An erasure removes content and salt and keeps the hashes. The chain still verifies, and without the random salt nobody
can test a guess of the erased content. Each erasure appends an entry that names the erased rows, so a row whose content
was removed in any other way is detected. The text of a record is a sealed part (`sealed`): the content holds its seal,
so an erasure can remove it alone.
"""

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from guardproxy.sinks.database.keys import ChainKey
from guardproxy.sinks.database.sealed import ERASED, NO_PARTS, Parts, seal_in, seal_of

GENESIS = "0" * 64
KEY = "key"  # the kind of the row of a key entry, and the key of its content

RowSpan = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """The number and hash of the last row. A copy kept elsewhere proves later that no row up to it was changed."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Link:
    """The chain's columns of a row. An erased row has neither salt nor content."""

    seq: int
    salt: str | None
    content: str | None
    content_hash: str
    previous: str
    hash: str
    parts: Parts = NO_PARTS
    """The sealed parts, not encrypted."""


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """A broken row, and what is wrong with it. If consecutive rows are missing, `seq` is the first of them."""

    seq: int
    message: str

    def __str__(self) -> str:
        return f"row {self.seq}: {self.message}"


def seal(seq: int, previous: str, content: str, salt: str, key: ChainKey | None = None) -> Link:
    """Return the row number `seq`, which follows the row with the hash `previous`."""
    inner = content_hash(salt, content)
    return Link(seq, salt, content, inner, previous, row_hash(seq, previous, inner, key))


def content_hash(salt: str, content: str) -> str:
    """Hash the salt and content of a row, in hex. The salt has a fixed length, so their boundary is unambiguous."""
    return hashlib.sha256(f"{salt}{content}".encode()).hexdigest()


def row_hash(seq: int, previous: str, inner: str, key: ChainKey | None = None) -> str:
    """Hash a row's number, its predecessor's hash and its content's hash, in hex."""
    text = f"{seq}\n{previous}\n{inner}"
    return key.hash(text) if key else hashlib.sha256(text.encode()).hexdigest()


def key_entry(time: float, key: ChainKey) -> str:
    """Return the content of the entry from which on the hashes of rows need the key."""
    return json.dumps({KEY: {"time": time, "id": key.id}}, separators=(",", ":"))


def spans(numbers: Sequence[int]) -> list[RowSpan]:
    """Group ascending row numbers into spans of consecutive numbers, both ends included."""
    grouped: list[RowSpan] = []
    for number in numbers:
        if grouped and grouped[-1][1] == number - 1:
            grouped[-1] = (grouped[-1][0], number)
        else:
            grouped.append((number, number))
    return grouped


def erasure_entry(time: float, why: str, rows: Sequence[int], *, only: Literal["text"] | None = None) -> str:
    """Return the content of an erasure entry: which rows were erased, when and why, but not whose they were.

    With `only`, this part of the rows was erased.
    """
    entry = {"time": time, "why": why, "rows": spans(rows)}
    return json.dumps({"erasure": {**entry, "only": only} if only else entry}, separators=(",", ":"))


def erased_rows(content: str) -> list[RowSpan] | None:
    """Return the rows that an erasure entry names; None for a record or a label."""
    entry = json.loads(content).get("erasure")
    return [(first, last) for first, last in entry["rows"]] if entry else None


class ChainVerifier:
    """Checks the rows in the order of their numbers and collects a problem for every row that was changed."""

    def __init__(self, key: ChainKey | None = None) -> None:
        self._key = key
        self._keyed = False  # whether the rows from here on need the key
        self.problems: list[ChainProblem] = []
        self.rows = 0
        self.head = Head(0, GENESIS)
        self._erased: list[RowSpan] = []
        self._declared: list[RowSpan] = []
        self._erased_texts: list[RowSpan] = []
        self._declared_texts: list[RowSpan] = []

    def feed(self, link: Link) -> None:
        """Check the next row. Call this in ascending order of row numbers."""
        self.rows += 1
        expected = self.head.seq + 1
        if link.seq > expected:
            last = link.seq - 1
            message = "is missing" if last == expected else f"rows {expected} to {last} are missing"
            self.problems.append(ChainProblem(expected, message))
        elif link.previous != self.head.hash:
            message = f"does not follow from row {link.seq - 1}: one of the two rows was changed, moved or replaced"
            self.problems.append(ChainProblem(link.seq, message))
        self._check_row(link)
        self.head = Head(link.seq, link.hash)

    def _check_row(self, link: Link) -> None:
        content = _parsed(link.content)
        if content.get(KEY):
            self._keyed = True
        if link.hash != row_hash(link.seq, link.previous, link.content_hash, self._key if self._keyed else None):
            self.problems.append(ChainProblem(link.seq, "its hash does not match the row, which was changed or moved"))
        if link.content is None or link.salt is None:
            _extend(self._erased, link.seq)
            if link.parts != NO_PARTS:
                self.problems.append(ChainProblem(link.seq, "its text was changed"))
        elif link.content_hash != content_hash(link.salt, link.content):
            self.problems.append(ChainProblem(link.seq, "its content was changed"))
        else:
            self._check_content(link.seq, content, link.parts)

    def _check_content(self, seq: int, content: dict[str, Any], parts: Parts) -> None:
        entry = content.get("erasure")
        if entry:
            declared = self._declared_texts if entry.get("only") == "text" else self._declared
            declared += [(first, last) for first, last in entry["rows"]]
        if parts.text == ERASED and seal_in(content, "text"):
            _extend(self._erased_texts, seq)
        elif not _fits(seal_in(content, "text"), parts.text) or not _fits(seal_in(content, "quotes"), parts.quotes):
            self.problems.append(ChainProblem(seq, "its text was changed"))

    @property
    def erased(self) -> int:
        """The number of rows without content."""
        return sum(last - first + 1 for first, last in self._erased)

    def finish(self, head: Head) -> list[ChainProblem]:
        """Return all problems in the order of rows. `head` is the last row according to the store."""
        if head.seq > self.head.seq:
            self.problems.append(
                ChainProblem(self.head.seq + 1, f"rows {self.head.seq + 1} to {head.seq} are missing at the end")
            )
        elif head != self.head:
            self.problems.append(
                ChainProblem(self.head.seq, f"is not the last row that the store noted, row {head.seq}")
            )
        if self._key and not self._keyed:
            message = "no row uses the given key: nobody has written with it yet, or the rows that use it are gone"
            self.problems.append(ChainProblem(self.head.seq, message))
        for part, erased, declared in (
            ("content", self._erased, self._declared),
            ("text", self._erased_texts, self._declared_texts),
        ):
            for first, last in _uncovered(erased, declared):
                rows = f"rows {first} to {last} have no {part}" if last > first else f"has no {part}"
                self.problems.append(ChainProblem(first, f"{rows}, without an entry for the erasure"))
        return sorted(self.problems, key=lambda problem: problem.seq)


def _parsed(content: str | None) -> dict[str, Any]:
    """Return the content as a dict; an empty one if it is none, which is a problem of its own."""
    try:
        parsed = json.loads(content or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _fits(expected: str | None, part: str | None) -> bool:
    """Whether a part has the seal that the content holds; None stands for a part that the row does not have."""
    return expected is None if part is None else seal_of(part) == expected


def _extend(spans: list[RowSpan], seq: int) -> None:
    """Add the next row to ascending spans of rows."""
    if spans and spans[-1][1] == seq - 1:
        spans[-1] = (spans[-1][0], seq)
    else:
        spans.append((seq, seq))


def _uncovered(erased: list[RowSpan], declared: list[RowSpan]) -> list[RowSpan]:
    """Return the parts of `erased`, which ascend, that no span of `declared` covers. Declared spans may overlap."""
    uncovered: list[RowSpan] = []
    covering = deque(sorted(declared))
    for first, last in erased:
        at = first
        while at <= last and covering and covering[0][0] <= last:
            low, high = covering[0]
            if low > at:
                uncovered.append((at, low - 1))
            at = max(at, high + 1)
            if high <= last:
                covering.popleft()
        if at <= last:
            uncovered.append((at, last))
    return uncovered
