"""The views of messages: those of long texts are computed elsewhere, those of short texts are kept."""

from collections import OrderedDict

from guardproxy.apart import Apart
from guardproxy.offload import MEDIUM, computed
from guardproxy.types import Message
from guardproxy.views import GrowingViews, Views, apart, joined, may_have_apart, views_of

# The views of texts up to this many characters together are kept, and how many characters are kept in all.
_KEPT_CHARACTERS = 4096
_ALL_CHARACTERS = 8 * 1024 * 1024

# The same processes for all long texts: they wait for each other, and short ones for none of them.
_APART = Apart()

_NONE: tuple[str, ...] = ()
_Key = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


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
        self,
        message: Message,
        names: tuple[str, ...],
        *,
        by_part: bool = True,
        growing: GrowingViews | None = None,
    ) -> Views:
        """Return the views by the methods `names` of a message, with the joined texts of its parts.

        Unless `by_part` is false, each part is a view as well: false for messages whose parts are judged anyway. A
        message that grows is read from where it was read before, if that is known. Raises GuardUnavailable,
        Overloaded or JudgingTooLong if a long text cannot be read in time.
        """
        text, forms, parts = message.text, _NONE, _NONE
        if len(message.parts) > 1 or message.arrived:
            # Not the exact size of what has arrived: a hundred choices of a stream would add up the same pieces.
            size = message.size + 8 * len(message.parts) + 64 * len(message.arrived)
            forms = await computed(size, joined, message)
        if by_part and may_have_apart(message):
            parts = await computed(message.size, apart, message)
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


def _size(key: _Key, views: Views) -> int:
    """The characters of a text and its views, and about as many for the objects that hold them."""
    return 1024 + len(key[0]) + sum(map(len, key[1] + key[3])) + sum(len(view.text) for view in views.views)
