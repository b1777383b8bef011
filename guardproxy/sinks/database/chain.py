"""The chain of hashes that makes the rows of the store tamper-evident.

    content_hash = SHA-256(salt, content)          hash = SHA-256(number, previous row's hash, content_hash)

The salt is random and goes when the content goes: what is left of an erased row keeps the chain whole, but does not
tell whether it held a text somebody guesses. An erasure is itself an entry of the chain and names the rows it erased,
so that a content that is missing without one is found.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

GENESIS = "0" * 64

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """The number and hash of the last row. Noted elsewhere, it shows later that nothing before it was changed."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Link:
    """What a row keeps of the chain, and its content unless that was erased."""

    seq: int
    salt: str | None
    content: str | None
    content_hash: str
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a row. Of several rows in a row that are missing, `seq` is the first."""

    seq: int
    what: str

    def __str__(self) -> str:
        return f"row {self.seq}: {self.what}"


def seal(seq: int, previous: str, content: str, salt: str) -> Link:
    """The row that follows a row with the hash `previous`."""
    inner = content_hash(salt, content)
    return Link(seq, salt, content, inner, previous, row_hash(seq, previous, inner))


def content_hash(salt: str, content: str) -> str:
    """In hex. The salt has a fixed length, so the two cannot be told apart in another way."""
    return hashlib.sha256(f"{salt}{content}".encode()).hexdigest()


def row_hash(seq: int, previous: str, inner: str) -> str:
    """In hex, of the row's number, its predecessor's hash and its content's hash."""
    return hashlib.sha256(f"{seq}\n{previous}\n{inner}".encode()).hexdigest()


def spans(numbers: Sequence[int]) -> list[Span]:
    """Ascending numbers as spans, first and last included."""
    found: list[Span] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def erasure(time: float, why: str, rows: Sequence[int]) -> str:
    """The content of an entry that says which rows were erased, when, and why (not whose they were)."""
    return json.dumps({"erasure": {"time": time, "why": why, "rows": spans(rows)}}, separators=(",", ":"))


def erased_rows(content: str) -> list[Span] | None:
    """The rows that an erasure entry names; None for a record."""
    found = json.loads(content).get("erasure")
    return [(first, last) for first, last in found["rows"]] if found else None


class Verifier:
    """Reads the rows from the first to the last and names every one that is not as it was written."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.rows = 0
        self.head = Head(0, GENESIS)
        self._empty: list[Span] = []
        self._allowed: list[Span] = []

    def feed(self, link: Link) -> None:
        """The next row, in the order of numbers."""
        self.rows += 1
        expected = self.head.seq + 1
        if link.seq > expected:
            last = link.seq - 1
            what = "is missing" if last == expected else f"to {last} are missing"
            self.problems.append(Problem(expected, what))
        elif link.previous != self.head.hash:
            what = f"does not follow row {link.seq - 1} as that is now: one of the two was changed, moved or replaced"
            self.problems.append(Problem(link.seq, what))
        self._inside(link)
        self.head = Head(link.seq, link.hash)

    def _inside(self, link: Link) -> None:
        if link.hash != row_hash(link.seq, link.previous, link.content_hash):
            self.problems.append(Problem(link.seq, "its hash is not that of the row: it was changed or moved"))
        if link.content is None or link.salt is None:
            if self._empty and self._empty[-1][1] == link.seq - 1:
                self._empty[-1] = (self._empty[-1][0], link.seq)
            else:
                self._empty.append((link.seq, link.seq))
        elif link.content_hash != content_hash(link.salt, link.content):
            self.problems.append(Problem(link.seq, "its content was changed"))
        else:
            self._allowed += erased_rows(link.content) or []

    @property
    def erased(self) -> int:
        """Rows whose content was erased."""
        return sum(last - first + 1 for first, last in self._empty)

    def finish(self, head: Head) -> list[Problem]:
        """All problems, once every row was fed and the store's own note of its last row, `head`, is known."""
        if head.seq > self.head.seq:
            self.problems.append(Problem(self.head.seq + 1, f"to {head.seq} are missing at the end"))
        elif head != self.head:
            self.problems.append(Problem(self.head.seq, f"is not the last row that was written ({head.seq})"))
        for first, last in _uncovered(self._empty, self._allowed):
            rows = f"to {last} have no content" if last > first else "has no content"
            self.problems.append(Problem(first, f"{rows}, and no erasure says so"))
        return sorted(self.problems, key=lambda problem: problem.seq)


def _uncovered(spans_of: list[Span], allowed: list[Span]) -> list[Span]:
    """What of `spans_of` lies in none of `allowed`; both may overlap among themselves."""
    found: list[Span] = []
    ordered = sorted(allowed)
    for first, last in spans_of:
        at = first
        for low, high in ordered:
            if high < at:
                continue
            if low > last:
                break
            if low > at:
                found.append((at, low - 1))
            at = high + 1
        if at <= last:
            found.append((at, last))
    return found
