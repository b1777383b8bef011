"""The hash chain that makes the rows of the store tamper-evident.

    content_hash = SHA-256(salt, content)          hash = SHA-256(number, previous row's hash, content_hash)

An erasure removes content and salt and keeps the hashes. The chain still verifies, and without the random salt nobody
can test a guess of the erased content. Each erasure appends an entry that names the erased rows, so a row whose content
was removed in any other way is detected.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

GENESIS = "0" * 64

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


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """A broken row, and what is wrong with it. If consecutive rows are missing, `seq` is the first of them."""

    seq: int
    message: str

    def __str__(self) -> str:
        return f"row {self.seq}: {self.message}"


def seal(seq: int, previous: str, content: str, salt: str) -> Link:
    """Return the row number `seq`, which follows the row with the hash `previous`."""
    inner = content_hash(salt, content)
    return Link(seq, salt, content, inner, previous, row_hash(seq, previous, inner))


def content_hash(salt: str, content: str) -> str:
    """Hash the salt and content of a row, in hex. The salt has a fixed length, so their boundary is unambiguous."""
    return hashlib.sha256(f"{salt}{content}".encode()).hexdigest()


def row_hash(seq: int, previous: str, inner: str) -> str:
    """Hash a row's number, its predecessor's hash and its content's hash, in hex."""
    return hashlib.sha256(f"{seq}\n{previous}\n{inner}".encode()).hexdigest()


def spans(numbers: Sequence[int]) -> list[RowSpan]:
    """Group ascending row numbers into spans of consecutive numbers, both ends included."""
    grouped: list[RowSpan] = []
    for number in numbers:
        if grouped and grouped[-1][1] == number - 1:
            grouped[-1] = (grouped[-1][0], number)
        else:
            grouped.append((number, number))
    return grouped


def erasure_entry(time: float, why: str, rows: Sequence[int]) -> str:
    """Return the content of an erasure entry: which rows were erased, when and why, but not whose they were."""
    return json.dumps({"erasure": {"time": time, "why": why, "rows": spans(rows)}}, separators=(",", ":"))


def erased_rows(content: str) -> list[RowSpan] | None:
    """Return the rows that an erasure entry names; None for a record or a label."""
    entry = json.loads(content).get("erasure")
    return [(first, last) for first, last in entry["rows"]] if entry else None


class ChainVerifier:
    """Checks the rows in the order of their numbers and collects a problem for every row that was changed."""

    def __init__(self) -> None:
        self.problems: list[ChainProblem] = []
        self.rows = 0
        self.head = Head(0, GENESIS)
        self._erased: list[RowSpan] = []
        self._declared: list[RowSpan] = []

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
        if link.hash != row_hash(link.seq, link.previous, link.content_hash):
            self.problems.append(ChainProblem(link.seq, "its hash does not match the row, which was changed or moved"))
        if link.content is None or link.salt is None:
            if self._erased and self._erased[-1][1] == link.seq - 1:
                self._erased[-1] = (self._erased[-1][0], link.seq)
            else:
                self._erased.append((link.seq, link.seq))
        elif link.content_hash != content_hash(link.salt, link.content):
            self.problems.append(ChainProblem(link.seq, "its content was changed"))
        else:
            self._declared += erased_rows(link.content) or []

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
        for first, last in _uncovered(self._erased, self._declared):
            rows = f"rows {first} to {last} have no content" if last > first else "has no content"
            self.problems.append(ChainProblem(first, f"{rows}, without an entry for the erasure"))
        return sorted(self.problems, key=lambda problem: problem.seq)


def _uncovered(erased: list[RowSpan], declared: list[RowSpan]) -> list[RowSpan]:
    """Return the parts of `erased` that no span of `declared` covers. Spans of one list may overlap."""
    uncovered: list[RowSpan] = []
    ordered = sorted(declared)
    for first, last in erased:
        at = first
        for low, high in ordered:
            if high < at:
                continue
            if low > last:
                break
            if low > at:
                uncovered.append((at, low - 1))
            at = high + 1
        if at <= last:
            uncovered.append((at, last))
    return uncovered
