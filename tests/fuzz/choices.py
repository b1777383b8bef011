"""Decisions that are read from bytes, so that a fuzzer that changes bytes changes structured inputs."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Choices:
    """Reads decisions from bytes. Behind their end every decision is the first one, so every input is finite."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        """The bytes that are not read yet."""
        return len(self._data) - self._place

    def number(self, below: int) -> int:
        """A number from 0 on."""
        size = 1 if below <= 256 else 2
        taken = self._data[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken, "big") % below

    def one_of(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.number(len(items))]

    def is_one_in(self, n: int) -> bool:
        """True once in `n` times."""
        return self.number(n) == n - 1

    def text(self, pieces: Sequence[str], most: int) -> str:
        """A text of at most `most` pieces: those given, and any character of Unicode."""
        count = self.number(most + 1)
        return "".join(self._character() if self.is_one_in(6) else self.one_of(pieces) for _ in range(count))

    def _character(self) -> str:
        code = (self.number(17) << 16) + self.number(65_536)
        return "\ufffd" if 0xD800 <= code <= 0xDFFF else chr(code)
