"""Views: other forms of a text (cleaned, displayed, decoded) that the guard judges as well. Pure.

*Cleaning* undoes disguises that a reader does not notice: look-alikes from other alphabets, styled letters, invisible
characters, text hidden in tag characters. All chosen cleanings together make one view. The *displayed* view has the
characters in the order in which a right-to-left override shows them. *Decoding* undoes an encoding of the cleaned or
displayed text, and again of its own result, so that encodings nested twice are undone. A decoding counts only if its
result is more like words than its input, so ordinary prose and code have no views.

Bounds: MAX_VIEWS views of a text; DEPTH decodings in a row; at most MAX_DECODED characters of results that are decoded
again; time linear in the length of the text.
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
MAX_DECODED = 500_000


@dataclass(frozen=True, slots=True)
class View:
    """A view of a text. `name` lists the steps that made it, in order, such as `invisible+base64`."""

    name: str
    text: str


def views(text: str, names: Iterable[str]) -> tuple[View, ...]:
    """Return the views of `text` by the methods `names` (from VIEWS) that differ from `text` and from each other.

    Texts that differ only in spacing count as equal. Raises ConfigError for a name that is not in VIEWS.
    """
    chosen = frozenset(names)
    if unknown := chosen.difference(VIEWS):
        raise ConfigError(f"views: unknown view {', '.join(sorted(unknown))}; use {', '.join(VIEWS)}")
    kept: dict[str, View] = {}
    seen = {_single_spaced(text)}
    for view in _candidates(View("", text), chosen):
        key = _single_spaced(view.text)
        if key and key not in seen:
            seen.add(key)
            kept[view.name] = view
        if len(kept) == MAX_VIEWS:
            break
    return tuple(kept.values())


def _candidates(original: View, chosen: frozenset[str]) -> Iterator[View]:
    """Yield the text and its displayed form, both cleaned, then their decodings, then the decodings of these."""
    level, room = [_cleaned(original, chosen)], MAX_DECODED
    if DISPLAYED in chosen and (shown := displayed(original.text)) != original.text:
        level.append(_cleaned(View(DISPLAYED, shown), chosen))
    yield from level
    for _ in range(DEPTH):
        next_level: list[View] = []
        for base in level:
            for view in _decoded(base, chosen):
                yield view
                if len(view.text) <= room:
                    room -= len(view.text)
                    next_level.append(view)
        level = next_level


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


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
