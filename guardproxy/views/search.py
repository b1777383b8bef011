"""The search for the views of a text: exact decodings merged and first, guesses after them, all within bounds. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from guardproxy.errors import ConfigError
from guardproxy.frozen import frozen
from guardproxy.views.alphabets import has_long_word
from guardproxy.views.cleaning import CLEANINGS, HIDDEN
from guardproxy.views.damaged import undamaged
from guardproxy.views.decoding import DECODINGS, EXACT, GUESSES, OF_ANY_SIGNS, OF_LONG_WORDS
from guardproxy.views.order import displayed
from guardproxy.views.seals import SEAL, Seals
from guardproxy.views.spacing import unspaced

DISPLAYED = "displayed"
DAMAGED = "damaged"
PART = "part"
VIEWS: tuple[str, ...] = (*CLEANINGS, DISPLAYED, *DECODINGS, DAMAGED)
MAX_VIEWS = 8
DEPTH = 6
GUESSES_IN_A_ROW = 2
MAX_REPEATED = 2_000_000

_AT_PLACE = frozenset((*CLEANINGS, "joined", PART))  # leave what they read in its order and hide nothing of it

# Adjacent results of decodings may belong together (halves of one encoding) or not (a decoy glued to a payload).
_SEALINGS = (Seals(), Seals("", SEAL), Seals(SEAL, SEAL))


@frozen
class View:
    """A view of a text. `name` lists the steps that made it, in order, such as `invisible+base64`."""

    name: str
    text: str


@frozen
class Views:
    """The views of a text. Not `complete` if a bound ended the search before everything encoded was decoded."""

    views: tuple[View, ...]
    complete: bool = True


def ends_alike(view: View) -> bool:
    """Whether the end of a view is that of its text, so that it grows as the text does."""
    return _AT_PLACE.issuperset(view.name.split("+"))


def views(text: str, names: Iterable[str]) -> tuple[View, ...]:
    """Return the views of `text` by the methods `names` (from VIEWS) that differ from `text` and from each other.

    Texts that differ only in spacing count as equal. Raises ConfigError for a name that is not in VIEWS.
    """
    return views_of(text, (), names).views


def views_of(text: str, joined: Sequence[str], names: Iterable[str], parts: Sequence[str] = ()) -> Views:
    """Return the `joined` texts as views, then the views of `text` and of each of them, as `views` does.

    Then come the `parts` of the text by themselves, each with its views. Whether the views are complete does not depend
    on them: what is encoded in a part is encoded in the text.
    """
    chosen = frozenset(names)
    if unknown := chosen.difference(VIEWS):
        raise ConfigError(f"views: unknown view {', '.join(sorted(unknown))}; use {', '.join(VIEWS)}")
    kept = [View("joined", form) for form in joined]
    seen = {_single_spaced(form) for form in (text, *joined)}
    search = _Search(chosen)
    complete = _keep([View("", text), *kept], search, kept, seen)
    for part in parts:
        if (key := _single_spaced(part)) not in seen:
            seen.add(key)
            kept.append(View(PART, part))
            _keep([kept[-1]], _Search(chosen), kept, seen)
    return Views(tuple(kept), complete)


def _keep(originals: Sequence[View], search: "_Search", kept: list[View], seen: set[str]) -> bool:
    """Add at most MAX_VIEWS views of the originals to those that are `kept`; return whether these are all."""
    most = len(kept) + MAX_VIEWS
    texts = {view.text for view in originals}
    for view in search.candidates(originals):
        if view.text in texts or not (key := _single_spaced(view.text)) or key in seen:
            continue
        if len(kept) == most:
            return False
        seen.add(key)
        kept.append(view)
    return search.complete


@dataclass(slots=True)
class _Search:
    """The decodings of some texts by the methods `chosen`; `room` is the number of characters left to search again."""

    chosen: frozenset[str]
    room: int = MAX_REPEATED
    complete: bool = True
    tried: set[str] = field(default_factory=set)

    def candidates(self, originals: Iterable[View]) -> Iterator[View]:
        """Yield the texts and their displayed forms, cleaned, then their exact decodings, then guesses at these."""
        level = list(self._new(self._bases(originals)))
        yield from level
        level = [view for base in level for view in self._exact(base)]
        yield from level
        for _ in range(GUESSES_IN_A_ROW):
            level = list(self._new(self._after_guess(view) for view in self._guesses(level)))
            yield from level
        if any(view.text not in self.tried for view in self._guesses(level)):
            self.complete = False

    def _new(self, found: Iterable[View]) -> Iterator[View]:
        for view in found:
            if view.text not in self.tried:
                self.tried.add(view.text)
                yield view

    def _bases(self, originals: Iterable[View]) -> Iterator[View]:
        shown: list[View] = []
        for view in originals:
            if DISPLAYED in self.chosen and (text := displayed(view.text)) != view.text:
                shown.append(View(_names(view.name, DISPLAYED), text))
            yield self._cleaned(view)
        yield from map(self._cleaned, shown)

    def _exact(self, base: View) -> list[View]:
        """Return `base` with every exact decoding undone, for each way to read adjacent results; or `base` itself."""
        first = self._undone(base, _SEALINGS[0])
        if first is base:
            return [base]
        return list(self._new([first, *(self._undone(base, seals) for seals in _SEALINGS[1:])]))

    def _undone(self, base: View, seals: Seals) -> View:
        view = base
        for turn in range(DEPTH + 1):
            if turn > 1:
                self.room -= len(view.text)
            if turn == DEPTH or self.room < 0:
                self.complete = self.complete and self._round(view, seals) is view
                break
            deeper = self._round(view, seals)
            if deeper is view:
                break
            view = deeper
        return view if SEAL not in view.text else View(view.name, view.text.replace(SEAL, ""))

    def _round(self, view: View, seals: Seals) -> View:
        """Undo the outermost encodings; return `view` itself if there are none.

        Letters are put together last: an encoded run may contain single characters between signs.
        """
        out, long = view, has_long_word(view.text)
        for name, method in EXACT:
            if name not in self.chosen or (name in OF_LONG_WORDS and not long):
                continue
            if (text := method(out.text, seals)) != out.text:
                out = self._cleaned(View(_names(out.name, name), text))
                if name in OF_ANY_SIGNS:
                    return out
        if out is view and "spaced" in self.chosen and (text := unspaced(view.text)) != view.text:
            return self._cleaned(View(_names(view.name, "spaced"), text))
        has_escapes = "0x" in view.text or "\\x" in view.text
        may_be_damaged = out is view and DAMAGED in self.chosen and (long or has_escapes)
        if may_be_damaged and (text := undamaged(view.text, seals)) != view.text:
            return self._cleaned(View(_names(view.name, DAMAGED), text))
        return out

    def _guesses(self, level: Iterable[View]) -> Iterator[View]:
        for view in level:
            for name, method in GUESSES.items():
                if name in self.chosen:
                    found = (text for text in method(view.text) if text != view.text)
                    yield from (self._cleaned(View(_names(view.name, name), text)) for text in found)

    def _after_guess(self, view: View) -> View:
        return self._undone(view, _SEALINGS[0])

    def _cleaned(self, view: View) -> View:
        if view.text.isascii() and not HIDDEN.search(view.text):
            return view
        name, text = view.name, view.text
        for cleaning, method in CLEANINGS.items():
            if cleaning in self.chosen and (cleaner := method(text)) != text:
                name, text = _names(name, cleaning), cleaner
        return View(name, text)


def _names(*names: str) -> str:
    return "+".join(name for name in names if name)


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
