"""Shared state in the memory of the test."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from guardproxy.ports import StateKind

T = TypeVar("T")


class MemoryState:
    """Implements `ports.SharedState`: values as JSON, by kind and key. `down`: it knows nothing and keeps nothing."""

    def __init__(self) -> None:
        self.values: dict[tuple[StateKind, bytes], str] = {}
        self.asked: list[StateKind] = []
        self.down = False

    async def get(self, kind: StateKind, key: bytes, read: Callable[[Any], T], /) -> T | None:
        """See `ports.SharedState`."""
        self.asked.append(kind)
        found = None if self.down else self.values.get((kind, key))
        return None if found is None else read(json.loads(found))

    async def put(self, kind: StateKind, key: bytes, value: Any, /) -> None:
        """See `ports.SharedState`."""
        if not self.down:
            self.values[kind, key] = json.dumps(value)
