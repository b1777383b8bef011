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

    def _first(self, places: Sequence[tuple[str, str]], body: Mapping[str, Any], headers: Headers) -> str:
        for kind, name in places:
            if value := _header(headers, name) if kind == "header" else _field(body, name):
                plain = self._is_plain and len(value) <= LONGEST
                return value if plain else short_hash(value.encode())
        return ""


def _places(entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The kind and the name of each place; `validate` has checked their form."""
    return tuple((kind, name) for kind, _, name in (entry.partition(" ") for entry in entries))


def _header(headers: Headers, name: str) -> str:
    wanted = name.lower().encode("ascii")
    value = next((value for key, value in headers if key.lower() == wanted), b"")
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def _field(body: Mapping[str, Any], name: str) -> str:
    value: Any = body
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()
