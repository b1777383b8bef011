"""A request to the page with its person and session, and the answer in the form that was asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from guardproxy.console.parts import ConsoleParts
from guardproxy.console.people import ConsoleSession, Person
from guardproxy.sinks.database import KEYS, Filter, FilterError

BASE: Final = "/guardproxy"
Form = Literal["html", "json", "csv"]
Query = Mapping[str, Sequence[str]]
_FORM_BYTES: Final = 200_000
_FIELDS: Final = 300


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: a template with its values, and the same as data and as the rows of a table, a header first."""

    template: str
    values: Mapping[str, Any]
    data: Callable[[], Any] = dict
    table: Callable[[], Iterable[Sequence[Any]]] = tuple
    status: int = 200


@dataclass(frozen=True, slots=True)
class Visit:
    """A request. `query` has the keys of its address without empty values, `sent` the fields of its form."""

    request: Request
    parts: ConsoleParts
    session: ConsoleSession
    form: Form = "html"
    query: Query = field(default_factory=dict)
    sent: Mapping[str, str] = field(default_factory=dict)

    @property
    def person(self) -> Person:
        """Who visits. The page asks for a sign-in before anything that needs a person."""
        if self.session.person is None:
            raise HTTPException(403, "sign in first")
        return self.session.person

    def value(self, key: str, default: str = "") -> str:
        """The last value of a key of the address."""
        return self.query[key][-1] if key in self.query else default

    def number(self, key: str) -> int | None:
        """The whole number of a key of the address, None without one. Raises FilterError."""
        text = self.value(key)
        if not text:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise FilterError(key, f"{text!r} is not a whole number")
        return int(text)

    def filter(self) -> Filter:
        """The filter that the address states. Raises FilterError."""
        return Filter.from_query({key: values for key, values in self.query.items() if key in KEYS})


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form, the last value of each. Raises HTTPException for anything that no form sends."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            raise HTTPException(413, f"The form has more than {_FORM_BYTES:,} bytes. Send a shorter text.")
    try:
        read = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except ValueError as error:
        raise HTTPException(400, f"The form cannot be read: {error}") from None
    return {key: values[-1] for key, values in read.items()}


def query_of(request: Request, others: Iterable[str]) -> dict[str, list[str]]:
    """The keys of a request's address with their values, without empty ones, which forms send for empty fields.

    `others` are further keys; one that ends in * stands for all that begin so, and of these an empty value counts.
    Raises FilterError for any other key.
    """
    text = request.scope["query_string"].decode("latin-1")
    try:
        read = parse_qs(text, keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        raise FilterError("query", f"the address has more than {_FIELDS} keys") from None
    known = {*KEYS, *(key for key in others if not key.endswith("*"))}
    prefixes = tuple(key[:-1] for key in others if key.endswith("*"))
    for key in read:
        if key not in known and not key.startswith(prefixes):
            raise FilterError(key, f"is no filter; the filters are {', '.join(KEYS)}")
    filled = {key: values if key.startswith(prefixes) else [*filter(None, values)] for key, values in read.items()}
    return {key: values for key, values in filled.items() if values}


def address(path: str, query: Query | None = None, **changed: str | int | None) -> str:
    """The address of a page with a query; a `changed` value replaces that of its key, None removes it.

    Underscores in the names of `changed` stand for hyphens.
    """
    merged = {key: list(values) for key, values in (query or {}).items()}
    for name, value in changed.items():
        key = name.replace("_", "-")
        merged.pop(key, None)
        if value is not None:
            merged[key] = [str(value)]
    # A lone surrogate has no code in UTF-8: it is written as the columns of the store have it (`search_key`).
    text = urlencode(merged, doseq=True, errors="backslashreplace")
    return f"{BASE}{path}?{text}" if text else f"{BASE}{path}"
