"""What is known of the beginning of a conversation, found by its messages without reading them.

Clients send the whole conversation with every request. Wires give the same object for an equal short plain message
(`wires.shared.base.plain_message`), so a beginning that comes again consists of the same objects.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from guardproxy.types import Message

T = TypeVar("T")

_LONGEST = 4096  # characters of a message; a longer one is read again
_MOST = 8 * 2**20  # characters of all messages that are kept, each with 64 more

_Key = tuple[Hashable, tuple[int, ...]]


class ByMessages(Generic[T]):
    """Keeps values by messages; the least recently used ones are removed first."""

    def __init__(self) -> None:
        # The messages are kept with the value, so that no other object takes the place of one of them in memory.
        self._kept: OrderedDict[_Key, tuple[Sequence[Message], int, T]] = OrderedDict()
        self._characters = 0
        self._lock = Lock()  # large requests are worked on in threads

    def find(self, context: Hashable, messages: Sequence[Message]) -> T | None:
        """Return what was kept for these messages in this context."""
        key = context, tuple(map(id, messages))
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            self._kept.move_to_end(key)
            return kept[2]

    def keep(self, context: Hashable, messages: Sequence[Message], value: T) -> None:
        """Keep a value if wires give the same objects for the messages again."""
        parts = [message.parts[0] for message in messages if len(message.parts) == 1]
        if len(parts) != len(messages) or any(part.image or len(part.text) > _LONGEST for part in parts):
            return
        size = sum([len(part.text) for part in parts]) + 64 * len(parts)
        key = context, tuple(map(id, messages))
        with self._lock:
            if key not in self._kept:
                self._characters += size
            self._kept[key] = messages, size, value
            while self._characters > _MOST:
                self._characters -= self._kept.popitem(last=False)[1][1]
