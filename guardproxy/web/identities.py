"""Which end user and which session a request names, for the records. The client says so; nobody checks it.

Values are hashed as keys are: `printf %s "$USER" | sha256sum | cut -c1-16`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from guardproxy.observe.masking import short_hash
from guardproxy.settings import CONTINUED, AuditSettings
from guardproxy.web.headers import Headers

LONGEST: Final = 200  # characters of a value in plain text; a longer one is hashed


class Identities:
    """Finds the end user and the session in the places that `audit.user` and `audit.session` list.

    The session of a request that names none is found by `pipeline.conversations`.
    """

    def __init__(self, settings: AuditSettings) -> None:
        self._user = _places(settings.user)
        self._session = _places([place for place in settings.session if place != CONTINUED])
        self._is_plain = settings.user_plain

    def of(self, body: Mapping[str, Any], headers: Headers) -> tuple[str, str]:
        """The end user and the session, each the first that there is; empty without one.

        A value that is neither a string nor a number, or is blank, counts as absent.
        """
        return self._first(self._user, body, headers), self._first(self._session, body, headers)

    def _first(self, places: Sequence["_Place"], body: Mapping[str, Any], headers: Headers) -> str:
        for header, keys in places:
            if not header and keys[0] not in body:
                continue
            if value := _header(headers, header) if header else _field(body, keys):
                plain = self._is_plain and len(value) <= LONGEST
                return value if plain else short_hash(value.encode())
        return ""


_Place = tuple[bytes, tuple[str, ...]]
"""The name of a header in lower case, or the keys that lead to a field of the body."""


def _places(entries: Sequence[str]) -> tuple[_Place, ...]:
    """The places of entries such as `header x-user` and `body metadata.user`; `validate` has checked their form."""
    places: list[_Place] = []
    for entry in entries:
        kind, _, name = entry.partition(" ")
        places.append((name.lower().encode("ascii"), ()) if kind == "header" else (b"", tuple(name.split("."))))
    return tuple(places)


def _header(headers: Headers, name: bytes) -> str:
    value = next(iter([value for key, value in headers if key.lower() == name]), b"")
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def _field(body: Mapping[str, Any], keys: Sequence[str]) -> str:
    value: Any = body
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()
