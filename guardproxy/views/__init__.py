"""The readings of a text that the guard also gets: what it says once disguises are taken off. Pure.

*Cleaning* takes off what a reader does not see or does not notice (other alphabets' look-alikes, styled
letters, invisible characters, text hidden in tag characters); all chosen cleanings make one view. Where a right-to-left
override turns letters round, the order in which they are *displayed* makes another. *Decoding* undoes an
encoding, of the cleaned text and once more of what came out, so that encodings nested twice are read. A decoding is
only taken where it yields more word-like text than it was given, so ordinary prose and code have no view.

Bounds: MAX_VIEWS views of a text; DEPTH decodings on one another, the further ones of NESTED characters in all; time
linear in the text's length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guardproxy.errors import ConfigError
from guardproxy.views.cleaning import CLEANINGS, HIDDEN
from guardproxy.views.decoding import DECODINGS
from guardproxy.views.order import displayed

DISPLAYED = "displayed"
VIEWS: tuple[str, ...] = (*CLEANINGS, DISPLAYED, *DECODINGS)
MAX_VIEWS = 8
DEPTH = 2
NESTED = 500_000


@dataclass(frozen=True, slots=True)
class View:
    """One reading: `name` says what was undone, in order, as `invisible+base64`."""

    name: str
    text: str


def views(text: str, names: Iterable[str]) -> tuple[View, ...]:
    """The readings of `text` by the methods `names` (of VIEWS) that differ from it and from one another.

    Texts that differ in spacing alone are the same. Raises ConfigError for a name that is not in VIEWS.
    """
    chosen = frozenset(names)
    if unknown := chosen.difference(VIEWS):
        raise ConfigError(f"views: {', '.join(sorted(unknown))}: not among {', '.join(VIEWS)}")
    found: dict[str, View] = {}
    seen = {_squeezed(text)}
    for view in _readings(View("", text), chosen):
        key = _squeezed(view.text)
        if key and key not in seen:
            seen.add(key)
            found[view.name] = view
        if len(found) == MAX_VIEWS:
            break
    return tuple(found.values())


def _readings(given: View, chosen: frozenset[str]) -> Iterator[View]:
    """The text cleaned, as it stands and as it is displayed, then the decodings of both, then theirs."""
    level, room = [_cleaned(given, chosen)], NESTED
    if DISPLAYED in chosen and (shown := displayed(given.text)) != given.text:
        level.append(_cleaned(View(DISPLAYED, shown), chosen))
    yield from level
    for _ in range(DEPTH):
        further: list[View] = []
        for base in level:
            for view in _decoded(base, chosen):
                yield view
                if len(view.text) <= room:
                    room -= len(view.text)
                    further.append(view)
        level = further


def _decoded(base: View, chosen: frozenset[str]) -> Iterator[View]:
    for name, method in DECODINGS.items():
        if name in chosen and (text := method(base.text)) != base.text:
            yield _cleaned(View(_joined(base.name, name), text), chosen)


def _cleaned(view: View, chosen: frozenset[str]) -> View:
    if view.text.isascii() and not HIDDEN.search(view.text):
        return view
    name, text = view.name, view.text
    for cleaning, method in CLEANINGS.items():
        if cleaning in chosen and (cleaner := method(text)) != text:
            name, text = _joined(name, cleaning), cleaner
    return View(name, text)


def _joined(*names: str) -> str:
    return "+".join(name for name in names if name)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
