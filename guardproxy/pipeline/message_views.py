"""The views of messages: those of long texts are computed elsewhere, those of short texts are kept."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from guardproxy.apart import Apart
from guardproxy.offload import MEDIUM, computed
from guardproxy.types import Message, Part
from guardproxy.views import GrowingViews, Views, apart, interleaved, joined, may_have_apart, views_of, without_ends

# The views of texts up to this many characters together are kept, and how many characters are kept in all.
_KEPT_CHARACTERS = 4096
_ALL_CHARACTERS = 8 * 1024 * 1024

# The same processes for all long texts: they wait for each other, and short ones for none of them.
_APART = Apart()

# The latest texts in the order of arrival whose views are kept: with all choices of a stream, and without some.
_KEPT_ARRIVALS = 4

_NONE: tuple[str, ...] = ()
_Key = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


class ArrivalViews:
    """The views of the texts of a stream in the order of arrival. All its choices have the same, and find them here."""

    def __init__(self) -> None:
        self.growing = GrowingViews()
        self.computing = asyncio.Lock()
        self._kept: OrderedDict[tuple[str, ...], Views] = OrderedDict()
        self._joined: tuple[tuple[Part, ...], tuple[str, ...]] = ((), ())

    def joined(self, arrived: tuple[Part, ...]) -> tuple[str, ...]:
        """Return the texts of what has arrived, in every combination of kinds."""
        latest = self._joined  # another thread may put a later state of the stream in its place
        if latest[0] != arrived:
            latest = self._joined = (arrived, interleaved(arrived))
        return latest[1]

    def get(self, texts: tuple[str, ...]) -> Views | None:
        """Return the views of these texts, if they are among the latest ones."""
        return self._kept.get(texts)

    def keep(self, texts: tuple[str, ...], views: Views) -> None:
        """Keep the views of the texts, and drop the oldest."""
        self._kept[texts] = views
        if len(self._kept) > _KEPT_ARRIVALS:
            self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class ReplyViews:
    """The views of a choice of a streamed reply, again and again while it grows.

    `own`: those of the choice; none if what is judged is not what came of it. `arrivals` is the same for all choices.
    """

    arrivals: ArrivalViews
    own: GrowingViews | None = field(default_factory=GrowingViews)


class MessageViews:
    """Computes views. Clients send the whole conversation with every turn, so the views of its texts are kept.

    A check may take `timeout_s` seconds, the views of a long text included.
    """

    def __init__(self, timeout_s: float, apart: Apart = _APART) -> None:
        self._timeout_s = timeout_s
        self._apart = apart
        self._kept: OrderedDict[_Key, Views] = OrderedDict()
        self._characters = 0

    async def of(
        self, message: Message, names: tuple[str, ...], *, by_part: bool = True, growing: ReplyViews | None = None
    ) -> Views:
        """Return the views by the methods `names` of a message, with the joined texts of its parts.

        Unless `by_part` is false, each part is a view as well: false for messages whose parts are judged anyway. A
        message that grows is read from where it was read before, if that is known. Raises GuardUnavailable,
        Overloaded or JudgingTooLong if a long text cannot be read in time.
        """
        text, forms, parts = message.text, _NONE, _NONE
        if len(message.parts) > 1:
            size = message.size + 8 * len(message.parts)
            forms = await computed(size, joined, replace(message, arrived=()) if message.arrived else message)
        if by_part and may_have_apart(message):
            parts = await computed(message.size, apart, message)
        own = await self._search(text, forms, names, parts, growing.own if growing else None)
        if not message.arrived:
            return own
        arrivals = growing.arrivals if growing else ArrivalViews()
        # Not the exact size of what has arrived: a hundred choices of a stream would add up the same pieces.
        texts = await computed(message.size + 64 * len(message.arrived), arrivals.joined, message.arrived)
        known = {text, *forms}
        new = dict.fromkeys(other for other in without_ends(texts, message.parts) if other not in known)
        return _with(own, await self._of_arrived(tuple(new), names, arrivals))

    async def _of_arrived(self, texts: tuple[str, ...], names: tuple[str, ...], arrivals: ArrivalViews) -> Views:
        async with arrivals.computing:
            if (views := arrivals.get(texts)) is None:
                views = await self._search("", texts, names, _NONE, arrivals.growing)
                arrivals.keep(texts, views)
            return views

    async def _search(
        self,
        text: str,
        forms: tuple[str, ...],
        names: tuple[str, ...],
        parts: tuple[str, ...],
        growing: GrowingViews | None,
    ) -> Views:
        # Of a text that grows by more than a search may take, nothing is known afterwards: the next one begins anew.
        if growing is not None and (left := 2 * growing.left((text, *forms, *parts))) <= MEDIUM:
            return await computed(left, growing.of, text, forms, names, parts)
        size = len(text) + sum(map(len, forms)) + sum(map(len, parts))
        if growing is not None or size > _KEPT_CHARACTERS:
            return await self._apart.computed(self._timeout_s, 2 * size, views_of, text, forms, names, parts)
        key = (text, forms, names, parts)
        if (views := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return views
        views = views_of(text, forms, names, parts)
        self._keep(key, views)
        return views

    def _keep(self, key: _Key, views: Views) -> None:
        self._kept[key] = views
        self._characters += _size(key, views)
        while self._characters > _ALL_CHARACTERS:
            self._characters -= _size(*self._kept.popitem(last=False))


def _with(own: Views, others: Views) -> Views:
    """The views of a message and those of other texts."""
    known = {view.text for view in own.views}
    new = [view for view in others.views if view.text not in known]
    return Views((*own.views, *new), own.complete and others.complete)


def _size(key: _Key, views: Views) -> int:
    """The characters of a text and its views, and about as many for the objects that hold them."""
    return 1024 + len(key[0]) + sum(map(len, key[1] + key[3])) + sum(len(view.text) for view in views.views)
