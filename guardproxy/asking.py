"""For whom checks are asked: a guard's queue is fair between clients, and between the requests of one client.

This is no field of `Check`: equal checks of different clients share one verdict, and no policy reads it.
"""

import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Final
from weakref import WeakValueDictionary

# What no other process has before the number of a request.
_PROCESS: Final = secrets.token_hex(8)
_NUMBERS: Final = count()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Asker:
    """One request, for as long as it is served. `client` is the same for all requests of a client, never shown.

    `answered`: the upstream has answered, so checks of the reply go before those of new requests. `refused` says why
    the request takes too long to judge, empty if it does not: then none of its checks needs to run. `token` names the
    request to a guard in another process (`token_of`). `admitted`: when it was, by `time.monotonic`, 0 if that does not
    matter. `apart_s`: the seconds that other processes have spent on its long texts.
    """

    client: str = ""
    answered: bool = False
    refused: str = ""
    token: str = ""
    admitted: float = 0.0
    apart_s: float = 0.0


def token_of(asker: Asker) -> str:
    """A name of the request that no other request of any process has."""
    if not asker.token:
        asker.token = f"{_PROCESS}{next(_NUMBERS):x}"
    return asker.token


_CURRENT: ContextVar[Asker | None] = ContextVar("guardproxy_asker", default=None)


def asked_by(client: str) -> Asker:
    """Name the client of all checks that the running task and the tasks that it starts will ask for a request."""
    asker = Asker(client, admitted=time.monotonic())
    _CURRENT.set(asker)
    return asker


class Askers:
    """The requests of other processes, by the names that these give them, for as long as their checks run."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, str], Asker] = WeakValueDictionary()

    def use(self, client: str, request: str, *, answered: bool) -> Asker:
        """Count the checks of the running task for a request; without a name, it is a request of its own."""
        asker = self._known.get((client, request)) if request else None
        if asker is None:
            asker = Asker(client)
            if request:
                self._known[client, request] = asker
        asker.answered = answered
        _CURRENT.set(asker)
        return asker


class AsOneRequest:
    """Let the checks that are asked inside this context count as one request, unless they belong to one already."""

    def __enter__(self) -> None:
        self._token = _CURRENT.set(Asker()) if _CURRENT.get() is None else None

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)


def current_asker() -> Asker:
    """For whom the running task asks; a request of its own if nobody was named."""
    return _CURRENT.get() or Asker()
