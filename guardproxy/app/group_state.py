"""What the workers of one server know together without Redis: of replies, in the memory of their parent.

Verdicts are not among it: the process that runs the models for all workers has a cache of its own.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Protocol, TypeVar

from guardproxy.app.peers import Handler
from guardproxy.app.reloading import Gone
from guardproxy.errors import ConfigError
from guardproxy.ports import StateKind

T = TypeVar("T")


class _AskParent(Protocol):
    async def __call__(self, name: str, value: Any, *, timeout_s: float) -> Any: ...


_MOST: Final = 100_000  # values; the least recently used one is removed first
_TIMEOUT_S: Final = 0.25


class KeptState:
    """The parent's side. `handlers` are what workers call."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, Any] = OrderedDict()
        self.handlers: dict[str, Handler] = {"state_get": self._get, "state_put": self._put}

    async def _get(self, key: str) -> Any:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    async def _put(self, pair: list[Any]) -> None:
        key, value = pair
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > _MOST:
            self._values.popitem(last=False)


class GroupState:
    """Implements `ports.SharedState` in a worker; `call` calls a handler of the parent."""

    def __init__(self, call: _AskParent) -> None:
        self._call = call

    async def get(self, kind: StateKind, key: bytes, read: Callable[[Any], T], /) -> T | None:
        """See `ports.SharedState`."""
        value = await self._answer("state_get", _name(kind, key))
        return None if value is None else read(value)

    async def put(self, kind: StateKind, key: bytes, value: Any, /) -> None:
        """See `ports.SharedState`."""
        await self._answer("state_put", [_name(kind, key), value])

    async def _answer(self, name: str, value: Any) -> Any:
        try:
            return await self._call(name, value, timeout_s=_TIMEOUT_S)
        except (Gone, TimeoutError, ConfigError):
            return None  # as if it had forgotten it: the parent is ending, or busy


def _name(kind: StateKind, key: bytes) -> str:
    return f"{kind}:{blake2b(key, digest_size=24).hexdigest()}"
