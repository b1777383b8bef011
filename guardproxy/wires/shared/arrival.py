"""The order in which the texts of a stream arrive: some readers show all deltas in it, whatever they belong to."""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from guardproxy.errors import UpstreamUnreadable
from guardproxy.types import Part, PartKind

# The last keys of the paths at which clients append deltas to a text. A call's arguments have any key.
_SHOWN = re.compile(r"(?:^|\.)(?:content|text|refusal|reasoning(?:_content)?|summary|thinking|response|transcript)$")
# The kinds of text that may alternate: every combination of them is a text that some reader shows.
MAX_KINDS = 5
# So many paths at the end are searched before the places of all are noted.
_NEAR: Final = 8

Paths = dict[str, Any] | Sequence[str]
"""The paths of the parts of a choice, in order."""

Said = tuple[str, PartKind, str]
"""A piece of a text as clients append it: its path, its kind and the piece."""


class Arrivals:
    """The pieces of the texts of all choices in the order of their arrival, and how many of them have been released."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, Said]] = []
        self._sent = 0
        self._places: dict[tuple[int, str], int] = {}  # with the place of the text among the parts of its choice
        self._choices: set[int] = set()
        self._kinds: dict[tuple[PartKind, str], int] = {}  # with the place of the latest text among the parts
        self._last: tuple[int, str] | None = None
        self._alternate = False
        self._fed: tuple[Part, ...] | None = None  # the pieces so far, once somebody has asked for them
        self._released: tuple[Part, ...] | None = None  # those that have been released, likewise

    def add(self, choice: int, said: Iterable[Said], parts: Paths) -> int:
        """Add what a frame brings of a choice; return the number of pieces. `parts`: its paths.

        A text that repeats another text of the frame is left out: some servers send reasoning under two names. Raises
        UpstreamUnreadable if texts of more than MAX_KINDS kinds alternate.
        """
        count = 0
        repeated: set[tuple[PartKind, str]] = set()
        numbers: dict[str, int] = {}
        for piece in said:
            _, kind, text = piece
            if text and (kind, text) not in repeated and self._add(choice, [piece], parts, numbers):
                repeated.add((kind, text))
                count += 1
        return count

    def add_run(self, choice: int, pieces: Sequence[Said], parts: Paths) -> int:
        """Add the texts of frames in a row that have one each, at the same path; return the number of pieces.

        Raises UpstreamUnreadable as `add` does.
        """
        return self._add(choice, pieces, parts, {})

    def _add(self, choice: int, pieces: Sequence[Said], parts: Paths, numbers: dict[str, int]) -> int:
        """Add pieces at the same path. `numbers`, which `_index` fills, are kept as long as `parts` are the same."""
        path, kind, text = pieces[0]
        if kind != "tool_call" and not _is_shown(path):
            return 0
        self._pieces += [(choice, piece) for piece in pieces]
        self._fed = self._released = None
        if (choice, path) != self._last:
            self._note(choice, Part(path, text, kind), parts, numbers)
        return len(pieces)

    def _note(self, choice: int, part: Part, parts: Paths, numbers: dict[str, int]) -> None:
        place, kind = (choice, part.path), part.shown_as
        known = place in self._places
        number = self._places[place] if known else _index(parts, part.path, numbers)
        self._choices.add(choice)
        if not self._alternate:
            self._alternate = known or len(self._choices) > 1 or number < self._kinds.get(kind, 0)
        self._places[place] = number
        self._kinds[kind] = number
        self._last = place
        if self._alternate and len(self._kinds) > MAX_KINDS:
            raise UpstreamUnreadable(f"texts of more than {MAX_KINDS} kinds alternate")

    def release(self, count: int) -> None:
        """Note that the next pieces have been released."""
        self._sent += count
        self._released = None

    def end(self, choice: int, rest: Iterable[Part]) -> None:
        """Replace the unreleased pieces of a choice with the rest of its texts, which is released at once."""
        pending = [piece for piece in self._pieces[self._sent :] if piece[0] != choice]
        sent = [*self._pieces[: self._sent], *((choice, (part.path, part.kind, part.text)) for part in rest)]
        self._pieces, self._sent = [*sent, *pending], len(sent)
        self._fed = self._released = None

    def fed(self, without: Collection[int] = ()) -> tuple[Part, ...]:
        """Return the pieces so far, except for the unreleased ones of the choices `without`."""
        if not without:
            # Every choice of a stream asks for the same pieces.
            self._fed = self._parts(self._pieces) if self._fed is None else self._fed
            return self._fed
        sent = self._sent
        return self._parts(piece for n, piece in enumerate(self._pieces) if n < sent or piece[0] not in without)

    def released(self) -> tuple[Part, ...]:
        """Return the pieces that have been released."""
        self._released = self._parts(self._pieces[: self._sent]) if self._released is None else self._released
        return self._released

    def _parts(self, pieces: Iterable[tuple[int, Said]]) -> tuple[Part, ...]:
        """Return pieces, those of a text in a row as one; none if one choice has one text after the other, in order."""
        if not self._alternate:
            return ()
        runs: list[tuple[tuple[int, str], PartKind, list[str]]] = []
        for choice, (path, kind, text) in pieces:
            if runs and runs[-1][0] == (choice, path):
                runs[-1][2].append(text)
            else:
                runs.append(((choice, path), kind, [text]))
        return tuple(Part(path, "".join(texts), kind) for (_, path), kind, texts in runs)


@lru_cache(maxsize=1024)
def _is_shown(path: str) -> bool:
    return _SHOWN.search(path) is not None


def _index(parts: Paths, path: str, numbers: dict[str, int]) -> int:
    """Return the place of a path, the last one if it is there twice; 0 if it is not there.

    New paths are at the end, where it is searched first. A frame may bring thousands: then `numbers`, which is empty at
    first, gets the places of all.
    """
    if not numbers:
        for behind, other in enumerate(islice(reversed(parts), _NEAR)):
            if other == path:
                return len(parts) - 1 - behind
        numbers.update((other, number) for number, other in enumerate(parts))
    return numbers.get(path, 0)
